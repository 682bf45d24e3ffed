"""ASF/AMC: places of joints against closed forms, units and axes, and files that do not fit."""

import dataclasses

import numpy as np
import pytest
from acclaim import BONES, INCHES, amc, asf

from pose_jax.data import asf_amc
from pose_jax.skeletons import H36M_17
from train_jax.errors import UserError

#: Ends of CMU's bones that are Human3.6M's joints, in its order from the second on.
ENDS = [
    *("rhipjoint", "rfemur", "rtibia", "lhipjoint", "lfemur", "ltibia"),
    *("lowerback", "thorax", "lowerneck", "head"),
    *("lclavicle", "lhumerus", "lradius", "rclavicle", "rhumerus", "rradius"),
]


def about(axis, degrees):
    """Rodrigues' formula."""
    x, y, z = np.array(axis) / np.linalg.norm(axis)
    k = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    angle = np.radians(degrees)
    return np.eye(3) + np.sin(angle) * k + (1 - np.cos(angle)) * k @ k


def expected(frame):
    """Human3.6M's joints of one frame, (17, 3): each bone turned about its own three axes."""
    tx, ty, tz, rx, ry, rz = frame.get("root", (0, 17, 0, 0, 0, 0))
    turned = {"root": about((0, 0, 1), rz) @ about((0, 1, 0), ry) @ about((1, 0, 0), rx)}
    ends = {"root": np.array([tx, ty, tz], float)}
    for name, (parent, offset, (a, b, c), turns) in BONES.items():
        axes = about((0, 0, 1), c) @ about((0, 1, 0), b) @ about((1, 0, 0), a)
        own = np.eye(3)
        for turn, degrees in zip(turns.split(), frame.get(name, ()), strict=False):
            # About the first axis first.
            own = about(axes[:, "xyz".index(turn[1])], degrees) @ own
        turned[name] = turned[parent] @ own
        ends[name] = ends[parent] + turned[name] @ np.array(offset)
    joints = np.stack([ends[name] for name in ENDS])
    joints = np.concatenate([(joints[:1] + joints[3:4]) / 2, joints]) * INCHES
    return np.stack([joints[:, 0], -joints[:, 2], joints[:, 1]], axis=-1)


@pytest.fixture
def read(tmp_path):
    def from_texts(motion, skeleton=None):
        (tmp_path / "01.asf").write_text(asf() if skeleton is None else skeleton)
        (tmp_path / "01_01.amc").write_text(motion)
        return asf_amc.read_motion(
            tmp_path / "01_01.amc", asf_amc.read_skeleton(tmp_path / "01.asf")
        )

    return from_texts


def test_the_resting_pose_stands_upright(read):
    (pose,) = read(amc([{}]))
    assert pose.shape == (17, 3)
    assert pose.dtype == np.float32
    joint = dict(zip(H36M_17.joints, pose, strict=True))
    # z is up, the left is where x grows, and the face looks along -y.
    np.testing.assert_allclose(joint["pelvis"], np.array([0, -0.6, 15.2]) * INCHES, atol=1e-6)
    np.testing.assert_allclose(joint["left_wrist"][0], (3.5 + 4.9 + 3.4) * INCHES, atol=1e-6)
    np.testing.assert_allclose(joint["head_top"][2], (17 + 10.9) * INCHES, atol=1e-6)
    np.testing.assert_allclose(joint["right_ankle"][2], (17 - 1.8 - 7.1 - 6.8) * INCHES, atol=1e-6)


def test_a_bent_knee_is_a_right_angle_about_the_axis_of_the_knee(read):
    (pose,) = read(amc([{"ltibia": [90]}]))
    knee, ankle, hip = pose[5], pose[6], pose[4]
    assert abs(np.dot(knee - hip, ankle - knee)) < 2e-3
    # The axis is turned by 20 degrees about the depth: z up, x to the left.
    axis = np.array([np.cos(np.radians(20)), 0, np.sin(np.radians(20))])
    assert abs(np.dot(ankle - knee, axis)) < 2e-3
    # Positive is backwards, away from the face.
    assert ankle[1] - knee[1] > 0.3


def test_any_pose_is_that_of_its_turns(read):
    rng = np.random.default_rng(0)
    frames = [
        {name: rng.uniform(-90, 90, len(t.split())) for name, (*_, t) in BONES.items() if t}
        | {"root": rng.uniform(-90, 90, 6)}
        for _ in range(5)
    ]
    poses = read(amc(frames))
    np.testing.assert_allclose(poses, np.stack([expected(f) for f in frames]), atol=2e-6)


