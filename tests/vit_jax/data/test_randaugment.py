"""RandAugment: ranges as documented, deterministic, each operation what its name says."""

import cv2
import numpy as np
import pytest

from train_jax.data.draws import Draws
from train_jax.errors import UserError
from vit_jax.data.randaugment import AUGREG_LEVELS, OPERATIONS, RandAugment, randaugment


def picture(height: int = 40, width: int = 56) -> np.ndarray:
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return np.clip(cv2.blur(noise, (5, 5)).astype(int) * 2 - 128, 0, 255).astype(np.uint8)


def apply(name: str, image: np.ndarray, magnitude: float, *, seed: int = 0, **kwargs) -> np.ndarray:
    return OPERATIONS[name](image, RandAugment(1, magnitude, **kwargs), Draws(seed))


@pytest.mark.parametrize("magnitude", [0, 10, 15, 20, 30])
@pytest.mark.parametrize("name", OPERATIONS)
def test_every_operation_at_every_magnitude(name, magnitude):
    image = picture()
    before = image.copy()
    for seed in range(4):
        result = apply(name, image, magnitude, seed=seed)
        assert result.shape == image.shape
        assert result.dtype == np.uint8
    np.testing.assert_array_equal(image, before)


def test_there_are_sixteen_operations_chosen_uniformly():
    assert len(OPERATIONS) == 16
    draws = [Draws(0, i).below(16) for i in range(16000)]
    counts = np.bincount(draws, minlength=16)
    assert np.sum((counts - 1000) ** 2 / 1000) < 15 + 5 * np.sqrt(30)


def test_augmentation_follows_from_the_draws():
    image, config = picture(), RandAugment(2, 10)
    results = [randaugment(image, config, draws=Draws(1, i)) for i in range(20)]
    again = [randaugment(image, config, draws=Draws(1, i)) for i in range(20)]
    for a, b in zip(results, again, strict=True):
        np.testing.assert_array_equal(a, b)
    assert len({r.tobytes() for r in results}) > 10  # some move out of the picture
    np.testing.assert_array_equal(randaugment(image, RandAugment(0, 10), draws=Draws(1)), image)


def test_blends_are_between_a_tenth_and_their_range():
    image = picture()
    np.testing.assert_array_equal(apply("brightness", image, 0), np.trunc(0.1 * image))
    brighter = np.trunc(np.minimum(1.9 * image, 255))
    np.testing.assert_array_equal(apply("brightness", image, 10), brighter)
    # A factor of exactly one is the identity: 1.8 m / 10 + 0.1 = 1.
    for name in ("color", "contrast", "brightness", "sharpness"):
        np.testing.assert_allclose(apply(name, image, 5), image, atol=1)


def test_color_and_sharpness_follow_their_definitions():
    image = picture().astype(np.float64)
    grey = np.trunc((image @ [0.2989, 0.587, 0.114]) * 255.5 / 255)[..., None]
    kernel = np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]]) / 13
    smooth = image.copy()
    for y in range(1, image.shape[0] - 1):
        for x in range(1, image.shape[1] - 1):
            window = image[y - 1 : y + 2, x - 1 : x + 2]
            smooth[y, x] = np.trunc(np.tensordot(kernel, window, 2) + 1e-6)
    for name, degenerate in (("color", grey), ("sharpness", smooth)):
        for magnitude, factor in ((0, 0.1), (10, 1.9)):
            expected = np.clip(degenerate + factor * (image - degenerate), 0, 255)
            result = apply(name, picture(), magnitude)
            # Truncation of products that are whole numbers may go either way.
            assert np.all(np.abs(result - np.trunc(expected)) <= 1)
            assert np.mean(result == np.trunc(expected)) > 0.95


def test_contrast_pivots():
    flat = np.full((224, 224, 3), 40, np.uint8)
    assert apply("contrast", flat, 0)[0, 0, 0] == int(196 + 0.1 * (40 - 196))
    assert abs(int(apply("contrast", flat, 0, contrast="mean")[0, 0, 0]) - 40) <= 1


