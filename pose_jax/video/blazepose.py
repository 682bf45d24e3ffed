"""People and their 33 keypoints in an image: BlazePose, run by LiteRT.

Two networks. The *detector* looks at the whole image and finds people as two points, the middle of
the hips and one that tells size and direction. The *landmark* network looks at a turned square
around a person and finds 33 points, and the two points for the square of the next frame, so that
the detector is needed only to find people anew.

Sources: V. Bazarevsky et al., "BlazePose: On-device real-time body pose tracking", arXiv
2006.10204; the numbers (anchors, thresholds, scales) are those published with the models.
"""

import dataclasses
import os
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from pose_jax.video import blazepose_files
from train_jax.errors import UserError

POINTS = 33

_DETECTOR_SIDE, _LANDMARK_SIDE = 224, 256
_MIN_SCORE = 0.5
_MIN_OVERLAP = 0.3  # of boxes that are of one person
_ROI_SCALE = 1.25
_HEATMAP_REACH = 3
_MIN_HEAT = 0.5


@dataclasses.dataclass(frozen=True)
class Region:
    """A turned square.

    Attributes:
        center: (x, y), pixels.
        side: pixels.
        angle: radians, clockwise in the image, by which a person in it leans.
    """

    center: tuple[float, float]
    side: float
    angle: float


@dataclasses.dataclass(frozen=True, eq=False)
class Found:
    """A person in an image.

    Attributes:
        keypoints: float64 (33, 3), pixels and confidence.
        score: how certain it is that a person is there.
        region: where to look in the next frame.
    """

    keypoints: np.ndarray
    score: float
    region: Region


class BlazePose:
    """Both networks."""

    def __init__(self, directory: Path, threads: int | None = None) -> None:
        try:
            from ai_edge_litert.interpreter import Interpreter
        except ImportError as error:
            raise UserError(
                "BlazePose needs ai-edge-litert; run pip install -e '.[video]', or bring keypoints "
                "of another detector with --keypoints."
            ) from error
        threads = threads or min(4, os.cpu_count() or 1)
        self._detector = _Network(Interpreter, directory / blazepose_files.DETECTOR, threads)
        self._landmarks = _Network(Interpreter, directory / blazepose_files.LANDMARKS, threads)
        self._anchors = anchors()

    def detect(self, image: np.ndarray) -> list[Region]:
        """Where people are, those in the whole image first.

        Args:
            image: uint8 (height, width, 3), RGB.
        """
        found: list[Region] = []
        for square in squares(image.shape[1], image.shape[0]):
            x = _cut(image, square, _DETECTOR_SIDE).astype(np.float32) / 127.5 - 1
            boxes, logits = self._detector(x)
            for points in decoded(boxes[0], logits[0, :, 0], self._anchors):
                one = aligned(*_from_region(points[:2], square))
                if not any(same_place(one, other) for other in found):
                    found.append(one)
        return found

    def landmarks(self, image: np.ndarray, region: Region) -> Found | None:
        """The person in a region; None if nobody is there."""
        x = _cut(image, region, _LANDMARK_SIDE).astype(np.float32) / 255
        values, flag, _, heat, _ = self._landmarks(x)
        score = float(flag[0, 0])
        if score < _MIN_SCORE:
            return None
        values = values.reshape(-1, 5)
        places = refined(values[:, :2] / _LANDMARK_SIDE, heat[0])
        pixels = _from_region(places, region)
        confidence = _sigmoid(values[:, 3:5]).min(axis=1)
        keypoints = np.concatenate([pixels, confidence[:, None]], axis=1)
        return Found(keypoints[:POINTS], score, aligned(pixels[POINTS], pixels[POINTS + 1]))


class _Network:
    """A .tflite file that is ready to run."""

    def __init__(self, kind: Any, path: Path, threads: int) -> None:
        self._interpreter = kind(str(path), num_threads=threads)
        self._interpreter.allocate_tensors()
        self._input = self._interpreter.get_input_details()[0]["index"]
        self._outputs = [one["index"] for one in self._interpreter.get_output_details()]

    def __call__(self, x: np.ndarray) -> list[np.ndarray]:
        self._interpreter.set_tensor(self._input, x[None])
        self._interpreter.invoke()
        return [self._interpreter.get_tensor(index) for index in self._outputs]


def squares(width: int, height: int) -> list[Region]:
    """Where the detector looks: the whole image in a black square, and squares along its length.

    People who are small in the whole image are large enough in those.
    """
    long, short = max(width, height), min(width, height)
    found = [Region((width / 2, height / 2), long, 0.0)]
    count = int(np.ceil(long / short - 0.15)) if long > 1.2 * short else 0
    for at in np.linspace(short / 2, long - short / 2, count):
        center = (float(at), short / 2) if width > height else (short / 2, float(at))
        found.append(Region(center, short, 0.0))
    return found


def same_place(one: Region, other: Region) -> bool:
    """Whether two regions are of one person, by their middles and sizes."""
    apart = np.hypot(one.center[0] - other.center[0], one.center[1] - other.center[1])
    small, large = sorted((one.side, other.side))
    return bool(apart < 0.15 * large and small > 0.5 * large)