def test_radians_another_unit_and_another_order_are_read(tmp_path, read):
    frame = {"root": (1, 2, 3, 10, 20, 30), "ltibia": [40], "lhumerus": [10, 20, 30]}
    usual = read(amc([frame]))
    other = asf().replace("length 0.45", "length 0.9").replace("angle deg", "angle rad")
    other = other.replace("order TX TY TZ RX RY RZ", "order RZ TX TY TZ RX RY")
    for name in BONES:
        a, b, c = BONES[name][2]
        other = other.replace(
            f"axis {a} {b} {c}  XYZ",
            f"axis {np.radians(a)} {np.radians(b)} {np.radians(c)}  XYZ",
        )
    frame = {
        "root": (np.radians(30), 2, 4, 6, np.radians(10), np.radians(20)),
        "ltibia": [np.radians(40)],
        "lhumerus": np.radians([10, 20, 30]),
    }
    halved = read(amc([frame]), other)
    # A unit of half the length.
    np.testing.assert_allclose(2 * (halved - halved[:, :1]), usual - usual[:, :1], atol=1e-5)


def test_the_skeleton_is_a_tree_from_the_root(tmp_path):
    (tmp_path / "01.asf").write_text(asf())
    skeleton = asf_amc.read_skeleton(tmp_path / "01.asf")
    assert next(iter(skeleton.bones)) == "root"
    seen = set()
    for name, bone in skeleton.bones.items():
        assert bone.parent is None or bone.parent in seen
        seen.add(name)
    assert skeleton.bones["ltibia"].turns == "x"
    assert dataclasses.asdict(skeleton.bones["lhumerus"])["parent"] == "lclavicle"


MOTION = amc([{}, {"ltibia": [5]}])


@pytest.mark.parametrize(
    ("motion", "message"),
    [
        (MOTION[: MOTION.rindex("rclavicle")], "frame 2 lacks the bone rclavicle; .* cut short"),
        (MOTION[: MOTION.rindex("lhumerus") + 12], "frame 2, bone lhumerus has . numbers where 3"),
        (MOTION.replace("ltibia 5", "ltail 5"), "frame 2, bone ltail is unknown in"),
        (MOTION.replace("ltibia 5", "lhipjoint 5"), "bone lhipjoint has no degrees of freedom"),
        (MOTION.replace("ltibia 5", "ltibia five"), "'five' are not all numbers"),
        (MOTION.replace("ltibia 5", "ltibia nan"), "bone ltibia holds NaN"),
        (MOTION.replace("ltibia 5", "ltibia 5\nltibia 5"), "twice in it"),
        (MOTION.replace("\n2\n", "\n3\n"), "frame 3 follows frame 1"),
        (":FULLY-SPECIFIED\n:DEGREES\n", "holds no frames"),
        ("root 0 0 0 0 0 0\n", "outside of a frame"),
    ],
)
def test_a_motion_that_does_not_fit_is_refused(read, motion, message):
    with pytest.raises(UserError, match=message) as error:
        read(motion)
    assert "01_01.amc" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (":hierarchy", ":nothing", "no section :hierarchy; it is cut short"),
        (asf()[-600:], "", "no section :hierarchy; it is cut short"),
        ("    lfemur ltibia\n", "", "bone ltibia does not hang on the root"),
        ("    lfemur ltibia\n", "    lfemur ltibia lhipjoint\n", "hangs on two bones or on itself"),
        ("    lfemur ltibia\n", "    lfemur ltibia tail\n", "a bone tail that is not described"),
        ("dof rx ry rz", "dof rx ry rz l", "only rotations rx, ry and rz are read"),
        ("XYZ\n    dof", "XYY\n    dof", "the axis order 'XYY'"),
        ("angle deg", "angle gon", "angles in 'gon'"),
        ("length 0.45", "length 0", "the unit of length is 0"),
        ("order TX TY TZ RX RY RZ", "order TX TY", "not of six channels"),
        ("name lradius", "name lforearm", "a bone lradius that is not described"),
    ],
)
def test_a_skeleton_that_does_not_fit_is_refused(read, old, new, message):
    assert old in asf()
    with pytest.raises(UserError, match=message) as error:
        read(MOTION, asf().replace(old, new))
    assert "01.asf" in str(error.value)


def test_another_skeleton_than_cmus_is_told_its_missing_bones(read):
    with pytest.raises(UserError, match=r"lacks bones .*: left_wrist \(lradius\); it is no file"):
        read(MOTION.replace("lradius", "lforearm"), asf().replace("lradius", "lforearm"))


def test_missing_files_are_named(tmp_path):
    with pytest.raises(UserError, match=r"01\.asf cannot be opened: No such file"):
        asf_amc.read_skeleton(tmp_path / "01.asf")
