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
from collections.abc import Mapping
from typing import Literal, TypeVar

import numpy as np

from pose_jax import h36m
from pose_jax.cameras import Camera
from pose_jax.data import framewise
from pose_jax.data.h36m_files import read_raw_positions
from pose_jax.data.original_npz import Keypoints, Positions, read_keypoints, read_positions
from pose_jax.data.poses import PoseSet, Recording
from pose_jax.data.video_dumps import read_h36m_dumps
from pose_jax.prepare import licensed
from pose_jax.skeletons import H36M_17, H36M_32, H36M_32_TO_17
from train_jax.errors import UserError

_T = TypeVar("_T")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what this source is told on the command line."""
    licensed.add_arguments(parser)


def run(options: argparse.Namespace) -> str:
    """Prepares the file.

    Returns:
        A line that says what there is now.

    Raises:
        UserError: the source is missing or faulty, or the output exists.
    """
    return licensed.run(options, DATA_SET)


def with_ground_truth(positions: Positions, *, name: str) -> PoseSet:
    """Human3.6M's poses with the keypoints that its cameras see.

    Args:
        positions: the 32 joints as recorded, metres.
        name: of the set.

    Returns:
        17 joints, recordings in order, without those that are dropped.

    Raises:
        UserError: another number of joints, or a subject whose poses are not known.
    """
    recordings: list[Recording] = []
    calibrated: dict[str, dict[str, Camera]] = {}
    for subject, action, recorded in licensed.in_order(_kept(positions)):
        calibrated[subject] = h36m.cameras(subject)
        if subject in h36m.SUBJECTS_UNLABELLED:
            raise UserError(f"{subject} has poses here, but Human3.6M publishes none of {subject}.")
        if recorded.shape[1:] != (H36M_32.num_joints, 3):
            raise UserError(
                f"{subject} {action!r} is an array {list(recorded.shape)}, where [frames, 32, 3] "
                "belongs: Human3.6M's poses have 32 joints as recorded."
            )
        if not len(recorded):
            raise UserError(f"{subject} {action!r}, positions: the sequence has no frames.")
        joints = np.ascontiguousarray(recorded[:, H36M_32_TO_17, :], np.float32)
        seen = {
            key: framewise.pixels(joints, camera) for key, camera in calibrated[subject].items()
        }
        recordings.append(Recording(subject, action, joints, seen))
    return PoseSet(
        name=name,
        fps=h36m.FPS,
        skeleton=H36M_17.name,
        keypoint_layout=H36M_17.name,
        source=f"{DATA_SET.source} Keypoints: the poses, projected with lens distortion.",
        cameras=calibrated,
        recordings=tuple(recordings),
    )


def _with_poses(path: str, name: str) -> PoseSet:
    read = read_positions if path.endswith(".npz") else read_raw_positions
    return with_ground_truth(read(path), name=name)


def _detections(path: str, name: str, layout: str | None) -> tuple[Keypoints, str]:
    if not path.endswith(".npz"):
        return read_h36m_dumps(path, name=name, layout=layout)
    found, layout = read_keypoints(path, layout=layout)
    return _kept(found), layout


def _kept(takes: Mapping[str, Mapping[str, _T]]) -> dict[str, dict[str, _T]]:
    """All but the dropped recordings, by the names of the literature."""
    kept: dict[str, dict[str, _T]] = {}
    for subject, of_subject in takes.items():
        names = {h36m.recording_name(raw): raw for raw in of_subject}
        if len(names) < len(of_subject):
            raise UserError(f"{subject} has a recording twice, by its raw name and by the usual.")
        kept[subject] = {
            name: of_subject[raw]
            for name, raw in names.items()
            if (subject, name) not in h36m.DROPPED
        }
    return kept


def _part_of(subject: str) -> Literal["train", "test", "unlabelled"]:
    if subject in h36m.SUBJECTS_UNLABELLED:
        return "unlabelled"
    return "test" if subject in h36m.SUBJECTS_TEST else "train"


DATA_SET = licensed.DataSet(
    name="Human3.6M",
    place="vision.imar.ro/human3.6m",
    citation="C. Ionescu et al., TPAMI 2014",
    fps=h36m.FPS,
    cameras=h36m.cameras,
    part_of=_part_of,
    with_poses=_with_poses,
    detections=_detections,
)
"""How Human3.6M is prepared."""
