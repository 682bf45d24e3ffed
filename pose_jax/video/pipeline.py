"""The whole way from a video file to the files of its people's poses."""

import dataclasses
import os
import sys
import time
from pathlib import Path

import numpy as np

from pose_jax import motion
from pose_jax.data.keypoint_files import read_tracks
from pose_jax.lifter import Lifter
from pose_jax.motion import Person, Scene, on_floor, upright
from pose_jax.skeletons import BLAZEPOSE_33, Layout, layout
from pose_jax.video import blazepose_files, decode, exports, lifting
from pose_jax.video.blazepose import BlazePose
from pose_jax.video.finder import Finder
from pose_jax.video.series import Series, held, one_euro, resample
from pose_jax.video.tracking import Tracker
from train_jax.errors import UserError

_MAX_RATE = 50.0  # for a lifter that does not tell the rate of its training
_MIN_SECONDS = 0.4  # of a person who counts
_PATIENCE = 1.5  # seconds for which somebody unseen is remembered


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """What the user may choose; see the flags of the command."""

    keypoints: str | None = None
    layout: str | None = None
    person: int | None = None
    smooth: bool = False
    flip: bool = True
    field_of_view: float = lifting.FIELD_OF_VIEW
    blazepose: str | None = None
    detect_every: int = 15
    frames: int | None = None
    render: bool = True
    page: bool = True

    @property
    def detector_numbers(self) -> bool:
        """Whether ``person`` is one of a detector's own numbers."""
        return self.keypoints is not None and Path(self.keypoints).suffix not in (".npz", ".npy")


@dataclasses.dataclass(frozen=True, eq=False)
class Seen:
    """What was found in a video.

    Attributes:
        people: by number, in the order of appearance.
        layout: of the keypoints.
        size: (width, height) of the upright frames.
        seconds: from the first frame to the last.
        frames: how many were looked at.
    """

    people: dict[int, Series]
    layout: Layout
    size: tuple[int, int]
    seconds: float
    frames: int


def run(video: str, output: str, *, lifter: Lifter, options: Options) -> str:
    """Reads a video and writes everything.

    Returns:
        A line on what was written.

    Raises:
        UserError: the video cannot be read, nobody is in it, there is no such person, or a file
            cannot be written.
    """
    if not 1 < options.field_of_view < 170:
        raise UserError(f"--fov={options.field_of_view:g}: give degrees, such as 60.")
    if options.detect_every < 1:
        raise UserError(f"--detect_every={options.detect_every}: give a number of frames.")
    about = decode.outline(video)
    directory = _directory(output)
    rate = lifter.fps or min(about.rate or 30.0, _MAX_RATE)
    began = time.monotonic()
    if options.keypoints is None:
        seen = look(video, rate, about, options)
    else:
        seen = read_keypoints(video, about, options)
    found = time.monotonic()
    scene = lifted(seen, lifter, rate, options, video)
    motion.write(directory / "poses.npz", scene)
    exports.write_json(directory / "poses.json", scene)
    exports.write_csv(directory / "poses.csv", scene)
    written = ["poses.npz", "poses.json", "poses.csv"]
    if scene.layout.parents is not None:
        written += [path.name for path in exports.write_bvh(directory, scene)]
    if options.render:
        from pose_jax import render

        render.write(scene, str(directory / "poses.mp4"), video=video)
        written.append("poses.mp4")
    if options.page:
        from pose_jax import viewer

        viewer.write(scene, str(directory / "page.html"), video=video, title=Path(video).name)
        written.append("page.html")
    speed = seen.frames / max(found - began, 1e-9)
    return (
        f"{len(scene.people)} people, {scene.num_frames:,} poses at {rate:g} per second "
        f"({seen.frames:,} frames looked at, {speed:.1f} per second); the camera is taken to be "
        f"level, with a field of view of {options.field_of_view:g} degrees: {directory} has "
        f"{', '.join(written)}"
    )


def look(video: str, rate: float, about: decode.Outline, options: Options) -> Seen:
    """Finds and follows people by BlazePose.

    Frames are left out where there are more than 1.5 times as many as the model needs.
    """
    finder = Finder(BlazePose(blazepose_files.find(options.blazepose)), every=options.detect_every)
    tracker = Tracker(round(_PATIENCE * min(rate, about.rate or rate)))
    step = 1 / rate if (about.rate or 0) > 1.5 * rate else 0.0
    times: dict[int, list[float]] = {}
    keypoints: dict[int, list[np.ndarray]] = {}
    due, looked, last, size = 0.0, 0, 0.0, (0, 0)
    for frame in decode.frames(video):
        if frame.time < due - step / 2:
            continue
        if options.frames is not None and looked >= options.frames:
            break
        due = max(due + step, frame.time + step / 2)
        people = finder.update(frame.image)
        for number, points in zip(tracker.update(looked, people), people, strict=True):
            times.setdefault(number, []).append(frame.time)
            keypoints.setdefault(number, []).append(points)
        last, looked = frame.time, looked + 1
        size = (frame.image.shape[1], frame.image.shape[0])
        _progress(frame.time, about.seconds, len(people))
    _progress(None, None, 0)
    people = {
        number: Series(np.array(times[number]), np.array(keypoints[number])) for number in times
    }
    return Seen(people, BLAZEPOSE_33, size, last, looked)