def anchors() -> np.ndarray:
    """Middles of the detector's cells as shares of the image, float64 (2254, 2).

    Two per cell of 8 pixels, two per cell of 16, and six per cell of 32.
    """
    grids = []
    for stride, per_cell in ((8, 2), (16, 2), (32, 6)):
        cells = _DETECTOR_SIDE // stride
        middles = (np.arange(cells) + 0.5) / cells
        y, x = np.meshgrid(middles, middles, indexing="ij")
        grids.append(np.repeat(np.stack([x, y], -1).reshape(-1, 2), per_cell, axis=0))
    return np.concatenate(grids)


def decoded(boxes: np.ndarray, logits: np.ndarray, middles: np.ndarray) -> list[np.ndarray]:
    """People from the detector's numbers.

    Args:
        boxes: (2254, 12): middle, size and four points of every anchor, pixels of its input
            relative to the anchor.
        logits: (2254,), whether somebody is there.
        middles: of :func:`anchors`.

    Returns:
        For each person the four points, float64 (4, 2), as shares of the input: the average of all
        boxes that overlap the most certain one by 0.3, weighted by their scores.
    """
    scores = _sigmoid(np.clip(logits.astype(np.float64), -100, 100))
    chosen = np.flatnonzero(scores >= _MIN_SCORE)
    chosen = chosen[np.argsort(-scores[chosen], kind="stable")]
    numbers = boxes[chosen].astype(np.float64) / _DETECTOR_SIDE
    points = numbers[:, 4:].reshape(-1, 4, 2) + middles[chosen, None]
    center, half = numbers[:, :2] + middles[chosen], numbers[:, 2:4] / 2
    corners = np.concatenate([center - half, center + half], axis=1)
    weights, found = scores[chosen], []
    while len(corners):
        same = overlap(corners[0], corners) > _MIN_OVERLAP
        same[0] = True
        found.append(np.average(points[same], axis=0, weights=weights[same]))
        corners, points, weights = corners[~same], points[~same], weights[~same]
    return found


def overlap(one: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Intersection over union of boxes (x0, y0, x1, y1).

    Args:
        one: (4,).
        others: (..., 4).

    Returns:
        (...).
    """
    low = np.maximum(one[:2], others[..., :2])
    high = np.minimum(one[2:], others[..., 2:])
    common = np.prod(np.clip(high - low, 0, None), axis=-1)
    areas = [np.prod(np.clip(x[..., 2:] - x[..., :2], 0, None), axis=-1) for x in (one, others)]
    return common / np.maximum(areas[0] + areas[1] - common, 1e-12)


def aligned(hips: np.ndarray, top: np.ndarray) -> Region:
    """The square around a person, upright for it.

    Args:
        hips: (x, y) of the middle of the hips, pixels.
        top: a point above them, on the circle around the person.
    """
    dx, dy = float(top[0] - hips[0]), float(top[1] - hips[1])
    angle = np.pi / 2 - np.arctan2(-dy, dx)
    angle -= 2 * np.pi * np.floor((angle + np.pi) / (2 * np.pi))
    side = 2 * float(np.hypot(dx, dy)) * _ROI_SCALE
    return Region((float(hips[0]), float(hips[1])), side, float(angle))


def refined(places: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """Points moved to the middle of the heat around them, where that is certain.

    Args:
        places: (points, 2) as shares of the square.
        heat: logits (rows, columns, points).

    Returns:
        Likewise (points, 2).
    """
    rows, columns = heat.shape[:2]
    result = places.astype(np.float64)
    for i, (x, y) in enumerate(places):
        column, row = int(x * columns), int(y * rows)
        if not (0 <= column < columns and 0 <= row < rows):
            continue
        left, top = max(0, column - _HEATMAP_REACH), max(0, row - _HEATMAP_REACH)
        part = heat[top : row + _HEATMAP_REACH + 1, left : column + _HEATMAP_REACH + 1, i]
        part = _sigmoid(part.astype(np.float64))
        if part.max() < _MIN_HEAT:
            continue
        total = part.sum()
        result[i, 0] = (part.sum(0) @ (left + np.arange(part.shape[1]))) / total / columns
        result[i, 1] = (part.sum(1) @ (top + np.arange(part.shape[0]))) / total / rows
    return result


def _from_region(places: np.ndarray, region: Region) -> np.ndarray:
    """Shares (n, 2) of a region in pixels of the image."""
    cos, sin = np.cos(region.angle), np.sin(region.angle)
    turned = (places - 0.5) @ np.array([[cos, sin], [-sin, cos]])
    return turned * region.side + np.array(region.center)


def _cut(image: np.ndarray, region: Region, side: int) -> np.ndarray:
    """A region as an image of its own; what lies outside the image is black."""
    corners = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    source = _from_region(corners, region).astype(np.float32)
    matrix = cv2.getAffineTransform((corners * side).astype(np.float32), source)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(image, matrix, (side, side), flags=flags)


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))
