"""From one person's keypoints to a pose per frame, and to a place before the camera."""

import numpy as np

from pose_jax import cameras
from pose_jax.data.views import View
from pose_jax.lifter import Lifter, lift
from pose_jax.skeletons import Layout, joint_map
from pose_jax.video.joints import converted

#: Degrees, horizontally, of the longer side: an ordinary telephone's. Nothing tells the real one.
FIELD_OF_VIEW = 60.0

#: Diagonal of a person's box in screen units; the median of the packaged lifter's training data.
FRAMED = 0.61


def framed(keypoints: np.ndarray, rate: float) -> np.ndarray:
    """Keypoints as a camera would see them that follows the person at a constant size.

    A lifter has seen people of one size near the middle of the image. Size and middle are averaged
    over two seconds, so that motion stays what it is.

    Args:
        keypoints: float (t, joints, 3), pixels and confidence, without NaN.
        rate: frames per second.

    Returns:
        float32 (t, joints, 3), screen units.
    """
    low, high = keypoints[..., :2].min(axis=1), keypoints[..., :2].max(axis=1)
    size = _averaged(np.hypot(*(high - low).T)[:, None], round(rate))
    middle = _averaged((low + high) / 2, round(rate))
    result = keypoints.astype(np.float64)
    result[..., :2] = FRAMED * (result[..., :2] - middle[:, None]) / size[:, None]
    return result.astype(np.float32)


def _averaged(x: np.ndarray, reach: int) -> np.ndarray:
    """The mean of the frames up to ``reach`` away, float (t, n)."""
    padded = np.pad(x, ((reach, reach), (0, 0)), mode="edge")
    sums = np.cumsum(np.pad(padded, ((1, 0), (0, 0))), axis=0)
    window = 2 * reach + 1
    return (sums[window:] - sums[:-window]) / window


def poses(
    lifter: Lifter,
    keypoints: np.ndarray,
    layout: Layout,
    size: tuple[int, int],
    rate: float,
    *,
    flip: bool = True,
    field_of_view: float = FIELD_OF_VIEW,
) -> np.ndarray:
    """Poses before the camera.

    With a trajectory network its places are taken; otherwise the places at which the poses look
    as they were seen, through a lens of that field of view.

    Args:
        lifter: the networks.
        keypoints: float (t, points, 3), pixels and confidence, without NaN.
        layout: of them.
        size: (width, height) of the image.
        rate: frames per second.
        flip: see :func:`pose_jax.lifter.lift`.
        field_of_view: degrees along the longer side.

    Returns:
        float64 (t, joints, 3), metres, in camera axes (x right, y down, z forward).

    Raises:
        UserError: the lifter reads other joints.
    """
    wanted = converted(keypoints, layout, lifter.keypoint_layout)
    if lifter.has_trajectory:
        screen = np.asarray(
            cameras.normalise_screen(
                wanted[..., :2].astype(np.float32),
                width=size[0],
                height=size[1],
                longest_side=lifter.longest_side,
            )
        )
        seen = np.concatenate([screen, wanted[..., 2:]], axis=-1).astype(np.float32)
    else:
        seen = framed(wanted, rate)
    seen = np.ascontiguousarray(seen[..., : lifter.model.features])
    (result,) = lift(lifter, [View("video", "video", "camera", seen, None, None)], flip=flip)
    if lifter.has_trajectory:
        return result.astype(np.float64)
    same = joint_map(lifter.skeleton, layout)
    joints, points = list(same), list(same.values())
    places = placed(result[:, joints], keypoints[:, points], size, rate, field_of_view)
    return result + places[:, None]


def placed(
    relative: np.ndarray,
    keypoints: np.ndarray,
    size: tuple[int, int],
    rate: float,
    field_of_view: float = FIELD_OF_VIEW,
) -> np.ndarray:
    """Where roots are, so that poses are projected to where they were seen.

    Of every frame the place of least squares, weighted by confidence, and of those an average over
    a quarter of a second.

    Args:
        relative: float (t, joints, 3), metres, camera axes, relative to the root.
        keypoints: float (t, joints, 3), pixels and confidence of the same joints.
        size: (width, height) of the image.
        rate: frames per second.
        field_of_view: degrees along the longer side.

    Returns:
        float64 (t, 3), metres, camera axes.
    """
    focal = max(size) / 2 / np.tan(np.radians(field_of_view) / 2)
    rays = (keypoints[..., :2] - np.array(size) / 2) / focal
    # x + tx = u (z + tz) for every joint, likewise y: linear in the place.
    weights = np.sqrt(np.clip(keypoints[..., 2], 0.02, 1))
    rows = np.zeros((*rays.shape, 3))
    rows[..., 0, 0] = rows[..., 1, 1] = 1.0
    rows[..., 2] = -rays
    wanted = rays * relative[..., 2:] - relative[..., :2]
    rows, wanted = rows * weights[..., None, None], wanted * weights[..., None]
    rows = rows.reshape(len(rows), -1, 3)
    wanted = wanted.reshape(len(rows), -1, 1)
    across = np.swapaxes(rows, 1, 2)
    places = np.linalg.solve(across @ rows + 1e-9 * np.eye(3), across @ wanted)[..., 0]
    places[:, 2] = np.clip(places[:, 2], 0.3, 100.0)
    return _averaged(places, round(rate / 8))
