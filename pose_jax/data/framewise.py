"""Functions of single frames over sequences of any length: in blocks of one size, compiled once."""

from collections.abc import Callable

import jax
import numpy as np

from pose_jax import cameras
from pose_jax.cameras import Camera

_BLOCK = 1024


def in_blocks(function: Callable[[np.ndarray], jax.Array], x: np.ndarray) -> np.ndarray:
    """A function that treats every frame by itself.

    Args:
        function: float32 (1024, ...) -> (1024, ...).
        x: (t, ...), t at least 1.

    Returns:
        (t, ...) of the function's results.
    """
    parts = []
    for begin in range(0, len(x), _BLOCK):
        part = np.asarray(x[begin : begin + _BLOCK], np.float32)
        # Frames that exist, so that the function meets nothing unusual.
        padded = np.pad(part, [(0, _BLOCK - len(part)), (0, 0), (0, 0)], mode="edge")
        parts.append(np.asarray(function(padded))[: len(part)])
    return np.concatenate(parts)


def pixels(positions: np.ndarray, camera: Camera) -> np.ndarray:
    """Where a camera sees points, through its lens with all distortion.

    Args:
        positions: float32 (t, joints, 3), metres in the world.
        camera: with intrinsics and place.

    Returns:
        float32 (t, joints, 2), pixels.

    Raises:
        UserError: something of the camera is not known.
    """
    lens, place = cameras.intrinsics(camera), cameras.place(camera)

    def seen(x: np.ndarray) -> jax.Array:
        return cameras.to_pixels(_images(x, lens, *place), width=camera.width, height=camera.height)

    return in_blocks(seen, positions)


@jax.jit
def _images(
    x: jax.Array, lens: jax.Array, orientation: jax.Array, translation: jax.Array
) -> jax.Array:
    return cameras.project(cameras.world_to_camera(x, orientation, translation), lens)
