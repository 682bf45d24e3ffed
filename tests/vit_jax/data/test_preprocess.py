"""Preprocessing agrees with the originals and with its definitions."""

import cv2
import numpy as np
import pytest

from train_jax.data.draws import Draws
from train_jax.errors import UserError
from vit_jax.data.preprocess import (
    InceptionCrop,
    ResizeCrop,
    ResizeSmallCrop,
    Squash,
    preprocess,
    preprocess_float,
    sample_crop,
)
from vit_jax.data.resize import resize

# Positions of samples are rounded differently in their last bits; see vit_jax/data/resize.py.
FLOAT_TOLERANCE = 0.002

PIPELINES = {
    "resize_small(32)|central_crop(28)|value_range(-1,1)": ResizeSmallCrop(32, 28),
    'resize_small(32, method="bilinear")|central_crop(28)|value_range(-1,1)': ResizeSmallCrop(
        32, 28, method="bilinear"
    ),
    "resize(24)|value_range(-1,1)": Squash(24),
    "resize(24, antialias=True)|value_range(-1,1)": Squash(24, method="antialias"),
}


@pytest.mark.parametrize("pipeline", PIPELINES)
@pytest.mark.parametrize("image", ["im0", "im1", "im2"])
def test_parity_with_big_vision(data_dir, image, pipeline):
    fixtures = np.load(data_dir / "vit" / "preprocess.npz")
    theirs = (fixtures[f"{image}/{pipeline}"].astype(np.float64) + 1) * 127.5
    np.testing.assert_allclose(theirs, np.round(theirs), atol=1e-5)  # they truncate to uint8
    theirs = np.round(theirs)
    exact = preprocess_float(PIPELINES[pipeline], fixtures[image], draws=None)
    # Truncating what we computed gives their levels, unless it is within rounding of the next.
    assert np.all(np.trunc(exact + FLOAT_TOLERANCE) >= theirs)
    assert np.all(np.trunc(exact - FLOAT_TOLERANCE) <= theirs)
    # We round to the nearest level: never further than half a level from the unrounded value.
    ours = preprocess(PIPELINES[pipeline], fixtures[image], draws=None)
    assert ours.dtype == np.uint8
    assert np.max(np.abs(ours - exact)) <= 0.5
    assert set(np.unique(ours - theirs)) <= {0.0, 1.0}


def linear_reference(image: np.ndarray, new: int, *, antialias: bool) -> np.ndarray:
    """Triangle kernel along the first axis, from its definition, in float64."""
    old = len(image)
    radius = max(old / new, 1.0) if antialias else 1.0
    result = np.zeros((new, *image.shape[1:]))
    for i in range(new):
        center = (
            np.clip((i + 0.5) * old / new, 0.5, old - 0.5)
            if not antialias
            else ((i + 0.5) * old / new)
        )
        weights = np.maximum(0, 1 - np.abs(np.arange(old) + 0.5 - center) / radius)
        result[i] = np.tensordot(weights / weights.sum(), image, 1)
    return result


def area_reference(image: np.ndarray, new: int) -> np.ndarray:
    """Mean over [i, i + 1) * old / new along the first axis, on a fine grid."""
    old = len(image)
    fine = np.repeat(image.astype(np.float64), new, axis=0)  # every sample is `new` long
    return fine.reshape(new, old, *image.shape[1:]).mean(axis=1)


@pytest.mark.parametrize("size", [(9, 31), (40, 50), (64, 20), (64, 33)])
def test_resampling_follows_its_definition(size):
    image = np.random.default_rng(0).integers(0, 256, (37, 25, 3), dtype=np.uint8)

    def both_axes(f):
        rows = f(image.astype(np.float64), size[0])
        return f(rows.swapaxes(0, 1), size[1]).swapaxes(0, 1)

    expected = {
        "bilinear": both_axes(lambda x, n: linear_reference(x, n, antialias=False)),
        "antialias": both_axes(lambda x, n: linear_reference(x, n, antialias=True)),
        "area": both_axes(area_reference),
    }
    for method, value in expected.items():
        result = resize(image, size, method=method)
        assert result.dtype == np.float32
        np.testing.assert_allclose(result, value, atol=FLOAT_TOLERANCE, err_msg=method)


