"""Human3.6M's poses as they are published, and as other projects have passed them on."""

import collections
import os
from collections.abc import Callable, Mapping

import numpy as np

from pose_jax import h36m
from pose_jax.data.file_trees import Entry, walk
from pose_jax.data.foreign import read_cdf, read_hdf5, read_matlab
from pose_jax.data.original_npz import Positions
from train_jax.errors import UserError

_NUMBERS = 96  # 32 joints of three coordinates, millimetres


def read_raw_positions(path: str | os.PathLike[str]) -> Positions:
    """Reads the poses of all subjects.

    Args:
        path: a directory or an archive that holds S1/MyPoseFeatures/D3_Positions/*.cdf or
            *.cdf.mat, or S1/MyPoses/3D_positions/*.h5, and those of the other subjects.

    Returns:
        The 32 joints as recorded, metres; recordings have the names of the literature.

    Raises:
        UserError: there are none, some are missing, or one is damaged.
    """
    for pattern, (end, read) in _KINDS.items():
        found: Positions = {}
        for entry in walk(path, pattern):
            if entry.name.startswith("_ALL"):  # all of them once more, in one
                continue
            recording = h36m.recording_name(entry.name.removesuffix(end))
            metres = read(entry) / 1000
            found.setdefault(entry.subject, {})[recording] = metres.astype(np.float32)
        if found:
            _require_complete(found, os.fspath(path))
            return found
    raise UserError(
        f"{os.fspath(path)} holds none of {', '.join(_KINDS)}; unpack Poses_D3_Positions_S1.tgz "
        "and those of the other subjects from vision.imar.ro/human3.6m in it."
    )


def _read_cdf(entry: Entry) -> np.ndarray:
    found = read_cdf(entry.stream, "Pose", path=entry.path)
    return _checked(found, entry).reshape(-1, 32, 3)


def _read_matlab(entry: Entry) -> np.ndarray:
    found = read_matlab(entry.stream, "data", path=entry.path)
    return _checked(found, entry).reshape(-1, 32, 3)


def _read_hdf5(entry: Entry) -> np.ndarray:
    found = read_hdf5(entry.stream, "3D_positions", path=entry.path)
    return _checked(found.T, entry).reshape(-1, 32, 3)


#: Where files lie -> how their names end, and their reader: (T, 32, 3), millimetres.
_KINDS: Mapping[str, tuple[str, Callable[[Entry], np.ndarray]]] = {
    "S*/MyPoseFeatures/D3_Positions/*.cdf": (".cdf", _read_cdf),
    "S*/MyPoseFeatures/D3_Positions/*.cdf.mat": (".cdf.mat", _read_matlab),
    "S*/MyPoses/3D_positions/*.h5": (".h5", _read_hdf5),
}


def _checked(found: np.ndarray, entry: Entry) -> np.ndarray:
    if found.ndim < 2 or found.shape[-1] != _NUMBERS or found.dtype.kind != "f":
        raise UserError(
            f"{entry.path} holds {found.dtype}{list(found.shape)}, where [frames, {_NUMBERS}] "
            "belongs: 32 joints of three coordinates."
        )
    return found


def _require_complete(found: Positions, path: str) -> None:
    """Every subject of the protocol has performed every action twice: 30 recordings."""
    for subject in (*h36m.SUBJECTS_TRAIN, *h36m.SUBJECTS_TEST):
        takes = found.get(subject, {})
        counts = collections.Counter(map(h36m.action_of, takes))
        wrong = [
            f"{counts[action]} of {action}" for action in h36m.ACTIONS if counts[action] != 2
        ] + [f"{counts[action]} of {action}" for action in counts if action not in h36m.ACTIONS]
        if wrong:
            raise UserError(
                f"{path} has {len(takes)} recordings of {subject}, where two of each of the "
                f"{len(h36m.ACTIONS)} actions belong, but {', '.join(wrong)}; unpack "
                f"Poses_D3_Positions_{subject}.tgz from vision.imar.ro/human3.6m again."
            )
