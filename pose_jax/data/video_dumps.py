"""What 2D detectors have left of each video: Detectron, CPN, Stacked Hourglass."""

import os
import re
from collections.abc import Callable, Mapping
from typing import IO

import numpy as np

from pose_jax import h36m
from pose_jax.data.file_trees import Entry, walk
from pose_jax.data.foreign import read_hdf5
from pose_jax.data.original_npz import Keypoints
from pose_jax.data.pickles import PathLike, explained, read_object_npz
from train_jax.errors import UserError


def read_dump(path: PathLike, *, stream: IO[bytes] | None = None) -> np.ndarray:
    """The keypoints of the person of a video that Detectron or CPN has seen.

    Detectron leaves for every frame the boxes and keypoints of all persons. The person whose box
    has the highest score is taken, and where there is none the last pose again (before the first
    pose: that one). Where a joint has six numbers, x, y, logit, probability and twice more, the
    last two are its soft-argmax, and are taken; else x and y. CPN leaves one array of poses.

    Args:
        path: .npz, local or gs://.
        stream: of the file, if it cannot be opened by that name but lies in an archive.

    Returns:
        float32 (T, J, 2), pixels.

    Raises:
        UserError: it is missing or damaged, of another kind, or shows nobody.
    """
    members = read_object_npz(path, stream=stream)
    if "keypoints" not in members:
        raise UserError(f"{os.fspath(path)} holds {', '.join(members)}, but no keypoints.")
    with explained(path):
        if "boxes" in members:
            return _best_persons(members["boxes"], members["keypoints"], os.fspath(path))
        return np.asarray(members["keypoints"], np.float32)[:, :, :2]


def _best_persons(boxes: np.ndarray, keypoints: np.ndarray, path: str) -> np.ndarray:
    """``boxes[t][1]`` is (persons, 5), the score last; ``keypoints[t][1]`` (persons, rows, J)."""
    poses: list[np.ndarray | None] = []
    for (_, found), (_, joints) in zip(boxes, keypoints, strict=True):
        if len(found):
            pose = np.asarray(joints)[np.argmax(np.asarray(found)[:, 4])]
            poses.append((pose[4:6] if len(pose) >= 6 else pose[:2]).T)
        else:
            poses.append(poses[-1] if poses else None)
    first = next((pose for pose in poses if pose is not None), None)
    if first is None:
        raise UserError(f"{path} shows nobody in any of its {len(poses)} frames; leave it out.")
    return np.stack([first if pose is None else pose for pose in poses]).astype(np.float32)


def read_h36m_dumps(
    path: PathLike, *, name: str, layout: str | None = None
) -> tuple[Keypoints, str]:
    """Reads what a detector has left of Human3.6M's videos.

    Args:
        path: a directory or an archive that holds S1/Walking 1.54138969.mp4.npz or
            S1/StackedHourglass/Walking_1.54138969.h5, and so on.
        name: of the detections, such as h36m_detectron_pt_coco.
        layout: name of the layout, where ``name`` does not tell.

    Returns:
        The keypoints of the four cameras, and the name of their layout.

    Raises:
        UserError: there are none, a camera is missing, a file is damaged, or the layout cannot be
            told.
    """
    for pattern, (end, read) in _KINDS.items():
        found: dict[str, dict[str, dict[str, np.ndarray]]] = {}
        for entry in walk(path, pattern):
            if entry.name.startswith("_ALL"):  # all actions once more, in one
                continue
            action, camera = _split(entry, end)
            if (entry.subject, action) in h36m.DROPPED:
                continue
            views = found.setdefault(entry.subject, {}).setdefault(action, {})
            if camera in views:
                raise UserError(
                    f"{entry.path}: there is another detection of the same video; keep one of them."
                )
            views[camera] = read(entry)
        if found:
            keypoints = _by_camera(found, os.fspath(path))
            return keypoints, layout or _layout(keypoints, name, os.fspath(path))
    raise UserError(f"{os.fspath(path)} holds none of {', '.join(_KINDS)}.")


def _read_npz(entry: Entry) -> np.ndarray:
    return read_dump(entry.path, stream=entry.stream)


def _read_hourglass(entry: Entry) -> np.ndarray:
    found = read_hdf5(entry.stream, "poses", path=entry.path)
    if found.ndim != 3 or found.shape[-1] < 2:
        raise UserError(
            f"{entry.path} holds {found.dtype}{list(found.shape)}, where [frames, joints, 2] "
            "belongs."
        )
    return found[..., :2].astype(np.float32)


#: Where files lie -> how their names end, and their reader: float32 (T, J, 2), pixels.
_KINDS: Mapping[str, tuple[str, Callable[[Entry], np.ndarray]]] = {
    "S*/*.mp4.npz": (".mp4.npz", _read_npz),
    "S*/StackedHourglass*/*.h5": (".h5", _read_hourglass),
}


def _split(entry: Entry, end: str) -> tuple[str, str]:
    match = re.fullmatch(r"(.+)\.(\d+)", entry.name.removesuffix(end))
    if match is None or match[2] not in _CAMERA_NAMES:
        raise UserError(
            f"{entry.path}: its name does not tell its recording and camera as "
            f"'Walking 1.{_CAMERA_NAMES[0]}{end}' does."
        )
    return h36m.recording_name(match[1].replace("_", " ")), match[2]


_CAMERA_NAMES = tuple(camera.name for camera in h36m.CAMERAS)


def _by_camera(found: Mapping[str, Mapping[str, Mapping[str, np.ndarray]]], path: str) -> Keypoints:
    keypoints: Keypoints = {}
    for subject, takes in found.items():
        for action, views in takes.items():
            missing = [camera for camera in _CAMERA_NAMES if camera not in views]
            if missing:
                raise UserError(
                    f"{path}: {subject} {action!r} lacks the camera {', '.join(missing)}; detect "
                    "its video too."
                )
            keypoints.setdefault(subject, {})[action] = [views[name] for name in _CAMERA_NAMES]
    return keypoints


def _layout(keypoints: Keypoints, name: str, path: str) -> str:
    joints = next(views[0].shape[1] for takes in keypoints.values() for views in takes.values())
    detector = name.removeprefix("h36m_")  # the data set, not the joints
    if joints == 16:
        return "mpii16"
    if joints == 17 and "coco" in detector:
        return "coco17"
    if joints == 17 and "h36m" in detector:
        return "h36m17"
    raise UserError(
        f"{path}: {joints} joints may be of any layout; give --layout, such as --layout=coco17."
    )
