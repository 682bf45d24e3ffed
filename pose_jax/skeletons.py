"""Layouts: which joints a pose has, their order, their sides, and the tree of its bones.

A name stands for the same anatomy in every layout, so that a pose of one layout can be compared
with keypoints of another (`joint_map`). Points that only resemble each other have different names:
Human3.6M's `neck_nose` is a joint inside the head, not the `nose` on the face; the `thorax` of
Human3.6M, MPII and HumanEva is the base of the neck, the `neck` of OpenPose and Halpe the middle
of the shoulders.

Sources: the metadata and joint trees of the data sets (Human3.6M, HumanEva, COCO, MPII), and the
output tables of Halpe/AlphaPose, OpenPose (BODY_25, COCO) and BlazePose (MediaPipe Pose).
"""

import dataclasses
import types
from collections.abc import Mapping

from train_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Layout:
    """An ordered set of joints, of 2D keypoints or of a 3D pose.

    Attributes:
        name: the key in `LAYOUTS`.
        joints: names, unique.
        left: indices of the left joints.
        right: indices of the right joints; ``right[i]`` is the counterpart of ``left[i]``.
        parents: index of every joint's parent, -1 of the root; None for a layout without a tree.
    """

    name: str
    joints: tuple[str, ...]
    left: tuple[int, ...]
    right: tuple[int, ...]
    parents: tuple[int, ...] | None = None

    @property
    def num_joints(self) -> int:
        """How many joints a pose has."""
        return len(self.joints)

    @property
    def mirror(self) -> tuple[int, ...]:
        """The permutation that swaps left and right: joint i of a mirrored pose is mirror[i]."""
        order = list(range(self.num_joints))
        for left, right in zip(self.left, self.right, strict=True):
            order[left], order[right] = right, left
        return tuple(order)

    @property
    def bones(self) -> tuple[tuple[int, int], ...]:
        """(child, parent) of every joint but the root; none without a tree."""
        return tuple((i, parent) for i, parent in enumerate(self.parents or ()) if parent >= 0)


def _layout(name: str, joints: str, parents: tuple[int, ...] | None = None) -> Layout:
    """A layout from its joint names in order; sides are paired by name."""
    names = tuple(joints.split())
    left = tuple(i for i, joint in enumerate(names) if joint.startswith("left_"))
    right = tuple(names.index(names[i].replace("left_", "right_", 1)) for i in left)
    return Layout(name, names, left, right, parents)


#: Human3.6M as recorded. Some joints are at the same place as another: the trunk, the arms and the
#: hands each begin with a copy of the joint they hang on.
H36M_32 = _layout(
    "h36m32",
    """
    pelvis right_hip right_knee right_ankle right_toe_base right_toe_end
    left_hip left_knee left_ankle left_toe_base left_toe_end
    spine_base spine thorax neck_nose head_top
    left_collar left_shoulder left_elbow left_wrist
    left_hand left_thumb_end left_hand_base left_hand_end
    right_collar right_shoulder right_elbow right_wrist
    right_hand right_thumb_end right_hand_base right_hand_end
    """,
    parents=(
        *(-1, 0, 1, 2, 3, 4, 0, 6, 7, 8, 9, 0, 11, 12, 13, 14),
        *(12, 16, 17, 18, 19, 20, 19, 22, 12, 24, 25, 26, 27, 28, 27, 30),
    ),
)

#: The joints that the literature evaluates. Both shoulders hang on the thorax, as everywhere in it.
H36M_17 = _layout(
    "h36m17",
    """
    pelvis right_hip right_knee right_ankle left_hip left_knee left_ankle
    spine thorax neck_nose head_top
    left_shoulder left_elbow left_wrist right_shoulder right_elbow right_wrist
    """,
    parents=(-1, 0, 1, 2, 0, 4, 5, 0, 7, 8, 9, 8, 11, 12, 8, 14, 15),
)

#: Which of the 32 joints of Human3.6M are the 17, in order.
H36M_32_TO_17 = (0, 1, 2, 3, 6, 7, 8, 12, 13, 14, 15, 17, 18, 19, 25, 26, 27)

