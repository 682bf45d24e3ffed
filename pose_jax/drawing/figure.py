"""People on a floor, seen in perspective."""

import dataclasses
from collections.abc import Sequence

import cv2
import numpy as np

from pose_jax.drawing.palette import Colour, Theme, mix
from pose_jax.drawing.perspective import View

#: Limbs are drawn this thick, and joints this wide, metres.
LIMB, JOINT = 0.034, 0.025
#: Half the side of the floor, metres, at least; the distance of its lines.
_FLOOR, _STEP = 3.0, 0.5
#: Lines are cut into pieces, which fade towards the edge of the floor in so many steps.
_FADES = 8
#: OpenCV's fixed point: 4 bits below the pixel.
_SHIFT, _ONE = 4, 16


@dataclasses.dataclass(frozen=True)
class Figure:
    """A pose to draw.

    Attributes:
        pose: (joints, 3) metres; a joint that is not known is NaN.
        bones: pairs of joints.
        limbs: the colour of every bone.
        joints: the colour of every joint.
        slim: share of the usual thickness.
        shadow: whether it throws one.
    """

    pose: np.ndarray
    bones: tuple[tuple[int, int], ...]
    limbs: Sequence[Colour]
    joints: Sequence[Colour]
    slim: float = 1.0
    shadow: bool = True


def draw_floor(image: np.ndarray, view: View, theme: Theme, extent: float) -> None:
    """A grid at z = 0 around what the view is on; its lines stay where they are in the world."""
    half = max(_FLOOR, extent + 1.5)
    middle = view.target[:2]
    for i in range(3):
        around = np.linspace(0, 2 * np.pi, 72, endpoint=False)
        ring = middle + half * (1 - 0.22 * i) * np.column_stack([np.cos(around), np.sin(around)])
        pixels, _ = view.place(np.column_stack([ring, np.zeros(len(ring))]))
        if np.isfinite(pixels).all():
            colour = mix(theme.page, theme.floor, (i + 1) / 3)
            cv2.fillPoly(image, [_fixed(pixels)], colour, cv2.LINE_AA, _SHIFT)
    first = np.ceil((middle - half) / _STEP) * _STEP
    last = np.floor((middle + half) / _STEP) * _STEP
    ends: list[np.ndarray] = []
    for axis in range(2):
        across = 1 - axis
        marks = np.arange(first[axis], last[axis] + _STEP / 2, _STEP)
        cuts = np.arange(first[across], last[across] + _STEP / 2, _STEP)
        piece = np.zeros((len(marks), len(cuts) - 1, 2, 3))
        piece[..., axis] = marks[:, None, None]
        piece[..., across] = np.stack([cuts[:-1], cuts[1:]], axis=-1)[None]
        ends.append(piece.reshape(-1, 2, 3))
    pieces = np.concatenate(ends)
    away = np.linalg.norm(pieces.mean(axis=1)[:, :2] - middle, axis=1) / half
    pixels, _ = view.place(pieces)
    known = np.isfinite(pixels).all(axis=(1, 2)) & (away < 1)
    level = np.minimum((away * _FADES).astype(int), _FADES - 1)
    for i in range(_FADES):
        lines = _fixed(pixels[known & (level == i)])
        if len(lines):
            colour = mix(theme.grid, theme.page, (i / _FADES) ** 1.5)
            cv2.polylines(image, list(lines), isClosed=False, color=colour, thickness=1,
                          lineType=cv2.LINE_AA, shift=_SHIFT)  # fmt: skip


def draw_figures(image: np.ndarray, view: View, theme: Theme, figures: Sequence[Figure]) -> None:
    """People with their shadows, the nearest last; what is further away is paler."""
    for figure in figures:
        if figure.shadow:
            _shadow(image, view, mix(theme.floor, theme.text, 0.13), figure)
    strokes: list[tuple[float, int, np.ndarray, Colour, float]] = []
    for figure in figures:
        pixels, depth = view.place(figure.pose)
        for (a, b), colour in zip(figure.bones, figure.limbs, strict=True):
            middle = (depth[a] + depth[b]) / 2
            # Where a slim figure and another are at one place, the other is on top.
            middle += 0.1 * (1 - figure.slim)
            if np.isfinite(middle):
                thick = view.focal * LIMB * figure.slim / middle
                strokes.append((middle, 0, pixels[[a, b]], colour, thick))
        for i in np.flatnonzero(np.isfinite(depth)).tolist():
            radius = view.focal * JOINT * figure.slim / depth[i]
            # A joint lies on the limbs that meet in it.
            strokes.append(
                (
                    depth[i] - 0.03 + 0.1 * (1 - figure.slim),
                    1,
                    pixels[i : i + 1],
                    figure.joints[i],
                    radius,
                )
            )
    strokes.sort(key=lambda stroke: -stroke[0])
    for depth, kind, pixels, colour, size in strokes:
        paler = mix(colour, theme.page, float(np.clip(0.12 * (depth - view.distance), 0, 0.4)))
        places = _fixed(pixels)
        if kind == 0:
            thick = max(2, round(size))
            for width, shade in ((thick + 2, theme.page), (thick, paler)):
                cv2.line(image, places[0], places[1], shade, width, cv2.LINE_AA, _SHIFT)
        else:
            radius = round(max(1.6, size) * _ONE)
            cv2.circle(image, places[0], radius + _ONE // 2, theme.page, -1, cv2.LINE_AA, _SHIFT)
            cv2.circle(image, places[0], radius, paler, -1, cv2.LINE_AA, _SHIFT)


def _shadow(image: np.ndarray, view: View, colour: Colour, figure: Figure) -> None:
    flat = figure.pose * (1, 1, 0)
    pixels, depth = view.place(flat)
    for a, b in figure.bones:
        if np.isfinite(depth[a]) and np.isfinite(depth[b]):
            places = _fixed(pixels[[a, b]])
            thick = max(2, round(view.focal * LIMB * 1.6 / depth[a]))
            cv2.line(image, places[0], places[1], colour, thick, cv2.LINE_AA, _SHIFT)


def _fixed(pixels: np.ndarray) -> np.ndarray:
    """Pixels in OpenCV's fixed point, kept within what it can draw."""
    return np.clip(np.rint(pixels * _ONE), -(2**22), 2**22).astype(np.int32)
