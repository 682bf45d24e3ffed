"""Clips of motion in the Human3.6M joints: the plain file that holds them, and their frame rate.

A clip file is an .npz without pickles:

    SPLIT/ACTION/CLIP   float32 (frames, 17, 3), metres in the world, z up, the floor near 0;
                        SPLIT is "train" or "test"
    fps                 0-d number, frames per second of all clips
    joint_names         (17,) texts, joints in the order of the Human3.6M layout, under any names
    parents             (17,) integers, the tree of the same layout
"""

import os
import re
import zipfile
import zlib
from collections.abc import Mapping

import numpy as np
from etils import epath

from pose_jax.skeletons import H36M_17
from train_jax.errors import UserError

#: {split: {recording: float32 (T, 17, 3), metres, z up}}
Clips = dict[str, dict[str, np.ndarray]]

SPLITS = ("train", "test")


def read_clips(path: str | os.PathLike[str]) -> tuple[Clips, float]:
    """Reads a clip file, local or gs://. Nothing in it is ever unpickled.

    Returns:
        The clips, named by action and number ("walking 3"), and their frames per second.

    Raises:
        UserError: the file is missing, damaged, of another kind, or of other joints.
    """
    path = os.fspath(path)
    arrays = _read(path)
    lacking = [name for name in ("fps", "joint_names", "parents") if name not in arrays]
    if lacking:
        raise UserError(f"{path} is no file of clips: it lacks the array {lacking[0]}.")
    fps, names, parents = (arrays.pop(name) for name in ("fps", "joint_names", "parents"))
    if fps.ndim or fps.dtype.kind not in "fiu" or not (np.isfinite(fps) and fps > 0):
        raise UserError(f"{path}: fps must be one number of frames per second, not {fps}.")
    if names.shape != (17,) or tuple(parents.tolist()) != H36M_17.parents:
        raise UserError(
            f"{path}: its joints are not the 17 of Human3.6M with their tree; arrange them in the "
            "order of the layout h36m17."
        )
    clips: Clips = {split: {} for split in SPLITS}
    for name, clip in arrays.items():
        split, recording = _title(path, name, clips)
        if clip.dtype.kind != "f" or clip.ndim != 3 or clip.shape[1:] != (17, 3):
            raise UserError(
                f"{path}: {name} is {clip.dtype}{list(clip.shape)}, not float32[frames, 17, 3]."
            )
        clips[split][recording] = clip.astype(np.float32)
    if not any(clips.values()):
        raise UserError(f"{path} holds no clips; name them SPLIT/ACTION/CLIP.")
    return {split: found for split, found in clips.items() if found}, float(fps)


def resample(clip: np.ndarray, fps: float, to: float) -> np.ndarray:
    """A clip at another frame rate, its first frame kept: linear between neighbouring frames.

    Args:
        clip: float (T, ...), at least one frame.
        fps: its frames per second.
        to: those of the result, no more than ``fps``. Where they divide it, frames are only chosen.

    Returns:
        float32 (floor((T - 1) to / fps) + 1, ...).
    """
    if fps == to:
        return np.asarray(clip, np.float32)
    # A little tolerance, so that rounding does not lose the last frame.
    count = int((len(clip) - 1) * to / fps + 1e-6) + 1
    place = np.arange(count) * (fps / to)
    before = np.minimum(place.round(9).astype(int), len(clip) - 1)
    share = np.reshape(place - before, (-1, *(1,) * (clip.ndim - 1))).clip(0, 1)
    after = clip[np.minimum(before + 1, len(clip) - 1)]
    return (clip[before] * (1 - share) + after * share).astype(np.float32)


def numbered(recordings: Mapping[str, np.ndarray], action: str, clip: str) -> str:
    """The name of a further recording of an action: "walking 3" of a clip "walking_3".

    Args:
        recordings: those that there are.
        action: one word.
        clip: the clip's own name; the number at its end is kept unless it is taken.
    """
    number = re.search(r"(\d+)$", clip)
    name = f"{action} {int(number[1]) if number else 1}"
    take = 1
    while name in recordings:
        name, take = f"{action} {take}", take + 1
    return name


def _title(path: str, name: str, clips: Clips) -> tuple[str, str]:
    parts = name.split("/")
    if len(parts) != 3 or parts[0] not in SPLITS:
        raise UserError(
            f"{path}: the array {name!r} is not named SPLIT/ACTION/CLIP with train or test first."
        )
    split, action, clip = parts
    return split, numbered(clips[split], "_".join(action.split()), clip)


def _read(path: str) -> dict[str, np.ndarray]:
    try:
        stream = epath.Path(path).open("rb")
    except (OSError, ImportError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{path} cannot be opened: {reason}.") from error
    faults = (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError)
    with stream:
        try:
            archive = np.load(stream, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise UserError(f"{path} is one array and no .npz file of clips.")
            return {name: archive[name] for name in archive.files}
        except faults as error:
            raise UserError(f"{path} is no .npz file of plain arrays ({error}).") from error
