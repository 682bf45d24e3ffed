"""What the preparation of Human3.6M and of HumanEva have in common."""

import argparse
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from pathlib import PurePath
from typing import Literal, TypeVar

from etils import epath

from pose_jax import skeletons
from pose_jax.cameras import Camera
from pose_jax.data import store
from pose_jax.data.original_npz import Keypoints
from pose_jax.data.poses import PoseSet, Recording
from train_jax.errors import UserError

_T = TypeVar("_T")


@dataclasses.dataclass(frozen=True)
class DataSet:
    """A licensed data set.

    Attributes:
        name: as people call it.
        place: where it can be asked for.
        citation: of the publication.
        fps: frames per second.
        cameras: the cameras of a subject, by name and in order.
        part_of: whether a subject is there to "train", to "test", or "unlabelled".
        with_poses: the set that a source holds: path, name -> poses.
        detections: what a detector has left: path, name, layout or None -> keypoints, layout.
    """

    name: str
    place: str
    citation: str
    fps: float
    cameras: Callable[[str], Mapping[str, Camera]]
    part_of: Callable[[str], Literal["train", "test", "unlabelled"]]
    with_poses: Callable[[str, str], PoseSet]
    detections: Callable[[str, str, str | None], tuple[Keypoints, str]]

    @property
    def source(self) -> str:
        """What its files tell of where they come from."""
        return (
            f"{self.name} ({self.citation}), {self.place}: licensed for academic use, not to be "
            "passed on."
        )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what these sources are told on the command line."""
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--source", metavar="PATH", help="poses to convert, see above")
    what.add_argument("--detections", metavar="PATH", help="keypoints to convert, see above")
    parser.add_argument("--output", required=True, help="file to write; must not exist")
    parser.add_argument(
        "--layout", help="of the detections, such as coco17, where they do not tell"
    )
    parser.add_argument(
        "--positions", metavar="FILE", help="a prepared file of poses, to compare detections with"
    )


def run(options: argparse.Namespace, data_set: DataSet) -> str:
    """Prepares a file.

    Returns:
        A line that says what there is now.

    Raises:
        UserError: the source is missing or faulty, or the output exists.
    """
    store.refuse_existing(options.output)
    name = PurePath(options.output).stem
    _require_there(options.source or options.detections, data_set, poses=bool(options.source))
    if options.source:
        for flag in ("layout", "positions"):
            if getattr(options, flag) is not None:
                raise UserError(f"--{flag} is for --detections; leave it out with --source.")
        poses = data_set.with_poses(options.source, name)
    else:
        if options.layout is not None:
            skeletons.layout(options.layout)
        keypoints, layout = data_set.detections(options.detections, name, options.layout)
        poses = with_detections(keypoints, layout, data_set, name=name)
        if options.positions is not None:
            store.join(store.load(options.positions), poses)
    store.save(options.output, poses)
    return _report(poses, data_set, options.output)


def with_detections(keypoints: Keypoints, layout: str, data_set: DataSet, *, name: str) -> PoseSet:
    """A detector's keypoints with the cameras of the data set.

    Args:
        keypoints: of all cameras, in the data set's order.
        layout: name of their layout.
        data_set: theirs.
        name: of the result.

    Raises:
        UserError: an unknown subject, or a recording with another number of cameras.
    """
    recordings: list[Recording] = []
    known: dict[str, Mapping[str, Camera]] = {}
    for subject, action, views in in_order(keypoints):
        known[subject] = data_set.cameras(subject)
        if len(views) != len(known[subject]):
            raise UserError(
                f"{subject} {action!r} was seen by {len(views)} cameras, where {data_set.name} has "
                f"{', '.join(known[subject])}."
            )
        seen = dict(zip(known[subject], views, strict=True))
        recordings.append(Recording(subject, action, None, seen))
    return PoseSet(
        name=name,
        fps=data_set.fps,
        skeleton=None,
        keypoint_layout=layout,
        source=f"{data_set.source} Keypoints: a detector's ({name}).",
        cameras=known,
        recordings=tuple(recordings),
    )


def in_order(takes: Mapping[str, Mapping[str, _T]]) -> Iterator[tuple[str, str, _T]]:
    """Subject, recording and what it holds, sorted: S9 before S11, then by name."""
    for subject in sorted(takes, key=lambda name: (len(name), name)):
        for action in sorted(takes[subject]):
            yield subject, action, takes[subject][action]


def _require_there(path: str, data_set: DataSet, *, poses: bool) -> None:
    if epath.Path(path).exists():
        return
    how = (
        f"{data_set.name} is licensed, ask for it at {data_set.place}"
        if poses
        else f"detections of {data_set.name} are published with VideoPose3D, fetch them from "
        "dl.fbaipublicfiles.com/video-pose-3d"
    )
    raise UserError(
        f"There is no {path}: {how}, or run the open benchmark instead (python -m "
        "pose_jax.prepare cmu, experiments/pose/cmu.py)."
    )


def _report(poses: PoseSet, data_set: DataSet, output: str) -> str:
    """What there is now, to be compared with what the literature counts."""
    counts: dict[str, list[int]] = {"train": [], "test": [], "unlabelled": []}
    for recording in poses.recordings:
        lengths = [len(keypoints) for keypoints in recording.views.values()]
        if recording.positions is not None and not lengths:  # as its cameras would see it
            lengths = [len(recording.positions)] * len(poses.cameras[recording.subject])
        counts[data_set.part_of(recording.subject)].extend(lengths)
    parts = [
        f"{len(frames)} {part} sequences of {sum(frames):,} frames"
        for part, frames in counts.items()
        if frames
    ]
    keypoints = (
        f"keypoints of the layout {poses.keypoint_layout}"
        if poses.keypoint_layout
        else "poses only, the keypoints come from --detections"
    )
    return f"{output}: {', '.join(parts)}; {keypoints}."
