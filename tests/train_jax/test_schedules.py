"""Durations and learning-rate schedules."""

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from train_jax import schedules
from train_jax.errors import UserError

STEPS = np.arange(103, dtype=np.int32)
DATA = Path(__file__).parents[1] / "data" / "vit"


def steps_of_run(total_steps):
    return functools.partial(
        schedules.steps_of, batch_size=4096, examples_per_epoch=1_281_167, total_steps=total_steps
    )


def values(config, total_steps=100, steps=STEPS):
    schedule = schedules.make_schedule(config, total_steps, steps_of_run(total_steps))
    return np.asarray(jax.jit(jax.vmap(schedule))(steps))


def test_exponential_decay_is_per_epoch():
    # VideoPose3D, 80 epochs of 3,119,504 examples in batches of 1024: 0.001 * 0.95^79 at the end.
    steps_of = functools.partial(
        schedules.steps_of, batch_size=1024, examples_per_epoch=3_119_504, total_steps=243_711
    )
    config = schedules.ExponentialConfig(base=1e-3)
    schedule = schedules.make_schedule(config, 243_711, steps_of)
    epoch = steps_of("1 epoch")
    assert epoch == 3046
    got = [float(schedule(step)) for step in (0, epoch - 1, epoch, 80 * epoch - 1)]
    np.testing.assert_allclose(got, [1e-3, 1e-3, 9.5e-4, 1.738e-5], rtol=3e-4)


@pytest.mark.parametrize(
    ("epochs", "factor", "last"),
    [(60, 0.95, 4.85e-5), (200, 0.98, 1.79e-5), (1000, 0.996, 1.82e-5)],
)
def test_exponential_decay_of_other_runs(epochs, factor, last):
    """HumanEva's and the semi-supervised runs': the rate of their last epochs."""
    steps_of = functools.partial(schedules.steps_of, batch_size=64, examples_per_epoch=640)
    config = schedules.ExponentialConfig(base=1e-3, factor=factor)
    schedule = schedules.make_schedule(config, 10 * epochs, steps_of)
    assert float(schedule(10 * epochs - 10)) == float(schedule(10 * epochs - 1))
    assert float(schedule(10 * epochs - 1)) == pytest.approx(last, abs=5e-8)


@pytest.mark.parametrize(
    ("duration", "steps"),
    [
        ("500", 500),
        (500, 500),
        ("10_000 steps", 10_000),
        ("1 step", 1),
        ("1e4 steps", 10_000),
        ("0 epochs", 0),
        ("90 epochs", 28_151),  # 90 * 1281167 / 4096 = 28150.6
        ("0.5 epochs", 156),
        ("1e9 examples", 244_141),
        ("1 example", 1),  # something is never nothing
        ("5 percent", 5_000),
        ("12.5%", 12_500),
        ("0.0001 percent", 1),
        (" 7  EPOCHS ", 2_189),
    ],
)
def test_durations(duration, steps):
    assert steps_of_run(100_000)(duration) == steps


@pytest.mark.parametrize(
    ("duration", "fault"),
    [
        ("ten steps", "not a duration"),
        ("", "not a duration"),
        ("-5 steps", "not a duration"),
        ("5 minutes", "not a duration"),
        ("nan", "not a duration"),
        ("5 steps 3", "not a duration"),
        ("1.5 steps", "whole number of steps"),
        ("101 percent", "at most 100 percent"),
    ],
)
def test_what_is_no_duration_is_refused(duration, fault):
    with pytest.raises(UserError, match=fault) as error:
        steps_of_run(100)(duration)
    assert duration in str(error.value)


@pytest.mark.parametrize(
    ("duration", "missing"),
    [("5 percent", "length of the run"), ("2 epochs", "per epoch"), ("9 examples", "batch size")],
)
def test_a_unit_without_its_reference_is_refused(duration, missing):
    with pytest.raises(UserError, match=missing):
        schedules.steps_of(duration)


