"""Files of keypoints as detectors write them, of the user's own video.

* A directory of NAME.npz, or one of them: Detectron's dumps as VideoPose3D's inference script
  writes them. For every frame ``boxes[t][1]`` (people, 5), the score last, and ``keypoints[t][1]``
  (people, 4, 17): x, y, logit, probability; ``metadata`` with w and h.
* A directory of NAME_000000000012_keypoints.json, one per frame: OpenPose, with people that have
  ``pose_keypoints_2d``. A joint that was not found is (0, 0, 0).
* A .json in the format of COCO's results, as AlphaPose (Halpe) and most detectors write it: a list
  of people with ``image_id``, ``keypoints`` and ``score``, of trackers also ``idx`` or
  ``track_id``.
* data_2d_custom_NAME.npz, keypoints of VideoPose3D with ``positions_2d``.
* An .npz or .npy of plain arrays (frames, joints, 2 or 3); in an .npz one per video.

In every case x and y are pixels, and the third number is the confidence, which is cut off at 0 and
1. Of 136 joints (Halpe) the 26 of the body are taken, of 133 (COCO-WholeBody) the 17 of COCO.
"""

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pose_jax.data import original_npz
from pose_jax.data.pickles import explained, read_object_npz
from pose_jax.data.tracks import Person, Track, follow
from train_jax.errors import UserError

#: Layouts that begin with a smaller one: joints -> joints of the body.
_BODY = {136: 26, 133: 17}


def read_tracks(source: str, *, layout: str, person: int | None = None) -> list[Track]:
    """Reads the keypoints of one or several videos.

    Args:
        source: a file or a directory of the kinds above.
        layout: name of the layout that the joints should have.
        person: number of the person to follow; None takes the most certain of each frame.

    Returns:
        A track per video, by name.

    Raises:
        UserError: there is nothing to read, it is damaged or of another kind, nobody is seen, or a
            coordinate is no number.
    """
    path = Path(source)
    if path.is_dir():
        return _read_directory(path, person)
    kind = path.suffix.lower()
    if kind == ".json":
        return [_read_results(path, person)]
    if kind not in (".npz", ".npy"):
        raise UserError(f"{source} is neither a directory nor a .json, .npz or .npy file.")
    if person is not None:
        raise UserError(f"{source} does not number people; leave out --person.")
    if kind == ".npy":
        return [_plain(path.stem, _read_npy(path), str(path))]
    return _read_npz(path, layout)


def _read_directory(path: Path, person: int | None) -> list[Track]:
    if frames := sorted(path.glob("*_keypoints.json")):
        return _read_openpose(path, frames, person)
    dumps = sorted(path.glob("*.npz"))
    if not dumps:
        raise UserError(
            f"{path} holds neither *_keypoints.json files of OpenPose nor .npz files of Detectron."
        )
    if person is not None:
        raise UserError(f"{path}: Detectron does not number people; leave out --person.")
    return [_detectron(dump, read_object_npz(dump)) for dump in dumps]


def _read_npz(path: Path, layout: str) -> list[Track]:
    members = read_object_npz(path)
    if "boxes" in members:
        return [_detectron(path, members)]
    if "positions_2d" in members:
        return _original(path, members, layout)
    return [_plain(name, array, f"{path}: {name}") for name, array in sorted(members.items())]


def _detectron(path: Path, members: Mapping[str, Any]) -> Track:
    for name in ("boxes", "keypoints"):
        if name not in members:
            raise UserError(f"{path} holds no {name}; it is no dump of Detectron.")
    with explained(path):
        boxes, keypoints = members["boxes"], members["keypoints"]
        if len(boxes) != len(keypoints):
            raise UserError(f"{path}: {len(boxes)} frames of boxes, {len(keypoints)} of keypoints.")
        frames = [
            [
                Person(_numbers(joints[[0, 1, 3]].T, f"{path}: frame {t}"), float(box[4]))
                for box, joints in zip(found[1], posed[1], strict=True)
            ]
            for t, (found, posed) in enumerate(zip(boxes, keypoints, strict=True))
        ]
        size = _size(members.get("metadata"))
    return follow(path.name.removesuffix(".npz"), frames, size=size)


def _original(path: Path, members: Mapping[str, Any], layout: str) -> list[Track]:
    videos, _ = original_npz.read_keypoints(path, layout=layout)
    about = members.get("metadata")
    sizes = about.get("video_metadata", {}) if isinstance(about, dict) else {}
    tracks = []
    for video, takes in sorted(videos.items()):
        for take, views in takes.items():
            for i, view in enumerate(views):
                # One each in files of the user's own video, named custom.
                name = video if len(takes) == len(views) == 1 else f"{video} {take} {i}"
                tracks.append(_plain(name, view, f"{path}: {name}", _size(sizes.get(video))))
    return tracks


