"""HumanEva-I's poses as VideoPose3D's script ConvertHumanEva.m exports them from MATLAB.

The motion capture has gaps, so a recording becomes several, its *chunks*: "Walking 1 chunk0",
"Walking 1 chunk2". Their numbers count the gaps too, which are chunks without poses.
"""

import itertools
import os
from pathlib import PurePath

import numpy as np

from pose_jax.data.file_trees import Entry, walk
from pose_jax.data.foreign import read_matlab
from pose_jax.data.original_npz import Keypoints, Positions
from train_jax.errors import UserError

#: Joints that are understood, and that are exported with N_JOINTS = 20.
_JOINTS, _JOINTS_AS_RECORDED = 15, 20


def read_matlab_export(path: str | os.PathLike[str]) -> tuple[Positions, Keypoints]:
    """Reads all poses.

    Args:
        path: the directory converted_15j, with Train/S1/Walking_1.mat and so on.

    Returns:
        Positions in metres in the world, and where the three cameras see them, in pixels; by
        subject, such as Train/S1, and chunk.

    Raises:
        UserError: there are none, they are of another skeleton, or a file is damaged.
    """
    positions: Positions = {}
    keypoints: Keypoints = {}
    for part in ("Train", "Validate"):
        for entry in walk(path, f"{part}/S*/*.mat"):
            subject = f"{part}/{PurePath(entry.path).parent.name}"
            name = entry.name.removesuffix(".mat").replace("_", " ")
            millimetres, pixels = _read(entry)
            for number, (begin, end) in chunks(millimetres).items():
                chunk = f"{name} chunk{number}"
                metres = millimetres[begin:end].astype(np.float32) / 1000
                positions.setdefault(subject, {})[chunk] = metres
                keypoints.setdefault(subject, {})[chunk] = [
                    view[begin:end].astype(np.float32) for view in pixels
                ]
    if not positions:
        raise UserError(
            f"{os.fspath(path)} holds no poses in Train/S*/*.mat or Validate/S*/*.mat, which "
            "ConvertHumanEva.m of VideoPose3D exports from the data set."
        )
    return positions, keypoints


def chunks(poses: np.ndarray) -> dict[int, tuple[int, int]]:
    """The parts of a recording that have poses.

    Args:
        poses: float (T, J, 3), NaN or infinite where there is none.

    Returns:
        Number of the part, of all parts with and without poses -> its first frame and the one
        after its last.
    """
    valid = np.asarray(np.isfinite(poses).all(axis=(1, 2)))
    changes = np.flatnonzero(valid[1:] != valid[:-1]) + 1
    bounds = [0, *changes.tolist(), len(valid)]
    return {
        number: (begin, end)
        for number, (begin, end) in enumerate(itertools.pairwise(bounds))
        if begin < end and valid[begin]
    }


def _read(entry: Entry) -> tuple[np.ndarray, np.ndarray]:
    """Millimetres (T, 15, 3), and pixels (3, T, 15, 2)."""
    millimetres = read_matlab(entry.stream, "poses_3d", path=entry.path)
    entry.stream.seek(0)
    pixels = read_matlab(entry.stream, "poses_2d", path=entry.path)
    if millimetres.shape[1:] == (_JOINTS_AS_RECORDED, 3):
        raise UserError(
            f"{entry.path} has the 20 joints as recorded, which have no tree of bones here and "
            "cannot be compared with the 15 that are evaluated; export again with N_JOINTS = 15."
        )
    if millimetres.shape[1:] != (_JOINTS, 3) or pixels.shape != (3, *millimetres.shape[:2], 2):
        raise UserError(
            f"{entry.path} holds poses_3d {list(millimetres.shape)} and poses_2d "
            f"{list(pixels.shape)}, where [frames, 15, 3] and [3, frames, 15, 2] belong."
        )
    return millimetres, pixels
