"""Recordings of poses and keypoints in memory, and what must hold for them."""

import dataclasses
from collections.abc import Mapping

import numpy as np

from pose_jax.cameras import Camera
from pose_jax.skeletons import layout
from train_jax.errors import UserError


@dataclasses.dataclass(frozen=True, eq=False)
class Recording:
    """One subject's performance of one action, seen by any number of cameras.

    Attributes:
        subject: who, for example "S9".
        action: what, the take included, for example "Walking 1".
        positions: float32 (T, J, 3), metres in the world; None where there is no ground truth.
        views: camera name -> float32 (T, J2, 2 or 3), pixels and, with 3, the confidence.
    """

    subject: str
    action: str
    positions: np.ndarray | None
    views: Mapping[str, np.ndarray]

    @property
    def title(self) -> str:
        """What people call it."""
        return f"{self.subject} {self.action!r}"


@dataclasses.dataclass(frozen=True, eq=False)
class PoseSet:
    """A data set of poses, keypoints, or both.

    Attributes:
        name: of the data set and the detector.
        fps: frames per second.
        skeleton: name of the 3D layout; None without positions.
        keypoint_layout: name of the 2D layout; None without keypoints.
        source: where it comes from, under which licence, how it was made.
        cameras: subject -> camera name -> camera.
        recordings: in a fixed order.
    """

    name: str
    fps: float
    skeleton: str | None
    keypoint_layout: str | None
    source: str
    cameras: Mapping[str, Mapping[str, Camera]]
    recordings: tuple[Recording, ...]


def check(poses: PoseSet, where: str) -> None:
    """Checks that a set fits together, so that nothing fails later on the devices.

    Args:
        poses: the set.
        where: its name in messages.

    Raises:
        UserError: a wrong number of joints or channels, NaN or infinite coordinates, an empty
            sequence, a view without a camera, 2D and 3D of different lengths, or a name twice.
    """
    if not poses.recordings:
        raise UserError(f"{where} holds no recordings.")
    if not (np.isfinite(poses.fps) and poses.fps > 0):
        raise UserError(f"{where}: {poses.fps} frames per second is no rate.")
    seen: set[tuple[str, str]] = set()
    channels: set[int] = set()
    for recording in poses.recordings:
        what = f"{where}: recording {recording.title}"
        if (recording.subject, recording.action) in seen:
            raise UserError(f"{what} is there twice; give the takes different names.")
        seen.add((recording.subject, recording.action))
        if recording.positions is None and not recording.views:
            raise UserError(f"{what} has neither positions nor keypoints.")
        if recording.positions is not None:
            _check_positions(recording.positions, poses.skeleton, what)
        for camera, keypoints in recording.views.items():
            _check_keypoints(keypoints, poses.keypoint_layout, f"{what}, camera {camera}")
            _check_camera(poses.cameras, recording.subject, camera, what)
            _check_lengths(recording.positions, keypoints, f"{what}, camera {camera}")
            channels.add(keypoints.shape[-1])
    if len(channels) > 1:
        raise UserError(f"{where}: some keypoints have a confidence and some have none.")


def _check_positions(positions: np.ndarray, skeleton: str | None, what: str) -> None:
    if skeleton is None:
        raise UserError(f"{what} has positions, but the set names no skeleton.")
    _check_array(positions, layout(skeleton).num_joints, skeleton, (3,), f"{what}, positions")


def _check_keypoints(keypoints: np.ndarray, name: str | None, what: str) -> None:
    if name is None:
        raise UserError(f"{what} has keypoints, but the set names no keypoint layout.")
    _check_array(keypoints, layout(name).num_joints, name, (2, 3), what)
    if keypoints.shape[-1] == 3:
        confidence = keypoints[..., 2]
        bad = ((confidence < 0) | (confidence > 1)).any(axis=-1)
        if bad.any():
            raise UserError(
                f"{what}: a confidence in frame {int(bad.argmax())} lies outside [0, 1]."
            )


def _check_array(
    array: np.ndarray, joints: int, name: str, channels: tuple[int, ...], what: str
) -> None:
    if array.dtype != np.float32 or array.ndim != 3:
        raise UserError(
            f"{what}: {array.dtype}{list(array.shape)} is not float32[frames, joints, coordinates]."
        )
    if array.shape[1] != joints:
        raise UserError(f"{what}: {array.shape[1]} joints, but the layout {name} has {joints}.")
    if array.shape[2] not in channels:
        wanted = " or ".join(map(str, channels))
        raise UserError(f"{what}: {array.shape[2]} numbers per joint, where {wanted} belong.")
    if array.shape[0] == 0:
        raise UserError(f"{what}: the sequence has no frames; leave it out.")
    bad = np.logical_not(np.isfinite(array).all(axis=(1, 2)))
    if bad.any():
        raise UserError(
            f"{what}: {int(bad.sum())} of {len(array)} frames hold NaN or infinite values, the "
            f"first is frame {int(bad.argmax())}; fill the gaps or cut the sequence there."
        )


def _check_camera(
    cameras: Mapping[str, Mapping[str, Camera]], subject: str, camera: str, what: str
) -> None:
    if not camera or "/" in camera:
        raise UserError(f"{what}: {camera!r} cannot name a camera; use letters and digits.")
    if camera not in cameras.get(subject, {}):
        known = ", ".join(cameras.get(subject, {})) or "none"
        raise UserError(
            f"{what}: camera {camera} is not described (known of {subject}: {known}); at least its "
            "image size is needed."
        )


def _check_lengths(positions: np.ndarray | None, keypoints: np.ndarray, what: str) -> None:
    if positions is not None and len(positions) != len(keypoints):
        raise UserError(
            f"{what}: {len(keypoints)} frames of keypoints but {len(positions)} of positions; cut "
            "both to the frames they share."
        )
