"""BVH motion capture: a tree of joints and, frame by frame, their numbers.

A joint's place is its parent's, moved by its OFFSET and turned by the rotations above it; its own
rotations follow one another in the order of its CHANNELS ("Zrotation Yrotation Xrotation" is Rz Ry
Rx). Position channels take the place of the OFFSET; the root has them always, in some files all
joints. Angles are degrees, y is up, and the unit of length is told by nobody.

`NAMINGS` are the names that common software gives the joints: MotionBuilder's (also Mixamo's, and
the CMU database as converted by cgspeed), those of 3ds Max and of the first BVH files, and Poser's
(the "Daz-friendly" conversion). A prefix such as "mixamorig:" does not matter.
"""

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import numpy as np

from pose_jax.data.kinematics import Naming, euler, h36m_joints, missing, named, z_up
from train_jax.errors import UserError

CMU_UNIT = 0.0254 / 0.45
"""Metres per unit of the conversions of the CMU database."""

_THIGH = (0.25, 0.65)  # metres, from the child to the giant
_LEAP = 15.0  # metres per second that no joint has when a recording begins

_END = " end"  # what an End Site adds to the name of its joint

_MOTION_BUILDER = named(
    ("Right", "Left"),
    "UpLeg Leg Foot Arm ForeArm Hand",
    spine=("Spine1", "Spine"),
    thorax=("Neck",),
    neck_nose=("Head",),
    head_top=("HeadTop_End", "Head_End", "HeadEnd", "Head" + _END),
)

NAMINGS: Mapping[str, Naming] = MappingProxyType(
    {
        "MotionBuilder": _MOTION_BUILDER,
        "3ds Max": named(
            ("Right", "Left"),
            "Hip Knee Ankle Shoulder Elbow Wrist",
            spine=("Chest2", "Chest"),
            thorax=("Neck",),
            neck_nose=("Head",),
            head_top=("Head" + _END,),
        ),
        "Poser": named(
            ("r", "l"),
            "Thigh Shin Foot Shldr ForeArm Hand",
            spine=("chest",),
            thorax=("neck",),
            neck_nose=("head",),
            head_top=("head" + _END,),
        ),
    }
)

#: Of a file of MotionBuilder's names with a LowerBack: the CMU database. Its Spine is higher up,
#: its Neck is where the arms begin.
_CMU: Naming = {**_MOTION_BUILDER, "spine": [("Spine",)], "thorax": [("Neck1",)]}