def test_grey_level_operations():
    image = picture()
    np.testing.assert_array_equal(apply("invert", image, 3), 255 - image)
    np.testing.assert_array_equal(apply("posterize", image, 10), image & 0xF0)
    np.testing.assert_array_equal(apply("posterize", image, 0), np.zeros_like(image))
    np.testing.assert_array_equal(apply("posterize", image, 20), image)
    np.testing.assert_array_equal(
        apply("solarize", image, 5), np.where(image < 128, image, 255 - image)
    )
    np.testing.assert_array_equal(apply("solarize", image, 0), 255 - image)
    np.testing.assert_array_equal(apply("solarize", image, 10), image)
    added = np.where(image < 128, np.minimum(image.astype(int) + 110, 255), image)
    np.testing.assert_array_equal(apply("solarize_add", image, 10), added)


def test_auto_contrast_uses_the_whole_range():
    image = (picture() // 4 + 50).astype(np.uint8)
    result = apply("auto_contrast", image, 0)
    for c in range(3):
        assert result[..., c].min() == 0
        assert result[..., c].max() >= 254
    flat = np.full((5, 5, 3), 9, np.uint8)
    np.testing.assert_array_equal(apply("auto_contrast", flat, 0), flat)


def test_equalize_agrees_with_pil():
    pil = pytest.importorskip("PIL.ImageOps")
    image_module = pytest.importorskip("PIL.Image")
    image = picture()
    expected = np.asarray(pil.equalize(image_module.fromarray(image)))
    np.testing.assert_array_equal(apply("equalize", image, 0), expected)


def test_translation_is_ten_pixels_per_magnitude_and_leaves_grey():
    image = picture()
    for seed in range(8):
        moved = apply("translate_x", image, 1, seed=seed)
        if np.all(moved[:, :10] == 128) and np.array_equal(moved[:, 10:], image[:, :-10]):
            break
    else:
        pytest.fail("no translation to the right by 10 pixels")
    signs = {apply("translate_y", image, 1, seed=seed)[0, 0, 0] == 128 for seed in range(16)}
    assert signs == {True, False}


def test_rotation_keeps_the_centre_and_has_30_degrees():
    image = np.zeros((41, 41, 3), np.uint8)
    image[20, 20:] = 255  # a hand pointing right
    for seed in range(8):
        rows, columns = np.nonzero(apply("rotate", image, 10, seed=seed)[..., 0] == 255)
        far = np.argmax(columns)
        angle = np.degrees(np.arctan2(rows[far] - 20, columns[far] - 20))
        assert abs(abs(angle) - 30) < 4
        assert (20, 20) in set(zip(rows, columns, strict=True))


def test_shear_moves_rows_in_proportion():
    image = np.zeros((41, 41, 3), np.uint8)
    image[:, 20] = 255
    top = np.flatnonzero(apply("shear_x", image, 10)[0, :, 0] == 255)
    bottom = np.flatnonzero(apply("shear_x", image, 10)[40, :, 0] == 255)
    assert abs(abs(bottom - top)[0] - 12) <= 1


def test_cutout_is_a_square_of_twice_the_range():
    image = np.zeros((200, 200, 3), np.uint8)
    sizes = [np.sum(apply("cutout", image, 10, seed=s)[..., 0] == 128) for s in range(30)]
    assert max(sizes) == 80 * 80
    assert min(sizes) >= 40 * 40


def test_augreg_levels():
    assert list(AUGREG_LEVELS) == [
        "none", "light1", "light2", "medium1", "medium2", "strong1", "strong2",
    ]  # fmt: skip
    assert AUGREG_LEVELS["none"].randaugment is None
    medium = AUGREG_LEVELS["medium2"]
    assert (medium.layers, medium.magnitude, medium.mixup) == (2, 15, 0.5)
    assert medium.randaugment == RandAugment(2, 15)


def test_bad_magnitude_is_refused():
    with pytest.raises(UserError, match="magnitude"):
        RandAugment(2, 50)