@pytest.mark.parametrize("warmup", [0, 10])
@pytest.mark.parametrize("kind", [schedules.LinearConfig, schedules.CosineConfig])
def test_the_originals_schedules(kind, warmup):
    config = kind(base=0.03, warmup=str(warmup))
    with np.load(DATA / "schedules.npz") as fixture:
        wanted = fixture[f"{config.name}_warm{warmup}"]
    ulp = np.spacing(np.float32(config.base))
    np.testing.assert_allclose(values(config), wanted, rtol=2e-6, atol=ulp)


@pytest.mark.parametrize(
    "config",
    [
        schedules.LinearConfig(base=0.03, warmup="10"),
        schedules.CosineConfig(base=0.03, warmup="10 percent"),
        schedules.RsqrtConfig(base=0.03, timescale="20", warmup="10", cooldown="0"),
        schedules.ConstantConfig(base=0.03, warmup="10"),
        schedules.StepsConfig(base=0.03, warmup="10"),
    ],
    ids=lambda config: config.name,
)
def test_warm_up_starts_at_exactly_zero_and_ends_at_the_base_rate(config):
    rates = values(config)
    assert rates.dtype == np.float32
    assert rates[0] == 0.0
    np.testing.assert_allclose(rates[1:11], 0.003 * np.arange(1, 11), rtol=2e-6)
    assert np.all(rates[11:] <= np.float32(0.03))


def test_rsqrt_and_its_cooldown():
    config = schedules.RsqrtConfig(base=1.0, timescale="20", warmup="10", cooldown="25")
    wanted = 1 / np.sqrt(1 + np.maximum(STEPS - 10.0, 0) / 20)
    wanted *= np.minimum(1, STEPS / 10) * np.clip((100.0 - STEPS) / 25, 0, 1)
    np.testing.assert_allclose(values(config), wanted, rtol=1e-6)
    assert values(config)[100] == 0.0


def test_step_decay_drops_tenfold_at_each_boundary():
    """BiT-HyperRule: 30, 60 and 90 percent."""
    rates = values(schedules.StepsConfig(base=0.003))
    wanted = np.repeat(np.float32([3e-3, 3e-4, 3e-5, 3e-6]), [30, 30, 30, 13])
    np.testing.assert_array_equal(rates, wanted)


def test_constant():
    np.testing.assert_array_equal(values(schedules.ConstantConfig(base=0.1)), np.float32(0.1))


def test_long_runs_stay_exact():
    """Past 2**24 steps float32 no longer counts; the difference is taken in integers."""
    total = 40_000_000
    steps = np.int32([total - 2, total - 1])
    rates = values(schedules.LinearConfig(base=1.0, end=0.0, warmup="39_999_900"), total, steps)
    np.testing.assert_allclose(rates, [0.02, 0.01], rtol=1e-4)


def test_schedules_accept_python_and_traced_steps():
    schedule = schedules.make_schedule(schedules.CosineConfig(base=1.0), 10, steps_of_run(10))
    assert schedule(5).dtype == jnp.float32
    np.testing.assert_allclose(schedule(5), jax.jit(schedule)(jnp.int32(5)), rtol=1e-6)


@pytest.mark.parametrize(
    ("config", "fault"),
    [
        (schedules.LinearConfig(base=1.0, warmup="100"), "not shorter than the run of 100"),
        (schedules.CosineConfig(base=1.0, warmup="1 epoch"), "not shorter than the run"),
        (schedules.RsqrtConfig(base=1.0, warmup="50", cooldown="60"), "do not fit"),
        (schedules.RsqrtConfig(base=1.0, timescale="0", warmup="0", cooldown="0"), "at least one"),
        (schedules.StepsConfig(base=1.0, boundaries=("5", "5")), "must increase"),
    ],
)
def test_schedules_that_make_no_sense_are_refused(config, fault):
    with pytest.raises(UserError, match=fault):
        schedules.make_schedule(config, 100, steps_of_run(100))
