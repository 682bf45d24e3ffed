"""Acclaim motion capture: an .asf file holds a skeleton, an .amc file how it moves.

A bone has a direction and a length in the resting pose, axes of its own (given by angles in the
world's), and turns about these: R = R_parent C M C⁻¹, where C turns the world's axes into the
bone's and M is the bone's own turn; the bone's end is that of its parent plus R · direction ·
length. "axis XYZ" means first about x: Rz Ry Rx. (Acclaim's own description of the format, and its
usual reading for the CMU Graphics Lab Motion Capture Database.)

CMU's unit of length is 1/0.45 inch = 56.44 mm (its FAQ), y is up, and there are 120 frames per
second, which no file says.
"""

import dataclasses
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from pose_jax.data.kinematics import euler, h36m_joints, missing, named, z_up
from train_jax.errors import UserError

FPS = 120.0
"""Frames per second of the CMU database."""

_INCH = 0.0254

#: A joint of Human3.6M is the end of these bones of CMU's skeleton. The root is 10 cm above the
#: hips, where Human3.6M has its spine's beginning, so the pelvis is the middle of the hips.
NAMING = named(
    ("r", "l"),
    "hipjoint femur tibia clavicle humerus radius",
    spine=("lowerback",),
    thorax=("thorax",),
    neck_nose=("lowerneck",),
    head_top=("head",),
)


@dataclasses.dataclass(frozen=True)
class Bone:
    """A bone, or the root (of no length).

    Attributes:
        parent: its name; None of the root.
        offset: from its beginning to its end in the resting pose, in units of the file.
        axes: the three angles of its axes, radians, in the order of ``order``.
        order: of rotations: "xyz" turns first about x.
        turns: the rotations that a motion gives, "x", "y" or "z" in the order of the file.
    """

    parent: str | None
    offset: tuple[float, float, float]
    axes: tuple[float, float, float]
    order: str
    turns: str


@dataclasses.dataclass(frozen=True)
class Skeleton:
    """What an .asf file holds.

    Attributes:
        path: of the file.
        bones: every bone after its parent, the root first.
        metres: length of the file's unit.
        radians: value of its unit of angles.
        root_channels: order of the root's numbers in a motion, "tx", ..., "rz".
    """

    path: str
    bones: Mapping[str, Bone]
    metres: float
    radians: float
    root_channels: tuple[str, ...]


def read_motion(path: str | os.PathLike[str], skeleton: Skeleton) -> np.ndarray:
    """Reads an .amc file and poses the skeleton.

    Returns:
        Human3.6M's joints, float32 (T, 17, 3), metres, z up.

    Raises:
        UserError: the file is missing, cut short or of another skeleton, or the skeleton lacks
            bones.
    """
    lacking = missing(list(skeleton.bones), NAMING)
    if lacking:
        raise UserError(
            f"{skeleton.path} lacks bones of CMU's skeleton: {', '.join(lacking)}; it is no file "
            "of that database."
        )
    channels = _read_channels(Path(path), skeleton)
    return z_up(h36m_joints(_posed(skeleton, channels), NAMING)).astype(np.float32)


def read_skeleton(path: str | os.PathLike[str]) -> Skeleton:
    """Reads an .asf file.

    Raises:
        UserError: it is missing, cut short, or not a skeleton of rotating bones.
    """
    path = Path(path)
    sections = _sections(path)
    for name in ("units", "root", "bonedata", "hierarchy"):
        if name not in sections:
            raise UserError(f"{path} has no section :{name}; it is cut short or no .asf file.")
    units = {line[0]: line[1:] for line in sections["units"]}
    if units.get("angle", ["deg"])[0][:3].lower() not in ("deg", "rad"):
        raise UserError(f"{path}: angles in {units['angle'][0]!r}; only deg and rad are known.")
    degrees = units.get("angle", ["deg"])[0][:3].lower() == "deg"
    radians = np.pi / 180 if degrees else 1.0
    (length,) = _numbers(units.get("length", ["1.0"]), 1, path, "the unit of length")
    if not length > 0:
        raise UserError(f"{path}: the unit of length is {length}; it must be above 0.")
    root = {line[0]: line[1:] for line in sections["root"]}
    channels = tuple(word.lower() for word in root.get("order", []))
    if sorted(channels) != ["rx", "ry", "rz", "tx", "ty", "tz"]:
        raise UserError(f"{path}: the root's order {' '.join(channels)!r} is not of six channels.")
    found = dict(_bones(sections["bonedata"], radians, path))
    # Where the root is in the resting pose (position) says nothing about a motion.
    found["root"] = Bone(
        parent=None,
        offset=(0.0, 0.0, 0.0),
        axes=_angles(root.get("orientation", ["0", "0", "0"]), radians, path, "the root"),
        order=_order(root.get("axis", ["XYZ"])[0], path, "the root"),
        turns="".join(channel[1] for channel in channels if channel[0] == "r"),
    )
    return Skeleton(
        path=str(path),
        bones=_ordered(found, sections["hierarchy"], path),
        metres=_INCH / length,
        radians=radians,
        root_channels=channels,
    )


