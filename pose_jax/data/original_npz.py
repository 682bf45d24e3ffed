"""The original's own files, data_3d_*.npz and data_2d_*.npz (VideoPose3D).

Both hold objects: ``positions_3d`` is {subject: {recording: (T, J, 3) metres in the world}},
``positions_2d`` {subject: {recording: [(T, J, 2 or 3) pixels of each camera, ...]}}, beside
``metadata`` about the joints. They are read once, without running the pickles in them, and
converted to our own format (`pose_jax.data.store`).
"""

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from pose_jax.data.pickles import PathLike, read_object_npz
from pose_jax.skeletons import LAYOUTS
from train_jax.errors import UserError

#: Subject -> recording -> float32 (T, J, 3), metres in the world.
Positions = dict[str, dict[str, np.ndarray]]

#: Subject -> recording -> float32 (T, J, 2 or 3) of each camera, in the data set's order; pixels.
Keypoints = dict[str, dict[str, list[np.ndarray]]]

#: What the original calls its layouts. Its MPII mirrors a hip to an ankle, ours to the other hip.
_LAYOUT_NAMES = {
    "coco": "coco17",
    "h36m": "h36m17",
    "humaneva15": "humaneva15",
    "humaneva20": "humaneva20",
    "mpii": "mpii16",
}

#: The end of the name of a file, and what it holds if it does not tell itself.
_LAYOUT_OF_FILES = {
    "_h36m_gt": "h36m17",
    "_humaneva15_gt": "humaneva15",
    "_humaneva20_gt": "humaneva20",
    "_sh_pt_mpii": "mpii16",
    "_sh_ft_h36m": "mpii16",
}

_T = TypeVar("_T")


def read_positions(path: PathLike) -> Positions:
    """Reads data_3d_*.npz.

    Raises:
        UserError: it is missing or damaged, holds more than data, or is another kind of file.
    """
    content = _member(path, read_object_npz(path), "positions_3d", "data_2d_*.npz")
    return _by_recording(content, _array, os.fspath(path))


def read_keypoints(path: PathLike, *, layout: str | None = None) -> tuple[Keypoints, str]:
    """Reads data_2d_*.npz.

    Args:
        path: local or gs://.
        layout: name of the layout of its keypoints, where the file does not tell.

    Returns:
        The keypoints and the name of their layout.

    Raises:
        UserError: it is missing or damaged, holds more than data, is another kind of file, or the
            layout was not given and cannot be inferred.
    """
    members = read_object_npz(path)
    content = _member(path, members, "positions_2d", "data_3d_*.npz")
    keypoints = _by_recording(content, _arrays, os.fspath(path))
    if layout is None:
        layout = infer_layout(
            members.get("metadata"), _num_joints(keypoints, os.fspath(path)), os.fspath(path)
        )
    return keypoints, layout


def infer_layout(metadata: Any, num_joints: int, path: str) -> str:
    """The layout of the keypoints of data_2d_*.npz.

    The name in the metadata tells, or else which joints are left and which are right, or else the
    name of the file; the number of joints must agree.

    Args:
        metadata: of the file: {"layout_name", "num_joints", "keypoints_symmetry"}, any of them.
        num_joints: of the keypoints.
        path: of the file.

    Returns:
        A key of `pose_jax.skeletons.LAYOUTS`.

    Raises:
        UserError: it cannot be told, or what tells it disagrees.
    """
    about: Mapping[str, Any] = metadata if isinstance(metadata, dict) else {}
    sides = _sides(about.get("keypoints_symmetry"))
    known = [
        name
        for name, one in LAYOUTS.items()
        if one.num_joints == num_joints and sides in (None, _sides((one.left, one.right)))
    ]
    named = _LAYOUT_NAMES.get(str(about.get("layout_name", "")).lower())
    if named is None:
        stem = os.path.basename(path).removesuffix(".npz")
        named = next((name for end, name in _LAYOUT_OF_FILES.items() if stem.endswith(end)), None)
    if named in known:
        return named
    if named is None and sides is not None and len(known) == 1:
        return known[0]
    reason = (
        f"its {num_joints} joints and their sides are not those of {named}"
        if named is not None
        else f"it does not tell the layout of its {num_joints} joints"
    )
    raise UserError(f"{path}: {reason}; give --layout, one of {', '.join(LAYOUTS)}.")


def _sides(symmetry: Any) -> tuple[set[int], set[int]] | None:
    """Left and right joints. Which is whose counterpart does not count: see `_LAYOUT_NAMES`."""
    try:
        left, right = symmetry
        return {int(i) for i in left}, {int(i) for i in right}
    except (TypeError, ValueError):
        return None


def _member(path: PathLike, members: Mapping[str, Any], name: str, other: str) -> Any:
    if name not in members:
        found = ", ".join(members)
        raise UserError(
            f"{os.fspath(path)} holds {found}, but no {name}: it is not the file that is needed "
            f"here, perhaps a {other}."
        )
    return members[name]


def _by_recording(
    content: Any, convert: Callable[[Any, str], _T], path: str
) -> dict[str, dict[str, _T]]:
    if not isinstance(content, dict) or not all(isinstance(v, dict) for v in content.values()):
        raise UserError(f"{path} is not sorted by subject and recording as the original's files.")
    return {
        str(subject): {
            str(name): convert(value, f"{path}: recording {subject} {name!r}")
            for name, value in takes.items()
        }
        for subject, takes in content.items()
    }


def _arrays(value: Any, what: str) -> list[np.ndarray]:
    if not isinstance(value, (list, tuple, np.ndarray)) or len(value) == 0:
        raise UserError(f"{what} is {_kind(value)}, where a list of cameras belongs.")
    return [_array(view, f"{what}, camera number {i}") for i, view in enumerate(value)]


def _array(value: Any, what: str) -> np.ndarray:
    if value is None:
        raise UserError(f"{what} is missing in the file.")
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "fiu" or value.ndim != 3:
        raise UserError(
            f"{what} is {_kind(value)}, where an array of frames, joints and coordinates belongs."
        )
    return value.astype(np.float32)


def _kind(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"an array {value.dtype}{list(value.shape)}"
    if isinstance(value, Sequence) and len(value) == 0:
        return f"an empty {type(value).__name__}"
    return f"of the type {type(value).__name__}"


def _num_joints(keypoints: Keypoints, path: str) -> int:
    counts = {view.shape[1] for takes in keypoints.values() for v in takes.values() for view in v}
    if len(counts) != 1:
        found = " and ".join(map(str, sorted(counts))) or "no"
        raise UserError(f"{path} holds keypoints of {found} joints; one layout is needed.")
    return counts.pop()
