"""Scenes as a page holds them: numbers in base 64, not as text."""

import base64
from collections.abc import Sequence
from typing import Any

import numpy as np

from pose_jax.drawing.bones import bones, side
from pose_jax.drawing.palette import ERROR_COLOURS, THEMES, Colour, Theme
from pose_jax.skeletons import Layout

#: Stands for what is not known.
_MISSING, _NO_ERROR = -32768, 65535
_LARGEST = 32767


def places(poses: np.ndarray) -> dict[str, Any]:
    """Poses (frames, joints, 3) in metres: 16 bits a number, exact to 0.05 mm.

    They are tenths of a millimetre from the middle of the person in that frame, which is float32;
    what is more than 3.2 m from it is not drawn.
    """
    known = np.isfinite(poses).all(axis=-1, keepdims=True)
    count = known.sum(axis=1)
    total = np.where(known, poses, 0.0).sum(axis=1)
    centres = (total / np.maximum(count, 1)).astype(np.float32)
    offsets = np.rint((poses - centres[:, None]) * 1e4)
    known = known & (np.abs(np.nan_to_num(offsets)) <= _LARGEST).all(axis=-1, keepdims=True)
    offsets = np.where(known, offsets, _MISSING)
    return {
        "joints": poses.shape[1],
        "centres": text(centres, "<f4"),
        "offsets": text(offsets, "<i2"),
    }


def errors(values: np.ndarray) -> str:
    """Errors (frames, joints) in mm, to a tenth; those above 6.5 m as 6.5 m."""
    tenths = np.minimum(np.rint(values * 10), _NO_ERROR - 1)
    return text(np.where(np.isfinite(values), tenths, _NO_ERROR), "<u2")


def keypoints(points: np.ndarray, unit: float) -> str:
    """Keypoints (frames, points, 2), in multiples of ``unit`` pixels."""
    known = np.isfinite(points).all(axis=-1, keepdims=True)
    scaled = np.clip(np.rint(points / unit), -_LARGEST, _LARGEST)
    return text(np.where(known, scaled, _MISSING), "<i2")


def confidences(values: np.ndarray) -> str:
    """Confidences (frames, points) in [0, 1], in 255 steps."""
    return text(np.clip(np.rint(np.nan_to_num(values) * 255), 0, 255), "u1")


def text(values: np.ndarray, kind: str) -> str:
    """An array's numbers in base 64, of a NumPy type."""
    return base64.b64encode(values.astype(kind).tobytes()).decode()


def skeleton(layout: Layout | None) -> dict[str, Any] | None:
    """The joints of a layout, the lines between them, and their sides."""
    if layout is None:
        return None
    return {
        "joints": layout.joints,
        "bones": bones(layout),
        "sides": [side(layout, i) for i in range(layout.num_joints)],
    }


def colours() -> dict[str, Any]:
    """The colours of both themes, as pages write them."""
    return {name: _theme(theme) for name, theme in THEMES.items()}


def error_colours() -> list[Sequence[int]]:
    """The map of errors, (red, green, blue)."""
    return [colour[::-1] for colour in ERROR_COLOURS]


def _theme(theme: Theme) -> dict[str, Any]:
    return {
        "page": _code(theme.page),
        "grid": _code(theme.grid),
        "left": _code(theme.left),
        "right": _code(theme.right),
        "truth": _code(theme.truth),
        "people": [_code(colour) for colour in theme.people],
    }


def _code(colour: Colour) -> str:
    blue, green, red = colour
    return f"#{red:02x}{green:02x}{blue:02x}"
