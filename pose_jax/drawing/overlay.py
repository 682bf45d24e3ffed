"""Keypoints on the picture they were found in."""

import cv2
import numpy as np

from pose_jax.drawing import lettering
from pose_jax.drawing.bones import bones, side
from pose_jax.drawing.palette import DARK, Colour
from pose_jax.motion import Scene

#: Keypoints below this confidence are drawn faintly.
UNSURE = 0.3
_SHIFT, _ONE = 4, 16
_INK: Colour = (20, 20, 20)


def draw_overlay(image: np.ndarray, scene: Scene, frame: int, *, names: bool = True) -> None:
    """Draws everybody's keypoints.

    Args:
        image: uint8 (height, width, 3), the frame at any size; drawn into.
        scene: with keypoints in pixels of a frame of ``scene.size``.
        frame: which.
        names: whether people's names are written.
    """
    layout = scene.keypoint_layout
    if layout is None:
        return
    height, width = image.shape[:2]
    scale = width / scene.size[0] if scene.size else 1.0
    thick = max(2, round(min(height, width) / 170))
    colours = {"left": DARK.left, "right": DARK.right}
    for index, person in enumerate(scene.people):
        if person.keypoints is None or frame >= len(person.keypoints):
            continue
        points = person.keypoints[frame] * scale
        sure = np.ones(len(points), bool)
        if person.confidence is not None:
            sure = person.confidence[frame] >= UNSURE
        known = np.isfinite(points).all(axis=1)
        middle = DARK.people[index % len(DARK.people)]
        places = np.rint(np.nan_to_num(points, nan=0.0) * _ONE)
        places = np.clip(places, -(2**22), 2**22).astype(np.int32)
        lines = [pair for pair in bones(layout) if known[list(pair)].all()]
        for a, b in lines:
            strong = thick + 2 if sure[a] and sure[b] else 2
            cv2.line(image, places[a], places[b], _INK, strong, cv2.LINE_AA, _SHIFT)
        for a, b in lines:
            strong = thick if sure[a] and sure[b] else 1
            colour = colours.get(side(layout, a, b), middle)
            cv2.line(image, places[a], places[b], colour, strong, cv2.LINE_AA, _SHIFT)
        for i in np.flatnonzero(known & sure).tolist():
            colour = colours.get(side(layout, i), middle)
            cv2.circle(image, places[i], (thick + 1) * _ONE, _INK, -1, cv2.LINE_AA, _SHIFT)
            cv2.circle(image, places[i], thick * _ONE, colour, -1, cv2.LINE_AA, _SHIFT)
        if names and known.any() and len(scene.people) > 1:
            top = points[known].min(axis=0)
            at = (float(points[known, 0].mean()), max(16.0, float(top[1]) - 12))
            for shift, ink in (((1, 1), _INK), ((0, 0), middle)):
                place = (at[0] + shift[0], at[1] + shift[1])
                lettering.write(
                    image, person.name, place, ink, size=15, weight=600, anchor="middle"
                )
