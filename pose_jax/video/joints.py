"""Keypoints of a detector in the layout that a lifter reads."""

import numpy as np

from pose_jax.skeletons import H36M_17, Layout, joint_map
from train_jax.errors import UserError

_LIMBS = tuple(joint for joint in H36M_17.joints if joint.startswith(("left_", "right_")))


def converted(keypoints: np.ndarray, of: Layout, to: Layout) -> np.ndarray:
    """The joints of one layout from those of another.

    Joints are taken by name. Where Human3.6M's are wanted of a detector that has not all of them,
    those of the trunk and head are made as :func:`limbs_and_head` says.

    Args:
        keypoints: float (..., points, 3): x, y and confidence.
        of: their layout.
        to: the layout that is wanted.

    Returns:
        (..., joints, 3).

    Raises:
        UserError: joints are wanted that the detector does not have.
    """
    if of.name == to.name:
        return keypoints
    found = joint_map(to, of)
    if len(found) == to.num_joints:
        return keypoints[..., [found[i] for i in range(to.num_joints)], :]
    if to.name != H36M_17.name or not all(joint in of.joints for joint in _LIMBS):
        lacking = ", ".join(joint for joint in to.joints if joint not in of.joints)
        raise UserError(
            f"The model reads {to.name} keypoints, of which {of.name} lacks {lacking}; name a "
            "--checkpoint for what the detector sees."
        )
    head = next(
        (pair for pair in (("left_ear", "right_ear"), ("nose",)) if set(pair) <= set(of.joints)),
        (),
    )
    limbs = keypoints[..., [of.joints.index(joint) for joint in _LIMBS], :]
    middle = [of.joints.index(joint) for joint in head]
    if not middle:
        raise UserError(f"{of.name} has neither ears nor a nose; no head can be placed.")
    return limbs_and_head(limbs, keypoints[..., middle, :].mean(axis=-2))


def limbs_and_head(limbs: np.ndarray, head: np.ndarray) -> np.ndarray:
    """Keypoints of Human3.6M's layout, all of them from limbs and the middle of the head.

    The pelvis is the middle of the hips, the thorax that of the shoulders, the spine the middle of
    both; neck_nose and head_top are both the middle of the head (between the ears). They are
    places on other parts of the body than in Human3.6M; the packaged lifter was trained on them.

    Args:
        limbs: float (..., 12, C), in the order of the layout.
        head: float (..., C).

    Returns:
        (..., 17, C).
    """
    at = {joint: limbs[..., i, :] for i, joint in enumerate(_LIMBS)}
    at["pelvis"] = (at["left_hip"] + at["right_hip"]) / 2
    at["thorax"] = (at["left_shoulder"] + at["right_shoulder"]) / 2
    at["spine"] = (at["pelvis"] + at["thorax"]) / 2
    at["neck_nose"] = at["head_top"] = head
    return np.stack([at[joint] for joint in H36M_17.joints], axis=-2)


def like_a_detector(keypoints: np.ndarray) -> np.ndarray:
    """Human3.6M's keypoints (..., 17, C) with trunk and head as :func:`limbs_and_head` has them.

    The middle of the head is that of neck_nose and head_top.
    """
    names = H36M_17.joints
    limbs = keypoints[..., [names.index(joint) for joint in _LIMBS], :]
    head = keypoints[..., [names.index("neck_nose"), names.index("head_top")], :].mean(axis=-2)
    return limbs_and_head(limbs, head)
