"""Video in and out, frame by frame: no more than a few frames are in memory at a time."""

import contextlib
import os
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any

import numpy as np

from train_jax.errors import UserError


def _av() -> Any:
    try:
        import av
    except ImportError as error:
        raise UserError(
            "Reading and writing video needs PyAV; install it with pip install -e '.[video]'."
        ) from error
    return av


def upright_size(path: str) -> tuple[int, int]:
    """(width, height) of a video as it is to be seen.

    Raises:
        UserError: there is no video to decode.
    """
    frame = next(_decoded(path), None)
    if frame is None:
        raise UserError(f"{path} has no frame that can be decoded; name another video.")
    turned = round(frame.rotation / 90) % 2
    return (frame.height, frame.width) if turned else (frame.width, frame.height)


def frames_at(
    path: str, frames_per_second: float, size: tuple[int, int]
) -> Iterator[np.ndarray | None]:
    """What a video shows at times 0, 1 / rate, 2 / rate, ...; None from its end on, for ever.

    Args:
        path: of a video.
        frames_per_second: the rate.
        size: (width, height) of the results.

    Yields:
        uint8 (height, width, 3), BGR, upright. Not to be written into: it may be shown again.

    Raises:
        UserError: there is no video to decode.
    """
    frames = _decoded(path)
    current = next(frames, None)
    if current is None:
        raise UserError(f"{path} has no frame that can be decoded; name another video.")
    start, following = _time(current), next(frames, None)
    image, shown, index = None, None, 0
    while current is not None:
        # Half a frame of slack: rates are rounded, and so are the times of frames.
        time = start + (index + 0.5) / frames_per_second
        while following is not None and _time(following) <= time:
            current, following = following, next(frames, None)
        if following is None and time > _time(current) + max(1.5 / frames_per_second, 0.1):
            break
        if shown is not current:
            image, shown = _upright(current, size), current
        index += 1
        yield image
    while True:
        yield None


def _time(frame: Any) -> float:
    return float(frame.time or 0.0)


def _upright(frame: Any, size: tuple[int, int]) -> np.ndarray:
    turns = round(frame.rotation / 90) % 4
    width, height = size[::-1] if turns % 2 else size
    shrinks = width < frame.width
    small = frame.reformat(width, height, "bgr24", interpolation="AREA" if shrinks else "BICUBIC")
    image = small.to_ndarray()
    # The rotation is counter-clockwise, as is that of rot90.
    return np.ascontiguousarray(np.rot90(image, turns)) if turns else image


def _decoded(path: str) -> Iterator[Any]:
    av = _av()
    if not os.path.isfile(path):
        raise UserError(f"There is no video {path}; name a file.")
    try:
        with av.open(path) as container:
            if not container.streams.video:
                raise UserError(f"{path} has no video track; name a file with one.")
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            frames = container.decode(stream)
            while True:
                try:
                    frame = next(frames)
                except StopIteration:
                    return
                except av.error.InvalidDataError:  # a damaged place, or a file cut short
                    continue
                yield frame
    except av.error.FFmpegError as error:
        raise UserError(f"{path} cannot be read as video ({error.strerror}).") from error


@contextlib.contextmanager
def encoder(
    path: str,
    frames_per_second: float,
    size: tuple[int, int],
    *,
    crf: int = 20,
    bit_rate: int | None = None,
    key_frame_every: int | None = None,
) -> Iterator[Callable[[np.ndarray], None]]:
    """Writes H.264 in an mp4 that players can begin to show before they have all of it.

    Args:
        path: of the file.
        frames_per_second: the rate.
        size: (width, height), even numbers.
        crf: quality, smaller is better; used without a bit rate.
        bit_rate: bits per second.
        key_frame_every: frames; fewer make it quick to jump to.

    Yields:
        What takes one frame after the other, uint8 (height, width, 3) BGR.

    Raises:
        UserError: the file cannot be written.
    """
    av = _av()
    parent = os.path.dirname(os.path.abspath(path))
    try:
        os.makedirs(parent, exist_ok=True)
        container = av.open(path, "w", format="mp4", options={"movflags": "faststart"})
    except OSError as error:  # PyAV's errors are OSErrors too
        raise UserError(f"{path} cannot be written ({error.strerror}).") from error
    with container:
        rate = Fraction(frames_per_second).limit_denominator(1001)
        stream = container.add_stream("libx264", rate=rate)
        stream.width, stream.height = size
        stream.pix_fmt = "yuv420p"
        stream.options = {"preset": "veryfast"}
        if bit_rate is None:
            stream.options = {**stream.options, "crf": str(crf)}
        else:
            stream.bit_rate = bit_rate
        if key_frame_every is not None:
            stream.codec_context.gop_size = key_frame_every

        def add(image: np.ndarray) -> None:
            frame = av.VideoFrame.from_ndarray(image, format="bgr24")
            container.mux(stream.encode(frame))

        yield add
        container.mux(stream.encode())
