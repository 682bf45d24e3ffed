"""The ways from a picture of any size to the model's input size.

| use | training | evaluation |
|---|---|---|
| pre-training (ViT and AugReg papers) | inception_crop(224) | resize_small_crop(256, 224) |
| fine-tuning as google-research/vision_transformer | inception_crop(384) | squash(384) |
| fine-tuning as big_vision | resize_small_crop(448, 384) | resize_small_crop(448, 384) |
| few-shot | | resize_crop(256, 224) |

Which evaluation stands behind the tables of the ViT paper is not published and is worth several
tenths of a percent, so a config always says which one it uses. Flipping and the range [-1, 1] come
later, on the device (vit_jax/data/on_device.py).

Results are rounded to uint8 once, at the end. The originals keep float32 (vision_transformer) or
truncate to uint8 (big_vision): we are at most half a grey level from the former, on average half a
level above the latter.
"""

import dataclasses
import math
from typing import Literal

import numpy as np

from train_jax.data.draws import Draws
from train_jax.errors import UserError
from vit_jax.data.decode import Picture
from vit_jax.data.resize import Method, resize, to_uint8

Size = int | tuple[int, int]

# tf.image.sample_distorted_bounding_box gives up after as many.
_ATTEMPTS = 100


@dataclasses.dataclass(frozen=True)
class InceptionCrop:
    """A random rectangle of the picture, resized to the input size (training only).

    The published recipes draw 5 to 100 % of the area (ViT and AugReg papers); the aspect ratio
    (width / height) is that of `tf.image.sample_distorted_bounding_box`.
    """

    size: Size
    name: Literal["inception_crop"] = "inception_crop"
    min_area: float = 0.05
    max_area: float = 1.0
    min_aspect: float = 3 / 4
    max_aspect: float = 4 / 3
    method: Method = "bilinear"

    def __post_init__(self) -> None:
        _check_sizes(self.size)
        if not 0 < self.min_area <= self.max_area <= 1:
            raise UserError(
                "inception_crop needs 0 < min_area <= max_area <= 1, got "
                f"{self.min_area} and {self.max_area}."
            )
        if not 0 < self.min_aspect <= self.max_aspect:
            raise UserError(
                "inception_crop needs 0 < min_aspect <= max_aspect, got "
                f"{self.min_aspect} and {self.max_aspect}."
            )


@dataclasses.dataclass(frozen=True)
class Squash:
    """The whole picture at the input size, whatever its aspect ratio."""

    size: Size
    name: Literal["squash"] = "squash"
    method: Method = "bilinear"

    def __post_init__(self) -> None:
        _check_sizes(self.size)


@dataclasses.dataclass(frozen=True)
class ResizeSmallCrop:
    """The shorter side to `resize`, then a crop: random in training, central in evaluation."""

    resize: int
    size: Size
    name: Literal["resize_small_crop"] = "resize_small_crop"
    method: Method = "area"

    def __post_init__(self) -> None:
        _check_sizes(self.size, self.resize)


@dataclasses.dataclass(frozen=True)
class ResizeCrop:
    """The whole picture squashed to `resize`, then a crop as in `ResizeSmallCrop`."""

    resize: Size
    size: Size
    name: Literal["resize_crop"] = "resize_crop"
    method: Method = "bilinear"

    def __post_init__(self) -> None:
        _check_sizes(self.size, self.resize)


Preprocess = InceptionCrop | Squash | ResizeSmallCrop | ResizeCrop


def height_width(size: Size) -> tuple[int, int]:
    """Returns (height, width); an integer stands for a square."""
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def _check_sizes(size: Size, larger: Size | None = None) -> None:
    height, width = height_width(size)
    if min(height, width) < 1:
        raise UserError(f"The image size must be positive, got {size}.")
    if larger is not None:
        rows, columns = height_width(larger)
        if rows < height or columns < width:
            raise UserError(f"A crop of {size} does not fit into pictures resized to {larger}.")


