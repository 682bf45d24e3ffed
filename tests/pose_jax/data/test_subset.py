"""The labelled part of a recording is the one that the original chooses."""

import hashlib

import pytest

from pose_jax.data.subset import deterministic_random, subset_range
from train_jax.errors import UserError


@pytest.mark.parametrize(("length", "start"), [(1383, 403), (2597, 1170), (3000, 1898)])
def test_a_tenth_of_a_recording(length, start):
    assert subset_range(length, 0.1, 1) == (start, start + round(length / 10))


def test_the_place_follows_from_the_digest():
    """By hand: 276 frames of 55 seconds at 10 per second, times 0.3 is 82.8."""
    share = int.from_bytes(hashlib.sha256(b"1383").digest()[:4][::-1], "big") / 4294967295
    start, stop = subset_range(1383, 0.3, 5)
    assert stop - start == 83 * 5
    assert start == int(share * (1383 - 415 + 1))


@pytest.mark.parametrize("downsample", [1, 5])
@pytest.mark.parametrize("fraction", [0.001, 0.01, 0.05, 0.1, 0.5, 0.999])
def test_the_part_lies_in_the_recording(fraction, downsample):
    starts = set()
    for length in range(1, 3000, 7):
        start, stop = subset_range(length, fraction, downsample)
        assert 0 <= start <= stop <= length
        assert (stop - start) % downsample == 0
        assert abs((stop - start) / downsample - length // downsample * fraction) <= 0.5
        starts.add(start / length)
    # Not always the same end of it.
    assert min(starts) < 0.1 * (1 - fraction)
    assert max(starts) > 0.9 * (1 - fraction)


def test_all_of_a_recording_is_all_of_it():
    assert subset_range(1383, 1.0, 5) == (0, 1383)


def test_halves_are_rounded_to_even_numbers():
    assert [subset_range(n, 0.5, 1)[1] - subset_range(n, 0.5, 1)[0] for n in (5, 7)] == [2, 4]


def test_numbers_begin_at_the_lower_end():
    numbers = [deterministic_random(10, 14, str(i)) for i in range(200)]
    assert set(numbers) == {10, 11, 12, 13}
    assert numbers[:3] == [deterministic_random(0, 4, str(i)) + 10 for i in range(3)]


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        ((0, 0.5, 1), "0 frames"),
        ((100, 0.0, 1), r"0\.0; give a share"),
        ((100, 10, 1), "10; give a share"),
        ((100, float("nan"), 1), "nan; give a share"),
        ((100, 0.5, 0), "downsample is 0"),
    ],
)
def test_impossible_parts_are_refused(arguments, fault):
    with pytest.raises(UserError, match=fault):
        subset_range(*arguments)
