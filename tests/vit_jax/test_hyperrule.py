"""BiT-HyperRule: every threshold of the BiT paper's section 3.3, from both sides."""

import functools

import numpy as np
import pytest

from train_jax.errors import UserError
from train_jax.optimizers import Sgd
from train_jax.schedules import make_schedule, steps_of
from vit_jax.data.preprocess import ResizeCrop, Squash
from vit_jax.hyperrule import BATCH, LARGEST_SIDES, HyperRule, hyperrule

LARGE = (224, 224)


@pytest.mark.parametrize(
    ("num_examples", "steps", "warmup", "mixup"),
    [
        (1, 500, 100, 0.0),
        (19_999, 500, 100, 0.0),
        (20_000, 10_000, 500, 0.1),
        (499_999, 10_000, 500, 0.1),
        (500_000, 20_000, 500, 0.1),
        (1_281_167, 20_000, 500, 0.1),
    ],
)
def test_the_number_of_examples_decides_length_and_mixup(num_examples, steps, warmup, mixup):
    rule = hyperrule(num_examples, LARGE)
    assert (rule.steps, rule.warmup, rule.mixup) == (steps, warmup, mixup)


@pytest.mark.parametrize(
    ("picture", "resize", "crop"),
    [
        ((32, 32), 160, 128),
        ((96, 95), 160, 128),
        ((95, 96), 160, 128),
        ((96, 96), 448, 384),
        ((48, 192), 448, 384),  # the area counts, not the shorter side
        ((48, 191), 160, 128),
    ],
)
def test_the_size_of_the_pictures_decides_the_resolution(picture, resize, crop):
    rule = hyperrule(50_000, picture)
    assert rule.training == ResizeCrop(resize=resize, size=crop)
    # Evaluation squashes the whole picture to the size of the crop.
    assert rule.evaluation == Squash(size=crop)


def test_the_largest_model_sees_larger_pictures_where_they_are_large():
    assert LARGEST_SIDES == (512, 480)
    assert hyperrule(1_000, LARGE, large=LARGEST_SIDES).training == ResizeCrop(512, 480)
    assert hyperrule(1_000, (32, 32), large=LARGEST_SIDES).training == ResizeCrop(160, 128)


@pytest.mark.parametrize(
    ("num_examples", "warmup", "boundaries"),
    [
        (1_000, 100, (150, 300, 450)),
        (50_000, 500, (3_000, 6_000, 9_000)),
        (1_281_167, 500, (6_000, 12_000, 18_000)),
    ],
)
def test_the_rate_rises_and_falls(num_examples, warmup, boundaries):
    rule = hyperrule(num_examples, LARGE)
    units = functools.partial(steps_of, total_steps=rule.steps)
    rate = make_schedule(rule.schedule, rule.steps, units)
    assert float(rate(0)) == 0
    np.testing.assert_allclose(float(rate(warmup // 2)), 0.0015, rtol=1e-6)
    for i, (start, end) in enumerate(
        zip((warmup, *boundaries), (*boundaries, rule.steps), strict=True)
    ):
        for step in (start, end - 1):
            np.testing.assert_allclose(float(rate(step)), 0.003 / 10**i, rtol=1e-6)


def test_the_optimizer_neither_decays_nor_clips():
    optimizer = hyperrule(1, LARGE).optimizer
    assert optimizer == Sgd(momentum=0.9, weight_decay=0.0, clip_norm=None, nesterov=False)
    assert BATCH == 512


@pytest.mark.parametrize(("num_examples", "picture"), [(0, LARGE), (10, (0, 32)), (-1, LARGE)])
def test_a_data_set_without_a_size_is_refused(num_examples, picture):
    with pytest.raises(UserError, match="BiT-HyperRule needs the size of the data set"):
        hyperrule(num_examples, picture)


def test_a_rule_is_a_value():
    assert hyperrule(50_000, (32, 32)) == HyperRule(10_000, 500, 0.1, 160, 128)
