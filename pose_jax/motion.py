"""People in motion: what a video was turned into, and the file that holds it.

A file `poses.npz` has no pickled objects:

    meta                 0-d text, JSON: format, layout, keypoint_layout, frames_per_second, size
                         and the names of the people
    poses/000000         float32 (frames, joints, 3), metres, z up, of the first person
    keypoints/000000     float32 (frames, points, 2), pixels of the upright frame
    confidence/000000    float32 (frames, points), of them

Coordinates are NaN where a person was not seen. :func:`read` takes what `pose_jax.predict` writes
as well.
"""

import dataclasses
import json
import os
import zipfile
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from pose_jax.data import store
from pose_jax.skeletons import Layout, layout
from train_jax.errors import UserError

FORMAT = "pose_jax motion 1"
"""Raised whenever older code could misread what newer code writes."""

_PREDICTED = "pose_jax poses 1"  # what pose_jax.predict writes


@dataclasses.dataclass(frozen=True, eq=False)
class Person:
    """One person.

    Attributes:
        name: unique in its scene.
        poses: float32 (frames, joints, 3), metres, z up, the floor at 0; NaN where not seen.
        keypoints: float32 (frames, points, 2), pixels of the upright frame; NaN where not seen.
        confidence: float32 (frames, points) in [0, 1], of the keypoints.
    """

    name: str
    poses: np.ndarray
    keypoints: np.ndarray | None = None
    confidence: np.ndarray | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Scene:
    """The people of a video, frame by frame.

    Attributes:
        people: all with the same number of frames where they are of one video.
        layout: the joints of the poses.
        keypoint_layout: the points of the keypoints; None where there are none.
        frames_per_second: of poses and keypoints.
        size: (width, height) of the upright frame in pixels, if known.
    """

    people: tuple[Person, ...]
    layout: Layout
    keypoint_layout: Layout | None
    frames_per_second: float
    size: tuple[int, int] | None

    @property
    def num_frames(self) -> int:
        """Frames of the longest person."""
        return max((len(person.poses) for person in self.people), default=0)


def upright(poses: np.ndarray) -> np.ndarray:
    """Poses with the axes of a level camera (x right, y down, z forward) in a world with z up.

    Args:
        poses: float (..., 3).

    Returns:
        Likewise; (x, y, z) is (x, z, -y).
    """
    x, y, z = np.moveaxis(poses, -1, 0)
    return np.stack([x, z, -y], axis=-1)


def on_floor(poses: np.ndarray) -> np.ndarray:
    """Poses (frames, joints, 3) lowered so that their lowest joints stand on z = 0.

    The 5th percentile of the frames' lowest joints is the floor: a jump stays one, and a single
    faulty pose does not lift all the others.
    """
    lowest = np.min(poses[..., 2], axis=-1)
    seen = lowest[np.isfinite(lowest)]
    if not len(seen):
        return poses
    floor = np.zeros(3, poses.dtype)
    floor[2] = np.percentile(seen, 5)
    return poses - floor


def write(path: str | os.PathLike[str], scene: Scene) -> None:
    """Writes a file, whole or not at all, over one that is there.

    Raises:
        UserError: it cannot be written.
    """
    arrays: dict[str, np.ndarray] = {}
    for i, person in enumerate(scene.people):
        arrays[f"poses/{i:06}"] = person.poses.astype(np.float32)
        if person.keypoints is not None:
            arrays[f"keypoints/{i:06}"] = person.keypoints.astype(np.float32)
        if person.confidence is not None:
            arrays[f"confidence/{i:06}"] = person.confidence.astype(np.float32)
    meta = {
        "format": FORMAT,
        "layout": scene.layout.name,
        "keypoint_layout": scene.keypoint_layout and scene.keypoint_layout.name,
        "frames_per_second": scene.frames_per_second,
        "size": scene.size,
        "people": [person.name for person in scene.people],
    }
    members: dict[str, Any] = {"meta": np.array(json.dumps(meta)), **arrays}
    with store.replacing(path) as stream:
        np.savez_compressed(stream, **members)


def read(path: str | os.PathLike[str]) -> Scene:
    """Reads a file of :func:`write` or of `pose_jax.predict`.

    The latter's poses have the axes of the camera; the camera is taken to be level and the people
    are put on the floor, except where the file tells places in the world.

    Raises:
        UserError: it is missing, damaged or of another format.
    """
    path = os.fspath(path)
    members = _members(path)
    try:
        meta = json.loads(str(members["meta"]))
        kind = meta["format"]
        if kind == FORMAT:
            return _scene(meta, members)
        if kind == _PREDICTED:
            return _predicted(meta, members)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: its description does not fit its arrays ({error}).") from error
    raise UserError(
        f"{path} is of the format {kind!r}; give a file of python -m pose_jax.video or of python "
        "-m pose_jax.predict."
    )


def _members(path: str) -> dict[str, np.ndarray]:
    faults = (ValueError, EOFError, zipfile.BadZipFile, zlib.error, AttributeError, TypeError)
    try:
        # np.load leaves a file open that is no archive.
        with open(path, "rb") as stream, np.load(stream, allow_pickle=False) as archive:
            members = {name: archive[name] for name in archive.files}
    except OSError as error:
        raise UserError(f"{path} cannot be opened: {error.strerror or error}.") from error
    except faults as error:
        # NumPy's own words on other files would advise to unpickle them.
        raise UserError(
            f"{path} is not an .npz file of poses, or is damaged; make it again."
        ) from error
    if "meta" not in members:
        raise UserError(f"{path} holds no poses of this project (it has no member meta).")
    return members


def _scene(meta: Mapping[str, Any], members: Mapping[str, np.ndarray]) -> Scene:
    points, size = meta["keypoint_layout"], meta["size"]
    people = tuple(
        Person(
            str(name),
            members[f"poses/{i:06}"],
            members.get(f"keypoints/{i:06}"),
            members.get(f"confidence/{i:06}"),
        )
        for i, name in enumerate(meta["people"])
    )
    skeleton = layout(meta["layout"])
    for person in people:
        if person.poses.shape[1:] != (skeleton.num_joints, 3):
            raise ValueError(f"{person.name} has poses of {list(person.poses.shape)}")
    return Scene(
        people,
        skeleton,
        layout(points) if points else None,
        float(meta["frames_per_second"]),
        (int(size[0]), int(size[1])) if size else None,
    )


def _predicted(meta: Mapping[str, Any], members: Mapping[str, np.ndarray]) -> Scene:
    people: list[Person] = []
    for i, sequence in enumerate(meta["sequences"]):
        poses = members[f"poses/{i:06}"]
        if meta["space"] != "world":
            poses = on_floor(upright(poses))
        name = " ".join(str(sequence[key]) for key in ("subject", "action", "camera"))
        people.append(Person(name, poses))
    return Scene(tuple(people), layout(meta["skeleton"]), None, float(meta["fps"]), None)
