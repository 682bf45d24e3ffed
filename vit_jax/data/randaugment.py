"""RandAugment as the AugReg models were trained with it, on uint8 images.

Each layer applies one of 16 operations, chosen uniformly and always applied; areas that move into
the picture are grey (128). Ranges are those of big_vision's copy of the TensorFlow operations, in
which magnitude 10 is the nominal maximum and 15 and 20 go beyond it. Magnitude 0 is not the
identity: it still inverts, equalises, and blends colours down to a tenth.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Literal

import cv2
import numpy as np

from train_jax.data.draws import Draws
from train_jax.errors import UserError

_FILL = 128
_GREY = (0.2989, 0.5870, 0.1140)  # weights of tf.image.rgb_to_grayscale


@dataclasses.dataclass(frozen=True)
class RandAugment:
    """How much to augment.

    Attributes:
        layers: operations applied one after the other.
        magnitude: strength of each, 0 to 30; 10 is the nominal maximum.
        contrast: what "contrast" blends towards: the mean grey level of the image ("mean"), or, as
            in the code that AugReg was trained with, the grey level (height * width) / 256, which
            is 196 at 224x224 whatever the image ("as_published").
    """

    layers: int = 2
    magnitude: float = 10.0
    contrast: Literal["mean", "as_published"] = "as_published"

    def __post_init__(self) -> None:
        if self.layers < 0 or not 0 <= self.magnitude <= 30:
            raise UserError(
                "RandAugment needs layers >= 0 and a magnitude from 0 to 30, got "
                f"{self.layers} and {self.magnitude}."
            )


@dataclasses.dataclass(frozen=True)
class AugRegLevel:
    """One of AugReg's augmentation levels: RandAugment, and p of MixUp."""

    layers: int
    magnitude: float
    mixup: float

    @property
    def randaugment(self) -> RandAugment | None:
        """The RandAugment part; None for no augmentation beyond crop and flip."""
        return RandAugment(self.layers, self.magnitude) if self.layers else None


# "How to train your ViT?", section 3.3. Published files are named by another scheme, in which
# light0 is light1 here and light1 is light2.
AUGREG_LEVELS = {
    "none": AugRegLevel(0, 0, 0.0),
    "light1": AugRegLevel(2, 0, 0.0),
    "light2": AugRegLevel(2, 10, 0.2),
    "medium1": AugRegLevel(2, 15, 0.2),
    "medium2": AugRegLevel(2, 15, 0.5),
    "strong1": AugRegLevel(2, 20, 0.5),
    "strong2": AugRegLevel(2, 20, 0.8),
}


def randaugment(image: np.ndarray, config: RandAugment, *, draws: Draws) -> np.ndarray:
    """Augments one image.

    Args:
        image: uint8 (h, w, 3); left as it is.
        config: how much.
        draws: source of random numbers.

    Returns:
        uint8 (h, w, 3).
    """
    names = tuple(OPERATIONS)
    for _ in range(config.layers):
        operation = OPERATIONS[names[draws.below(len(names))]]
        image = operation(image, config, draws)
    return image


