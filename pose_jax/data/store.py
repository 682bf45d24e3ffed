"""Our own file of poses: plain arrays and a JSON text in one .npz, nothing that needs a pickle.

    meta                        0-d unicode array, a JSON object:
                                {"format": "pose_jax 1", "name", "fps", "skeleton",
                                 "keypoint_layout", "source",
                                 "cameras": {subject: {camera: {fields of Camera}}},
                                 "recordings": [{"subject", "action", "views": [camera, ...],
                                                 "positions": bool}, ...]}
    positions/000012            float32 (T, J, 3), metres in the world, of recording 12
    keypoints/000012/CAMERA     float32 (T, J2, 2 or 3), pixels from the image's upper left corner,
                                and the detector's confidence in [0, 1]

``skeleton`` and ``keypoint_layout`` are names of ``pose_jax.skeletons.LAYOUTS``, or null where the
file has no 3D or no 2D. Every view's camera is described under its subject. What a file says is
checked when it is written and again when it is read.
"""

import contextlib
import json
import os
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from typing import IO, Any

import numpy as np
from etils import epath

from pose_jax.cameras import Camera
from pose_jax.data.join import join
from pose_jax.data.poses import PoseSet, Recording, check
from train_jax.config import from_config, to_dict
from train_jax.errors import UserError

__all__ = ["FORMAT", "PoseSet", "Recording", "check", "join", "load", "refuse_existing", "save"]

FORMAT = "pose_jax 1"
"""Raised whenever older code could misread what newer code writes."""

PathLike = str | os.PathLike[str]


def save(path: PathLike, poses: PoseSet, *, overwrite: bool = False) -> None:
    """Writes a file, local or gs://, whole or not at all; equal sets give equal bytes.

    Directories above it are made if they are not there.

    Raises:
        UserError: the set is faulty, the file exists already, or it cannot be written.
    """
    check(poses, os.fspath(path))
    if not overwrite:
        refuse_existing(path)
    with contextlib.suppress(OSError):  # what is written next tells better what is wrong
        epath.Path(path).parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as stream, zipfile.ZipFile(stream, "w") as archive:
        _write(archive, "meta", np.array(json.dumps(_meta(poses))))
        for i, recording in enumerate(poses.recordings):
            if recording.positions is not None:
                _write(archive, f"positions/{i:06}", recording.positions)
            for camera, keypoints in recording.views.items():
                _write(archive, f"keypoints/{i:06}/{camera}", keypoints)


def load(path: PathLike) -> PoseSet:
    """Reads and checks a file, local or gs://. Nothing in it is ever unpickled.

    Raises:
        UserError: it is not one of ours, is damaged, or what it says does not fit together; see
            :func:`check`.
    """
    path = os.fspath(path)
    with _opened(path) as archive:
        members = set(archive.namelist())
        if "meta.npy" not in members:
            raise UserError(
                f"{path} is not a file of poses of this project; `python -m pose_jax.prepare` "
                "makes one."
            )
        meta = _parse_meta(_read(archive, "meta", path), path)
        recordings = tuple(
            _read_recording(archive, members, i, entry, path)
            for i, entry in enumerate(meta.pop("recordings"))
        )
    cameras = {
        subject: _cameras(described, path) for subject, described in meta.pop("cameras").items()
    }
    poses = PoseSet(cameras=cameras, recordings=recordings, **meta)
    check(poses, path)
    return poses


def refuse_existing(path: PathLike) -> None:
    """Raises a UserError if there is a file already, or nobody can tell."""
    try:
        taken = epath.Path(path).exists()
    except (OSError, ImportError) as error:
        raise UserError(f"{os.fspath(path)} cannot be reached: {_reason(error)}.") from error
    if taken:
        raise UserError(f"{os.fspath(path)} exists already; remove it or choose another name.")


def _meta(poses: PoseSet) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "name": poses.name,
        "fps": poses.fps,
        "skeleton": poses.skeleton,
        "keypoint_layout": poses.keypoint_layout,
        "source": poses.source,
        "cameras": {
            subject: {name: to_dict(camera) for name, camera in cameras.items()}
            for subject, cameras in poses.cameras.items()
        },
        "recordings": [
            {
                "subject": recording.subject,
                "action": recording.action,
                "views": list(recording.views),
                "positions": recording.positions is not None,
            }
            for recording in poses.recordings
        ],
    }


