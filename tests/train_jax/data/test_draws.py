"""Per-example random numbers: reproducible for ever, uniform, independent between keys."""

import numpy as np
import pytest

from train_jax.data.draws import Draws


def test_equal_keys_give_equal_draws():
    one, two = Draws(3, 5), Draws(3, 5)
    assert [one.uniform() for _ in range(5)] == [two.uniform() for _ in range(5)]
    assert Draws(3, 5).uniform() != Draws(5, 3).uniform()
    assert Draws(3).uniform() != Draws(3, 0).uniform()


def test_the_stream_never_changes():
    # Published reference values of SplitMix64 started from state 1234567.
    draws = Draws()
    draws._state = 1234567
    assert [draws._next() for _ in range(3)] == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
    ]


def test_uniform_over_neighbouring_keys():
    first = np.array([Draws(0, i).uniform() for i in range(4000)])
    counts = np.histogram(first, bins=20, range=(0, 1))[0]
    assert np.sum((counts - 200) ** 2 / 200) < 19 + 5 * np.sqrt(38)
    assert abs(np.corrcoef(first[:-1], first[1:])[0, 1]) < 0.06


def test_ranges():
    draws = Draws(7)
    values = [draws.below(5) for _ in range(1000)]
    assert set(values) == set(range(5))
    numbers = [draws.uniform(-2, 3) for _ in range(1000)]
    assert min(numbers) >= -2
    assert max(numbers) < 3
    assert np.mean(numbers) == pytest.approx(0.5, abs=0.2)
