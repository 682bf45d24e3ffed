"""The order on the device: permutations, different for every epoch and seed."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from train_jax import hlo
from train_jax.data.device_order import shuffled
from train_jax.mesh import MeshConfig, make_mesh
from train_jax.sharding import batch_sharding, constrain_batch


@functools.partial(jax.jit, static_argnames=("num_examples", "seed"))
def epoch_of(epoch, *, num_examples, seed=0):
    offset = jnp.arange(num_examples, dtype=jnp.int32)
    return shuffled(offset, jnp.full_like(offset, epoch), num_examples=num_examples, seed=seed)


@pytest.mark.parametrize("num_examples", [1, 2, 15, 16, 17, 1000, 4097, 70_000])
def test_every_epoch_has_every_example_once(num_examples):
    for epoch in (0, 7):
        order = epoch_of(epoch, num_examples=num_examples)
        np.testing.assert_array_equal(np.sort(order), np.arange(num_examples))


def test_epochs_and_seeds_differ_and_are_not_shifted_copies():
    orders = [
        np.asarray(epoch_of(epoch, num_examples=1000, seed=seed))
        for epoch, seed in ((0, 0), (1, 0), (0, 1), (1, 1), (2, 5))
    ]
    for i, a in enumerate(orders):
        for b in orders[:i]:
            # Two random permutations agree in one place on average.
            assert (a == b).sum() < 8


def test_places_are_well_mixed():
    order = np.asarray(epoch_of(3, num_examples=10_000))
    # Neighbours in a batch are not neighbours in the data, and no part of an epoch prefers a part.
    assert abs(np.corrcoef(order[:-1], order[1:])[0, 1]) < 0.03
    assert abs(np.corrcoef(np.arange(10_000), order)[0, 1]) < 0.03


def test_the_order_of_existing_runs_stays_as_it_is():
    assert epoch_of(0, num_examples=20).tolist() == [
        8,
        17,
        2,
        3,
        10,
        13,
        1,
        4,
        11,
        19,
        0,
        5,
        16,
        12,
        18,
        9,
        15,
        14,
        7,
        6,
    ]


@pytest.mark.parametrize("sizes", [MeshConfig(), MeshConfig(2, 2, 2)], ids=str)
def test_devices_do_not_ask_each_other_whether_to_go_on(sizes):
    """A sum over devices in a loop's condition may stop a CPU for ever, and slows a pod."""
    mesh = make_mesh(sizes)
    assert mesh.size > 1
    n, batch = 1000, 16 * mesh.size
    place = np.arange(batch, dtype=np.int32)
    examples = np.arange(n, dtype=np.int32)

    def step(examples, *at):
        # What is gathered is split, which the compiler would like the loop to be as well.
        return constrain_batch(jnp.take(examples, shuffled(*at, num_examples=n, seed=3), axis=0))

    with jax.set_mesh(mesh):
        split = batch_sharding(mesh)
        args = jax.device_put((examples, place, np.zeros_like(place)), split)
        program = jax.jit(step).lower(*args).compile()
        found = np.asarray(program(*args))
    computations, _ = hlo.parse(program.as_text())
    conditions = [
        re.search(r"condition=%?([\w.\-]+)", instruction.text)[1]
        for computation in computations.values()
        for instruction in computation.values()
        if instruction.opcode == "while"
    ]
    assert conditions
    for name in conditions:
        assert not [each for each in computations[name].values() if "all-" in each.opcode]
    alone = shuffled(jnp.asarray(place), jnp.zeros(batch, jnp.int32), num_examples=n, seed=3)
    np.testing.assert_array_equal(found, alone)
