"""The compiled training step of every model: what devices exchange, what is split, what is reused.

The numbers of collectives are compared with a snapshot for each line of JAX, programs-0.10.json
and so on, for partitioners differ. It is made anew, and then read before it is committed, by

    UPDATE_PROGRAMS=1 python -m pytest tests/aot/test_programs.py
"""

import itertools
import json
import math
import os
import re
from pathlib import Path

import jax
import pytest
from aot import programs
from jax.sharding import PartitionSpec

from train_jax.sharding import flat_names

LINE = ".".join(jax.__version__.split(".")[:2])
SNAPSHOT = Path(__file__).with_name(f"programs-{LINE}.json")

pytestmark = pytest.mark.timeout(300)


# Each takes 4 to 15 s to compile. These have no mechanism that the others lack.
ALL = tuple(programs.MESHES)
SLOW = {
    "hybrid": ALL,
    "BiT": ALL[:2],
    "pose": ALL[1:2],
    "semi-supervised pose": ALL[:2],
}


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(
            (model, mesh),
            id=f"{model}, {mesh}",
            marks=[pytest.mark.slow] * (mesh in SLOW.get(model, ())),
        )
        for model, mesh in itertools.product(programs.CONFIGS, programs.MESHES)
    ],
)
def named(request):
    """A program and its name."""
    return ": ".join(request.param), programs.compiled(*request.param)


def test_the_step_exchanges_what_it_did(named):
    name, one = named
    found = programs.summary(one)
    known = json.loads(SNAPSHOT.read_text()) if SNAPSHOT.exists() else {}
    if "UPDATE_PROGRAMS" in os.environ:
        SNAPSHOT.write_text(json.dumps({**known, name: found}, indent=2, sort_keys=True) + "\n")
        return
    if not known:
        pytest.skip(f"there is no snapshot for JAX {LINE}")
    assert found == known.get(name)


def test_state_and_batch_are_laid_out_as_the_rules_say(named):
    """What goes in and what comes out."""
    _, one = named
    (state_in, _, _, _, batch, *_), _ = one.compiled.input_shardings
    state_out, *_ = one.compiled.output_shardings
    wanted = flat_names(one.program.abstract)
    for found in (flat_names(state_in), flat_names(state_out)):
        for name, leaf in wanted.items():
            assert found[name].is_equivalent_to(leaf.sharding, leaf.ndim), name
    lead = (None,) if one.program.several else ()
    for name, sharding in batch.items():
        assert sharding.spec == PartitionSpec(*lead, ("data", "fsdp")), name


def test_no_copy_of_what_can_be_split_is_whole(named):
    """With FSDP, parameters, moments and averages that it divides have no whole copies."""
    _, one = named
    abstract, mesh = one.program.abstract, one.program.mesh
    split = [leaf for leaf in jax.tree.leaves(abstract) if "fsdp" in leaf.sharding.spec]
    if mesh.shape["fsdp"] == 1:
        assert not split
    elif mesh.shape["tensor"] == 1:  # else some have their only such axis split already
        params = [leaf for leaf in jax.tree.leaves(abstract.params) if _divides(8, leaf)]
        # Adam's two moments, and the average where there is one.
        copies = 3 + (abstract.ema is not None)
        assert len(split) == copies * len(params) > 0


def _divides(number, leaf):
    """Whether an axis of a parameter can be split; the first of several may be the layers'."""
    return any(size % number == 0 for size in leaf.shape[leaf.ndim > 2 :])


def test_activations_are_not_gathered(named):
    """What is gathered over the axes that split the batch is never more than a parameter."""
    _, one = named
    most = max(
        math.prod(leaf.shape) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(one.program.abstract.params)
    )
    for instruction, axes in programs.exchanges(one):
        if instruction.opcode.startswith("all-gather") and axes != "tensor":
            assert max(array.nbytes for array in instruction.arrays) <= most, instruction


def test_no_loop_asks_other_devices_whether_to_go_on(named):
    """On a CPU it may wait for ever, on a pod it costs a round trip each time."""
    _, one = named
    for name, instructions in programs.loop_conditions(one.text).items():
        assert not [each for each in instructions if programs.is_exchange(each)], name


def test_the_state_is_updated_in_place(named):
    """Every array of the state and of the window of metrics is donated and reused."""
    _, one = named
    donated = len(jax.tree.leaves((one.program.abstract, one.window)))
    header = one.text.splitlines()[0]
    reused = re.findall(r"\{(\d+)\}: \(\d+, \{\}, \w+-alias\)", header)
    assert sorted(map(int, reused)) == list(range(donated))
