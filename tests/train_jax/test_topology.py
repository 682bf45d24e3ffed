"""Slices have the chips, cores and devices of their names."""

import subprocess
import sys
from pathlib import Path

import pytest
from tpu_compiler import NEEDS_COMPILER

from train_jax.errors import UserError
from train_jax.topology import slice_named

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("name", "chips", "cores", "devices", "usable"),
    [
        ("v2:4x4", 16, 32, 32, 7.48),
        ("v3:16x16", 256, 512, 512, 15.48),
        ("v4:4x8x8", 256, 512, 256, 30.75),
        ("v5e:16x16", 256, 256, 256, 15.75),
        ("v5p:2x2x1", 4, 8, 4, 95.74),
        ("v6e:1x1", 1, 1, 1, 31.25),
        ("v7:2x2x1", 4, 8, 8, 94.75),
        ("tpu7x:2x2x1", 4, 8, 8, 94.75),
    ],
)
def test_names(name, chips, cores, devices, usable):
    found = slice_named(name)
    assert (found.num_chips, found.num_cores, found.num_devices) == (chips, cores, devices)
    assert found.chip.usable_gib == usable
    # No program may have more than the memory there is, and most of it is for programs.
    per_device = found.chip.memory_gib / found.chip.devices
    assert 0.9 * per_device < usable < 1.01 * per_device


@pytest.mark.parametrize(
    ("name", "pattern"),
    [
        ("v9:4x4", "no slice 'v9:4x4'; write one as in v2:4x4"),
        ("v3", "no slice 'v3'"),
        ("v3-512", "no slice 'v3-512'"),
        ("v3:16xx16", "no slice"),
        ("", "no slice ''"),
        ("v4:4x4", "'v4:4x4' gives 2 axes, and v4 has 3"),
        ("v5e:4x4x4", "gives 3 axes, and v5e has 2"),
        ("v5e:0x4", "write one as in"),
        ("v5e:32x16", "has 512 chips, and the largest slice of v5e 256"),
    ],
)
def test_names_that_are_none(name, pattern):
    with pytest.raises(UserError, match=pattern):
        slice_named(name)


def test_the_clock_has_the_published_peak():
    """Whole matrix units: 128 x 128 or 256 x 256 multiply-adds a cycle."""
    for name in ("v2:1x1", "v3:1x1", "v4:1x1x1", "v5e:1x1", "v5p:1x1x1", "v6e:1x1", "v7:1x1x1"):
        chip = slice_named(name).chip
        per_cycle = chip.peak_tflops * 1e12 / (chip.clock_ghz * 1e9)
        units = per_cycle / (2 * 128**2)
        assert units == pytest.approx(round(units), rel=0.025), name
        assert round(units).bit_count() == 1, name


@NEEDS_COMPILER
def test_the_compiler_knows_them():
    """In a process of its own: libtpu takes over signals."""
    names = ("v2:1x1", "v3:2x2", "v4:2x2x1", "v5e:1x2", "v6e:2x4", "v7:2x2x1")
    code = f"""
from train_jax.topology import devices_of, slice_named, use_compiler
use_compiler()
for name in {names}:
    found = slice_named(name)
    assert len(devices_of(found)) == found.num_devices, name
"""
    words = [sys.executable, "-c", code]
    subprocess.run(words, cwd=ROOT, check=True)
