"""One person's keypoints through a video: who is followed, and what stands where nothing was seen.

A detector finds any number of people in a frame, or nobody. The most certain one of each frame is
taken, or the one that a tracker has numbered. Where a frame has nobody, or a joint was not found,
the coordinates are interpolated linearly between the frames around, and held before the first and
after the last; their confidence is 0.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from train_jax.errors import UserError


@dataclasses.dataclass(frozen=True, eq=False)
class Person:
    """Somebody whom a detector found in a frame.

    Attributes:
        joints: float (J, 2 or 3): pixels and confidence; NaN where a joint was not found.
        score: how certain the detector is.
        number: who it is in all frames, according to a tracker; None without one.
    """

    joints: np.ndarray
    score: float
    number: int | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Track:
    """Keypoints of one video.

    Attributes:
        name: of the video.
        keypoints: float32 (T, J, 2 or 3).
        size: (width, height) of the image in pixels, where the file tells it.
        filled: frames in which nobody was seen.
        unseen: joints that were seen in no frame; they stand in the middle of the others.
    """

    name: str
    keypoints: np.ndarray
    size: tuple[int, int] | None = None
    filled: int = 0
    unseen: tuple[int, ...] = ()


def follow(
    name: str,
    frames: Mapping[int, Sequence[Person]] | Sequence[Sequence[Person]],
    *,
    person: int | None = None,
    size: tuple[int, int] | None = None,
) -> Track:
    """The track of one person.

    Args:
        name: of the video or file, also in messages.
        frames: who is in each; of a mapping, numbers that are missing are frames with nobody, and
            the track begins with the first number.
        person: the number of the one to follow; None takes the most certain of each frame.
        size: of the image.

    Raises:
        UserError: nobody is there, or not that person, or in hardly any frame, or people differ in
            the number of joints.
    """
    if not isinstance(frames, Mapping):
        frames = dict(enumerate(frames))
    if not frames:
        raise UserError(f"{name} holds no frames.")
    chosen = {number: _choose(people, person) for number, people in frames.items()}
    seen = {number: one for number, one in chosen.items() if one is not None}
    if not seen:
        raise UserError(_nobody(name, frames, person))
    shapes = {one.joints.shape for one in seen.values()}
    if len(shapes) > 1:
        counts = " and ".join(str(shape[0]) for shape in sorted(shapes))
        raise UserError(f"{name}: people have {counts} joints; one layout is needed.")
    first, last = min(frames), max(frames)
    length = last - first + 1
    if length > 10 * len(seen):
        raise UserError(
            f"{name}: a person is in {len(seen)} of {length} frames only; too few to follow, or "
            "the images are not numbered as frames of one video."
        )
    array = np.full((length, *shapes.pop()), np.nan)
    for number, one in seen.items():
        array[number - first] = one.joints
    filled, unseen = fill(array)
    return Track(name, filled, size, length - len(seen), unseen)


def fill(keypoints: np.ndarray) -> tuple[np.ndarray, tuple[int, ...]]:
    """Interpolates what was not found.

    Args:
        keypoints: float (T, J, 2 or 3), NaN where a joint was not found; at least one is there.

    Returns:
        float32 of the same shape, finite; confidences are within [0, 1], and 0 where coordinates
        were filled in. And which joints are in no frame: they stand in the middle of the others.
    """
    found = np.asarray(np.isfinite(keypoints).all(axis=-1))
    result = np.array(keypoints, np.float64)
    at = np.arange(len(result))
    unseen = tuple(int(joint) for joint in np.flatnonzero(np.logical_not(found.any(axis=0))))
    for joint in range(result.shape[1]):
        there = found[:, joint]
        if there.any():
            for channel in range(2):
                column = result[:, joint, channel]
                result[:, joint, channel] = np.interp(at, at[there], column[there])
    if unseen:
        seen = np.setdiff1d(np.arange(result.shape[1]), unseen)
        result[:, list(unseen), :2] = result[:, seen, :2].mean(axis=1, keepdims=True)
    if result.shape[-1] == 3:
        result[..., 2] = np.where(found, result[..., 2], 0).clip(0, 1)
    return result.astype(np.float32), unseen


def _choose(people: Sequence[Person], person: int | None) -> Person | None:
    people = [one for one in people if np.isfinite(one.joints).all(axis=-1).any()]
    if person is not None:
        people = [one for one in people if one.number == person]
    return max(people, key=lambda one: one.score, default=None)


def _nobody(name: str, frames: Mapping[int, Sequence[Person]], person: int | None) -> str:
    everybody = [one for people in frames.values() for one in people]
    if person is None or not everybody:
        return f"{name}: no person was found in any of {len(frames)} frames."
    numbers = sorted({one.number for one in everybody if one.number is not None})
    if not numbers:
        return f"{name}: people have no numbers, since nobody tracked them; leave out --person."
    shown = ", ".join(map(str, numbers[:10])) + (", ..." if len(numbers) > 10 else "")
    return f"{name}: there is no person {person}; there are {shown}."
