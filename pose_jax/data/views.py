"""From a file of poses to what a network sees: normalised keypoints and poses in the camera.

A *view* is one recording seen by one camera. Keypoints are in screen units (width to [-1, 1]);
poses in metres relative to the root, which itself keeps its place in the camera (paper, section 3).
"""

import dataclasses
from collections.abc import Sequence
from typing import Literal

import numpy as np
from etils import epath

from pose_jax import cameras, h36m
from pose_jax.data import store, subset
from pose_jax.data.framewise import in_blocks
from pose_jax.data.store import PoseSet
from pose_jax.skeletons import Layout, layout
from train_jax.errors import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class PoseDataConfig:
    """Which sequences to use.

    Attributes:
        keypoints: file of 2D keypoints, made by `python -m pose_jax.prepare`; a relative path is
            within the run's data_dir.
        positions: file with the 3D positions of the same recordings, if they are not in the first.
        subjects: whose recordings; empty: everybody's.
        actions: the words before the number of the take ("Walking" of "Walking 1"), exactly;
            empty: all.
        fraction: share of the frames of each recording that is used, one contiguous part.
        downsample: takes every n-th frame.
        longest_side: maps the longest side of the image to [-1, 1] rather than the width, which
            keeps portrait video in the range that landscape video was trained on.
    """

    keypoints: str
    positions: str | None = None
    subjects: tuple[str, ...] = ()
    actions: tuple[str, ...] = ()
    fraction: float = 1.0
    downsample: int = 1
    longest_side: bool = False


@dataclasses.dataclass(frozen=True, eq=False)
class View:
    """One recording seen by one camera.

    Attributes:
        subject: who.
        action: what, with the number of the take.
        camera: name of the camera.
        keypoints: float32 (t, joints, 2 or 3), screen units, and the confidence in [0, 1].
        positions: float32 (t, joints, 3), metres: joint 0 in the camera, the others relative to it;
            None where only keypoints are known.
        intrinsics: float32 (9,), see :func:`pose_jax.cameras.intrinsics`; None if unknown.
    """

    subject: str
    action: str
    camera: str
    keypoints: np.ndarray
    positions: np.ndarray | None
    intrinsics: np.ndarray | None


@dataclasses.dataclass(frozen=True, eq=False)
class Views:
    """The views of a data set, and what their numbers mean.

    Attributes:
        views: in the order of the file.
        keypoint_layout: of the keypoints.
        skeleton: of the positions; None where the file has none.
        fps: frames per second that are left after downsampling.
    """

    views: tuple[View, ...]
    keypoint_layout: Layout
    skeleton: Layout | None
    fps: float


Need = Literal["positions", "intrinsics", "keypoints"]


def read_views(config: PoseDataConfig, need: Need, *, data_dir: str = "") -> Views:
    """The views that a config names.

    Args:
        config: the choice.
        need: what every view must have beyond its keypoints.
        data_dir: directory of files with relative paths.

    Returns:
        In the order of the file: recording by recording, camera by camera.

    Raises:
        UserError: a file is missing or faulty, the choice is empty, or something needed is not
            there.
    """
    poses = _load(config.keypoints, data_dir)
    if config.positions is not None:
        poses = store.join(_load(config.positions, data_dir), poses)
    return select(poses, config, need)


def _load(name: str, data_dir: str) -> PoseSet:
    path = epath.Path(data_dir) / name
    try:
        return store.load(path)
    except UserError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            raise UserError(
                f"{path} is not there; make it with `python -m pose_jax.prepare`, whose --help "
                "says where data come from, or correct config.data_dir."
            ) from error
        raise


def select(poses: PoseSet, config: PoseDataConfig, need: Need) -> Views:
    """As :func:`read_views`, of a set that is read already."""
    if poses.keypoint_layout is None:
        raise UserError(f"{config.keypoints} has no 2D keypoints; name a file that has them.")
    if not 0 < config.fraction <= 1 or config.downsample < 1:
        raise UserError(
            f"fraction must lie in (0, 1] and downsample be at least 1; got {config.fraction} and "
            f"{config.downsample}."
        )
    _require_known(poses, config)
    views: list[View] = []
    for recording in poses.recordings:
        if config.subjects and recording.subject not in config.subjects:
            continue
        if config.actions and h36m.action_of(recording.action) not in config.actions:
            continue
        if need == "positions" and recording.positions is None:
            continue
        for name, keypoints in recording.views.items():
            begin, end = subset.subset_range(len(keypoints), config.fraction, config.downsample)
            # A small fraction of a short recording can be no frame at all.
            if begin < end:
                chosen = slice(begin, end, config.downsample)
                views.append(_view(recording, name, poses, chosen, config, need))
    if not views:
        raise UserError(
            f"No frame with {need} is left of {config.keypoints} for subjects "
            f"{', '.join(config.subjects) or 'of any name'}, actions "
            f"{', '.join(config.actions) or 'of any name'} and a fraction of {config.fraction:g}; "
            "choose others."
        )
    skeleton = layout(poses.skeleton) if poses.skeleton else None
    return Views(
        tuple(views), layout(poses.keypoint_layout), skeleton, poses.fps / config.downsample
    )


def _view(
    recording: store.Recording,
    name: str,
    poses: PoseSet,
    chosen: slice,
    config: PoseDataConfig,
    need: Need,
) -> View:
    camera = poses.cameras[recording.subject][name]
    pixels = recording.views[name][chosen]
    keypoints = normalised(pixels, camera, longest_side=config.longest_side)
    positions = intrinsics = None
    if need == "positions" and recording.positions is not None:
        place = cameras.place(camera)
        positions = in_blocks(
            lambda x: cameras.world_to_camera(x, *place), recording.positions[chosen]
        )
        positions[:, 1:] -= positions[:, :1]
    if camera.focal is not None:
        intrinsics = cameras.intrinsics(camera, longest_side=config.longest_side)
    elif need == "intrinsics":
        raise UserError(
            f"Camera {name} of {recording.title} has no focal length, and a 3D pose cannot be "
            "projected without; add the camera's intrinsics to the file."
        )
    return View(recording.subject, recording.action, name, keypoints, positions, intrinsics)


def normalised(pixels: np.ndarray, camera: cameras.Camera, *, longest_side: bool) -> np.ndarray:
    """Keypoints float32 (t, joints, 2 or 3) in screen units; the confidence stays as it is."""
    return in_blocks(
        lambda x: cameras.normalise_screen(
            x, width=camera.width, height=camera.height, longest_side=longest_side
        ),
        pixels,
    )


def _require_known(poses: PoseSet, config: PoseDataConfig) -> None:
    def require(what: str, wanted: Sequence[str], known: set[str]) -> None:
        unknown = sorted(set(wanted) - known)
        if unknown:
            raise UserError(
                f"{config.keypoints} has no {what} {', '.join(unknown)}; it has "
                f"{', '.join(sorted(known))}."
            )

    require("subject", config.subjects, {r.subject for r in poses.recordings})
    require("action", config.actions, {h36m.action_of(r.action) for r in poses.recordings})
