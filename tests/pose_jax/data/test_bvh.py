"""BVH: places of joints against closed forms, channels of any order, names, damaged files."""

import numpy as np
import pytest

from pose_jax.data import bvh
from pose_jax.data.kinematics import euler
from pose_jax.skeletons import H36M_17
from train_jax.errors import UserError

ZYX = "Zrotation Yrotation Xrotation"
XYZ_PLACE = "Xposition Yposition Zposition"

#: joint: (parent, offset); a name with " end" is the End Site of its parent.
CMU = {
    "Hips": ("", (0, 0, 0)),
    "LHipJoint": ("Hips", (0, 0, 0)),
    "LeftUpLeg": ("LHipJoint", (1.6, -1.8, 0.6)),
    "LeftLeg": ("LeftUpLeg", (2.6, -7.1, 0)),
    "LeftFoot": ("LeftLeg", (2.5, -6.8, 0)),
    "RHipJoint": ("Hips", (0, 0, 0)),
    "RightUpLeg": ("RHipJoint", (-1.6, -1.8, 0.6)),
    "RightLeg": ("RightUpLeg", (-2.6, -7.1, 0)),
    "RightFoot": ("RightLeg", (-2.5, -6.8, 0)),
    "LowerBack": ("Hips", (0, 0, 0)),
    "Spine": ("LowerBack", (0, 2.05, -0.1)),
    "Spine1": ("Spine", (0, 2.06, 0)),
    "Neck": ("Spine1", (0, 0, 0)),
    "Neck1": ("Neck", (0, 1.6, 0.1)),
    "Head": ("Neck1", (0, 1.55, 0)),
    "Head end": ("Head", (0, 1.6, 0)),
    "LeftShoulder": ("Spine1", (0, 0, 0)),
    "LeftArm": ("LeftShoulder", (3.5, 0.9, -0.2)),
    "LeftForeArm": ("LeftArm", (4.9, 0, 0)),
    "LeftHand": ("LeftForeArm", (3.4, 0, 0)),
    "RightShoulder": ("Spine1", (0, 0, 0)),
    "RightArm": ("RightShoulder", (-3.5, 0.9, -0.2)),
    "RightForeArm": ("RightArm", (-4.9, 0, 0)),
    "RightHand": ("RightForeArm", (-3.4, 0, 0)),
}
CHANNELS = {"Hips": f"{XYZ_PLACE} {ZYX}"}


def hierarchy(tree, channels):
    """The text of a tree; joints without channels of their own have ZYX."""

    def joint(name):
        word = "ROOT" if not tree[name][0] else "JOINT"
        head = "End Site" if name.endswith(" end") else f"{word} {name}"
        lines = [head, "{", "OFFSET " + " ".join(map(str, tree[name][1]))]
        if not name.endswith(" end"):
            own = channels.get(name, ZYX)
            lines.append(f"CHANNELS {len(own.split())} {own}")
        for child, (parent, _) in tree.items():
            if parent == name:
                lines += joint(child)
        return [*lines, "}"]

    return "\n".join(["HIERARCHY", *joint(next(iter(tree)))]) + "\n"


def order(tree):
    """Joints with channels in the order of the file."""
    return [n.split(" ")[1] for n in hierarchy(tree, {}).splitlines() if n[:4] in ("ROOT", "JOIN")]


def text(frames, tree=None, channels=None, seconds=".0083333"):
    """A file; a frame is joint -> numbers, 0 for those that it does not name."""
    tree, channels = CMU if tree is None else tree, CHANNELS if channels is None else channels
    rows = []
    for frame in frames:
        row = []
        for name in order(tree):
            count = len(channels.get(name, ZYX).split())
            row += list(frame.get(name, (0.0,) * count))
        rows.append(" ".join(map(str, row)))
    motion = f"MOTION\nFrames: {len(frames)}\nFrame Time: {seconds}\n"
    return hierarchy(tree, channels) + motion + "\n".join(rows) + "\n"


STANDING = {"Hips": (0, 17, 0, 0, 0, 0)}


@pytest.fixture
def write(tmp_path):
    def to(content):
        (tmp_path / "01_01.bvh").write_text(content)
        return tmp_path / "01_01.bvh"

    return to


