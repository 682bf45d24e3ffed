r"""HumanEva-I: poses, or the keypoints of a detector.

    python -m pose_jax.prepare humaneva --source=data_3d_humaneva15.npz \
        --output=data/pose/humaneva15.npz
    python -m pose_jax.prepare humaneva --source=converted_15j --output=data/pose/humaneva15.npz
    python -m pose_jax.prepare humaneva --detections=data_2d_humaneva15_detectron_pt_coco.npz \
        --output=data/pose/humaneva15_detectron_pt_coco.npz

The data set is licensed: ask for it at humaneva.is.tue.mpg.de. --source is one of
  * data_3d_humaneva15.npz, which VideoPose3D makes of it;
  * converted_15j, the directory that VideoPose3D's ConvertHumanEva.m writes with MATLAB and the
    data set's own code (release 1.1 beta, with the critical update of the OFS files), with
    Train/S1/Walking_1.mat and so on. What its cameras see becomes the keypoints.
Where the motion capture has gaps, a recording is several: "Walking 1 chunk0", "Walking 1 chunk2".

--detections is data_2d_humaneva15_*.npz of VideoPose3D; detectron_pt_coco can be had from
dl.fbaipublicfiles.com/video-pose-3d. Videos without poses in it are those of Unlabeled/S1 and so
on. With --positions=data/pose/humaneva15.npz it is compared at once with the poses that it belongs
to, else when it is used. A detector's dumps of the videos are not read: which frames of a video
belong to which poses is neither in them nor in the data set's own files.

Only the skeleton of 15 joints can be evaluated. Files of 20, humaneva20, are refused. MATLAB's
files need further packages: pip install 'vit-pose-jax[pose-data]'.
"""

import argparse
from collections.abc import Mapping
from typing import Literal

from pose_jax import humaneva
from pose_jax.cameras import Camera
from pose_jax.data.humaneva_files import read_matlab_export
from pose_jax.data.original_npz import Keypoints, read_keypoints, read_positions
from pose_jax.data.poses import PoseSet, Recording
from pose_jax.prepare import licensed
from pose_jax.skeletons import HUMANEVA_15, HUMANEVA_20
from train_jax.errors import UserError


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


def _with_poses(path: str, name: str) -> PoseSet:
    keypoints: Keypoints = {}
    if path.endswith(".npz"):
        positions = read_positions(path)
    else:
        positions, keypoints = read_matlab_export(path)
    recordings: list[Recording] = []
    known: dict[str, Mapping[str, Camera]] = {}
    for subject, action, poses in licensed.in_order(positions):
        known[subject] = humaneva.cameras(subject)
        if poses.shape[1] == HUMANEVA_20.num_joints:
            raise UserError(
                f"{path} has the 20 joints as recorded, which have no tree of bones here and "
                "cannot be compared with the 15 that are evaluated; use data_3d_humaneva15.npz."
            )
        views = keypoints[subject][action] if keypoints else []
        seen = dict(zip(known[subject], views, strict=True)) if keypoints else {}
        recordings.append(Recording(subject, action, poses, seen))
    return PoseSet(
        name=name,
        fps=humaneva.FPS,
        skeleton=HUMANEVA_15.name,
        keypoint_layout=HUMANEVA_15.name if keypoints else None,
        source=f"{DATA_SET.source} Keypoints, if any: the poses, projected by its own code.",
        cameras=known,
        recordings=tuple(recordings),
    )


def _detections(path: str, name: str, layout: str | None) -> tuple[Keypoints, str]:
    del name
    if not path.endswith(".npz"):
        raise UserError(
            f"{path}: which frames of HumanEva's videos belong to its poses is not told by a "
            "detector's dumps of them; give data_2d_humaneva15_*.npz as VideoPose3D makes it."
        )
    return read_keypoints(path, layout=layout)


def _part_of(subject: str) -> Literal["train", "test", "unlabelled"]:
    if subject in humaneva.SUBJECTS_TRAIN:
        return "train"
    return "test" if subject in humaneva.SUBJECTS_TEST else "unlabelled"


DATA_SET = licensed.DataSet(
    name="HumanEva-I",
    place="humaneva.is.tue.mpg.de",
    citation="L. Sigal et al., IJCV 2010",
    fps=humaneva.FPS,
    cameras=humaneva.cameras,
    part_of=_part_of,
    with_poses=_with_poses,
    detections=_detections,
)
"""How HumanEva-I is prepared."""
