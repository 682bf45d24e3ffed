"""A directory of motion capture files, ASF/AMC or BVH, as clips for the open benchmark.

What a file is, its place tells: DIR/train/ACTION/NAME.bvh and DIR/test/ACTION/NAME.bvh (or .amc).
Files anywhere else that are named as in the CMU database, SUBJECT_TRIAL.amc, are what
`pose_jax.data.cmu_trials` says of that recording; those that it does not list are left out.

The skeleton of SUBJECT_TRIAL.amc is SUBJECT.asf in the same directory; an .amc file of another name
moves the only .asf there.
"""

import os
import re
import zipfile
import zlib
from pathlib import Path

import numpy as np

from pose_jax.data import asf_amc, bvh, cmu_trials
from pose_jax.data.asf_amc import Skeleton
from pose_jax.data.clips import SPLITS, Clips, resample
from train_jax.errors import UserError

_NUMBERED = re.compile(r"(\d+)_(\d+)")


def read_directory(
    directory: str | os.PathLike[str], *, fps: float, metres: float = bvh.CMU_UNIT
) -> tuple[Clips, int]:
    """Reads every motion that has a place in the benchmark.

    Args:
        directory: with .amc files; with .bvh files if it has none of those.
        fps: frames per second of the clips; no file may have fewer.
        metres: length of the unit of .bvh files. Those of .asf files tell theirs.

    Returns:
        The clips, "ACTION NAME" each, and how many files were left out.

    Raises:
        UserError: there is nothing to use, or a file is faulty.
    """
    root = Path(directory)
    paths = sorted(root.rglob("*.amc")) or sorted(root.rglob("*.bvh"))
    if not paths:
        raise UserError(f"{root} holds neither .amc nor .bvh files.")
    placed = [(path, *found) for path in paths if (found := _split_and_action(root, path))]
    if not placed:
        raise UserError(
            f"{root} holds {len(paths)} files of motion but none has a place in the benchmark; put "
            "them into train/ACTION and test/ACTION, or name them as the CMU database does "
            f"({paths[0].name} is none of its list)."
        )
    skeletons: dict[Path, Skeleton] = {}
    clips: Clips = {split: {} for split in SPLITS}
    for path, split, action in placed:
        if path.suffix == ".amc":
            clip, rate = _read_amc(path, skeletons), asf_amc.FPS
        else:
            clip, rate = bvh.read_clip(path, metres=metres)
        if fps > 1.01 * rate:
            raise UserError(
                f"{path} has {rate:g} frames per second, less than {fps:g}; give --fps={rate:g}."
            )
        name = f"{action} {path.stem}"
        if name in clips[split]:
            raise UserError(f"{path}: another file is {split} {name!r} too; rename one.")
        clips[split][name] = resample(clip, rate, fps)
    return {split: found for split, found in clips.items() if found}, len(paths) - len(placed)


def unpack(archive: str | os.PathLike[str], into: str | os.PathLike[str]) -> None:
    """Unpacks the motion files of a .zip; what is damaged does not fit its checksum (CRC-32).

    Only what the benchmark uses of the CMU database, or lies in train/ACTION or test/ACTION.

    Raises:
        UserError: it is no .zip file or damaged.
    """
    archive = os.fspath(archive)
    try:
        with zipfile.ZipFile(archive) as packed:
            for name in packed.namelist():
                if _wanted(Path(name)):
                    packed.extract(name, into)
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise UserError(f"{archive} is damaged ({error}); fetch it again.") from error
    except OSError as error:
        raise UserError(f"{archive} cannot be read: {error.strerror or error}.") from error


def _wanted(path: Path) -> bool:
    if path.suffix not in (".asf", ".amc", ".bvh"):
        return False
    return path.suffix == ".asf" or _split_and_action(Path(), path) is not None


def _split_and_action(root: Path, path: Path) -> tuple[str, str] | None:
    folders = path.relative_to(root).parts[:-1]
    if len(folders) >= 2 and folders[-2] in SPLITS:
        return folders[-2], "_".join(folders[-1].split())
    number = _NUMBERED.fullmatch(path.stem)
    return cmu_trials.split_and_action(int(number[1]), int(number[2])) if number else None


def _read_amc(path: Path, skeletons: dict[Path, Skeleton]) -> np.ndarray:
    own = path.with_name(f"{path.stem.rpartition('_')[0]}.asf")
    if not own.exists():
        beside = sorted(path.parent.glob("*.asf"))
        if len(beside) != 1 or _NUMBERED.fullmatch(path.stem):
            raise UserError(f"{path} has no skeleton; put {own.name} beside it.")
        own = beside[0]
    if own not in skeletons:
        skeletons[own] = asf_amc.read_skeleton(own)
    return asf_amc.read_motion(path, skeletons[own])
