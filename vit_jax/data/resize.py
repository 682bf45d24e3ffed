"""Resampling with the definitions of `tf.image.resize`, in float32.

OpenCV and TensorFlow round the position of a sample differently in its last bits: results are
within 0.02 grey levels of each other, and more than 99.9 % of the pixels of a photograph are equal
once they are rounded to uint8.

The three ways differ by about two grey levels on average, enough to cost accuracy with a model that
was trained on another: so each is named, and none is a default of this module.
"""

from typing import Literal

import cv2
import numpy as np

Method = Literal["bilinear", "antialias", "area"]


def resize(image: np.ndarray, size: tuple[int, int], *, method: Method) -> np.ndarray:
    """Resamples an image.

    Args:
        image: uint8 or float32 (h, w, 3).
        size: height and width of the result.
        method: "bilinear" interpolates between the nearest samples also when it shrinks (the
            choice of the ViT papers); "antialias" widens the triangle kernel when it shrinks;
            "area" averages over the area of each new pixel.

    Returns:
        float32 (*size, 3), unrounded.
    """
    image = np.asarray(image, np.float32)
    if method == "bilinear":
        return cv2.resize(image, (size[1], size[0]), interpolation=cv2.INTER_LINEAR)
    if method == "area" and image.shape[0] >= size[0] and image.shape[1] >= size[1]:
        return cv2.resize(image, (size[1], size[0]), interpolation=cv2.INTER_AREA)
    # OpenCV has no antialiased interpolation, and enlarges by area in a way of its own.
    weights = _area_taps if method == "area" else _triangle_taps
    image = _apply(image, *weights(image.shape[0], size[0]))
    return _apply(image.swapaxes(0, 1), *weights(image.shape[1], size[1])).swapaxes(0, 1)


def to_uint8(image: np.ndarray, *, out: np.ndarray | None = None) -> np.ndarray:
    """Rounds half to even and clips to 0..255: the one rounding between file and device."""
    # Averages of 0..255 are never negative, so the absolute value changes nothing.
    return cv2.convertScaleAbs(image, dst=out)


def _apply(image: np.ndarray, source: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Returns sum_k weights[:, k] * image[source[:, k]] along the first axis."""
    result = np.zeros((len(source), *image.shape[1:]), np.float32)
    for k in range(source.shape[1]):
        result += weights[:, k, None, None] * image[source[:, k]]
    return result


def _area_taps(old: int, new: int) -> tuple[np.ndarray, np.ndarray]:
    """Samples and weights, (new, k) each, that average over [i, i + 1) * old / new."""
    edges = np.arange(new + 1, dtype=np.float64) * old / new
    return _taps(edges[:-1], edges[1:], old, lambda i: _overlap(i, edges))


def _overlap(source: np.ndarray, edges: np.ndarray) -> np.ndarray:
    low, high = edges[:-1, None], edges[1:, None]
    return np.minimum(high, source + 1) - np.maximum(low, source)


def _triangle_taps(old: int, new: int) -> tuple[np.ndarray, np.ndarray]:
    """Samples and weights of linear interpolation whose kernel widens when it shrinks."""
    radius = max(old / new, 1.0)
    centers = (np.arange(new) + 0.5) * old / new
    return _taps(
        centers - radius,
        centers + radius,
        old,
        lambda i: 1 - np.abs(i + 0.5 - centers[:, None]) / radius,
    )


def _taps(low: np.ndarray, high: np.ndarray, old: int, weight) -> tuple[np.ndarray, np.ndarray]:
    """Normalised non-negative weights of the samples between `low` and `high`."""
    first = np.floor(low).astype(np.int64)
    count = int(np.max(np.ceil(high).astype(np.int64) - first)) + 1
    source = first[:, None] + np.arange(count)
    inside = (source >= 0) & (source < old)
    weights = np.where(inside, np.maximum(weight(source), 0.0), 0.0)
    weights /= weights.sum(axis=1, keepdims=True)
    return np.clip(source, 0, old - 1), weights.astype(np.float32)
