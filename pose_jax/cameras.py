"""Cameras: screen coordinates, the way into and out of the world, projection, mirroring.

Lengths are metres. Camera space has x to the right, y down and z forward, the image has its origin
in the upper left corner. Screen coordinates have the origin in the middle of the image and the
unit of half its width, so x lies in [-1, 1] and y keeps the aspect ratio.

The functions are jax.numpy: they work under jit and grad, on any leading axes, and read NumPy
arrays. Projection is Human3.6M's: radial distortion of three and tangential of two coefficients
(C. Ionescu et al., "Human3.6M", TPAMI 2014).
"""

import dataclasses
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from train_jax.errors import UserError

#: Points nearer than this to the camera's plane, in metres, or behind it, have no projection.
MIN_DEPTH = 1e-3

Array = jax.Array | np.ndarray


@dataclasses.dataclass(frozen=True)
class Camera:
    """One calibrated camera, or what is known of it.

    Attributes:
        name: unique among a subject's cameras.
        width: of the image in pixels.
        height: of the image in pixels.
        focal: (fx, fy) in pixels; None when the camera has not been calibrated.
        center: (cx, cy), the principal point in pixels; None likewise.
        radial: (k1, k2, k3) of `project`.
        tangential: (pa, pb) of `project`, which is the reverse of the order of most other software;
            see `from_opencv`.
        orientation: unit quaternion (w, x, y, z) that turns camera space into world space; None
            when it is not known where the camera stands.
        translation: the camera's place in the world in metres; None likewise.

    Raises:
        UserError: an image without pixels, an orientation that is no unit quaternion, or one of
            focal and center, or of orientation and translation, without the other.
    """

    name: str
    width: int
    height: int
    focal: tuple[float, float] | None = None
    center: tuple[float, float] | None = None
    radial: tuple[float, float, float] = (0.0, 0.0, 0.0)
    tangential: tuple[float, float] = (0.0, 0.0)
    orientation: tuple[float, float, float, float] | None = None
    translation: tuple[float, float, float] | None = None

    def __post_init__(self) -> None:
        if self.width < 1 or self.height < 1:
            raise UserError(
                f"Camera {self.name} has an image of {self.width}x{self.height} pixels; give its "
                "resolution."
            )
        if (self.focal is None) != (self.center is None):
            raise UserError(f"Camera {self.name}: give focal and center together, or neither.")
        if (self.orientation is None) != (self.translation is None):
            raise UserError(
                f"Camera {self.name}: give orientation and translation together, or neither."
            )
        if self.orientation is not None and not abs(math.hypot(*self.orientation) - 1) < 1e-4:
            raise UserError(
                f"Camera {self.name}: the orientation {self.orientation} is not a unit quaternion "
                "(w, x, y, z); divide it by its norm."
            )


def from_opencv(
    name: str,
    *,
    width: int,
    height: int,
    focal: tuple[float, float],
    center: tuple[float, float],
    radial: tuple[float, float, float] = (0.0, 0.0, 0.0),
    tangential: tuple[float, float] = (0.0, 0.0),
    orientation: tuple[float, float, float, float] | None = None,
    translation: tuple[float, float, float] | None = None,
) -> Camera:
    """A camera whose tangential coefficients are in the order of OpenCV, (p1, p2).

    Human3.6M's own metadata and most code that reads them have this order too; `Camera` has the
    reverse, (pa, pb) = (p2, p1). For Human3.6M's coefficients the result is exact. Coefficients
    that OpenCV has fitted are meant for its model, whose factor is 1 + ... + 2 (p1 y + p2 x) where
    `project` has (p1 y + p2 x): there the projection is off by |p1 y + p2 x| · |(x, y)| · focal,
    under a pixel for coefficients about 1e-3 and a person within 30 degrees of the axis.

    Args:
        name: as `Camera`, like all that are not told here.
        width: as `Camera`.
        height: as `Camera`.
        focal: as `Camera`.
        center: as `Camera`.
        radial: (k1, k2, k3); beware that OpenCV's vector is (k1, k2, p1, p2, k3).
        tangential: (p1, p2).
        orientation: as `Camera`: camera to world, the inverse of OpenCV's.
        translation: as `Camera`: the camera's place, not OpenCV's translation.
    """
    return Camera(
        name,
        width,
        height,
        focal,
        center,
        radial,
        (tangential[1], tangential[0]),
        orientation,
        translation,
    )