#: The joints of HumanEva's own evaluation. The thorax is the middle of the top of the torso and the
#: base of the head; elbows and knees are the middle of the two limbs' ends that meet there.
HUMANEVA_15 = _layout(
    "humaneva15",
    """
    pelvis thorax left_shoulder left_elbow left_wrist right_shoulder right_elbow right_wrist
    left_hip left_knee left_ankle right_hip right_knee right_ankle head_top
    """,
    parents=(-1, 0, 1, 2, 3, 1, 5, 6, 0, 8, 9, 0, 11, 12, 1),
)

#: HumanEva as recorded: every limb has both ends of its own, so elbows and knees come twice.
HUMANEVA_20 = _layout(
    "humaneva20",
    """
    pelvis torso_top head_base
    left_shoulder left_upper_arm_end left_lower_arm_start left_wrist
    right_shoulder right_upper_arm_end right_lower_arm_start right_wrist
    left_hip left_upper_leg_end left_lower_leg_start left_ankle
    right_hip right_upper_leg_end right_lower_leg_start right_ankle
    head_top
    """,
)

COCO_17 = _layout(
    "coco17",
    """
    nose left_eye right_eye left_ear right_ear left_shoulder right_shoulder left_elbow right_elbow
    left_wrist right_wrist left_hip right_hip left_knee right_knee left_ankle right_ankle
    """,
)

#: Also the order of Stacked Hourglass.
MPII_16 = _layout(
    "mpii16",
    """
    right_ankle right_knee right_hip left_hip left_knee left_ankle pelvis thorax upper_neck head_top
    right_wrist right_elbow right_shoulder left_shoulder left_elbow left_wrist
    """,
)

#: Also the first 26 of Halpe's 136; face and hands follow.
HALPE_26 = _layout(
    "halpe26",
    """
    nose left_eye right_eye left_ear right_ear left_shoulder right_shoulder left_elbow right_elbow
    left_wrist right_wrist left_hip right_hip left_knee right_knee left_ankle right_ankle
    head_top neck pelvis left_big_toe right_big_toe left_small_toe right_small_toe
    left_heel right_heel
    """,
)

OPENPOSE_25 = _layout(
    "openpose25",
    """
    nose neck right_shoulder right_elbow right_wrist left_shoulder left_elbow left_wrist
    pelvis right_hip right_knee right_ankle left_hip left_knee left_ankle
    right_eye left_eye right_ear left_ear
    left_big_toe left_small_toe left_heel right_big_toe right_small_toe right_heel
    """,
)

#: OpenPose's COCO model: COCO's joints in another order, and the neck.
OPENPOSE_18 = _layout(
    "openpose18",
    """
    nose neck right_shoulder right_elbow right_wrist left_shoulder left_elbow left_wrist
    right_hip right_knee right_ankle left_hip left_knee left_ankle
    right_eye left_eye right_ear left_ear
    """,
)

BLAZEPOSE_33 = _layout(
    "blazepose33",
    """
    nose left_eye_inner left_eye left_eye_outer right_eye_inner right_eye right_eye_outer
    left_ear right_ear left_mouth right_mouth left_shoulder right_shoulder left_elbow right_elbow
    left_wrist right_wrist left_pinky right_pinky left_index right_index left_thumb right_thumb
    left_hip right_hip left_knee right_knee left_ankle right_ankle left_heel right_heel
    left_foot_index right_foot_index
    """,
)

LAYOUTS: Mapping[str, Layout] = types.MappingProxyType(
    {
        one.name: one
        for one in (
            H36M_17,
            H36M_32,
            HUMANEVA_15,
            HUMANEVA_20,
            COCO_17,
            MPII_16,
            HALPE_26,
            OPENPOSE_25,
            OPENPOSE_18,
            BLAZEPOSE_33,
        )
    }
)


def layout(name: str) -> Layout:
    """The layout of that name.

    Raises:
        UserError: there is none.
    """
    if name not in LAYOUTS:
        raise UserError(f"There is no layout {name!r}; give one of {', '.join(LAYOUTS)}.")
    return LAYOUTS[name]


def joint_map(of: Layout, to: Layout) -> dict[int, int]:
    """Where the joints of one layout are in another, for those that both have.

    Args:
        of: the layout of a pose, such as a model's output.
        to: the layout of what it is compared with, such as keypoints.

    Returns:
        Index in ``of`` -> index in ``to``, in the order of ``of``.
    """
    return {i: to.joints.index(joint) for i, joint in enumerate(of.joints) if joint in to.joints}
