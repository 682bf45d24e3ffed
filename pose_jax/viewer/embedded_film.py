"""A film small enough to be part of a page."""

import base64
import os
import tempfile

import numpy as np

from pose_jax.drawing import film

#: Longest side of an embedded film, pixels.
_LONGEST = 640
#: Bits per second below which a film of that size is not worth looking at.
_POOREST = 60_000


def embed(path: str, frames_per_second: float, frames: int, limit: int) -> tuple[str | None, str]:
    """A video as a data URI, with one frame for every frame of a scene.

    Args:
        path: of the video.
        frames_per_second: of the scene.
        frames: of the scene.
        limit: of the film in bytes, before it is written in base 64.

    Returns:
        The data URI or None, and why there is none.

    Raises:
        UserError: there is no video to decode.
    """
    width, height = film.upright_size(path)
    shrink = min(1.0, _LONGEST / max(width, height))
    size = (max(2, round(width * shrink / 2) * 2), max(2, round(height * shrink / 2) * 2))
    content = _encoded(path, frames_per_second, frames, size, None)
    if len(content) > limit:
        # What encoders aim at they miss by some percent.
        bit_rate = int(0.9 * 8 * limit * frames_per_second / frames)
        if bit_rate >= _POOREST:
            content = _encoded(path, frames_per_second, frames, size, bit_rate)
    if len(content) > limit:
        return None, f"The video is too long for this page (limit {limit / 2**20:.0f} MiB)."
    return "data:video/mp4;base64," + base64.b64encode(content).decode(), ""


def _encoded(
    path: str,
    frames_per_second: float,
    frames: int,
    size: tuple[int, int],
    bit_rate: int | None,
) -> bytes:
    blank = np.full((size[1], size[0], 3), 24, np.uint8)
    descriptor, name = tempfile.mkstemp(suffix=".mp4")
    os.close(descriptor)
    try:
        # Jumps to any frame decode a third of a second at most.
        every = max(1, round(frames_per_second / 3))
        with film.encoder(
            name, frames_per_second, size, crf=27, bit_rate=bit_rate, key_frame_every=every
        ) as add:
            shown = film.frames_at(path, frames_per_second, size)
            for _ in range(frames):
                image = next(shown)
                add(blank if image is None else image)
        with open(name, "rb") as stream:
            return stream.read()
    finally:
        os.unlink(name)