_META_TYPES = {
    "name": str,
    "fps": (int, float),
    "skeleton": (str, type(None)),
    "keypoint_layout": (str, type(None)),
    "source": str,
    "cameras": dict,
    "recordings": list,
}
_ENTRY_TYPES = {"subject": str, "action": str, "views": list, "positions": bool}


def _parse_meta(array: np.ndarray, path: str) -> dict[str, Any]:
    try:
        meta = json.loads(str(array))
        version = meta.pop("format")
    except (json.JSONDecodeError, AttributeError, KeyError, TypeError) as error:
        raise UserError(f"{path}: its description (meta) cannot be read ({error}).") from error
    if version != FORMAT:
        raise UserError(
            f"{path} is of the format {version!r}; this version reads {FORMAT!r}, prepare the file "
            "again."
        )
    _require_types(meta, _META_TYPES, f"{path}: its description")
    for entry in meta["recordings"]:
        _require_types(entry, _ENTRY_TYPES, f"{path}: a recording of its description")
    return meta


def _require_types(values: Any, types: Mapping[str, Any], what: str) -> None:
    if not isinstance(values, dict) or values.keys() != types.keys():
        raise UserError(f"{what} must have exactly the keys {', '.join(types)}.")
    for key, kinds in types.items():
        if not isinstance(values[key], kinds):
            raise UserError(f"{what} has a faulty {key}: {values[key]!r}.")


def _cameras(described: Any, path: str) -> dict[str, Camera]:
    if not isinstance(described, dict) or not all(isinstance(v, dict) for v in described.values()):
        raise UserError(f"{path}: {described!r} does not describe cameras.")
    return {
        name: from_config(Camera, fields, path=f"{path}: camera {name}")
        for name, fields in described.items()
    }


def _read_recording(
    archive: zipfile.ZipFile, members: set[str], i: int, entry: Mapping[str, Any], path: str
) -> Recording:
    def read(name: str) -> np.ndarray:
        if f"{name}.npy" not in members:
            raise UserError(f"{path} lacks the array {name} that it lists; prepare it again.")
        return _read(archive, name, path)

    return Recording(
        subject=entry["subject"],
        action=entry["action"],
        positions=read(f"positions/{i:06}") if entry["positions"] else None,
        views={camera: read(f"keypoints/{i:06}/{camera}") for camera in entry["views"]},
    )


def _read(archive: zipfile.ZipFile, name: str, path: str) -> np.ndarray:
    faults = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, OSError, ValueError)
    try:
        with archive.open(f"{name}.npy") as stream:
            return np.lib.format.read_array(stream, allow_pickle=False)
    except faults as error:
        raise UserError(f"{path} is damaged at {name} ({error}); prepare it again.") from error


def _write(archive: zipfile.ZipFile, name: str, array: np.ndarray) -> None:
    # A ZipInfo of our own carries a fixed date instead of the time of day.
    with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as stream:
        np.lib.format.write_array(stream, np.asarray(array, order="C"), allow_pickle=False)


@contextlib.contextmanager
def _opened(path: str) -> Iterator[zipfile.ZipFile]:
    try:
        stream = epath.Path(path).open("rb")
    except FileNotFoundError as error:
        raise UserError(
            f"{path} cannot be opened: {_reason(error)}; `python -m pose_jax.prepare --help` says "
            "how to make it from Human3.6M or HumanEva, which are licensed, or from open data."
        ) from error
    except (OSError, ImportError) as error:
        raise UserError(f"{path} cannot be opened: {_reason(error)}.") from error
    with stream:
        try:
            archive = zipfile.ZipFile(stream)
        except (zipfile.BadZipFile, OSError) as error:
            raise UserError(f"{path} is not an .npz file, or is cut short.") from error
        with archive:
            yield archive


@contextlib.contextmanager
def replacing(path: PathLike) -> Iterator[IO[bytes]]:
    """A stream to a temporary file that takes its name when all is written."""
    path = epath.Path(path)
    temporary = path.parent / f".{path.name}.{os.getpid()}.partial"
    try:
        with temporary.open("wb") as stream:
            yield stream
        temporary.replace(path)
    except (OSError, ImportError) as error:
        raise UserError(f"{path} cannot be written: {_reason(error)}.") from error
    finally:
        with contextlib.suppress(OSError, ImportError):
            temporary.unlink(missing_ok=True)


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
