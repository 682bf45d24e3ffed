r"""Keypoints of your own video, as a 2D detector writes them.

    python -m pose_jax.prepare custom --source=DETECTIONS --layout=coco \
        --width=1920 --height=1080 --fps=30 --output=data/pose/mine.npz

DETECTIONS is one of
  * a directory of Detectron dumps of videos (NAME.mp4.npz), or one of them (layout coco);
  * a directory of OpenPose, NAME_000000000000_keypoints.json and so on (openpose25, openpose18);
  * a .json of COCO's results format, as AlphaPose writes it too (coco, halpe26, ...);
  * data_2d_custom_NAME.npz of VideoPose3D;
  * an .npz or .npy of plain arrays (frames, joints, 2 or 3): pixels from the upper left corner,
    and the confidence. MediaPipe's landmarks (blazepose) are shares of the image: multiply x by its
    width and y by its height.

The most certain person of each frame is followed; --person=NUMBER follows the one that a tracker
has numbered (in "idx", "track_id" or "person_id"). Where nobody was seen, coordinates are
interpolated linearly and their confidence is 0. Frames are counted from the first that the file
names.

A model reads the layout that it was trained on; --layout says which one the detector has.

With --focal (pixels) or --fov (degrees, horizontally) the file can also be trained on without
labels, since what a pose looks like can be computed; the middle of the image is taken for the
principal point, and lens distortion is left out of account.
"""

import argparse
import math

import numpy as np

from pose_jax.cameras import Camera
from pose_jax.data import store
from pose_jax.data.keypoint_files import read_tracks
from pose_jax.data.poses import PoseSet, Recording
from pose_jax.data.tracks import Track
from pose_jax.skeletons import LAYOUTS, Layout, layout
from train_jax.errors import UserError

SHORT = {
    "coco": "coco17",
    "h36m": "h36m17",
    "mpii": "mpii16",
    "blazepose": "blazepose33",
}
"""Other names of layouts that `pose_jax.skeletons` knows."""

CAMERA = "camera"
ACTION = "video"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what this source is told on the command line."""
    names = ", ".join((*SHORT, "halpe26", "openpose25", "openpose18"))
    parser.add_argument("--source", required=True, help="the detector's file or directory")
    parser.add_argument("--output", required=True, help="file to write; must not exist")
    parser.add_argument("--layout", required=True, help=f"of the keypoints: {names}, ...")
    parser.add_argument("--width", type=int, help="of the video in pixels, if no file tells it")
    parser.add_argument("--height", type=int, help="of the video in pixels, likewise")
    parser.add_argument("--fps", type=float, help="frames per second of the video")
    parser.add_argument("--focal", type=float, help="focal length in pixels, if known")
    parser.add_argument("--fov", type=float, help="or the horizontal field of view in degrees")
    parser.add_argument("--person", type=int, help="number of the person to follow")


def run(options: argparse.Namespace) -> str:
    """Prepares the file.

    Returns:
        A line that says what there is now.

    Raises:
        UserError: the source is missing or faulty, its joints are not of the layout, the image size
            or the frame rate is not known, or the output exists.
    """
    store.refuse_existing(options.output)
    name: str = options.layout
    wanted = layout(SHORT.get(name, name))
    _require_sound(options)
    tracks = read_tracks(options.source, layout=wanted.name, person=options.person)
    for track in tracks:
        _require_fit(track, wanted, options.source)
    poses = PoseSet(
        name=f"custom, {options.source}",
        fps=options.fps,
        skeleton=None,
        keypoint_layout=wanted.name,
        source=f"Keypoints of a video, read from {options.source}.",
        cameras={track.name: {CAMERA: _camera(track, options)} for track in tracks},
        recordings=tuple(
            Recording(track.name, ACTION, None, {CAMERA: track.keypoints}) for track in tracks
        ),
    )
    store.save(options.output, poses)
    return f"{_contents(tracks, wanted)}: {options.output}"


def _require_sound(options: argparse.Namespace) -> None:
    if options.fps is None or not 0 < options.fps < math.inf:
        raise UserError("--fps: give the frames per second of the video, such as --fps=30.")
    for name in ("width", "height"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise UserError(f"--{name}={value}: give the size of the video in pixels.")
    if options.focal is not None and options.fov is not None:
        raise UserError("--focal and --fov say the same; give one of them.")
    if options.focal is not None and not 0 < options.focal < math.inf:
        raise UserError(f"--focal={options.focal:g}: give the focal length in pixels.")
    if options.fov is not None and not 0 < options.fov < 180:
        raise UserError(f"--fov={options.fov:g}: give degrees between 0 and 180, such as 60.")


def _require_fit(track: Track, wanted: Layout, source: str) -> None:
    joints = track.keypoints.shape[1]
    if joints != wanted.num_joints:
        same = [name for name, one in LAYOUTS.items() if one.num_joints == joints]
        hint = f"layouts of {joints} are {', '.join(same)}" if same else "no layout has that many"
        raise UserError(
            f"{source}: {track.name} has {joints} joints, but {wanted.name} has "
            f"{wanted.num_joints}; {hint}."
        )
    if np.abs(track.keypoints[..., :2]).max() <= 2:
        raise UserError(
            f"{source}: the coordinates of {track.name} are at most 2 and so no pixels; multiply "
            "shares of the image by its width and height."
        )


def _camera(track: Track, options: argparse.Namespace) -> Camera:
    told = track.size or (None, None)
    width = _pixels("width", options.width or told[0], track, options.source)
    height = _pixels("height", options.height or told[1], track, options.source)
    focal = options.focal
    if options.fov is not None:
        focal = width / 2 / math.tan(math.radians(options.fov) / 2)
    return Camera(
        CAMERA,
        width,
        height,
        focal=None if focal is None else (focal, focal),
        center=None if focal is None else (width / 2, height / 2),
    )


def _pixels(name: str, value: int | None, track: Track, source: str) -> int:
    if value is None:
        raise UserError(
            f"{source} does not tell the image size of {track.name}; give --{name} in pixels."
        )
    return value


def _contents(tracks: list[Track], wanted: Layout) -> str:
    frames = sum(len(track.keypoints) for track in tracks)
    filled = sum(track.filled for track in tracks)
    parts = [f"{len(tracks)} videos, {frames:,} frames of {wanted.name} keypoints"]
    if filled:
        parts.append(f"nobody was seen in {filled:,} frames, which were interpolated")
    unseen = sorted({joint for track in tracks for joint in track.unseen})
    if unseen:
        names = ", ".join(wanted.joints[joint] for joint in unseen)
        parts.append(f"never seen in a whole video: {names}")
    return "; ".join(parts)
