"""Writes poses as BVH, for animation software.

Bones get their median length, so that a rigid skeleton is moved by rotations alone. Where several
bones hang on one joint, each has a joint of its own between, at the same place and named after what
hangs on it (such as LeftHipJoint), since a joint of BVH turns all that hangs on it. Lengths are
centimetres, y is up. `pose_jax.data.bvh` reads such files.
"""

import dataclasses
import os
from collections.abc import Mapping
from types import MappingProxyType

import numpy as np

from pose_jax.skeletons import Layout
from train_jax.errors import UserError

#: MotionBuilder's names of Human3.6M's joints.
NAMES: Mapping[str, str] = MappingProxyType(
    {
        "pelvis": "Hips",
        "spine": "Spine",
        "thorax": "Neck",
        "neck_nose": "Head",
        "head_top": "HeadTop_End",
        **{
            f"{side.lower()}_{joint}": f"{side}{name}"
            for side in ("Left", "Right")
            for joint, name in (
                ("hip", "UpLeg"),
                ("knee", "Leg"),
                ("ankle", "Foot"),
                ("shoulder", "Arm"),
                ("elbow", "ForeArm"),
                ("wrist", "Hand"),
            )
        },
    }
)

_BETWEEN = {"Spine": "Abdomen", "Head": "NeckJoint"}
_BETWEEN |= {f"{side}UpLeg": f"{side}HipJoint" for side in ("Left", "Right")}
_BETWEEN |= {f"{side}Arm": f"{side}Shoulder" for side in ("Left", "Right")}


@dataclasses.dataclass(frozen=True, eq=False)
class _Node:
    """A joint of the file: its offset (3,) and local rotations (t, 3, 3)."""

    name: str
    offset: np.ndarray
    rotations: np.ndarray
    children: "list[_Node]"


def rigid(poses: np.ndarray, layout: Layout) -> np.ndarray:
    """Poses with every bone at its median length, in the direction that it has.

    Args:
        poses: float (t, joints, 3), without NaN.
        layout: a tree, parents before children.
    """
    result = np.array(poses, np.float64)
    for child, parent in layout.bones:
        bone = poses[:, child] - poses[:, parent]
        length = np.linalg.norm(bone, axis=-1, keepdims=True)
        result[:, child] = result[:, parent] + bone / np.maximum(length, 1e-9) * np.median(length)
    return result


def write(
    path: str | os.PathLike[str], poses: np.ndarray, layout: Layout, frames_per_second: float
) -> None:
    """Writes a file.

    Args:
        path: of the file.
        poses: float (t, joints, 3), metres, z up, without NaN.
        layout: a tree, parents before children.
        frames_per_second: of the poses.

    Raises:
        UserError: the layout has no tree, or the file cannot be written.
    """
    if layout.parents is None:
        raise UserError(f"{layout.name} has no tree of bones; BVH needs one.")
    x, y, z = np.moveaxis(rigid(poses, layout) * 100, -1, 0)
    placed = np.stack([x, z, -y], axis=-1)
    root = layout.parents.index(-1)
    frames = len(placed)
    node = _node(root, np.zeros(3), np.tile(np.eye(3), (frames, 1, 1)), placed, layout)
    lines = ["HIERARCHY"]
    columns = [placed[:, root]]
    _describe(node, 0, lines, columns)
    numbers = np.concatenate(columns, axis=1)
    lines += ["MOTION", f"Frames: {frames}", f"Frame Time: {1 / frames_per_second:.8f}"]
    lines += [" ".join(f"{value:.5f}" for value in row) for row in numbers]
    try:
        with open(path, "w", encoding="ascii") as stream:
            stream.write("\n".join(lines) + "\n")
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror or error}.") from error