def test_the_resting_pose_stands_upright(write):
    clip, fps = bvh.read_clip(write(text([STANDING, STANDING])))
    assert (clip.shape, clip.dtype, fps) == ((2, 17, 3), np.float32, 120.0)
    unit = bvh.CMU_UNIT
    joint = dict(zip(H36M_17.joints, clip[0], strict=True))
    np.testing.assert_allclose(joint["pelvis"], np.array([0, -0.6, 15.2]) * unit, atol=1e-6)
    np.testing.assert_allclose(joint["left_wrist"][0], 11.8 * unit, atol=1e-6)
    np.testing.assert_allclose(joint["right_ankle"][2], (17 - 15.7) * unit, atol=1e-6)
    # CMU's Spine is its lower back's end, its neck begins at Neck1.
    np.testing.assert_allclose(joint["spine"][2], 19.05 * unit, atol=1e-6)
    np.testing.assert_allclose(joint["thorax"][2], (17 + 5.71) * unit, atol=1e-6)
    np.testing.assert_allclose(joint["head_top"][2], (17 + 8.86) * unit, atol=1e-6)


def test_turns_follow_the_order_of_the_channels(write):
    """Zrotation Xrotation is Rz Rx: the shin, along -y, goes to +x by the first, not the second."""
    channels = {**CHANNELS, "LeftLeg": "Zrotation Xrotation", "RightLeg": "Xrotation Zrotation"}
    frame = {**STANDING, "LeftLeg": (90, 90), "RightLeg": (90, 90)}
    placed = bvh.positions(bvh.read(write(text([frame], channels=channels))))
    x, y = 2.5, 6.8
    # Rz Rx (x, -y, 0): Rx gives (x, 0, -y), Rz gives (0, x, -y).
    np.testing.assert_allclose(placed["LeftFoot"] - placed["LeftLeg"], [[0, x, -y]], atol=1e-9)
    # Rx Rz (-x, -y, 0): Rz gives (y, -x, 0), Rx gives (y, 0, -x).
    np.testing.assert_allclose(placed["RightFoot"] - placed["RightLeg"], [[y, 0, -x]], atol=1e-9)


def test_the_root_turns_all(write):
    frame = {"Hips": (1, 2, 3, 0, 90, 0)}
    placed = bvh.positions(bvh.read(write(text([frame]))))
    # Ry by 90 degrees takes x to -z and z to x.
    for name, rest in (("LeftUpLeg", (1.6, -1.8, 0.6)), ("RightHand", (-11.8, 5.01, -0.3))):
        x, y, z = rest
        np.testing.assert_allclose(placed[name], [[1 + z, 2 + y, 3 - x]], atol=1e-9)


def test_six_channels_on_every_joint_override_the_offsets(write):
    """Bones given as positions in each frame: the same motion, with offsets of no meaning."""
    rng = np.random.default_rng(0)
    turns = {name: rng.uniform(-60, 60, 3) for name in order(CMU)}
    few = {**turns, "Hips": (1, 17, 2, *turns["Hips"])}
    usual, _ = bvh.read_clip(write(text([few, few])))
    # Another order of channels on the way: rotations first, positions as z, x, y.
    mixed = f"{ZYX} Zposition Xposition Yposition"
    all_six = {}
    for name in order(CMU):
        x, y, z = (1, 17, 2) if name == "Hips" else CMU[name][1]
        all_six[name] = (*turns[name], z, x, y)
    nowhere = {n: (p, o if n == "Head end" else (9, 9, 9)) for n, (p, o) in CMU.items()}
    channels = dict.fromkeys(order(CMU), mixed)
    other, _ = bvh.read_clip(write(text([all_six, all_six], nowhere, channels)))
    np.testing.assert_allclose(other, usual, atol=1e-6)


def test_a_single_position_channel_overrides_its_own_axis_only(write):
    channels = {**CHANNELS, "LeftLeg": f"Yposition {ZYX}"}
    frame = {**STANDING, "LeftLeg": (-8, 0, 0, 0)}
    placed = bvh.positions(bvh.read(write(text([frame], channels=channels))))
    np.testing.assert_allclose(placed["LeftLeg"] - placed["LeftUpLeg"], [[2.6, -8, 0]])


