"""Layouts: anatomy, sides, trees."""

import numpy as np
import pytest

from pose_jax import skeletons
from pose_jax.skeletons import H36M_17, H36M_32, H36M_32_TO_17, HUMANEVA_15, LAYOUTS
from train_jax.errors import UserError

EACH = pytest.mark.parametrize("layout", LAYOUTS.values(), ids=lambda one: one.name)


@EACH
def test_names_say_how_many_joints(layout):
    assert layout.name.endswith(str(layout.num_joints))
    assert LAYOUTS[layout.name] is layout
    assert len(set(layout.joints)) == layout.num_joints


@EACH
def test_sides_are_paired_by_anatomy(layout):
    """A hip is mirrored to a hip, and every joint that is not in the middle has a counterpart."""
    pairs = zip(layout.left, layout.right, strict=True)
    for left, right in pairs:
        assert layout.joints[left].removeprefix("left_") == layout.joints[right].removeprefix(
            "right_"
        )
    sided = [i for i, joint in enumerate(layout.joints) if joint.startswith(("left_", "right_"))]
    assert sorted((*layout.left, *layout.right)) == sided


@EACH
def test_mirroring_twice_changes_nothing(layout):
    mirror = np.array(layout.mirror)
    np.testing.assert_array_equal(mirror[mirror], np.arange(layout.num_joints))
    assert np.sum(mirror != np.arange(layout.num_joints)) == 2 * len(layout.left)


@EACH
def test_trees_are_symmetric_and_rooted(layout):
    if layout.parents is None:
        assert layout.bones == ()
        return
    assert layout.parents[0] == -1
    assert all(0 <= parent < child for child, parent in layout.bones)
    assert len(layout.bones) == layout.num_joints - 1
    for child, parent in layout.bones:
        mirrored = (layout.mirror[child], layout.mirror[parent])
        assert mirrored in layout.bones


#: Left and right as the original implementation's metadata have them (as sets).
@pytest.mark.parametrize(
    ("name", "left", "right"),
    [
        ("h36m17", [4, 5, 6, 11, 12, 13], [1, 2, 3, 14, 15, 16]),
        ("humaneva15", [2, 3, 4, 8, 9, 10], [5, 6, 7, 11, 12, 13]),
        ("humaneva20", [3, 4, 5, 6, 11, 12, 13, 14], [7, 8, 9, 10, 15, 16, 17, 18]),
        ("coco17", range(1, 17, 2), range(2, 17, 2)),
        ("mpii16", [3, 4, 5, 13, 14, 15], [0, 1, 2, 10, 11, 12]),
    ],
)
def test_sides_of_the_published_layouts(name, left, right):
    layout = skeletons.layout(name)
    assert sorted(layout.left) == list(left)
    assert sorted(layout.right) == list(right)


def test_trees_of_the_literature():
    assert H36M_17.parents == (-1, 0, 1, 2, 0, 4, 5, 0, 7, 8, 9, 8, 11, 12, 8, 14, 15)
    assert HUMANEVA_15.parents == (-1, 0, 1, 2, 3, 1, 5, 6, 0, 8, 9, 0, 11, 12, 1)


def test_the_17_of_32_joints_are_the_same_joints():
    assert tuple(H36M_32.joints[i] for i in H36M_32_TO_17) == H36M_17.joints
    dropped = sorted(set(range(32)) - set(H36M_32_TO_17))
    assert dropped == [4, 5, 9, 10, 11, 16, 20, 21, 22, 23, 24, 28, 29, 30, 31]


def test_the_tree_of_17_is_that_of_32_but_for_the_shoulders():
    """Of the recorded tree each joint keeps its nearest ancestor among the 17."""
    parents = H36M_32.parents
    assert parents is not None
    nearest = []
    for joint in H36M_32_TO_17:
        parent = parents[joint]
        while parent >= 0 and parent not in H36M_32_TO_17:
            parent = parents[parent]
        nearest.append(H36M_32_TO_17.index(parent) if parent >= 0 else -1)
    # The spine; the literature hangs the arms on the thorax.
    assert nearest[11] == nearest[14] == 7
    nearest[11] = nearest[14] = 8
    assert tuple(nearest) == H36M_17.parents


