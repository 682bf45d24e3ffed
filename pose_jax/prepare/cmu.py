"""The open benchmark: free motion capture, seen through the cameras of Human3.6M.

    python -m pose_jax.prepare cmu --source=CLIPS.npz --output=data/pose/cmu.npz

CLIPS.npz holds motion in the joints of Human3.6M, without pickles:

    SPLIT/ACTION/CLIP   float32 (frames, 17, 3), metres, z up; SPLIT is "train" or "test"
    fps                 frames per second of all clips
    joint_names         (17,) texts, the joints in the order of the layout h36m17
    parents             (17,) integers, the tree of that layout

Its clips become the recordings of two subjects, "train" and "test"; the first is seen by the
cameras of Human3.6M's S1, the second by those of S9. A recording is named by its action and the
clip's number, such as "walking_extra 12". What the cameras see is disturbed as by a detector (see
pose_jax/data/filming.py), so there are keypoints with confidences, and exact positions.

The motion is that of the CMU Graphics Lab Motion Capture Database (mocap.cs.cmu.edu), which was
created with funding from NSF EIA-0196217 and is free for all uses, but not to be resold as such.
"""

import argparse
import math

from pose_jax.data import store
from pose_jax.data.clips import Clips, read_clips, resample
from pose_jax.data.filming import Detector, film
from train_jax.errors import UserError

CAMERAS_OF = {"train": "S1", "test": "S9"}
"""Whose cameras of Human3.6M see the clips of a split."""

SOURCE = (
    "CMU Graphics Lab Motion Capture Database, mocap.cs.cmu.edu, created with funding from NSF "
    "EIA-0196217, free for all uses, not to be resold as such; keypoints are simulated."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what this source is told on the command line."""
    parser.add_argument("--source", required=True, help="clip file")
    parser.add_argument("--output", required=True, help="file to write; must not exist")
    parser.add_argument("--fps", type=float, help="frames per second; those of the clip file")
    parser.add_argument(
        "--noise",
        type=float,
        default=Detector.pixels,
        help="the detector's standard deviation for hips and shoulders, in pixels (%(default)s); "
        "0: exact keypoints without confidence",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the detector (%(default)s)")


def run(options: argparse.Namespace) -> str:
    """Prepares the file.

    Returns:
        A line that says what there is now.

    Raises:
        UserError: the source is missing or faulty, or the output exists.
    """
    store.refuse_existing(options.output)
    _require_sound(options)
    clips, fps = read_clips(options.source)
    rate = options.fps or fps
    clips = {
        split: {name: resample(clip, fps, rate) for name, clip in found.items()}
        for split, found in clips.items()
    }
    detector = Detector(pixels=options.noise) if options.noise else None
    poses = film(
        clips,
        cameras_of=CAMERAS_OF,
        fps=rate,
        name="cmu",
        source=SOURCE,
        detector=detector,
        seed=options.seed,
    )
    store.save(options.output, poses)
    return f"{_contents(clips, rate)}; {_noise(detector)}: {options.output}"


def _require_sound(options: argparse.Namespace) -> None:
    if options.fps is not None and not 0 < options.fps < math.inf:
        raise UserError(f"--fps={options.fps:g} is no rate; give frames per second, such as 60.")
    if not 0 <= options.noise < math.inf:
        raise UserError(f"--noise={options.noise:g} is no deviation; give pixels, such as 3.")
    if options.seed < 0:
        raise UserError(f"--seed={options.seed}: give a number from 0 on.")


def _contents(clips: Clips, fps: float) -> str:
    counts = [
        f"{len(found)} clips for {split} ({sum(map(len, found.values())):,} frames)"
        for split, found in clips.items()
    ]
    return f"{' and '.join(counts)} at {fps:g} frames per second"


def _noise(detector: Detector | None) -> str:
    if detector is None:
        return "exact keypoints"
    return (
        f"simulated detections with errors of {detector.pixels:g} (hips, shoulders), "
        f"{detector.pixels * detector.middle:.3g} (knees, elbows) and "
        f"{detector.pixels * detector.end:.3g} pixels (ankles, wrists), {detector.outliers:.1%} "
        "far off"
    )
