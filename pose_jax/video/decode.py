"""Frames of a video, a pipe or a camera, upright and with their times, one after the other."""

import dataclasses
import os
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
from absl import logging

from train_jax.errors import UserError

PIPE = "-"


@dataclasses.dataclass(frozen=True, eq=False)
class Frame:
    """One picture.

    Attributes:
        image: uint8 (height, width, 3), RGB, upright.
        time: seconds since the first frame.
    """

    image: np.ndarray
    time: float


@dataclasses.dataclass(frozen=True)
class Outline:
    """What a file says of itself.

    Attributes:
        seconds: duration; None if it is not told.
        rate: mean frames per second; None likewise.
        frames: how many; None if it cannot be known before they are decoded.
    """

    seconds: float | None
    rate: float | None
    frames: int | None


def import_av() -> Any:
    """PyAV.

    Raises:
        UserError: it is not installed.
    """
    try:
        import av
    except ImportError as error:
        raise UserError("Reading video needs PyAV; run pip install -e '.[video]'.") from error
    return av


def outline(path: str) -> Outline:
    """What a file says of itself, without decoding it.

    Raises:
        UserError: it is missing, no video or has no video track.
    """
    with _opened(path) as container:
        stream = _video(container, path)
        seconds = None
        if stream.duration is not None:
            seconds = float(stream.duration * stream.time_base)
        elif container.duration is not None:
            seconds = container.duration / 1e6
        rate = float(stream.average_rate) if stream.average_rate else None
        frames = stream.frames or (round(seconds * rate) if seconds and rate else None)
        return Outline(seconds, rate, frames)


def frames(path: str) -> Iterator[Frame]:
    """The pictures of a file or, for "-", of what comes in on stdin.

    A place that cannot be decoded is left out; where a file ends early, what is there is used. Both
    are warned of.

    Raises:
        UserError: it is missing, no video, has no video track, or no frame can be decoded.
    """
    av = import_av()
    seen, last, first, damaged = 0, 0.0, None, 0
    told: float | None = None
    with _opened(path) as container:
        stream = _video(container, path)
        stream.thread_type = "AUTO"
        step = 1 / float(stream.average_rate) if stream.average_rate else 1 / 30
        if stream.duration is not None:
            told = float(stream.duration * stream.time_base)
        decoded = container.decode(stream)
        while True:
            try:
                picture = next(decoded)
            except StopIteration:
                break
            except av.error.FFmpegError as error:
                damaged += 1
                if damaged > 100 or not isinstance(error, av.error.InvalidDataError):
                    break
                continue
            time = None if picture.time is None else float(picture.time)
            if first is None:
                first = time or 0.0
            time = last + step if time is None else time - first
            if seen and time <= last:  # a step back, as where streams were joined
                time = last + step
            yield Frame(_upright(picture), time)
            seen, last = seen + 1, time
    if not seen:
        raise UserError(f"{_name(path)} has no frame that can be decoded; name another video.")
    if damaged:
        logging.warning("%s is damaged: %d places were left out.", _name(path), damaged)
    if told and told - last > max(1.0, 4 * step):
        logging.warning(
            "%s ends after %.1f of %.1f seconds; it is cut short, what is there is used.",
            _name(path),
            last + step,
            told,
        )


def camera(number: int) -> Iterator[Frame]:
    """The pictures of a camera of this computer, through OpenCV, for ever.

    Raises:
        UserError: there is no such camera.
    """
    import time

    import cv2

    capture = cv2.VideoCapture(number)
    if not capture.isOpened():
        raise UserError(f"There is no camera {number}; try --camera=0, or pipe a video in with -.")
    start = time.monotonic()
    while True:
        there, image = capture.read()
        if not there:
            return
        yield Frame(np.ascontiguousarray(image[..., ::-1]), time.monotonic() - start)


def _opened(path: str) -> Any:
    av = import_av()
    source: Any = path
    if path == PIPE:
        source = sys.stdin.buffer
    elif not os.path.isfile(path):
        raise UserError(f"There is no video {path}; name a file.")
    try:
        return av.open(source)
    except av.error.FFmpegError as error:
        raise UserError(
            f"{_name(path)} cannot be read as video ({error.strerror}); it is damaged, cut short, "
            "or of another kind."
        ) from error


def _video(container: Any, path: str) -> Any:
    if not container.streams.video:
        raise UserError(f"{_name(path)} has no video track; name a file with one.")
    return container.streams.video[0]


def _name(path: str) -> str:
    return "stdin" if path == PIPE else path


def _upright(picture: Any) -> np.ndarray:
    image = picture.to_ndarray(format="rgb24")
    # The file tells how the picture is to be turned, counter-clockwise, as by rot90.
    turns = round(picture.rotation / 90) % 4
    return np.ascontiguousarray(np.rot90(image, turns)) if turns else image