def test_euler_is_the_product_of_turns_in_order():
    angles = np.array([[0.3, -0.5, 1.1]])
    (both,) = euler("zyx", angles)
    single = [euler(axis, angles[:, i : i + 1])[0] for i, axis in enumerate("zyx")]
    np.testing.assert_allclose(both, single[0] @ single[1] @ single[2], atol=1e-12)
    np.testing.assert_allclose(euler("x", np.array([np.pi / 2])) @ [0, 1, 0], [0, 0, 1], atol=1e-12)
    np.testing.assert_allclose(euler("y", np.array([np.pi / 2])) @ [0, 0, 1], [1, 0, 0], atol=1e-12)
    np.testing.assert_allclose(euler("z", np.array([np.pi / 2])) @ [1, 0, 0], [0, 1, 0], atol=1e-12)


def test_a_resting_pose_before_the_motion_is_left_out(write):
    arms = {**STANDING, "LeftArm": (-80, 0, 0), "RightArm": (80, 0, 0)}
    clip, _ = bvh.read_clip(write(text([STANDING, arms, arms])))
    assert len(clip) == 2
    np.testing.assert_array_equal(clip[0], clip[1])
    # A motion that begins slowly stays whole.
    clip, _ = bvh.read_clip(write(text([arms, arms, arms])))
    assert len(clip) == 3


@pytest.mark.parametrize(
    ("seconds", "fps"), [(".0083333", 120), ("0.033333", 30), ("0.04", 25), ("0.033367", 29.97)]
)
def test_rounded_frame_times_are_whole_rates(write, seconds, fps):
    _, found = bvh.read_clip(write(text([STANDING], seconds=seconds)))
    assert found == pytest.approx(fps, abs=1e-3)
    assert found == fps or fps == 29.97


def renamed(names, prefix=""):
    return {
        prefix + names.get(n, n): (prefix + names.get(p, p) if p else "", o)
        for n, (p, o) in CMU.items()
    }


MAX = {
    **{f"{s}UpLeg": f"{s}Hip" for s in ("Left", "Right")},
    **{f"{s}Leg": f"{s}Knee" for s in ("Left", "Right")},
    **{f"{s}Foot": f"{s}Ankle" for s in ("Left", "Right")},
    **{f"{s}Shoulder": f"{s}Collar" for s in ("Left", "Right")},
    **{f"{s}Arm": f"{s}Shoulder" for s in ("Left", "Right")},
    **{f"{s}ForeArm": f"{s}Elbow" for s in ("Left", "Right")},
    **{f"{s}Hand": f"{s}Wrist" for s in ("Left", "Right")},
    "Neck": "Chest4",
    "Neck1": "Neck",
    "Spine": "Chest",
    "Spine1": "Chest3",
    "LowerBack": "Waist",
}
POSER = {
    **{f"{s}UpLeg": f"{s[0].lower()}Thigh" for s in ("Left", "Right")},
    **{f"{s}Leg": f"{s[0].lower()}Shin" for s in ("Left", "Right")},
    **{f"{s}Foot": f"{s[0].lower()}Foot" for s in ("Left", "Right")},
    **{f"{s}Arm": f"{s[0].lower()}Shldr" for s in ("Left", "Right")},
    **{f"{s}ForeArm": f"{s[0].lower()}ForeArm" for s in ("Left", "Right")},
    **{f"{s}Hand": f"{s[0].lower()}Hand" for s in ("Left", "Right")},
    "Hips": "hip",
    "LowerBack": "abdomen",
    "Spine": "chest",
    "Spine1": "upperchest",
    "Neck": "throat",
    "Neck1": "neck",
    "Head": "head",
    "Head end": "head end",
}
PLAIN = {"LowerBack": "Spine", "Spine": "Spine1", "Spine1": "Spine2", "Neck": "NeckBase",
         "Neck1": "Neck"}  # fmt: skip