def preprocess(
    config: Preprocess,
    image: bytes | np.ndarray | Picture,
    *,
    draws: Draws | None,
    out: np.ndarray | None = None,
) -> np.ndarray:
    """Brings one picture to the input size.

    Args:
        config: what to do.
        image: an encoded file, pixels, or an opened picture.
        draws: source of random numbers in training, None in evaluation.
        out: uint8 (height, width, 3), written in place.

    Returns:
        uint8 (height, width, 3), RGB; `out` if it was given.

    Raises:
        CorruptImageError: the picture cannot be decoded.
        UserError: a random crop without random numbers.
    """
    result = to_uint8(preprocess_float(config, image, draws=draws), out=out)
    return result


def preprocess_float(
    config: Preprocess, image: bytes | np.ndarray | Picture, *, draws: Draws | None
) -> np.ndarray:
    """As `preprocess`, before the rounding: float32 (height, width, 3) in [0, 255]."""
    picture = image if isinstance(image, Picture) else Picture(image)
    size = height_width(config.size)
    match config:
        case InceptionCrop():
            if draws is None:
                raise UserError(
                    "inception_crop is random: choose squash, resize_small_crop or resize_crop "
                    "to evaluate."
                )
            box = sample_crop(config, *picture.size, draws=draws)
            return resize(picture.crop(*box), size, method=config.method)
        case Squash():
            return resize(picture.pixels, size, method=config.method)
        case ResizeSmallCrop():
            larger = _small_side_to(config.resize, *picture.size)
        case ResizeCrop():
            larger = height_width(config.resize)
    resized = resize(picture.pixels, larger, method=config.method)
    return _crop(resized, size, draws=draws)


def sample_crop(
    config: InceptionCrop, height: int, width: int, *, draws: Draws
) -> tuple[int, int, int, int]:
    """Draws a rectangle as `tf.image.sample_distorted_bounding_box` does without boxes.

    The aspect ratio is uniform; given it, the height is uniform among those that fit into the
    picture and the allowed areas (so areas themselves are not uniform); the place is uniform.

    Args:
        config: bounds of area and aspect ratio.
        height: rows of the picture.
        width: columns of the picture.
        draws: source of random numbers.

    Returns:
        (top, left, height, width); the whole picture when no rectangle fits.
    """
    min_area, max_area = (a * height * width for a in (config.min_area, config.max_area))
    for _ in range(_ATTEMPTS):
        aspect = draws.uniform(config.min_aspect, config.max_aspect)
        # A width of `width` + 1/2 would be rounded up.
        highest = min(
            round(math.sqrt(max_area / aspect)), height, math.ceil((width + 0.5) / aspect) - 1
        )
        lowest = min(round(math.sqrt(min_area / aspect)), highest)
        rows = lowest + draws.below(highest - lowest + 1)
        columns = round(rows * aspect)
        # Rounding may have left the allowed areas by one row.
        step = int(rows * columns < min_area) - int(rows * columns > max_area)
        rows, columns = rows + step, round((rows + step) * aspect)
        fits = 0 < rows <= height and 0 < columns <= width
        if fits and min_area <= rows * columns <= max_area:
            return draws.below(height - rows + 1), draws.below(width - columns + 1), rows, columns
    return 0, 0, height, width


def _small_side_to(side: int, height: int, width: int) -> tuple[int, int]:
    # In float32 and half to even, as big_vision computes it: one row more or less moves the crop.
    ratio = np.float32(side) / np.float32(min(height, width))
    return tuple(int(np.round(np.float32(n) * ratio)) for n in (height, width))  # pyright: ignore


def _crop(image: np.ndarray, size: tuple[int, int], *, draws: Draws | None) -> np.ndarray:
    free = image.shape[0] - size[0], image.shape[1] - size[1]
    top, left = (n // 2 if draws is None else draws.below(n + 1) for n in free)
    return image[top : top + size[0], left : left + size[1]]
