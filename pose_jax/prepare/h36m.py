r"""Human3.6M: poses and ground-truth keypoints, or the keypoints of a detector.

    python -m pose_jax.prepare h36m --source=data_3d_h36m.npz --output=data/pose/h36m.npz
    python -m pose_jax.prepare h36m --source=DIRECTORY --output=data/pose/h36m.npz
    python -m pose_jax.prepare h36m --detections=data_2d_h36m_cpn_ft_h36m_dbb.npz \
        --output=data/pose/h36m_cpn_ft_h36m_dbb.npz

The data set is licensed: ask for it at vision.imar.ro/human3.6m and fetch "D3 Positions" of S1, S5,
S6, S7, S8, S9 and S11. --source is one of
  * data_3d_h36m.npz, which VideoPose3D makes of it;
  * the directory in which Poses_D3_Positions_S*.tgz were unpacked, with S1/MyPoseFeatures/
    D3_Positions/Walking.cdf (or Walking.cdf.mat, where MATLAB has read them) and so on;
  * h36m.zip of "A simple yet effective baseline" (Martinez et al.), or its directory.
The 17 joints of the literature are kept, and the ground truth as each of the four cameras sees it
becomes the keypoints. S11 "Directions" is left out, because its poses are corrupt.

--detections is one of
  * data_2d_h36m_*.npz of VideoPose3D: cpn_ft_h36m_dbb, detectron_ft_h36m and detectron_pt_coco can
    be had from dl.fbaipublicfiles.com/video-pose-3d. S2, S3 and S4 in them have no poses; they are
    for training without labels;
  * a directory of Detectron or CPN dumps of every video, S1/Walking 1.54138969.mp4.npz and so on;
  * h36m.zip or stacked_hourglass_fined_tuned_240.tar.gz of Martinez et al., or the directory of
    either: S1/StackedHourglass/Walking.54138969.h5 and so on.
With --positions=data/pose/h36m.npz they are compared at once with the poses that they belong to,
else when they are used.

Raw files need further packages: pip install 'vit-pose-jax[pose-data]'.
"""

import argparse
import functools
from collections.abc import Mapping
from pathlib import PurePath
from typing import TypeVar

import jax
import numpy as np
from etils import epath

from pose_jax import cameras, h36m, skeletons
from pose_jax.cameras import Camera
from pose_jax.data import store
from pose_jax.data.h36m_files import read_raw_positions
from pose_jax.data.original_npz import Keypoints, Positions, read_keypoints, read_positions
from pose_jax.data.poses import PoseSet, Recording
from pose_jax.data.video_dumps import read_h36m_dumps
from pose_jax.skeletons import H36M_17, H36M_32, H36M_32_TO_17
from train_jax.errors import UserError

_OPEN_BENCHMARK = (
    "or run the open benchmark instead (python -m pose_jax.prepare cmu, experiments/pose/cmu.py)"
)

_SOURCE = (
    "Human3.6M (C. Ionescu et al., TPAMI 2014), vision.imar.ro/human3.6m: licensed for academic "
    "use, not to be passed on."
)

# Frames that are projected at once.
_BLOCK = 256