#: Joints of the output tables that the tools document, by index.
@pytest.mark.parametrize(
    ("name", "some"),
    [
        ("coco17", {0: "nose", 5: "left_shoulder", 10: "right_wrist", 15: "left_ankle"}),
        ("mpii16", {0: "right_ankle", 3: "left_hip", 6: "pelvis", 9: "head_top", 15: "left_wrist"}),
        ("halpe26", {4: "right_ear", 17: "head_top", 19: "pelvis", 20: "left_big_toe"}),
        ("halpe26", {22: "left_small_toe", 25: "right_heel"}),
        ("openpose25", {1: "neck", 4: "right_wrist", 8: "pelvis", 14: "left_ankle"}),
        ("openpose25", {15: "right_eye", 19: "left_big_toe", 21: "left_heel", 24: "right_heel"}),
        ("openpose18", {0: "nose", 1: "neck", 4: "right_wrist", 8: "right_hip", 13: "left_ankle"}),
        ("openpose18", {14: "right_eye", 15: "left_eye", 16: "right_ear", 17: "left_ear"}),
        ("blazepose33", {0: "nose", 7: "left_ear", 11: "left_shoulder", 16: "right_wrist"}),
        ("blazepose33", {23: "left_hip", 28: "right_ankle", 32: "right_foot_index"}),
        ("humaneva15", {1: "thorax", 4: "left_wrist", 11: "right_hip", 14: "head_top"}),
        ("h36m17", {1: "right_hip", 8: "thorax", 11: "left_shoulder", 16: "right_wrist"}),
    ],
)
def test_joints_of_the_published_layouts(name, some):
    joints = skeletons.layout(name).joints
    assert {i: joints[i] for i in some} == some


def test_a_pose_meets_the_keypoints_of_another_layout():
    """Human3.6M and COCO share the limbs; COCO has no pelvis, spine, thorax or head joint."""
    limbs = {1: 12, 2: 14, 3: 16, 4: 11, 5: 13, 6: 15, 11: 5, 12: 7, 13: 9, 14: 6, 15: 8, 16: 10}
    assert skeletons.joint_map(H36M_17, skeletons.COCO_17) == limbs
    same = skeletons.joint_map(H36M_17, H36M_17)
    assert same == {i: i for i in range(17)}


#: Which joint of a detector each joint of Human3.6M is; those of no detector: spine, thorax, the
#: joint inside the head.
@pytest.mark.parametrize(
    ("name", "limbs", "others"),
    [
        # Hip, knee, ankle, right and left; shoulder, elbow, wrist, left and right.
        ("coco17", [12, 14, 16, 11, 13, 15, 5, 7, 9, 6, 8, 10], {}),
        ("halpe26", [12, 14, 16, 11, 13, 15, 5, 7, 9, 6, 8, 10], {"pelvis": 19, "head_top": 17}),
        ("openpose25", [9, 10, 11, 12, 13, 14, 5, 6, 7, 2, 3, 4], {"pelvis": 8}),
        ("openpose18", [8, 9, 10, 11, 12, 13, 5, 6, 7, 2, 3, 4], {}),
        ("blazepose33", [24, 26, 28, 23, 25, 27, 11, 13, 15, 12, 14, 16], {}),
        (
            "mpii16",
            [2, 1, 0, 3, 4, 5, 13, 14, 15, 12, 11, 10],
            {"pelvis": 6, "thorax": 7, "head_top": 9},
        ),
    ],
)
def test_joints_that_detectors_share_with_human36m(name, limbs, others):
    places = dict(zip([1, 2, 3, 4, 5, 6, 11, 12, 13, 14, 15, 16], limbs, strict=True))
    places |= {H36M_17.joints.index(joint): place for joint, place in others.items()}
    assert skeletons.joint_map(H36M_17, skeletons.layout(name)) == places


def test_openposes_two_models_share_the_body():
    """Of COCO's order all, of BODY_25's all but hips' middle and feet."""
    shared = skeletons.joint_map(skeletons.OPENPOSE_18, skeletons.OPENPOSE_25)
    assert len(shared) == 18
    assert [skeletons.OPENPOSE_18.joints[i] for i in (1, 14)] == ["neck", "right_eye"]
    assert len(skeletons.joint_map(skeletons.COCO_17, skeletons.OPENPOSE_18)) == 17


@EACH
def test_joint_maps_keep_sides(layout):
    mapped = skeletons.joint_map(H36M_17, layout)
    for i, j in mapped.items():
        assert mapped[H36M_17.mirror[i]] == layout.mirror[j]


def test_an_unknown_layout_is_told_the_known_ones():
    with pytest.raises(UserError, match=r"'coco'.*h36m17.*coco17"):
        skeletons.layout("coco")
