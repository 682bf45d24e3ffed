"""Poses while a video arrives, from a pipe or a camera.

Keypoints go through the network frame by frame (`pose_jax.models.streaming`). Where frames arrive
faster than they can be looked at, some are left out, so that poses do not come later and later; the
network still sees its own frame rate, by interpolation.
"""

import collections
import time
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pose_jax.lifter import POSE, Lifter
from pose_jax.models import streaming
from pose_jax.motion import upright
from pose_jax.skeletons import BLAZEPOSE_33, joint_map
from pose_jax.video import blazepose_files, decode, lifting
from pose_jax.video.blazepose import BlazePose
from pose_jax.video.finder import Finder
from pose_jax.video.joints import converted
from pose_jax.video.tracking import Tracker

LATEST = 0.25
"""Seconds that a frame may be late before it is left out."""

_DECIMALS = 4


def lines(
    *, camera: int | None, lifter: Lifter, blazepose: str | None, field_of_view: float
) -> Iterator[dict[str, Any]]:
    """What is seen, a dictionary per frame that was looked at.

    Args:
        camera: its number; None reads stdin.
        lifter: the networks.
        blazepose: see :func:`pose_jax.video.blazepose_files.find`.
        field_of_view: degrees along the longer side.

    Yields:
        ``time`` of the frame, seconds, and ``people``: ``id``, ``time`` of the pose (a symmetric
        network sees some frames ahead, so it is earlier) and ``joints``, name -> [x, y, z] in
        metres, z up, before the camera.
    """
    finder = Finder(BlazePose(blazepose_files.find(blazepose)))
    rate = lifter.fps or 30.0
    tracker = Tracker(round(1.5 * rate))
    people: dict[int, _Person] = {}
    network = Streamed(lifter)
    for number, frame in enumerate(punctual(_frames(camera))):
        found = finder.update(frame.image)
        size = (frame.image.shape[1], frame.image.shape[0])
        told = []
        for who, keypoints in zip(tracker.update(number, found), found, strict=True):
            if who not in people:
                people[who] = _Person(network, rate, size, field_of_view)
            told += [{"id": who + 1, **one} for one in people[who].see(frame.time, keypoints)]
        for who in [who for who, one in people.items() if frame.time - one.last > 2]:
            del people[who]
        yield {"time": round(frame.time, 4), "people": told}


def punctual(frames: Iterator[decode.Frame]) -> Iterator[decode.Frame]:
    """Frames without those that are late by the clock, counted from the first one."""
    start: float | None = None
    for frame in frames:
        now = time.monotonic()
        start = now - frame.time if start is None else start
        if now - start - frame.time <= LATEST:
            yield frame


def _frames(camera: int | None) -> Iterator[decode.Frame]:
    return decode.frames(decode.PIPE) if camera is None else decode.camera(camera)


class Streamed:
    """The pose network, ready to be pushed frames."""

    def __init__(self, lifter: Lifter) -> None:
        self.lifter = lifter
        self.model = lifter.model
        folded = streaming.fold(lifter.model, lifter.params[POSE], lifter.state[POSE])
        self.start = jax.jit(lambda x: streaming.start(lifter.model, folded, x))
        self.push = jax.jit(lambda s, x: streaming.push(lifter.model, folded, s, x))
        # Compiled before the first frame, or all that arrive meanwhile would be late.
        nobody = jnp.zeros((1, self.model.joints_in, self.model.features))
        jax.block_until_ready(self.push(self.start(nobody), nobody))


class _Person:
    """Somebody's stream."""

    def __init__(
        self, network: Streamed, rate: float, size: tuple[int, int], field_of_view: float
    ) -> None:
        self._network, self._rate = network, rate
        self._size, self._field_of_view = size, field_of_view
        self._stream: streaming.Stream | None = None
        self._waiting: collections.deque[tuple[float, np.ndarray]] = collections.deque()
        self._frame: tuple[float, np.ndarray] | None = None
        self._before: np.ndarray | None = None
        self._due = 0.0
        self.last = 0.0

    def see(self, at: float, keypoints: np.ndarray) -> list[dict[str, Any]]:
        """The newest pose that is known once these keypoints (33, 3) were seen at a time."""
        if self._before is None:
            self._due, self._before, self.last = at, keypoints, at
        result: list[dict[str, Any]] = []
        while self._due <= at + 1e-6:
            span = at - self.last
            share = 1.0 if span <= 0 else (self._due - self.last) / span
            one = self._push(self._due, self._before + share * (keypoints - self._before))
            result = [one] if one is not None else result
            self._due += 1 / self._rate
        self._before, self.last = keypoints, at
        return result

    def _push(self, at: float, keypoints: np.ndarray) -> dict[str, Any] | None:
        network, lifter = self._network, self._network.lifter
        wanted = converted(keypoints, BLAZEPOSE_33, lifter.keypoint_layout)
        x = jnp.asarray(self._framed(wanted)[None, :, : network.model.features])
        if self._stream is None:
            self._stream = network.start(x)
        self._stream, y = network.push(self._stream, x)
        self._waiting.append((at, keypoints))
        if len(self._waiting) <= network.model.pad_after:
            return None
        then, seen = self._waiting.popleft()
        pose = np.asarray(y, np.float64)
        same = joint_map(lifter.skeleton, BLAZEPOSE_33)
        joints, points = list(same), list(same.values())
        place = lifting.placed(
            pose[:, joints], seen[None, points], self._size, 1.0, self._field_of_view
        )
        named = zip(lifter.skeleton.joints, upright(pose[0] + place), strict=True)
        return {
            "time": round(then, 4),
            "joints": {name: np.round(where, _DECIMALS).tolist() for name, where in named},
        }

    def _framed(self, keypoints: np.ndarray) -> np.ndarray:
        """As :func:`pose_jax.video.lifting.framed`, by averages over the past second."""
        low, high = keypoints[:, :2].min(axis=0), keypoints[:, :2].max(axis=0)
        size, middle = max(float(np.hypot(*(high - low))), 1.0), (low + high) / 2
        if self._frame is not None:
            share = min(1.0, 1 / self._rate)
            size = self._frame[0] + share * (size - self._frame[0])
            middle = self._frame[1] + share * (middle - self._frame[1])
        self._frame = size, middle
        result = keypoints.astype(np.float32)
        result[:, :2] = lifting.FRAMED * (keypoints[:, :2] - middle) / size
        return result
