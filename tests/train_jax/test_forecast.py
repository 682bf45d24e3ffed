"""What follows from a program: memory, time, cost; the program is the one that trains."""

import dataclasses
import math

import jax
import numpy as np
import pytest
import tiny

from train_jax.budget import BudgetConfig, make_limit
from train_jax.data.placement import local_rows, to_device
from train_jax.forecast import Exchange, Forecast, Memory, afforded, missing_bytes
from train_jax.mesh import MeshConfig, make_mesh
from train_jax.outline import Outline, Published, get, outline, read_config, replaced
from train_jax.plan_text import compared, report, swept
from train_jax.program import make_program
from train_jax.sharding import batch_sharding
from train_jax.topology import slice_named
from vit_jax.task import make_task

GIB = 2**30


def example(**changes):
    """A run of 1,000 steps of 512 examples on four chips of v3, a second each."""
    fields = {
        "slice": slice_named("v3:2x2"),
        "mesh": {"data": 8, "fsdp": 1, "tensor": 1},
        "batch_size": 512,
        "total": 1000,
        "budget": None,
        "num_params": 10**9,
        "memory": Memory(2 * GIB, 4 * GIB, GIB, 3 * GIB, 9 * GIB, round(15.48 * GIB), 0),
        "multiply_adds": 2e10,
        "flops": 7e13,
        "cycles": 940_000_000,
        "exchanges": (Exchange("all-reduce", "data", 4 * 10**9, 33, 8.2e9),),
        "kernels": 0,
        "unknown_loops": 0,
        "unit": "images",
        "published": (),
    }
    return Forecast(**(fields | changes))


def test_what_follows_from_cycles():
    one = example()
    assert one.step_seconds == pytest.approx(1.0)
    assert one.rate == pytest.approx(512 / 8)
    # 8.2 GB over half of a chip's 328 GB/s: 50 ms.
    assert one.link_seconds == pytest.approx(0.05)
    assert one.slowest_rate == pytest.approx(512 / 8 / 1.05)
    assert one.model_flops == pytest.approx(6 * 2e10 * 512)
    assert one.mfu == pytest.approx(6 * 2e10 * 512 / (4 * 123e12))
    assert one.exaflop == pytest.approx(6 * 2e10 * 512_000 / 1e18)
    assert one.days == pytest.approx(1000 / 86_400)
    assert one.core_days == pytest.approx(8 * one.days)
    assert one.cost(2.0) == pytest.approx(1000 / 3600 * 4 * 2)


def test_memory_is_told_part_by_part():
    one = example()
    # Less than the sum: the compiler gives the same place away several times.
    assert one.memory.total == 9 * GIB
    text = report(one, price=None)
    assert "It fits; 6.48 GiB are left." in text
    assert "Known error" in text
    lacking = dataclasses.replace(one.memory, temporaries=None, peak=None, missing=2 * GIB)
    short = example(cycles=None, flops=None, memory=lacking, exchanges=())
    assert not short.fits
    assert math.isnan(short.step_seconds)
    text = report(short, price=None)
    assert "It does not fit: 2.00 GiB are missing on each device." in text
    assert "Estimate" not in text


def test_a_run_as_long_as_its_budget_is_estimated():
    """A second a step on 8 cores: a core-day is 10,800 steps, of which a twentieth is kept back."""
    limit = make_limit(BudgetConfig(core_days=1.0, chip="v3", reserve=0.05), "v3")
    assert limit is not None
    one = afforded(example(total=2**30), limit)
    assert one.total == 10_260
    assert one.core_days == pytest.approx(0.95)
    assert "as long as 1 core-days of v3 afford at the estimated speed" in report(one, price=None)
    # What is not budgeted says nothing of it, and what does not fit has no length.
    assert "afford" not in report(example(), price=None)
    none = afforded(example(cycles=None), limit)
    assert none.total == 0
    assert "not known: it does not fit" in report(none, price=None)


def test_the_paper_stands_beside():
    facts = (Published("exaflop", 60, "Table 6"), Published("v3_core_days", 0.1, "Table 2"))
    text = report(example(published=facts), price=None)
    assert "60 (Table 6)" in text
    assert f"{512_000 / 8640:.1f} images/s per v3 core" in text


def test_tables():
    fast, slow, none = example(), example(cycles=10**10), example(cycles=None)
    table = compared([fast, none], price=2.0)
    assert "cost" in table
    assert len({line.count("|") for line in table.splitlines() if "|" in line}) == 1
    text = swept([("--b", slow), ("--c", none), ("--a", fast)])
    assert "hidden: --a" in text
    assert text.index("--a") < text.index("--b") < text.index("--c")
    assert "None of them fits" in swept([("--c", none)])


def test_a_fast_program_that_waits_for_the_network_is_not_recommended():
    waits = example(cycles=900_000_000, exchanges=(Exchange("all-gather", "fsdp", 1, 1, 1e11),))
    assert "hidden: --quiet" in swept([("--waits", waits), ("--quiet", example())])


@pytest.mark.parametrize(
    ("message", "gib"),
    [
        (
            "RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 26.80G of 15.75G hbm. "
            "Exceeded hbm capacity by 11.05G.",
            11.05,
        ),
        (
            "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO "
            "temporaries (512.00G) exceeds available HBM (15.48G).",
            496.52,
        ),
        ("Exceeded hbm capacity by 512.5M.", 512.5 / 1024),
        ("RESOURCE_EXHAUSTED", 0),
    ],
)
def test_the_compilers_complaints_are_understood(message, gib):
    assert missing_bytes(message) / GIB == pytest.approx(gib, abs=1e-6)


def test_keys_of_keys():
    config = tiny.make_config()
    changed = replaced(replaced(config, "model.width", 64), "batch_size", 32)
    assert (get(changed, "model.width"), get(changed, "batch_size")) == (64, 32)
    assert replaced(changed, "model.width", 32) == replaced(config, "batch_size", 32)
    assert read_config(tiny.get_config()).package == "vit_jax"


@pytest.mark.parametrize("mesh", [MeshConfig(), MeshConfig(data=2, fsdp=4)])
def test_what_is_planned_is_what_trains(mesh):
    """The same program, to the letter, from shapes as from data."""
    config = dataclasses.replace(tiny.make_config(), mesh=mesh, accumulate=2)
    devices, task, planned = make_mesh(mesh), make_task(config), outline(config)
    assert isinstance(planned, Outline)
    rows = local_rows(batch_sharding(devices), config.batch_size)
    batch = next(task.train_data.start(0, rows))
    real = to_device(batch, batch_sharding(devices), config.batch_size)
    abstract = {
        name: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=batch_sharding(devices))
        for name, x in planned.batch.items()
    }
    texts = []
    for which, data in ((task, real), (planned.task, abstract)):
        program = make_program(which, config, devices)
        with jax.set_mesh(devices):
            texts.append(program.lower({}, data)[0].as_text())
    assert texts[0] == texts[1]
    assert {name: (x.shape, np.dtype(x.dtype)) for name, x in planned.batch.items()} == {
        name: (x.shape, x.dtype) for name, x in batch.items()
    }