def _node(
    joint: int, offset: np.ndarray, above: np.ndarray, placed: np.ndarray, layout: Layout
) -> _Node:
    """A joint and what hangs on it; ``above`` is how its parent is turned in the world."""
    name = NAMES.get(layout.joints[joint], layout.joints[joint])
    below = [child for child, parent in layout.bones if parent == joint]
    still = np.tile(np.eye(3), (len(placed), 1, 1))
    if not below:
        return _Node(name, offset, still, [])
    if len(below) == 1:
        own, child = _bone(below[0], joint, above, placed, layout)
        return _Node(name, offset, own, [child])
    children = []
    for one in below:
        own, child = _bone(one, joint, above, placed, layout)
        between = _BETWEEN.get(child.name, f"{child.name}_base")
        children.append(_Node(between, np.zeros(3), own, [child]))
    return _Node(name, offset, still, children)


def _bone(
    child: int, parent: int, above: np.ndarray, placed: np.ndarray, layout: Layout
) -> tuple[np.ndarray, _Node]:
    """How a bone is turned against what it hangs on, and the joint at its end."""
    bone = placed[:, child] - placed[:, parent]
    length = float(np.median(np.linalg.norm(bone, axis=-1)))
    rest = _rest(layout.joints[child])
    local = (np.swapaxes(above, 1, 2) @ bone[..., None])[..., 0] / max(length, 1e-9)
    own = _turned(rest, local)
    return own, _node(child, rest * length, above @ own, placed, layout)


def _rest(joint: str) -> np.ndarray:
    """Where the bone to a joint points in the T pose, y up, seen from the front."""
    side = 1.0 if joint.startswith("left_") else -1.0
    if joint.endswith(("hip", "shoulder", "elbow", "wrist")):
        return np.array([side, 0.0, 0.0])
    return np.array([0.0, -1.0 if joint.endswith(("knee", "ankle")) else 1.0, 0.0])


def _turned(start: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """The smallest rotations (t, 3, 3) that bring a direction (3,) to others (t, 3)."""
    cos = ends @ start
    axis = np.cross(start, ends)
    cross = np.zeros((len(ends), 3, 3))
    cross[:, 0, 1], cross[:, 0, 2], cross[:, 1, 2] = -axis[:, 2], axis[:, 1], -axis[:, 0]
    cross -= np.swapaxes(cross, 1, 2)
    away = 1 + cos < 1e-8
    scale = np.where(away, 0.0, 1 / np.where(away, 1.0, 1 + cos))
    result = np.eye(3) + cross + cross @ cross * scale[:, None, None]
    if away.any():
        # Half a turn about any axis across.
        across = np.cross(start, np.eye(3)[np.argmin(np.abs(start))])
        across /= np.linalg.norm(across)
        result[away] = 2 * np.outer(across, across) - np.eye(3)
    return result


def _describe(node: _Node, depth: int, lines: list[str], columns: list[np.ndarray]) -> None:
    tab = "\t" * depth
    offset = " ".join(f"{value:.6f}" for value in node.offset)
    turns = "Zrotation Yrotation Xrotation"
    if depth == 0:
        lines += [f"ROOT {node.name}", "{", f"\tOFFSET {offset}"]
        lines += [f"\tCHANNELS 6 Xposition Yposition Zposition {turns}"]
    else:
        lines += [f"{tab}JOINT {node.name}", f"{tab}{{", f"{tab}\tOFFSET {offset}"]
        lines += [f"{tab}\tCHANNELS 3 {turns}"]
    columns.append(_angles(node.rotations))
    for child in node.children:
        _describe(child, depth + 1, lines, columns)
    if not node.children:
        lines += [f"{tab}\tEnd Site", f"{tab}\t{{", f"{tab}\t\tOFFSET 0 0 0", f"{tab}\t}}"]
    lines.append(f"{tab}}}")


def _angles(rotations: np.ndarray) -> np.ndarray:
    """Degrees (t, 3) about z, y and x, without leaps of a whole turn."""
    y = np.arcsin(np.clip(-rotations[:, 2, 0], -1, 1))
    x = np.arctan2(rotations[:, 2, 1], rotations[:, 2, 2])
    z = np.arctan2(rotations[:, 1, 0], rotations[:, 0, 0])
    return np.degrees(np.unwrap(np.stack([z, y, x], axis=-1), axis=0))
