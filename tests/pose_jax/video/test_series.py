"""Keypoints over time."""

import numpy as np

from pose_jax.video.series import Series, held, one_euro, resample


def line(times) -> Series:
    """A point that moves by 10 pixels a second."""
    times = np.asarray(times, np.float64)
    keypoints = np.stack([10 * times, 5 + 0 * times, 0.8 + 0 * times], axis=-1)
    return Series(times, keypoints[:, None])


def test_uneven_times_become_even():
    found = resample(line([0, 0.03, 0.11, 0.14, 0.2]), np.arange(5) / 20)
    np.testing.assert_allclose(found[:, 0, 0], 10 * np.arange(5) / 20)


def test_a_short_gap_is_filled_without_confidence_and_a_long_one_stays():
    times = np.concatenate([np.arange(10), np.arange(14, 24), np.arange(60, 70)]) / 30
    found = resample(line(times), np.arange(70) / 30)
    np.testing.assert_allclose(found[10:14, 0, 0], 10 * np.arange(10, 14) / 30)
    assert (found[10:14, 0, 2] < 0.5).all()
    assert found[11, 0, 2] < found[10, 0, 2]
    np.testing.assert_allclose(found[[3, 20], 0, 2], 0.8)
    assert np.isnan(found[24:60]).all()
    assert np.isfinite(found[60:]).all()


def test_before_and_after_a_person_there_is_nobody():
    found = resample(line(np.arange(10, 20) / 30), np.arange(40) / 30)
    assert np.flatnonzero(np.isfinite(found[:, 0, 0])).tolist() == list(range(10, 20))
    assert np.isfinite(held(found)).all()


def test_one_euro_without_beta_is_an_exponential_average():
    rate, cutoff = 30.0, 2.0
    share = (2 * np.pi * cutoff / rate) / (1 + 2 * np.pi * cutoff / rate)
    found = one_euro(np.array([0.0] + [1.0] * 9), rate, min_cutoff=cutoff, beta=0)
    np.testing.assert_allclose(found, 1 - (1 - share) ** np.arange(10))


def test_one_euro_calms_what_stands_and_follows_what_moves():
    rng = np.random.default_rng(0)
    noise = rng.normal(size=300) * 0.02
    assert one_euro(noise, 30.0)[50:].std() < 0.5 * noise.std()
    ramp = np.arange(90) / 30 * 5.0  # 5 m/s
    assert np.abs(one_euro(ramp, 30.0, beta=2)[30:] - ramp[30:]).max() < 0.15
    assert np.abs(one_euro(ramp, 30.0, beta=0)[30:] - ramp[30:]).max() > 0.5


def test_one_euro_begins_anew_where_somebody_is_seen_again():
    x = np.array([0.0, 0.0, np.nan, 7.0, 7.0])
    np.testing.assert_array_equal(one_euro(x, 30.0), x)
