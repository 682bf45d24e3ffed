"""Which joints of a layout a line is drawn between, and on which side of the body it is.

A layout of keypoints has no tree; its lines are those between neighbours on the body that it has.
"""

from typing import Literal

from pose_jax.skeletons import Layout

Side = Literal["left", "right", "middle"]

#: Neighbours of one side; "*" stands for it. A pair is drawn where a layout has both.
_LIMBS = """
    *_shoulder-*_elbow *_elbow-*_wrist *_hip-*_knee *_knee-*_ankle
    *_shoulder-*_upper_arm_end *_lower_arm_start-*_wrist
    *_hip-*_upper_leg_end *_lower_leg_start-*_ankle
    *_wrist-*_pinky *_wrist-*_index *_wrist-*_thumb *_pinky-*_index
    *_ankle-*_heel *_heel-*_foot_index *_ankle-*_foot_index
    *_ankle-*_big_toe *_big_toe-*_small_toe
    nose-*_eye_inner *_eye_inner-*_eye *_eye-*_eye_outer *_eye_outer-*_ear
"""
#: The first of these that a layout has is what its shoulders hang on.
_NECKS = ("thorax", "torso_top", "neck")
_HEADS = ("thorax-upper_neck", "upper_neck-head_top", "torso_top-head_base", "head_base-head_top")


def bones(layout: Layout) -> tuple[tuple[int, int], ...]:
    """Pairs of joints: the bones of a layout with a tree, else neighbours on the body."""
    if layout.parents is not None:
        return layout.bones
    has = set(layout.joints)
    names = [pair.replace("*", side) for side in ("left", "right") for pair in _LIMBS.split()]
    neck = next((name for name in _NECKS if name in has), None)
    trunk = neck is not None and "pelvis" in has
    for side in ("left", "right"):
        if f"{side}_eye_inner" not in has:
            names += [f"nose-{side}_eye", f"{side}_eye-{side}_ear"]
        if neck is not None:
            names.append(f"{neck}-{side}_shoulder")
        names.append(f"pelvis-{side}_hip" if "pelvis" in has else f"{side}_shoulder-{side}_hip")
    names += ["left_mouth-right_mouth", *_HEADS]
    if trunk:
        names.append(f"{neck}-pelvis")
    if "pelvis" not in has:
        names.append("left_hip-right_hip")
    if neck is None:
        names.append("left_shoulder-right_shoulder")
    elif neck == "neck":
        names += ["neck-nose", "nose-head_top"]
    index = {name: i for i, name in enumerate(layout.joints)}
    pairs = (name.split("-") for name in names)
    return tuple((index[b], index[a]) for a, b in pairs if a in index and b in index)


def side(layout: Layout, *joints: int) -> Side:
    """The side that joints are on; that of the one that has a side, if they are of one side."""
    sides = {"left" for i in joints if i in layout.left}
    sides |= {"right" for i in joints if i in layout.right}
    if sides == {"left"}:
        return "left"
    return "right" if sides == {"right"} else "middle"
