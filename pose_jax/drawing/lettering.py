"""Words in a picture."""

from typing import Any

import cv2
import numpy as np

from pose_jax.drawing.palette import Colour

# OpenCV 5 brings a font of its own; earlier ones have only lines.
_FACE: Any = cv2.FontFace("sans") if hasattr(cv2, "FontFace") else None
_ANCHORS = {"left": 0.0, "middle": 0.5, "right": 1.0}


def write(
    image: np.ndarray,
    text: str,
    at: tuple[float, float],
    colour: Colour,
    *,
    size: int = 16,
    weight: int = 400,
    anchor: str = "left",
) -> None:
    """Writes one line.

    Args:
        image: uint8 (height, width, 3), written into.
        text: one line.
        at: (x, y) of its base line.
        colour: of the letters.
        size: height of the letters in pixels.
        weight: 400 is plain, 600 is bold.
        anchor: which end of the text is at x: "left", "middle" or "right".
    """
    x = round(at[0] - _ANCHORS[anchor] * (width(text, size, weight) if anchor != "left" else 0))
    place: Any = (x, round(at[1]))
    draw: Any = cv2.putText
    if _FACE is not None:
        draw(image, text, place, colour, _FACE, size, weight)
    else:
        strong = 2 if weight > 500 else 1
        draw(image, text, place, cv2.FONT_HERSHEY_DUPLEX, size / 30, colour, strong, cv2.LINE_AA)


def width(text: str, size: int = 16, weight: int = 400) -> int:
    """How many pixels wide a line is."""
    measure: Any = cv2.getTextSize
    if _FACE is not None:
        return int(measure((0, 0), text, (0, 0), _FACE, size, weight)[2])
    strong = 2 if weight > 500 else 1
    return int(measure(text, cv2.FONT_HERSHEY_DUPLEX, size / 30, strong)[0][0])