@pytest.mark.parametrize(
    ("names", "prefix"), [(MAX, ""), (POSER, ""), (PLAIN, ""), (PLAIN, "mixamorig:")]
)
def test_the_names_of_common_software_are_known(write, names, prefix):
    rng = np.random.default_rng(1)
    frame = {name: rng.uniform(-40, 40, 3) for name in order(CMU)}
    frame["Hips"] = np.array([0.0, 17, 0, 1, 2, 3])
    usual, _ = bvh.read_clip(write(text([frame, frame])))
    new = {prefix + names.get(name, name): values for name, values in frame.items()}
    channels = {prefix + names.get("Hips", "Hips"): CHANNELS["Hips"]}
    other, _ = bvh.read_clip(write(text([new, new], renamed(names, prefix), channels)))
    np.testing.assert_allclose(other, usual, atol=1e-6)


def test_unknown_names_are_told_what_is_missing(write):
    tree = renamed({"LeftForeArm": "LeftElbow", "Head": "Skull", "Head end": "Skull end"})
    with pytest.raises(UserError) as error:
        bvh.read_clip(write(text([STANDING], tree)))
    assert "closest is MotionBuilder, of which it lacks" in str(error.value)
    for lacking in ("neck_nose (Head)", "head_top (", "left_elbow (LeftForeArm)"):
        assert lacking in str(error.value)
    assert "right_elbow" not in str(error.value)


def test_a_wrong_unit_is_noticed(write):
    path = write(text([STANDING]))
    with pytest.raises(UserError, match=r"a thigh of 0\.0756 m is nobody's; give the unit"):
        bvh.read_clip(path, metres=0.01)
    tall, _ = bvh.read_clip(path, metres=0.06)
    usual, _ = bvh.read_clip(path)
    np.testing.assert_allclose(tall / 0.06, usual / bvh.CMU_UNIT, rtol=1e-5)


GOOD = text([STANDING, STANDING])


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("JOINT RightLeg\n", "JOINT LeftLeg\n", "joint LeftLeg hangs on two joints or on itself"),
        ("CHANNELS 6 ", "CHANNELS 5 ", "'Xrotation' stands where JOINT or } belongs"),
        ("CHANNELS 6 Xposition", "CHANNELS 6 Wposition", "each of Xposition ... Zrotation may be"),
        ("CHANNELS 6 Xposition", "CHANNELS 6 Yposition", "each of Xposition ... Zrotation may be"),
        ("CHANNELS 6 ", "CHANNELS seven ", "has 'seven' channels"),
        ("CHANNELS 3 Zrotation Yrotation Xrotation\nJOINT LeftLeg", "JOINT LeftLeg", "'CHANNELS'"),
        ("OFFSET 1.6 -1.8", "OFFSET 1.6 low", "'low' stands where a number belongs"),
        ("MOTION", "}\nMOTION", "'}' follows the skeleton"),
        ("}\nMOTION", "MOTION", "ends within the hierarchy; it is cut short"),
        ("HIERARCHY", "HIERARCHIES", "is no BVH file"),
        ("MOTION", "", "is no BVH file"),
        ("Frames: 2", "Frames: 3", "holds 2 frames but names 3; it is cut short"),
        ("Frames: 2", "Frame 2", "stands where 'Frames:' belongs"),
        ("Frame Time: .0083333", "Frame Time: 0", "a frame time of 0.0 seconds is none"),
        ("\n0 17 0", "\n0 17", "frame 1 has 71 numbers but the joints have 72 channels"),
        ("\n0 17 0", "\n0 nan 0", "frame 1 holds NaN or infinite"),
        ("\n0 17 0", "\n0 one 0", "something that is no number"),
    ],
)
def test_damaged_files_are_refused(write, old, new, message):
    assert old in GOOD
    with pytest.raises(UserError) as error:
        bvh.read_clip(write(GOOD.replace(old, new, 1)))
    assert message in str(error.value)
    assert "01_01.bvh" in str(error.value)
    assert "\n" not in str(error.value)


def test_no_frames_and_no_file(write, tmp_path):
    with pytest.raises(UserError, match="holds no frames"):
        bvh.read_clip(write(text([])))
    with pytest.raises(UserError, match=r"none\.bvh cannot be opened"):
        bvh.read_clip(tmp_path / "none.bvh")