def intrinsics(camera: Camera, *, longest_side: bool = False) -> np.ndarray:
    """What `project` needs: float32 (9,) fx, fy, cx, cy, k1, k2, k3, pa, pb in screen units.

    Args:
        camera: with focal and center.
        longest_side: as in `normalise_screen`.

    Raises:
        UserError: the camera has not been calibrated.
    """
    if camera.focal is None or camera.center is None:
        raise UserError(
            f"Camera {camera.name} has no intrinsics; give its focal length and principal point "
            "in pixels, or train without the projection loss."
        )
    side = _side(camera.width, camera.height, longest_side)
    size = np.array([camera.width, camera.height], np.float64)
    focal = np.array(camera.focal, np.float64) * 2 / side
    center = (np.array(camera.center, np.float64) * 2 - size) / side
    return np.concatenate([focal, center, camera.radial, camera.tangential]).astype(np.float32)


def place(camera: Camera) -> tuple[np.ndarray, np.ndarray]:
    """Where a camera is: orientation float32 (4,) and translation float32 (3,), see `Camera`.

    Raises:
        UserError: it is not known.
    """
    if camera.orientation is None or camera.translation is None:
        raise UserError(
            f"It is not known where camera {camera.name} is in the world; give its orientation and "
            "translation."
        )
    return np.array(camera.orientation, np.float32), np.array(camera.translation, np.float32)


def normalise_screen(
    pixels: Array, *, width: int, height: int, longest_side: bool = False
) -> jax.Array:
    """From pixels to screen coordinates: X 2/w - (1, h/w) (paper's implementation).

    Args:
        pixels: float (..., 2 or more); channels after x and y, such as confidence, stay as they
            are.
        width: of the image.
        height: of the image.
        longest_side: divides by half the longer side rather than half the width, so that portrait
            images stay in [-1, 1] too.

    Returns:
        The shape of ``pixels``.
    """
    pixels = jnp.asarray(pixels)
    half = _side(width, height, longest_side) / 2
    middle = jnp.array([width / 2, height / 2], pixels.dtype)
    xy = (pixels[..., :2] - _as_rank(middle, pixels.ndim)) / half
    return jnp.concatenate([xy, pixels[..., 2:]], axis=-1)


def to_pixels(
    normalised: Array, *, width: int, height: int, longest_side: bool = False
) -> jax.Array:
    """From screen coordinates back to pixels; the inverse of `normalise_screen`."""
    normalised = jnp.asarray(normalised)
    half = _side(width, height, longest_side) / 2
    middle = jnp.array([width / 2, height / 2], normalised.dtype)
    xy = normalised[..., :2] * half + _as_rank(middle, normalised.ndim)
    return jnp.concatenate([xy, normalised[..., 2:]], axis=-1)


def world_to_camera(x: Array, orientation: Array, translation: Array) -> jax.Array:
    """Points as the camera sees them: q⁻¹ (x - t) q.

    Args:
        x: metres in the world, float (..., 3).
        orientation: unit quaternions (w, x, y, z), camera to world: (4,), or (n, ..., 4) whose
            axes but the last are the first axes of x.
        translation: places of the cameras in the world, metres, (3,) or (n, ..., 3) likewise.

    Returns:
        Metres in camera space, the shape of x.
    """
    x = jnp.asarray(x)
    q, t = _aligned(orientation, x), _aligned(translation, x)
    inverse = jnp.concatenate([q[..., :1], -q[..., 1:]], axis=-1)
    return _rotated(x - t, inverse)


def camera_to_world(x: Array, orientation: Array, translation: Array) -> jax.Array:
    """Points of camera space in the world: q x q⁻¹ + t; the inverse of `world_to_camera`."""
    x = jnp.asarray(x)
    return _rotated(x, _aligned(orientation, x)) + _aligned(translation, x)


def in_front(x: Array) -> jax.Array:
    """Which points (..., 3) of camera space lie before the camera and so have a projection.

    Returns:
        bool (...): Z > `MIN_DEPTH`.
    """
    return jnp.asarray(x)[..., 2] > MIN_DEPTH