def _posed(skeleton: Skeleton, channels: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The ends of all bones, name -> (T, 3), metres, from angles (T, turns) and the root's six."""
    root = channels["root"]
    frames = len(root)
    moved = [skeleton.root_channels.index(f"t{axis}") for axis in "xyz"]
    turned = [i for i, name in enumerate(skeleton.root_channels) if name[0] == "r"]
    rotations: dict[str, np.ndarray] = {}
    ends: dict[str, np.ndarray] = {}
    for name, bone in skeleton.bones.items():
        angles = root[:, turned] if bone.parent is None else channels.get(name)
        local = np.eye(3)
        if angles is not None:
            # Matrices stand in the reverse order: what turns first is next to the vector.
            order = [axis for axis in reversed(bone.order) if axis in bone.turns]
            columns = [bone.turns.index(axis) for axis in order]
            own = euler("".join(order), angles[:, columns] * skeleton.radians)
            axes = euler(bone.order[::-1], np.array(bone.axes[::-1]))
            local = axes @ own @ axes.T
        if bone.parent is None:
            rotations[name] = np.broadcast_to(local, (frames, 3, 3))
            ends[name] = root[:, moved] * skeleton.metres
        else:
            rotations[name] = rotations[bone.parent] @ local
            offset = np.array(bone.offset) * skeleton.metres
            ends[name] = ends[bone.parent] + rotations[name] @ offset
    return ends


def _read_channels(path: Path, skeleton: Skeleton) -> dict[str, np.ndarray]:
    """The numbers of a motion, bone -> float64 (T, channels)."""
    counts = {name: len(bone.turns) for name, bone in skeleton.bones.items() if bone.turns}
    counts["root"] = 6
    values: dict[str, list[list[float]]] = {name: [] for name in counts}
    frame = 0
    for words in _lines(path):
        if words[0].startswith(":"):
            continue
        if len(words) == 1 and words[0].isdecimal():
            _require_complete(path, values, frame)
            frame += 1
            if int(words[0]) != frame:
                raise UserError(f"{path}: frame {words[0]} follows frame {frame - 1}.")
            continue
        name = words[0]
        what = f"frame {frame}, bone {name}"
        if name not in counts:
            known = "has no degrees of freedom" if name in skeleton.bones else "is unknown"
            raise UserError(
                f"{path}: {what} {known} in {skeleton.path}; name the subject's own skeleton."
            )
        if len(values[name]) != frame - 1:
            raise UserError(f"{path}: {what} comes outside of a frame or twice in it.")
        values[name].append(_numbers(words[1:], counts[name], path, what))
    _require_complete(path, values, frame)
    if frame == 0:
        raise UserError(f"{path} holds no frames.")
    return {name: np.array(rows) for name, rows in values.items()}


def _require_complete(path: Path, values: Mapping[str, list[list[float]]], frame: int) -> None:
    for name, rows in values.items():
        if len(rows) < frame:
            raise UserError(
                f"{path}: frame {frame} lacks the bone {name}; the file is cut short, fetch it "
                "again."
            )


def _sections(path: Path) -> dict[str, list[list[str]]]:
    sections: dict[str, list[list[str]]] = {}
    current: list[list[str]] = []
    for words in _lines(path):
        if words[0].startswith(":"):
            current = sections.setdefault(words[0][1:].lower(), [])
        else:
            current.append(words)
    return sections


def _bones(lines: list[list[str]], radians: float, path: Path) -> Iterator[tuple[str, Bone]]:
    """Bones whose parents are not known yet."""
    for block in _blocks(lines, path):
        fields = {line[0]: line[1:] for line in block}
        name = " ".join(fields.get("name", ["without a name"]))
        what = f"bone {name}"
        for field in ("name", "direction", "length", "axis"):
            if field not in fields:
                raise UserError(f"{path}: {what} has no {field}.")
        direction = _numbers(fields["direction"], 3, path, what)
        (length,) = _numbers(fields["length"], 1, path, what)
        turns = [turn.lower() for turn in fields.get("dof", [])]
        if not set(turns) <= {"rx", "ry", "rz"} or len(set(turns)) < len(turns):
            raise UserError(
                f"{path}: {what} moves by {' '.join(turns)}; only rotations rx, ry and rz are read."
            )
        offset = np.array(direction) * length
        yield (
            name,
            Bone(
                parent="",
                offset=(offset[0], offset[1], offset[2]),
                axes=_angles(fields["axis"][:3], radians, path, what),
                order=_order("".join(fields["axis"][3:]), path, what),
                turns="".join(turn[1] for turn in turns),
            ),
        )


def _blocks(lines: list[list[str]], path: Path) -> Iterator[list[list[str]]]:
    """What stands between each "begin" and its "end"."""
    block: list[list[str]] | None = None
    for words in lines:
        if words[0] == "begin":
            block = []
        elif words[0] == "end":
            yield block or []
            block = None
        elif block is not None:
            block.append(words)
    if block is not None:
        raise UserError(f"{path} ends within a block; it is cut short, fetch it again.")


def _ordered(found: dict[str, Bone], lines: list[list[str]], path: Path) -> dict[str, Bone]:
    """The bones with their parents, each after its own."""
    children: dict[str, list[str]] = {}
    for parent, *names in next(_blocks(lines, path), []):
        children.setdefault(parent, []).extend(names)
    ordered = {"root": found["root"]}
    waiting = [(child, "root") for child in children.get("root", [])]
    for name, parent in waiting:  # grows on the way
        if name not in found:
            raise UserError(f"{path}: the hierarchy names a bone {name} that is not described.")
        if name in ordered:
            raise UserError(f"{path}: the bone {name} hangs on two bones or on itself.")
        ordered[name] = dataclasses.replace(found[name], parent=parent)
        waiting.extend((child, name) for child in children.get(name, []))
    loose = sorted(found.keys() - ordered.keys())
    if loose:
        raise UserError(f"{path}: the bone {loose[0]} does not hang on the root.")
    return ordered


def _order(text: str, path: Path, what: str) -> str:
    order = text.lower()
    if sorted(order) != ["x", "y", "z"]:
        raise UserError(f"{path}: {what} has the axis order {text!r}; XYZ or another is needed.")
    return order


def _angles(words: list[str], radians: float, path: Path, what: str) -> tuple[float, float, float]:
    x, y, z = _numbers(words, 3, path, what)
    return x * radians, y * radians, z * radians


def _numbers(words: list[str], count: int, path: Path, what: str) -> list[float]:
    try:
        numbers = [float(word) for word in words]
    except ValueError as error:
        raise UserError(f"{path}: {what}: {' '.join(words)!r} are not all numbers.") from error
    if len(numbers) != count:
        raise UserError(
            f"{path}: {what} has {len(numbers)} numbers where {count} belong; the file is cut "
            "short or of another skeleton."
        )
    if not all(map(math.isfinite, numbers)):
        raise UserError(f"{path}: {what} holds NaN or infinite values.")
    return numbers


def _lines(path: Path) -> Iterator[list[str]]:
    """The words of every line that is not empty or a comment."""
    try:
        text = path.read_text(encoding="latin1")
    except OSError as error:
        raise UserError(f"{path} cannot be opened: {error.strerror or error}.") from error
    for line in text.splitlines():
        words = line.partition("#")[0].split()
        if words:
            yield words
