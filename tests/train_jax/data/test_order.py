"""The order of examples: permutations per epoch, reproducible, random access."""

import numpy as np
import pytest

from train_jax.data.order import GlobalOrder
from train_jax.errors import UserError


@pytest.mark.parametrize("n", [1, 2, 3, 16, 17, 255, 256, 257, 1797, 50_000])
def test_each_epoch_is_a_permutation(n: int):
    order = GlobalOrder(n, seed=3)
    for epoch in (0, 1, 7):
        indices = order.indices(epoch * n, (epoch + 1) * n)
        np.testing.assert_array_equal(np.sort(indices), np.arange(n))


def test_epochs_and_seeds_differ():
    n = 1000
    epochs = [GlobalOrder(n, seed=0).indices(k * n, (k + 1) * n) for k in range(4)]
    other = GlobalOrder(n, seed=1).indices(0, n)
    for i, a in enumerate(epochs):
        # Two independent permutations agree in one place on average.
        assert np.sum(a == other) < 10
        for b in epochs[:i]:
            assert np.sum(a == b) < 10


def test_random_access_equals_the_sequence():
    order = GlobalOrder(37, seed=5)
    whole = order.indices(0, 200)
    np.testing.assert_array_equal(
        whole, np.concatenate([order.indices(i, i + 1) for i in range(200)])
    )
    np.testing.assert_array_equal(order.indices(30, 45), whole[30:45])  # straddles two epochs
    np.testing.assert_array_equal(order.at(np.array([99, 0, 99])), whole[[99, 0, 99]])
    assert order.indices(5, 5).shape == (0,)


def test_jump_is_cheap_in_a_huge_data_set():
    n = 303_000_000
    order = GlobalOrder(n, seed=0)
    far = order.indices(7 * n - 2048, 7 * n + 2048)
    assert far.min() >= 0
    assert far.max() < n
    assert len(np.unique(far[:2048])) == 2048


def test_positions_are_shuffled_evenly():
    # Every example lands in every tenth of an epoch equally often: chi-squared over 200 epochs.
    n, epochs = 50, 400
    order = GlobalOrder(n, seed=11)
    table = order.indices(0, n * epochs).reshape(epochs, n)
    counts = np.zeros((n, n))
    for position in range(n):
        counts[position] = np.bincount(table[:, position], minlength=n)
    expected = epochs / n
    chi2 = np.sum((counts - expected) ** 2) / expected
    freedom = (n - 1) ** 2
    assert abs(chi2 - freedom) < 5 * np.sqrt(2 * freedom)
    # And neighbours in one epoch are not neighbours in the data set.
    steps = np.abs(np.diff(table, axis=1))
    assert abs(np.mean(steps) - (n + 1) / 3) < 0.5


def test_the_order_never_changes():
    # Checkpoints hold no order, only its fingerprint: these numbers must hold for ever.
    order = GlobalOrder(1797, seed=42)
    assert order.fingerprint == "feistel8-v1:n=1797:seed=42"
    assert order.indices(0, 6).tolist() == GOLDEN_START
    assert order.indices(10**12, 10**12 + 6).tolist() == GOLDEN_FAR


GOLDEN_START = [658, 760, 1299, 631, 1051, 354]
GOLDEN_FAR = [1290, 1232, 1741, 944, 1391, 55]


def test_bad_input():
    with pytest.raises(UserError, match="no examples"):
        GlobalOrder(0, seed=0)
    with pytest.raises(UserError, match="seed"):
        GlobalOrder(5, seed=-1)
    with pytest.raises(ValueError, match="range"):
        GlobalOrder(5, seed=0).indices(3, 2)