def _table(function: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Tabulates a function of grey levels, clipped and truncated to uint8 (256,)."""
    return np.clip(function(np.arange(256, dtype=np.float64)), 0, 255).astype(np.uint8)


def _per_channel(image: np.ndarray, table_of: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Applies to each channel the table that its histogram asks for."""
    counts = [
        cv2.calcHist([image], [c], None, [256], [0, 256]).ravel().astype(np.int64) for c in range(3)
    ]
    tables = np.stack([table_of(count) for count in counts], axis=-1)
    return cv2.LUT(image, tables[None])


def _stretch_table(counts: np.ndarray) -> np.ndarray:
    used = np.flatnonzero(counts)
    low, high = float(used[0]), float(used[-1])
    if high <= low:
        return np.arange(256, dtype=np.uint8)
    return _table(lambda x: (x - low) * (255.0 / (high - low)))


def _equalize_table(counts: np.ndarray) -> np.ndarray:
    # PIL's definition: the last occupied level does not count into the step.
    last = counts[np.flatnonzero(counts)[-1]]
    step = (counts.sum() - last) // 255
    if step == 0:
        return np.arange(256, dtype=np.uint8)
    below = np.concatenate([[0], np.cumsum(counts)[:-1]])
    return np.minimum((below + step // 2) // step, 255).astype(np.uint8)


def _blend(degenerate: np.ndarray, image: np.ndarray, factor: float) -> np.ndarray:
    """Interpolates (factor < 1) or extrapolates (factor > 1) from a degenerate image, float32."""
    mixed = cv2.addWeighted(image.astype(np.float32), factor, degenerate, 1 - factor, 0.0)
    return np.clip(mixed, 0, 255, out=mixed).astype(np.uint8)


def _blend_level(level: float, image: np.ndarray, factor: float) -> np.ndarray:
    """Blends with one grey level."""
    return cv2.LUT(image, _table(lambda x: level + factor * (x - level)))


def _grey(image: np.ndarray) -> np.ndarray:
    """Brightness as `tf.image.rgb_to_grayscale` rounds it, uint8 (h, w)."""
    weights = np.array([_GREY], np.float32) * np.float32(255.5 / 255)
    return cv2.transform(image.astype(np.float32), weights).astype(np.uint8)


def _factor(config: RandAugment) -> float:
    return 1.8 * config.magnitude / 10 + 0.1


def _signed(config: RandAugment, draws: Draws, *, maximum: float) -> float:
    """The magnitude's share of `maximum`, negated half of the time."""
    return maximum * config.magnitude / 10 * (1 if draws.below(2) else -1)


def _warp(image: np.ndarray, matrix: list[list[float]]) -> np.ndarray:
    """Samples pixel (x, y) of the result at matrix @ (x, y, 1), nearest neighbour."""
    return cv2.warpAffine(
        image,
        np.array(matrix, np.float64),
        (image.shape[1], image.shape[0]),
        flags=cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_CONSTANT,
        borderValue=(_FILL, _FILL, _FILL),
    )


def _auto_contrast(image: np.ndarray, config: RandAugment, draws: Draws) -> np.ndarray:
    del config, draws
    return _per_channel(image, _stretch_table)


def _equalize(image: np.ndarray, config: RandAugment, draws: Draws) -> np.ndarray:
    del config, draws
    return _per_channel(image, _equalize_table)


def _invert(image: np.ndarray, config: RandAugment, draws: Draws) -> np.ndarray:
    del config, draws
    return 255 - image


def _rotate(image: np.ndarray, config: RandAugment, draws: Draws) -> np.ndarray:
    angle = math.radians(_signed(config, draws, maximum=30))
    cos, sin = math.cos(angle), math.sin(angle)
    cx, cy = (image.shape[1] - 1) / 2, (image.shape[0] - 1) / 2
    return _warp(
        image, [[cos, -sin, cx - cos * cx + sin * cy], [sin, cos, cy - sin * cx - cos * cy]]
    )


def _posterize(image: np.ndarray, config: RandAugment, draws: Draws) -> np.ndarray:
    del draws
    # Stronger magnitudes keep more bits, which is not what one expects but what was trained.
    drop = 8 - min(int(config.magnitude / 10 * 4), 8)
    return np.zeros_like(image) if drop == 8 else (image >> drop) << drop


def _solarize(image: np.ndarray, config: RandAugment, draws: Draws) -> np.ndarray:
    del draws
    threshold = int(config.magnitude / 10 * 256)
    return cv2.LUT(image, _table(lambda x: np.where(x < threshold, x, 255 - x)))


def _solarize_add(image: np.ndarray, config: RandAugment, draws: Draws) -> np.ndarray:
    del draws
    added = int(config.magnitude / 10 * 110)
    return cv2.LUT(image, _table(lambda x: np.where(x < 128, x + added, x)))


def _color(image: np.ndarray, config: RandAugment, draws: Draws) -> np.ndarray:
    del draws
    grey = cv2.cvtColor(_grey(image), cv2.COLOR_GRAY2RGB).astype(np.float32)
    return _blend(grey, image, _factor(config))


def _contrast(image: np.ndarray, config: RandAugment, draws: Draws) -> np.ndarray:
    del draws
    if config.contrast == "mean":
        pivot = float(np.mean(_grey(image)))
    else:
        pivot = min(image.shape[0] * image.shape[1] / 256, 255.0)
    return _blend_level(float(int(pivot)), image, _factor(config))


def _brightness(image: np.ndarray, config: RandAugment, draws: Draws) -> np.ndarray:
    del draws
    return _blend_level(0.0, image, _factor(config))


def _sharpness(image: np.ndarray, config: RandAugment, draws: Draws) -> np.ndarray:
    del draws
    if min(image.shape[:2]) < 3:
        return image
    # The kernel [[1, 1, 1], [1, 5, 1], [1, 1, 1]] / 13; borders stay as they are.
    degenerate = image.astype(np.float32)
    box = cv2.boxFilter(image, cv2.CV_32F, (3, 3), normalize=False)
    inner = (box[1:-1, 1:-1] + 4 * degenerate[1:-1, 1:-1]) / np.float32(13)
    degenerate[1:-1, 1:-1] = np.trunc(inner, out=inner)
    return _blend(degenerate, image, _factor(config))


def _shear_x(image: np.ndarray, config: RandAugment, draws: Draws) -> np.ndarray:
    return _warp(image, [[1, _signed(config, draws, maximum=0.3), 0], [0, 1, 0]])


def _shear_y(image: np.ndarray, config: RandAugment, draws: Draws) -> np.ndarray:
    return _warp(image, [[1, 0, 0], [_signed(config, draws, maximum=0.3), 1, 0]])


def _translate_x(image: np.ndarray, config: RandAugment, draws: Draws) -> np.ndarray:
    return _warp(image, [[1, 0, _signed(config, draws, maximum=100)], [0, 1, 0]])


def _translate_y(image: np.ndarray, config: RandAugment, draws: Draws) -> np.ndarray:
    return _warp(image, [[1, 0, 0], [0, 1, _signed(config, draws, maximum=100)]])


def _cutout(image: np.ndarray, config: RandAugment, draws: Draws) -> np.ndarray:
    # The range is that of half the side; the centre may lie anywhere, so squares are cut off.
    half = int(config.magnitude / 10 * 40)
    y, x = draws.below(image.shape[0]), draws.below(image.shape[1])
    image = image.copy()
    image[max(y - half, 0) : y + half, max(x - half, 0) : x + half] = _FILL
    return image


Operation = Callable[[np.ndarray, RandAugment, Draws], np.ndarray]
# The order is part of the random stream.
OPERATIONS: dict[str, Operation] = {
    "auto_contrast": _auto_contrast,
    "equalize": _equalize,
    "invert": _invert,
    "rotate": _rotate,
    "posterize": _posterize,
    "solarize": _solarize,
    "color": _color,
    "contrast": _contrast,
    "brightness": _brightness,
    "sharpness": _sharpness,
    "shear_x": _shear_x,
    "shear_y": _shear_y,
    "translate_x": _translate_x,
    "translate_y": _translate_y,
    "cutout": _cutout,
    "solarize_add": _solarize_add,
}
