"""Small files of motion capture for tests: CMU's skeleton as .asf, .amc and .bvh."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

INCHES = 0.0254 / 0.45
"""Metres of CMU's unit."""

#: name: (parent, direction times length in units, axis angles in degrees, turns)
BONES: dict[str, tuple[str, tuple[float, float, float], tuple[float, float, float], str]] = {
    "lhipjoint": ("root", (1.6, -1.8, 0.6), (0, 0, 0), ""),
    "lfemur": ("lhipjoint", (2.6, -7.1, 0), (0, 0, 20), "rx ry rz"),
    "ltibia": ("lfemur", (2.5, -6.8, 0), (0, 0, 20), "rx"),
    "rhipjoint": ("root", (-1.6, -1.8, 0.6), (0, 0, 0), ""),
    "rfemur": ("rhipjoint", (-2.6, -7.1, 0), (0, 0, -20), "rx ry rz"),
    "rtibia": ("rfemur", (-2.5, -6.8, 0), (0, 0, -20), "rx"),
    "lowerback": ("root", (0, 2.0, -0.1), (0, 0, 0), "rx ry rz"),
    "upperback": ("lowerback", (0, 2.1, 0), (0, 0, 0), "rx ry rz"),
    "thorax": ("upperback", (0, 2.05, 0), (0, 0, 0), "rx ry rz"),
    "lowerneck": ("thorax", (0, 1.6, 0.1), (0, 0, 0), "rx ry rz"),
    "upperneck": ("lowerneck", (0, 1.55, 0), (0, 0, 0), "rx ry rz"),
    "head": ("upperneck", (0, 1.6, 0), (0, 0, 0), "rx ry rz"),
    "lclavicle": ("thorax", (3.5, 0.9, -0.2), (30, 10, 5), "ry rz"),
    "lhumerus": ("lclavicle", (4.9, 0, 0), (180, 30, 90), "rx ry rz"),
    "lradius": ("lhumerus", (3.4, 0, 0), (180, 30, 90), "rx"),
    "rclavicle": ("thorax", (-3.5, 0.9, -0.2), (-30, -10, 5), "ry rz"),
    "rhumerus": ("rclavicle", (-4.9, 0, 0), (180, -30, -90), "rx ry rz"),
    "rradius": ("rhumerus", (-3.4, 0, 0), (180, -30, -90), "rx"),
}

Frame = Mapping[str, Sequence[float] | np.ndarray]


def asf() -> str:
    """The skeleton; comments and limits as CMU's files have them."""
    bones, children = [], {}
    for number, (name, (parent, offset, axis, turns)) in enumerate(BONES.items(), 1):
        children.setdefault(parent, []).append(name)
        length = sum(x * x for x in offset) ** 0.5
        direction = " ".join(repr(x / length) for x in offset)
        moves = f"    dof {turns}\n    limits (-160.0 20.0)\n" if turns else ""
        extra = "           (-70.0 70.0)\n" * (len(turns.split()) - 1)
        bones.append(
            f"  begin\n    id {number}\n    name {name}\n    direction {direction}\n"
            f"    length {length!r}\n    axis {axis[0]} {axis[1]} {axis[2]}  XYZ\n"
            f"{moves}{extra}  end\n"
        )
    tree = "".join(f"    {parent} {' '.join(names)}\n" for parent, names in children.items())
    return (
        "# AST/ASF file\n:version 1.10\n:name VICON\n:units\n  mass 1.0\n  length 0.45\n"
        "  angle deg\n:documentation\n   .ast/.asf generated from VICON data\n:root\n"
        "   order TX TY TZ RX RY RZ\n   axis XYZ\n   position 0 0 0\n   orientation 0 0 0\n"
        f":bonedata\n{''.join(bones)}:hierarchy\n  begin\n{tree}  end\n"
    )


def amc(frames: Sequence[Frame]) -> str:
    """A motion; bones that a frame does not name rest, and the root stands at (0, 17, 0)."""
    lines = ["#!OML:ASF subject.ASF", ":FULLY-SPECIFIED", ":DEGREES"]
    resting = {"root": (0, 17, 0, 0, 0, 0)} | {
        name: (0,) * len(turns.split()) for name, (*_, turns) in BONES.items() if turns
    }
    for number, frame in enumerate(frames, 1):
        lines.append(str(number))
        for name, values in {**resting, **frame}.items():
            lines.append(f"{name} {' '.join(map(str, values))}")
    return "\n".join(lines) + "\n"


def write_subject(directory: Path, subject: str, trials: Mapping[str, Sequence[Frame]]) -> None:
    """NN.asf and NN_TT.amc of one subject."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / f"{subject}.asf").write_text(asf())
    for trial, frames in trials.items():
        (directory / f"{subject}_{trial}.amc").write_text(amc(frames))