def read_keypoints(video: str, about: decode.Outline, options: Options) -> Seen:
    """Keypoints of another detector's file, a frame per frame of the video.

    Somebody with no confidence at all in a frame is not there.
    """
    if options.layout is None:
        raise UserError("--keypoints needs --layout, such as --layout=coco17.")
    if not about.rate:
        raise UserError(f"{video} does not tell its frame rate, which --keypoints needs.")
    points = layout(options.layout)
    tracks = read_tracks(
        options.keypoints or "",
        layout=points.name,
        person=options.person if options.detector_numbers else None,
    )
    first = next(decode.frames(video))
    people, frames = {}, 0
    for number, track in enumerate(tracks):
        if track.keypoints.shape[1] != points.num_joints:
            raise UserError(
                f"{options.keypoints} has {track.keypoints.shape[1]} joints, but {points.name} has "
                f"{points.num_joints}; give another --layout."
            )
        values = track.keypoints[: options.frames].astype(np.float64)
        if values.shape[-1] == 2:
            values = np.concatenate([values, np.ones_like(values[..., :1])], axis=-1)
        frames = max(frames, len(values))
        there = values[..., 2].max(axis=1) > 0
        people[number] = Series(np.flatnonzero(there) / about.rate, values[there])
    size = (first.image.shape[1], first.image.shape[0])
    return Seen(people, points, size, (frames - 1) / about.rate, frames)


def lifted(seen: Seen, lifter: Lifter, rate: float, options: Options, video: str) -> Scene:
    """Poses of everybody who is there long enough, in a common time."""
    shortest = min(_MIN_SECONDS, seen.seconds / 2)
    chosen = [
        series
        for _, series in sorted(seen.people.items())
        if len(series.times) > 1 and series.times[-1] - series.times[0] >= shortest
    ]
    if not chosen:
        raise UserError(
            f"{video}: no person was found in {seen.frames:,} frames; people must be seen from "
            "head to feet, and large enough. --keypoints takes those of another detector."
        )
    names = [f"person {number}" for number in range(1, len(chosen) + 1)]
    if options.person is not None and not options.detector_numbers:
        if not 1 <= options.person <= len(chosen):
            raise UserError(
                f"--person={options.person}: {len(chosen)} people were found; give 1 to "
                f"{len(chosen)}."
            )
        names = [names[options.person - 1]]
        chosen = [chosen[options.person - 1]]
    grid = np.arange(int(seen.seconds * rate + 1e-6) + 1) / rate
    people = []
    for name, series in zip(names, chosen, strict=True):
        keypoints = resample(series, grid)
        there = np.isfinite(keypoints[:, 0, 0])
        if not there.any():
            continue
        poses = lifting.poses(
            lifter,
            held(keypoints),
            seen.layout,
            seen.size,
            rate,
            flip=options.flip,
            field_of_view=options.field_of_view,
        )
        poses[~there] = np.nan
        if options.smooth:
            poses = one_euro(poses, rate)
        poses = on_floor(upright(poses)).astype(np.float32)
        pixels = keypoints.astype(np.float32)
        confidence = np.nan_to_num(pixels[..., 2])
        people.append(Person(name, poses, pixels[..., :2], confidence))
    return Scene(tuple(people), lifter.skeleton, seen.layout, rate, seen.size)


def _directory(output: str) -> Path:
    path = Path(output)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{output} cannot be made: {error.strerror or error}.") from error
    if not os.access(path, os.W_OK):
        raise UserError(f"{output} cannot be written into; give another --output.")
    return path


def _progress(at: float | None, of: float | None, people: int) -> None:
    """A bar on a terminal; ``at`` None ends it."""
    if not sys.stderr.isatty():
        return
    if at is None:
        sys.stderr.write("\r\x1b[K")
        return
    share = min(1.0, at / of) if of else 0.0
    bar = ("#" * round(30 * share)).ljust(30, ".")
    sys.stderr.write(f"\r[{bar}] {at:7.1f} s  {people} people ")
    sys.stderr.flush()