@dataclasses.dataclass(frozen=True)
class Joint:
    """A joint, or the end of the last one of a limb.

    Attributes:
        name: unique in the file, without a prefix.
        parent: index of a joint before this one; -1 of the root.
        offset: from the parent, in units of the file.
        channels: such as "xposition" or "zrotation", in the order of the file.
    """

    name: str
    parent: int
    offset: tuple[float, float, float]
    channels: tuple[str, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class Motion:
    """What a file holds.

    Attributes:
        joints: every joint after its parent.
        values: float64 (T, channels of all joints).
        fps: frames per second.
    """

    joints: tuple[Joint, ...]
    values: np.ndarray
    fps: float


def read_clip(
    path: str | os.PathLike[str], *, metres: float = CMU_UNIT
) -> tuple[np.ndarray, float]:
    """Reads a file and its motion in Human3.6M's joints.

    A resting pose in front of the motion, as the conversions of the CMU database have it, is left
    out: it is a first frame from which a joint would leap at more than 15 m/s.

    Args:
        path: of the .bvh file.
        metres: length of its unit.

    Returns:
        float32 (T, 17, 3), metres, z up, and the frames per second.

    Raises:
        UserError: the file is missing, damaged, or of joints of other names, or the unit makes
            nobody's thighs.
    """
    motion = read(path)
    naming = _naming(path, [joint.name for joint in motion.joints])
    placed = positions(motion)
    clip = metres * z_up(h36m_joints(placed, naming))
    thigh = float(np.linalg.norm(clip[0, 2] - clip[0, 1]))
    if not _THIGH[0] < thigh < _THIGH[1]:
        raise UserError(
            f"{os.fspath(path)}: a thigh of {thigh:.3g} m is nobody's; give the unit of length by "
            f"--scale, in metres (0.01 for centimetres, {CMU_UNIT:.4g} for CMU's)."
        )
    steps = np.linalg.norm(np.diff(clip[:3], axis=0), axis=-1).max(-1) * motion.fps
    if len(steps) == 2 and steps[0] > _LEAP > steps[1]:
        clip = clip[1:]
    return clip.astype(np.float32), motion.fps


def positions(motion: Motion) -> dict[str, np.ndarray]:
    """Where the joints are, name -> float64 (T, 3), in the file's unit and axes."""
    placed: list[np.ndarray] = []
    rotations: list[np.ndarray] = []
    column = 0
    for joint in motion.joints:
        values = motion.values[:, column : column + len(joint.channels)]
        column += len(joint.channels)
        offset = np.tile(joint.offset, (len(values), 1))
        for i, channel in enumerate(joint.channels):
            if channel[1:] == "position":
                offset[:, "xyz".index(channel[0])] = values[:, i]
        turned = [i for i, channel in enumerate(joint.channels) if channel[1:] == "rotation"]
        axes = "".join(joint.channels[i][0] for i in turned)
        own = euler(axes, np.deg2rad(values[:, turned]))
        if joint.parent < 0:
            placed.append(offset)
            rotations.append(own)
        else:
            above = rotations[joint.parent]
            placed.append(placed[joint.parent] + (above @ offset[..., None])[..., 0])
            rotations.append(above @ own)
    return {joint.name: place for joint, place in zip(motion.joints, placed, strict=True)}


def read(path: str | os.PathLike[str]) -> Motion:
    """Reads a file.

    Raises:
        UserError: it is missing or damaged.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="latin1")
    except OSError as error:
        raise UserError(f"{path} cannot be opened: {error.strerror or error}.") from error
    head, marker, body = text.partition("MOTION")
    words = head.split()
    if not words or words[0].upper() != "HIERARCHY" or not marker:
        raise UserError(f"{path} is no BVH file: HIERARCHY and MOTION are not both there.")
    joints = _hierarchy(words[1:], path)
    return _motion(body, joints, path)


def _naming(path: str | os.PathLike[str], names: list[str]) -> Naming:
    best = min(NAMINGS, key=lambda name: len(missing(names, NAMINGS[name])))
    lacking = missing(names, NAMINGS[best])
    if lacking:
        raise UserError(
            f"{os.fspath(path)}: its joints are not named as by {', '.join(NAMINGS)}; closest is "
            f"{best}, of which it lacks {', '.join(lacking)}."
        )
    return _CMU if "LowerBack" in names and not missing(names, _CMU) else NAMINGS[best]


class _Words:
    """The words of the hierarchy, one after another."""

    def __init__(self, words: list[str], path: Path) -> None:
        self._words = words
        self._at = 0
        self._path = path

    def take(self) -> str:
        if self._at == len(self._words):
            raise UserError(f"{self._path} ends within the hierarchy; it is cut short.")
        self._at += 1
        return self._words[self._at - 1]

    def expect(self, word: str) -> None:
        found = self.take()
        if found.upper() != word:
            raise UserError(f"{self._path}: {found!r} stands where {word!r} belongs.")

    def number(self) -> float:
        word = self.take()
        try:
            return float(word)
        except ValueError as error:
            raise UserError(f"{self._path}: {word!r} stands where a number belongs.") from error

    @property
    def left(self) -> bool:
        return self._at < len(self._words)


_CHANNELS = [f"{axis}{kind}" for kind in ("position", "rotation") for axis in "xyz"]


def _hierarchy(words: list[str], path: Path) -> tuple[Joint, ...]:
    source = _Words(words, path)
    joints: list[Joint] = []
    above: list[int] = []
    source.expect("ROOT")
    _joint(source, source.take(), joints, above, path)
    while above:
        word = source.take()
        if word == "}":
            above.pop()
        elif word.upper() == "JOINT":
            _joint(source, source.take(), joints, above, path)
        elif word.upper() == "END":
            source.expect("SITE")
            _joint(source, joints[above[-1]].name + _END, joints, above, path)
        else:
            raise UserError(f"{path}: {word!r} stands where JOINT or }} belongs.")
    if source.left:
        raise UserError(f"{path}: {source.take()!r} follows the skeleton; only one is read.")
    return tuple(joints)


def _joint(source: _Words, name: str, joints: list[Joint], above: list[int], path: Path) -> None:
    """Reads a joint up to its children, and enters it."""
    name = name.rpartition(":")[2]
    if name in (joint.name for joint in joints):
        raise UserError(f"{path}: the joint {name} hangs on two joints or on itself.")
    source.expect("{")
    source.expect("OFFSET")
    offset = source.number(), source.number(), source.number()
    channels: tuple[str, ...] = ()
    if not name.endswith(_END):
        source.expect("CHANNELS")
        count = source.take()
        if not count.isdecimal() or int(count) > 6:
            raise UserError(f"{path}: the joint {name} has {count!r} channels; up to 6 are known.")
        channels = tuple(source.take().lower() for _ in range(int(count)))
        if not set(channels) <= set(_CHANNELS) or len(set(channels)) < len(channels):
            raise UserError(
                f"{path}: the joint {name} has the channels {' '.join(channels)!r}; each of "
                "Xposition ... Zrotation may be there once."
            )
    joints.append(Joint(name, above[-1] if above else -1, offset, channels))
    above.append(len(joints) - 1)


def _motion(body: str, joints: tuple[Joint, ...], path: Path) -> Motion:
    lines = [line.split() for line in body.splitlines() if line.strip()]
    frames = _header(lines[:1], "Frames:", path)
    seconds = _header(lines[1:2], "Frame Time:", path)
    rows = lines[2:]
    channels = sum(len(joint.channels) for joint in joints)
    if frames < 1 or not rows:
        raise UserError(f"{path} holds no frames.")
    if not seconds > 0:
        raise UserError(f"{path}: a frame time of {seconds} seconds is none.")
    for number, row in enumerate(rows, 1):
        if len(row) != channels:
            raise UserError(
                f"{path}: frame {number} has {len(row)} numbers but the joints have {channels} "
                "channels; the file is cut short or damaged."
            )
    if len(rows) != frames:
        raise UserError(f"{path} holds {len(rows)} frames but names {frames:g}; it is cut short.")
    try:
        values = np.array(rows, np.float64)
    except ValueError as error:
        raise UserError(f"{path}: the motion holds something that is no number.") from error
    bad = np.logical_not(np.isfinite(values).all(axis=1))
    if bad.any():
        raise UserError(f"{path}: frame {int(bad.argmax()) + 1} holds NaN or infinite values.")
    return Motion(joints, values, _rate(seconds))


def _header(lines: list[list[str]], name: str, path: Path) -> float:
    words = lines[0] if lines else []
    if " ".join(words[:-1]).lower() != name.lower():
        raise UserError(f"{path}: {' '.join(words)!r} stands where {name!r} belongs.")
    try:
        return float(words[-1])
    except ValueError as error:
        raise UserError(f"{path}: {name} {words[-1]!r} is no number.") from error


def _rate(seconds: float) -> float:
    """Frames per second; files round the time of a frame, and 1/120 is written .0083333."""
    rate = 1 / seconds
    return float(round(rate)) if abs(rate - round(rate)) < 1e-3 * rate else rate
