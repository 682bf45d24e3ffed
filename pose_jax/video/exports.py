"""A scene as JSON, as CSV, and as a BVH file per person."""

import csv
import json
import math
from pathlib import Path

import numpy as np

from pose_jax import bvh_write
from pose_jax.motion import Scene
from pose_jax.video.series import held

DECIMALS = 4
"""Of metres: a tenth of a millimetre."""


def write_json(path: Path, scene: Scene) -> None:
    """Writes ``{frames_per_second, joints, parents, size, people: [{name, poses}]}``.

    A pose is a list of [x, y, z] in the order of the joints, or null where not seen.
    """
    people = [
        {
            "name": person.name,
            "poses": [
                None if math.isnan(pose[0, 0]) else np.round(pose, DECIMALS).tolist()
                for pose in person.poses.astype(np.float64)
            ],
        }
        for person in scene.people
    ]
    content = {
        "frames_per_second": scene.frames_per_second,
        "unit": "metres, z up",
        "joints": scene.layout.joints,
        "parents": scene.layout.parents,
        "size": scene.size,
        "people": people,
    }
    path.write_text(json.dumps(content, separators=(",", ":")))


def write_csv(path: Path, scene: Scene) -> None:
    """Writes a row per person, frame and joint: person, frame, time, joint, x, y, z."""
    with path.open("w", newline="") as stream:
        rows = csv.writer(stream)
        rows.writerow(("person", "frame", "time", "joint", "x", "y", "z"))
        for person in scene.people:
            for frame, pose in enumerate(person.poses):
                if math.isnan(pose[0, 0]):
                    continue
                time = round(frame / scene.frames_per_second, 4)
                for joint, place in zip(scene.layout.joints, pose, strict=True):
                    numbers = (f"{value:.{DECIMALS}f}" for value in place)
                    rows.writerow((person.name, frame, time, joint, *numbers))


def write_bvh(directory: Path, scene: Scene) -> list[Path]:
    """Writes NAME.bvh per person, from the first to the last frame in which it is seen.

    Poses between, where the person was not seen, are interpolated.
    """
    paths = []
    for person in scene.people:
        seen = np.flatnonzero(np.isfinite(person.poses[:, 0, 0]))
        poses = held(person.poses[seen[0] : seen[-1] + 1].astype(np.float64))
        path = directory / f"{person.name.replace(' ', '_')}.bvh"
        bvh_write.write(path, poses, scene.layout, scene.frames_per_second)
        paths.append(path)
    return paths
