"""Slices of TPUs that are not there: names to devices that a program can be compiled for."""

import dataclasses
import importlib.util
import math
import os
import re
from typing import Any

import jax
from jax.experimental import topologies

from train_jax import libtpu
from train_jax.chips import CHIPS, Chip
from train_jax.errors import UserError

# The compiler's name of the generation, and its variant where Cloud TPUs have another than the
# compiler's default: the two cores of a v4 chip as one device.
_COMPILER_NAMES = {
    "v2": ("v2", None),
    "v3": ("v3", None),
    "v4": ("v4", "megacore"),
    "v5e": ("v5e", None),
    "v5p": ("v5p", None),
    "v6e": ("v6e", None),
    "v7": ("tpu7x", None),
}
_BY_NAME = {chip.name: chip for chip in CHIPS.values()}
FORMS = (
    "v2:4x4, v3:16x16, v5e:4x4 or v6e:16x16 (chips along both axes), v4:4x8x8, v5p:2x2x1 or "
    "v7:2x2x1 (along three)"
)


@dataclasses.dataclass(frozen=True)
class Slice:
    """A slice of a TPU pod.

    Attributes:
        name: as the user writes it, ``v3:16x16``.
        chip: facts about the generation.
        shape: chips along each axis of the network.
    """

    name: str
    chip: Chip
    shape: tuple[int, ...]

    @property
    def num_chips(self) -> int:
        """Chips of the slice."""
        return math.prod(self.shape)

    @property
    def num_devices(self) -> int:
        """JAX devices of the slice."""
        return self.num_chips * self.chip.devices

    @property
    def num_cores(self) -> int:
        """TensorCores of the slice."""
        return self.num_chips * self.chip.cores


def slice_named(name: str) -> Slice:
    """The slice of a name.

    Raises:
        UserError: there is no such generation, or not in that shape.
    """
    match = re.fullmatch(r"(v\d\w?|tpu7x):(\d+(?:x\d+)*)", name.strip())
    generation = {"tpu7x": "v7"}.get(match[1], match[1]) if match else ""
    if match is None or generation not in _BY_NAME:
        raise UserError(f"--topology: there is no slice {name!r}; write one as in {FORMS}.")
    chip, shape = _BY_NAME[generation], tuple(map(int, match[2].split("x")))
    if len(shape) != chip.axes or 0 in shape:
        raise UserError(
            f"--topology: {name!r} gives {len(shape)} axes, and {generation} has {chip.axes}; "
            f"write one as in {FORMS}."
        )
    if math.prod(shape) > chip.pod:
        raise UserError(
            f"--topology: {name!r} has {math.prod(shape):,} chips, and the largest slice of "
            f"{generation} {chip.pod:,}; choose a smaller one."
        )
    return Slice(name.strip(), chip, shape)


def use_compiler() -> None:
    """Makes JAX take the TPU compiler for planning, beside the CPU; before any device is used.

    Raises:
        UserError: it is not installed.
    """
    if importlib.util.find_spec("libtpu") is None:
        raise UserError(
            "The TPU compiler (libtpu) is not installed, and planning needs it: "
            "pip install -e '.[plan]'."
        )
    # No question to the metadata server of a TPU machine; several plans at a time; errors only.
    os.environ.update(TPU_SKIP_MDS_QUERY="1", ALLOW_MULTIPLE_LIBTPU_LOAD="1", TPU_MIN_LOG_LEVEL="3")
    libtpu.quieten()
    jax.config.update("jax_platforms", "cpu")
    # Programs for devices that are not there can be written to the cache, but not read from it.
    jax.config.update("jax_enable_compilation_cache", False)


def devices_of(chosen: Slice) -> list[Any]:
    """Devices to compile for, in the order of the compiler; see `use_compiler`."""
    name, variant = _COMPILER_NAMES[chosen.chip.name]
    options: dict[str, Any] = {} if variant is None else {"chip_config_name": variant}
    # A host has 2 x 2 chips, fewer where the slice is that small.
    host = [math.gcd(2, size) for size in chosen.shape[:2]]
    described = topologies.get_topology_desc(
        platform="tpu",
        topology_name=f"{name}:{'x'.join(map(str, chosen.shape))}",
        chips_per_host_bounds=(*host, 1),
        **options,
    )
    return list(described.devices)