def project(x: Array, intrinsics: Array) -> jax.Array:
    """Where points are on the screen, with lens distortion.

    With (u, v) = (X/Z, Y/Z) and r² = u² + v², after cutting u and v off at ±1:
    f · [(u, v) (1 + k1 r² + k2 r⁴ + k3 r⁶ + pa u + pb v) + (pa, pb) r²] + c.

    Points that are cut off have no gradient across the cut. Points that are not `in_front` have
    none at all: (u, v) is (±1, ±1) by the signs of X and Y, where they would leave the view on
    their way behind the camera. That is finite, but nothing to learn from: mask them.

    Args:
        x: camera space, metres, float (..., 3).
        intrinsics: (9,), or (n, ..., 9) whose axes but the last are the first axes of x.

    Returns:
        Screen coordinates (..., 2).
    """
    x = jnp.asarray(x)
    camera = _aligned(intrinsics, x)
    focal, center, radial, tangential = jnp.split(camera, (2, 4, 7), axis=-1)
    uv = _view(x)
    r2 = jnp.sum(uv * uv, axis=-1, keepdims=True)
    powers = jnp.concatenate([r2, r2 * r2, r2 * r2 * r2], axis=-1)
    stretch = 1 + jnp.sum(radial * powers, axis=-1, keepdims=True)
    tilt = jnp.sum(tangential * uv, axis=-1, keepdims=True)
    return focal * (uv * (stretch + tilt) + tangential * r2) + center


def project_linear(x: Array, intrinsics: Array) -> jax.Array:
    """`project` without distortion: f · (X/Z, Y/Z) + c."""
    x = jnp.asarray(x)
    camera = _aligned(intrinsics, x)
    return camera[..., :2] * _view(x) + camera[..., 2:4]


def flip_intrinsics(intrinsics: Array) -> jax.Array:
    """The camera of the mirrored image, (..., 9): cx and pa change sign.

    ``project(flip_pose(x), flip_intrinsics(c))`` is ``flip_pose(project(x, c))``.
    """
    intrinsics = jnp.asarray(intrinsics)
    sign = jnp.array([1, 1, -1, 1, 1, 1, 1, -1, 1], intrinsics.dtype)
    return intrinsics * _as_rank(sign, intrinsics.ndim)


def flip_pose(x: Array, layout_mirror: Sequence[int]) -> jax.Array:
    """Mirrors poses: x changes sign, left and right joints change places.

    Args:
        x: float (..., J, channels): 2D keypoints in screen coordinates or a 3D pose in camera
            space; only the first channel changes sign.
        layout_mirror: `pose_jax.skeletons.Layout.mirror`.

    Raises:
        UserError: the poses have another number of joints than the layout.
    """
    x = jnp.asarray(x)
    if x.shape[-2] != len(layout_mirror):
        raise UserError(
            f"Poses of {x.shape[-2]} joints cannot be mirrored with a layout of "
            f"{len(layout_mirror)}; name the layout of the data."
        )
    x = x[..., np.array(layout_mirror), :]
    return jnp.concatenate([-x[..., :1], x[..., 1:]], axis=-1)


def _view(x: jax.Array) -> jax.Array:
    """(X/Z, Y/Z) cut off at ±1, finite and with finite gradients for any finite x."""
    front = in_front(x)[..., None]
    # The inner choice keeps the division, and with it the gradient, finite where it is not used.
    depth = jnp.where(front, x[..., 2:], jnp.ones_like(x[..., 2:]))
    return jnp.where(front, jnp.clip(x[..., :2] / depth, -1, 1), jnp.sign(x[..., :2]))


def _rotated(x: jax.Array, q: jax.Array) -> jax.Array:
    """Vectors x turned by unit quaternions q, of equal rank."""
    axis = jnp.broadcast_to(q[..., 1:], x.shape)
    across = jnp.cross(axis, x)
    return x + 2 * (q[..., :1] * across + jnp.cross(axis, across))


def _aligned(parameters: Array, x: jax.Array) -> jax.Array:
    """Parameters (n, ..., d) with axes of size one before the last, up to the rank of x."""
    parameters = jnp.asarray(parameters)
    *lead, size = parameters.shape
    return parameters.reshape(*lead, *(1,) * (x.ndim - parameters.ndim), size)


def _as_rank(vector: jax.Array, rank: int) -> jax.Array:
    return vector.reshape((1,) * (rank - 1) + vector.shape)


def _side(width: int, height: int, longest_side: bool) -> int:
    """The side of the image, in pixels, that stands for two screen units."""
    return max(width, height) if longest_side else width