def test_non_square_sizes():
    image = np.zeros((50, 60, 3), np.uint8)
    for config in [
        InceptionCrop((12, 20)),
        Squash((12, 20)),
        ResizeSmallCrop(24, (12, 20)),
        ResizeCrop((16, 32), (12, 20)),
    ]:
        assert preprocess(config, image, draws=Draws(0)).shape == (12, 20, 3)


def test_result_is_written_in_place():
    batch = np.full((2, 8, 8, 3), 7, np.uint8)
    image = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    preprocess(Squash(8), image, draws=None, out=batch[1])
    assert np.all(batch[0] == 7)
    np.testing.assert_array_equal(batch[1], preprocess(Squash(8), image, draws=None))


def test_few_shot_squashes_and_crops_the_centre():
    image = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    expected = preprocess(Squash(16), image, draws=None)[1:15, 1:15]
    np.testing.assert_array_equal(preprocess(ResizeCrop(16, 14), image, draws=None), expected)


def test_random_crops_reach_every_place():
    image = np.random.default_rng(0).integers(0, 256, (20, 20, 3), dtype=np.uint8)
    whole = preprocess(Squash(20), image, draws=None)
    windows = [whole[y : y + 18, x : x + 18] for y in range(3) for x in range(3)]
    seen = set()
    for i in range(100):
        crop = preprocess(ResizeCrop(20, 18), image, draws=Draws(0, i))
        seen.update(k for k, window in enumerate(windows) if np.array_equal(crop, window))
    assert seen == set(range(9))


def test_inception_crop_shows_the_rectangle_that_was_drawn():
    image = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    config = InceptionCrop(16)
    top, left, height, width = sample_crop(config, 60, 80, draws=Draws(5))
    cropped = image[top : top + height, left : left + width].astype(np.float32)
    expected = cv2.resize(cropped, (16, 16), interpolation=cv2.INTER_LINEAR)
    np.testing.assert_array_equal(preprocess_float(config, image, draws=Draws(5)), expected)


@pytest.mark.parametrize(("height", "width"), [(375, 500), (500, 333), (32, 32), (40, 400)])
def test_inception_crop_bounds(height, width):
    config = InceptionCrop(224)
    boxes = np.array([sample_crop(config, height, width, draws=Draws(i)) for i in range(3000)])
    top, left, rows, columns = boxes.T
    assert np.all(top >= 0)
    assert np.all(left >= 0)
    assert np.all(top + rows <= height)
    assert np.all(left + columns <= width)
    area = rows * columns / (height * width)
    assert np.all((area >= 0.05) & (area <= 1))
    # The width is rounded to a pixel.
    assert np.all(np.abs(columns - rows * np.clip(columns / rows, 3 / 4, 4 / 3)) <= 0.5001)
    # Both edges are reached.
    assert top.min() == 0
    assert left.min() == 0
    assert np.any(top + rows == height)


def test_inception_crop_is_distributed_as_in_tensorflow():
    # tf.image.sample_distorted_bounding_box, 20,000 draws at 375x500: see TF_STATISTICS.
    config = InceptionCrop(224)
    boxes = np.array([sample_crop(config, 375, 500, draws=Draws(9, i)) for i in range(20000)])
    _, _, rows, columns = boxes.T
    area = rows * columns / (375 * 500)
    statistics = [rows.mean(), rows.std(), columns.mean(), columns.std(), area.mean(), area.std()]
    np.testing.assert_allclose(statistics, TF_STATISTICS, rtol=0.02)


TF_STATISTICS = [235.2507, 81.1025, 244.2859, 93.1521, 0.3425, 0.2225]


def test_degenerate_pictures_are_taken_whole():
    assert sample_crop(InceptionCrop(8), 1, 100, draws=Draws(0)) == (0, 0, 1, 100)
    assert preprocess(InceptionCrop(8), np.zeros((1, 1, 3), np.uint8), draws=Draws(0)).shape


def test_bad_configs_are_refused():
    with pytest.raises(UserError, match="random"):
        preprocess(InceptionCrop(8), np.zeros((9, 9, 3), np.uint8), draws=None)
    with pytest.raises(UserError, match="does not fit"):
        ResizeSmallCrop(16, 24)
    with pytest.raises(UserError, match="positive"):
        Squash(0)
    with pytest.raises(UserError, match="min_area"):
        InceptionCrop(8, min_area=0.0)
    with pytest.raises(UserError, match="min_aspect"):
        InceptionCrop(8, min_aspect=2.0)
