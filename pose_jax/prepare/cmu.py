"""The open benchmark: free motion capture, seen through the cameras of Human3.6M.

    python -m pose_jax.prepare cmu --source=data/cmu --download --output=data/pose/cmu.npz
    python -m pose_jax.prepare cmu --source=CLIPS.npz           --output=data/pose/cmu.npz
    python -m pose_jax.prepare cmu --source=MOTIONS             --output=data/pose/cmu.npz

The motion is that of the CMU Graphics Lab Motion Capture Database (mocap.cs.cmu.edu), which was
created with funding from NSF EIA-0196217 and is free for all uses, but not to be resold as such.

--download fetches about 160 files of that database, one by one, into the directory --source: the
recordings that pose_jax/data/cmu_trials.py lists, by different subjects for train and test. It
asks not to be crawled, so do not fetch them more often than you must. The same command goes on
where a transfer was cut. CMU publishes no checksums: what arrived is recorded (SHA-256, in
manifest.json) and checked whenever it is used, which shows later damage, not a faulty transfer.

CLIPS.npz holds motion in the joints of Human3.6M, without pickles:

    SPLIT/ACTION/CLIP   float32 (frames, 17, 3), metres, z up; SPLIT is "train" or "test"
    fps                 frames per second of all clips
    joint_names         (17,) texts, the joints in the order of the layout h36m17
    parents             (17,) integers, the tree of that layout

MOTIONS is a directory, or a .zip of one, of CMU's files (NN.asf with NN_TT.amc, or NN_TT.bvh), in
any folders, of which the listed recordings are used; or of .amc or .bvh files of any origin in
train/ACTION and test/ACTION. Joints of .bvh files may be named as by MotionBuilder (also Mixamo and
the conversions of the CMU database), 3ds Max or Poser; --scale tells their unit of length.

The clips become the recordings of two subjects, "train" and "test"; the first is seen by the
cameras of Human3.6M's S1, the second by those of S9. A recording is named by its action and the
clip's number or file, such as "walking_extra 12" or "walking 07_01". What the cameras see is
disturbed as by a detector (see pose_jax/data/filming.py), so there are keypoints with confidences,
and exact positions.
"""

import argparse
import math
import sys
import tempfile
from pathlib import Path

from pose_jax.data import cmu_trials, download, motion_files, store
from pose_jax.data.bvh import CMU_UNIT
from pose_jax.data.clips import Clips, read_clips, resample
from pose_jax.data.filming import Detector, film
from train_jax.errors import UserError

FPS = 60.0
"""Frames per second of what comes from motion capture files, unless others are asked for."""

CAMERAS_OF = {"train": "S1", "test": "S9"}
"""Whose cameras of Human3.6M see the clips of a split."""

SOURCE = (
    "CMU Graphics Lab Motion Capture Database, mocap.cs.cmu.edu, created with funding from NSF "
    "EIA-0196217, free for all uses, not to be resold as such; keypoints are simulated."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what this source is told on the command line."""
    parser.add_argument("--source", required=True, help="clip file, .zip file or directory")
    parser.add_argument("--output", required=True, help="file to write; must not exist")
    parser.add_argument(
        "--fps", type=float, help=f"frames per second (the clip file's own; {FPS:g} of others)"
    )
    parser.add_argument("--download", action="store_true", help="fetch CMU's files into --source")
    parser.add_argument("--url", help=f"where to fetch them from ({cmu_trials.URL})")
    parser.add_argument(
        "--scale",
        type=float,
        default=CMU_UNIT,
        help="metres per unit of .bvh files (%(default).4g, CMU's; 0.01 for centimetres)",
    )
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
    if options.download:
        _download(Path(options.source), options.url or cmu_trials.URL)
    clips, rate, left_out = _clips(options)
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
    parts = [_contents(clips, rate), _noise(detector)]
    if left_out:
        parts.append(f"{left_out} files of motion that the benchmark does not use were left out")
    return f"{'; '.join(parts)}: {options.output}"


def _clips(options: argparse.Namespace) -> tuple[Clips, float, int]:
    """The clips, their frames per second, and how many files were left out."""
    source = Path(options.source)
    fps = options.fps or FPS
    if source.is_dir():
        download.verify_all(source)
        clips, left_out = motion_files.read_directory(source, fps=fps, metres=options.scale)
        return clips, fps, left_out
    if source.suffix == ".zip":
        with tempfile.TemporaryDirectory() as unpacked:
            motion_files.unpack(source, unpacked)
            clips, left_out = motion_files.read_directory(unpacked, fps=fps, metres=options.scale)
        return clips, fps, left_out
    clips, own = read_clips(options.source)
    fps = options.fps or own
    if fps > own:
        raise UserError(f"{source} has {own:g} frames per second, less than --fps={fps:g}.")
    return (
        {
            split: {name: resample(clip, own, fps) for name, clip in found.items()}
            for split, found in clips.items()
        },
        fps,
        0,
    )


def _download(directory: Path, url: str) -> None:
    names = list(cmu_trials.files())
    for number, name in enumerate(names, 1):
        if download.fetch(f"{url.rstrip('/')}/{name}", directory / name):
            sys.stderr.write(f"{number} of {len(names)}: {name}\n")


def _require_sound(options: argparse.Namespace) -> None:
    if options.fps is not None and not 0 < options.fps < math.inf:
        raise UserError(f"--fps={options.fps:g} is no rate; give frames per second, such as 60.")
    if options.url and not options.download:
        raise UserError("--url says where to download from; add --download or leave it out.")
    if not 0 < options.scale < math.inf:
        raise UserError(f"--scale={options.scale:g} is no length; give metres, such as 0.01.")
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
