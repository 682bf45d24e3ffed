"""The order of training examples: that of the original, and one that the device computes."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pose_jax.data.training import Order, training_data
from pose_jax.data.windows import Windows


def numbered(n):
    """Windows that are nothing but their numbers."""
    return Windows({"offset": np.zeros(1, np.int32)}, n, lambda _, example: {"number": example})


def make(
    labelled, unlabelled=None, *, batch_size=8, order: Order = "device", seed=0, content="test"
):
    return training_data(
        numbered(labelled),
        None if unlabelled is None else numbered(unlabelled),
        batch_size=batch_size,
        seed=seed,
        order=order,
        content=content,
    )


def run(data, steps, start=0, rows=None):
    """Numbers of the examples of some steps, with the masks: name -> (steps, rows)."""
    resident = {name: jnp.asarray(x) for name, x in data.resident.items()}
    expand = jax.jit(data.expand)
    rows = np.arange(data.batch_size) if rows is None else rows
    batches = [
        jax.device_get(expand(resident, batch))
        for batch in itertools.islice(data.start(start, rows), steps)
    ]
    return {name: np.stack([batch[name] for batch in batches]) for name in batches[0]}


def original_order(n, batch_size, seed, steps):
    """Batches of a NumPy permutation per epoch, the last of an epoch smaller."""
    random = np.random.RandomState(seed)
    batches = []
    while len(batches) < steps:
        order = random.permutation(n)
        batches += [order[i : i + batch_size] for i in range(0, n, batch_size)]
    return batches[:steps]


def test_the_original_order_is_a_permutation_per_epoch_and_ends_with_a_small_batch():
    data = make(21, order="original")
    assert data.examples_per_epoch == 24
    found = run(data, 9)
    assert found["mask"].sum(1).tolist() == [8, 8, 5] * 3
    for number, mask, wanted in zip(
        found["number"], found["mask"], original_order(21, 8, 1234, 9), strict=True
    ):
        np.testing.assert_array_equal(number[mask], wanted)


@pytest.mark.parametrize("unlabelled", [50, 5, 16])
def test_the_unlabelled_stream_is_endless_in_an_order_of_its_own(unlabelled):
    """It goes on where it was when an epoch of labelled examples ends, and starts again itself."""
    found = run(make(21, unlabelled, order="original"), 12)
    for number, mask, wanted in zip(
        found["unlabelled_number"],
        found["unlabelled_mask"],
        original_order(unlabelled, 8, 4321, 12),
        strict=True,
    ):
        np.testing.assert_array_equal(number[mask], wanted)


@pytest.mark.parametrize(("n", "batch_size"), [(21, 8), (16, 8), (3, 8), (1000, 64), (1, 2)])
def test_the_device_shuffles_every_epoch_anew(n, batch_size):
    """Batches may straddle epochs, and none is filled up."""
    data = make(n, batch_size=batch_size)
    assert data.examples_per_epoch == n
    found = run(data, -(-4 * n // batch_size))
    assert "mask" not in found
    epochs = found["number"].reshape(-1)[: 4 * n].reshape(4, n)
    np.testing.assert_array_equal(np.sort(epochs), np.tile(np.arange(n), (4, 1)))
    if n > 10:
        assert len({epoch.tobytes() for epoch in epochs}) == 4
        assert all((epoch != np.arange(n)).mean() > 0.8 for epoch in epochs)


def test_seeds_have_orders_of_their_own_and_so_has_each_stream():
    """Streams of equal size too: no labelled example always has the same companion."""
    one, other = (run(make(64, 64, batch_size=64, seed=seed), 3) for seed in (0, 1))
    orders = [*one.values(), *other.values()]
    for a, b in itertools.combinations([row for order in orders for row in order], 2):
        assert (a == b).mean() < 0.2


@pytest.mark.parametrize("order", ["device", "original"])
@pytest.mark.parametrize("start", [1, 2, 5, 17])
def test_a_run_can_start_at_any_step_and_load_any_rows(order, start):
    data = make(21, 13, order=order)
    whole, rows = run(data, start + 4), np.array([1, 2, 6])
    part = run(data, 4, start, rows)
    assert part.keys() == whole.keys()
    for name, x in part.items():
        np.testing.assert_array_equal(x, whole[name][start:][:, rows])


def test_another_order_or_other_data_are_another_run():
    runs = (
        make(21),
        make(21, seed=1),
        make(21, order="original"),
        make(21, content="other"),
        make(21, 13),
    )
    fingerprints = {run.fingerprint for run in runs}
    assert len(fingerprints) == 5
    # The original's order has no seed.
    assert make(21, order="original").fingerprint == make(21, order="original", seed=1).fingerprint
