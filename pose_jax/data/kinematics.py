"""From the joint angles of a motion file to the positions of the Human3.6M joints."""

from collections.abc import Mapping, Sequence

import numpy as np

from pose_jax.skeletons import H36M_17

#: Which joints of a file stand for one of Human3.6M: the names of one choice are averaged, and the
#: first choice is taken whose names the file has.
Choices = Sequence[tuple[str, ...]]
Naming = Mapping[str, Choices]

_LIMBS = ("hip", "knee", "ankle", "shoulder", "elbow", "wrist")


def named(sides: tuple[str, str], limbs: str, **middle: Sequence[str]) -> Naming:
    """A naming of joints that are named by side and limb.

    Args:
        sides: what stands before the right and the left joints.
        limbs: the rest of the names of hip, knee, ankle, shoulder, elbow and wrist. The pelvis is
            the middle of the hips, where Human3.6M has it.
        **middle: names that spine, thorax, neck_nose and head_top may have.
    """
    naming: dict[str, Choices] = {joint: [(name,) for name in middle[joint]] for joint in middle}
    for side, prefix in zip(("right", "left"), sides, strict=True):
        for limb, name in zip(_LIMBS, limbs.split(), strict=True):
            naming[f"{side}_{limb}"] = [(prefix + name,)]
    naming["pelvis"] = [(naming["right_hip"][0][0], naming["left_hip"][0][0])]
    return {joint: naming[joint] for joint in H36M_17.joints}


def euler(axes: str, angles: np.ndarray) -> np.ndarray:
    """Rotation matrices of turns about the axes of a body, each about the axes as turned so far.

    Args:
        axes: of "xyz", in any order and number; "zyx" gives Rz Ry Rx.
        angles: radians, float (..., len(axes)).

    Returns:
        float64 (..., 3, 3).
    """
    result = np.broadcast_to(np.eye(3), (*angles.shape[:-1], 3, 3))
    for i, axis in enumerate(axes):
        result = result @ _about(axis, angles[..., i])
    return result


def _about(axis: str, angle: np.ndarray) -> np.ndarray:
    first, second = {"x": (1, 2), "y": (2, 0), "z": (0, 1)}[axis]
    matrices = np.zeros((*angle.shape, 3, 3))
    matrices[...] = np.eye(3)
    matrices[..., first, first] = matrices[..., second, second] = np.cos(angle)
    matrices[..., second, first] = np.sin(angle)
    matrices[..., first, second] = -np.sin(angle)
    return matrices


def z_up(positions: np.ndarray) -> np.ndarray:
    """Positions (..., 3) of a world with y up in one with z up: (x, y, z) is (x, -z, y)."""
    x, y, z = np.moveaxis(positions, -1, 0)
    return np.stack([x, -z, y], axis=-1)


def h36m_joints(positions: Mapping[str, np.ndarray], naming: Naming) -> np.ndarray:
    """The 17 joints of Human3.6M from joints of other names.

    Args:
        positions: name -> (T, 3).
        naming: of every joint of the layout h36m17; nothing may be :func:`missing`.

    Returns:
        (T, 17, 3).
    """
    joints = []
    for joint in H36M_17.joints:
        names = next(names for names in naming[joint] if all(n in positions for n in names))
        joints.append(np.mean([positions[name] for name in names], axis=0))
    return np.stack(joints, axis=1)


def missing(names: Sequence[str], naming: Naming) -> list[str]:
    """Joints of Human3.6M that a file with these joint names has not, with a name it could have."""
    known = set(names)
    return [
        f"{joint} ({' and '.join(choices[0])})"
        for joint, choices in naming.items()
        if not any(known.issuperset(choice) for choice in choices)
    ]