_T = TypeVar("_T")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what this source is told on the command line."""
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--source", help="poses: data_3d_h36m.npz, a directory, or h36m.zip")
    what.add_argument("--detections", help="keypoints: data_2d_h36m_*.npz, a directory, an archive")
    parser.add_argument("--output", required=True, help="file to write; must not exist")
    parser.add_argument(
        "--layout", help="of the detections (h36m17, coco17, mpii16), if they do not tell"
    )
    parser.add_argument("--positions", help="a prepared file whose poses the detections belong to")


def run(options: argparse.Namespace) -> str:
    """Prepares the file.

    Returns:
        A line that says what there is now.

    Raises:
        UserError: the source is missing or faulty, or the output exists.
    """
    store.refuse_existing(options.output)
    name = PurePath(options.output).stem
    path = options.source or options.detections
    _require_there(path, is_source=bool(options.source))
    if options.source:
        for flag in ("layout", "positions"):
            if getattr(options, flag) is not None:
                raise UserError(f"--{flag} is for --detections; leave it out with --source.")
        poses = with_ground_truth(_read_positions(path), name=name)
    else:
        if options.layout is not None:
            skeletons.layout(options.layout)
        found, layout = _read_keypoints(path, name, options.layout)
        poses = with_detections(found, layout, name=name)
        if options.positions is not None:
            store.join(store.load(options.positions), poses)
    store.save(options.output, poses)
    return report(poses, options.output)


def with_ground_truth(positions: Positions, *, name: str) -> PoseSet:
    """Human3.6M's poses with the keypoints that its cameras see.

    Args:
        positions: the 32 joints as recorded, metres.
        name: of the set.

    Returns:
        17 joints, recordings sorted, without those that are dropped.

    Raises:
        UserError: another number of joints, an unknown subject, or one without calibration.
    """
    recordings: list[Recording] = []
    calibrated: dict[str, dict[str, Camera]] = {}
    for subject, action, recorded in _sorted(positions):
        what = f"{subject} {action!r}"
        if subject in h36m.SUBJECTS_UNLABELLED:
            raise UserError(f"{what} has poses, but Human3.6M publishes none of {subject}.")
        if recorded.shape[1:] != (H36M_32.num_joints, 3):
            raise UserError(
                f"{what} is an array {list(recorded.shape)}, where [frames, 32, 3] belongs: "
                "Human3.6M's poses have 32 joints as recorded."
            )
        calibrated[subject] = h36m.cameras(subject)
        joints = np.ascontiguousarray(recorded[:, H36M_32_TO_17, :], np.float32)
        seen = {key: _seen(joints, camera) for key, camera in calibrated[subject].items()}
        recordings.append(Recording(subject, action, joints, seen))
    return PoseSet(
        name=name,
        fps=h36m.FPS,
        skeleton=H36M_17.name,
        keypoint_layout=H36M_17.name,
        source=f"{_SOURCE} Keypoints: the poses, projected with lens distortion.",
        cameras=calibrated,
        recordings=tuple(recordings),
    )


def with_detections(keypoints: Keypoints, layout: str, *, name: str) -> PoseSet:
    """A detector's keypoints with the cameras of Human3.6M.

    Args:
        keypoints: of all four cameras, in the order of `pose_jax.h36m.CAMERAS`.
        layout: name of their layout.
        name: of the set.

    Raises:
        UserError: an unknown subject, or a recording with other than four cameras.
    """
    recordings: list[Recording] = []
    known: dict[str, dict[str, Camera]] = {}
    for subject, action, views in _sorted(keypoints):
        known[subject] = h36m.cameras(subject)
        if len(views) != len(known[subject]):
            raise UserError(
                f"{subject} {action!r} was seen by {len(views)} cameras, where Human3.6M has the "
                f"four {', '.join(known[subject])}."
            )
        seen = dict(zip(known[subject], views, strict=True))
        recordings.append(Recording(subject, action, None, seen))
    return PoseSet(
        name=name,
        fps=h36m.FPS,
        skeleton=None,
        keypoint_layout=layout,
        source=f"{_SOURCE} Keypoints: a detector's ({name}).",
        cameras=known,
        recordings=tuple(recordings),
    )


def report(poses: PoseSet, output: str) -> str:
    """A line that says what there is now, to be compared with what the literature counts."""
    views = [
        (recording.subject, keypoints)
        for recording in poses.recordings
        for keypoints in recording.views.values()
    ]
    parts = []
    for part, subjects in (
        ("train", h36m.SUBJECTS_TRAIN),
        ("test", h36m.SUBJECTS_TEST),
        ("unlabelled", h36m.SUBJECTS_UNLABELLED),
    ):
        of_part = [len(keypoints) for subject, keypoints in views if subject in subjects]
        if of_part:
            parts.append(f"{len(of_part)} {part} sequences of {sum(of_part):,} frames")
    return f"{output}: {', '.join(parts)}; keypoints of the layout {poses.keypoint_layout}."


def _require_there(path: str, *, is_source: bool) -> None:
    if epath.Path(path).exists():
        return
    raise UserError(
        f"There is no {path}: Human3.6M is licensed, ask for it at vision.imar.ro/human3.6m, "
        f"{_OPEN_BENCHMARK}."
        if is_source
        else f"There is no {path}: detections of Human3.6M are published with VideoPose3D "
        f"(dl.fbaipublicfiles.com/video-pose-3d); fetch them, {_OPEN_BENCHMARK}."
    )


def _read_positions(path: str) -> Positions:
    return read_positions(path) if path.endswith(".npz") else read_raw_positions(path)


def _read_keypoints(path: str, name: str, layout: str | None) -> tuple[Keypoints, str]:
    if path.endswith(".npz"):
        return read_keypoints(path, layout=layout)
    return read_h36m_dumps(path, name=name, layout=layout)


def _sorted(content: Mapping[str, Mapping[str, _T]]) -> list[tuple[str, str, _T]]:
    """(subject, recording, value) by number of the subject and name, without what is dropped."""
    found = [
        (subject, h36m.recording_name(raw), value)
        for subject, takes in content.items()
        for raw, value in takes.items()
    ]
    kept = [entry for entry in found if entry[:2] not in h36m.DROPPED]
    return sorted(kept, key=lambda entry: (len(entry[0]), entry[0], entry[1]))


def _seen(positions: np.ndarray, camera: Camera) -> np.ndarray:
    """Pixels float32 (T, J, 2) of positions (T, J, 3) in the world."""
    if camera.orientation is None or camera.translation is None:
        raise UserError(f"It is not known where camera {camera.name} stood.")
    view = (
        np.asarray(camera.orientation, np.float32),
        np.asarray(camera.translation, np.float32),
        cameras.intrinsics(camera),
    )
    blocks = []
    for begin in range(0, len(positions), _BLOCK):
        block = positions[begin : begin + _BLOCK]
        padded = np.pad(block, [(0, _BLOCK - len(block)), (0, 0), (0, 0)])
        pixels = _project(padded, *view, width=camera.width, height=camera.height)
        blocks.append(np.asarray(pixels)[: len(block)])
    return np.concatenate([np.zeros((0, *positions.shape[1:-1], 2), np.float32), *blocks])


@functools.partial(jax.jit, static_argnames=("width", "height"))
def _project(
    x: jax.Array,
    orientation: jax.Array,
    translation: jax.Array,
    intrinsics: jax.Array,
    *,
    width: int,
    height: int,
) -> jax.Array:
    seen = cameras.project(cameras.world_to_camera(x, orientation, translation), intrinsics)
    return cameras.to_pixels(seen, width=width, height=height)