def _plain(name: str, array: Any, what: str, size: tuple[int, int] | None = None) -> Track:
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "fiu":
        raise UserError(f"{what} is no array of numbers.")
    if array.ndim != 3 or array.shape[-1] not in (2, 3):
        raise UserError(f"{what} is {list(array.shape)}, not [frames, joints, 2 or 3].")
    if not len(array):
        raise UserError(f"{what} holds no frames.")
    keypoints = _body(np.asarray(array, np.float64))
    bad = np.logical_not(np.isfinite(keypoints).all(axis=(1, 2)))
    if bad.any():
        raise UserError(
            f"{what}: {int(bad.sum())} of {len(bad)} frames hold NaN or infinite values, the first "
            f"is frame {int(bad.argmax())}; interpolate them and set their confidence to 0."
        )
    if keypoints.shape[-1] == 3:
        keypoints[..., 2] = keypoints[..., 2].clip(0, 1)
    return Track(name, keypoints.astype(np.float32), size)


def _read_openpose(path: Path, files: list[Path], person: int | None) -> list[Track]:
    videos: dict[str, dict[int, list[Person]]] = {}
    for file in files:
        match = re.fullmatch(r"(.*?)_?(\d+)_keypoints", file.stem)
        if match is None:
            raise UserError(f"{file}: its name tells no frame as NAME_000000000012_keypoints does.")
        found = _json(file)
        people = found.get("people") if isinstance(found, dict) else None
        if not isinstance(people, list):
            raise UserError(f"{file} holds no people; it is no file of OpenPose.")
        videos.setdefault(match[1] or path.name, {})[int(match[2])] = [
            _openpose_person(one, str(file)) for one in people
        ]
    return [follow(name, frames, person=person) for name, frames in videos.items()]


def _openpose_person(one: Any, what: str) -> Person:
    values = one.get("pose_keypoints_2d") if isinstance(one, dict) else None
    joints = _triples(values, f"{what}: pose_keypoints_2d")
    # A joint that was not found is at (0, 0), with confidence 0.
    joints[(joints == 0).all(axis=-1)] = np.nan
    number = one.get("person_id")
    number = number[0] if isinstance(number, list) and number else number
    score = float(np.nan_to_num(joints[:, 2]).mean())
    return Person(joints, score, number if isinstance(number, int) and number >= 0 else None)


def _read_results(path: Path, person: int | None) -> Track:
    people = _json(path)
    if not isinstance(people, list) or not all(isinstance(one, dict) for one in people):
        raise UserError(
            f"{path} is no list of people as COCO's results are; write them in that format."
        )
    if not people:
        raise UserError(f"{path}: no person was found; the list is empty.")
    frames: dict[int, list[Person]] = {}
    for i, one in enumerate(people):
        what = f"{path}: person {i} of the list"
        number = next((one[key] for key in ("idx", "track_id") if key in one), None)
        number = number[0] if isinstance(number, list) and number else number
        score = one.get("score", 0.0)
        if not isinstance(score, (int, float)):
            raise UserError(f"{what} has the score {score!r}, which is no number.")
        frames.setdefault(_frame(one.get("image_id"), what), []).append(
            Person(
                _triples(one.get("keypoints"), f"{what}: keypoints"),
                float(score),
                int(number) if isinstance(number, (int, float)) else None,
            )
        )
    return follow(path.stem, frames, person=person)


def _frame(image: Any, what: str) -> int:
    """A frame's number, as such or the last one in the name of its image."""
    if isinstance(image, int):
        return image
    digits = re.findall(r"\d+", Path(image).stem) if isinstance(image, str) else []
    if not digits:
        raise UserError(f"{what} has the image_id {image!r}, which tells no frame.")
    return int(digits[-1])


def _triples(values: Any, what: str) -> np.ndarray:
    """[x, y, confidence, x, ...] as float64 (J, 3)."""
    if not isinstance(values, list) or not values or len(values) % 3:
        raise UserError(f"{what} is no list of x, y and confidence of every joint.")
    try:
        array = np.array(values, np.float64).reshape(-1, 3)
    except (TypeError, ValueError) as error:
        raise UserError(f"{what} holds something that is no number.") from error
    return _numbers(array, what)


def _numbers(joints: np.ndarray, what: str) -> np.ndarray:
    joints = _body(np.asarray(joints, np.float64)[None])[0]
    if not np.isfinite(joints).all():
        raise UserError(f"{what} holds NaN or infinite values.")
    return joints


def _body(keypoints: np.ndarray) -> np.ndarray:
    return keypoints[:, : _BODY.get(keypoints.shape[1], keypoints.shape[1])]


def _size(about: Any) -> tuple[int, int] | None:
    if isinstance(about, dict) and "w" in about and "h" in about:
        return int(about["w"]), int(about["h"])
    return None


def _read_npy(path: Path) -> np.ndarray:
    return _read(path, lambda: np.load(path, allow_pickle=False))


def _json(path: Path) -> Any:
    return _read(path, lambda: json.loads(path.read_text()))


def _read(path: Path, read: Callable[[], Any]) -> Any:
    try:
        return read()
    except OSError as error:
        raise UserError(f"{path} cannot be opened: {error.strerror or error}.") from error
    except (ValueError, EOFError) as error:
        raise UserError(f"{path} is damaged or of another kind ({error}).") from error
