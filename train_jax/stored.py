"""What lies in a checkpoint directory, and how to tell whether it is whole.

    checkpoints/1000/state/...       the arrays, written by Orbax
    checkpoints/1000/meta/metadata   a JSON object: format version, step, config, ...
    checkpoints/1000/files.json      size and CRC of every file, written when they are complete

Everything here reads; `train_jax.checkpoint` writes. Paths go through `etils.epath`, so that
gs:// buckets work like local directories.

Orbax is imported on first use: it takes a second or two, which a run spends better than before
its first step.
"""

import importlib.util
import json
import logging as std_logging
import os
import re
import zlib
from types import ModuleType
from typing import Any, NoReturn

import jax
from absl import logging
from etils import epath

from train_jax import hosts
from train_jax.errors import UserError

FORMAT_VERSION = 1
"""Raised whenever older code could misread what newer code writes."""

PathLike = str | os.PathLike[str]

_INVENTORY = "files.json"


class DamagedCheckpoint(UserError):
    """A checkpoint that cannot be read to its end."""


def as_path(path: PathLike) -> epath.Path:
    """A local path or one in a bucket; a UserError if what reads buckets is not installed."""
    readers = ("gcsfs", "tensorflow")
    if str(path).startswith("gs://") and not any(map(importlib.util.find_spec, readers)):
        raise UserError(f"{path} is in a bucket, which needs gcsfs; run `pip install gcsfs`.")
    # Orbax takes local paths from the root only.
    return epath.Path(path if "://" in str(path) else os.path.abspath(path))


def find(path: PathLike) -> epath.Path:
    """The directory of one checkpoint, from any of the paths people have at hand.

    Args:
        path: a run's working directory or its `checkpoints` directory (of both, the newest is
          taken), or the directory of one step.

    Raises:
        UserError: there is no checkpoint.
    """
    root = as_path(path)
    if root.is_file():
        raise UserError(
            f"{path} is a file, not a checkpoint directory; give a run's working directory."
        )
    if not root.is_dir():
        raise UserError(f"{path} does not exist; give a run's working directory.")
    if (root / "state").is_dir() or (root / "meta").is_dir():
        return root
    for directory in (root / "checkpoints", root):
        steps = complete_steps(directory)
        if steps:
            return directory / str(steps[-1])
    raise UserError(
        f"{path} holds no complete checkpoint; give the working directory of a run that has saved."
    )


def complete_steps(directory: epath.Path) -> list[int]:
    """Steps that were saved to the end, in increasing order.

    A local checkpoint gets its name last, in one motion; a bucket cannot do that, so there the
    last thing written is a marker file.
    """
    if not directory.is_dir():
        return []
    found = [child for child in directory.iterdir() if child.name.isdigit() and child.is_dir()]
    if _is_remote(directory):
        found = [child for child in found if (child / "commit_success.txt").exists()]
    return sorted(int(child.name) for child in found)


def read_meta(path: PathLike) -> dict[str, Any]:
    """What a checkpoint says about itself.

    Args:
        path: as for `find`.

    Raises:
        UserError: no checkpoint, not one of ours, damaged, or written by newer code.
    """
    directory = find(path)
    try:
        meta = json.loads((directory / "meta" / "metadata").read_text())
    except FileNotFoundError as error:
        raise DamagedCheckpoint(
            f"{directory} has no meta/metadata: it is damaged, or train_jax did not write it; "
            "give a checkpoint of a train_jax run, or convert it with vit_jax.convert."
        ) from error
    except (OSError, ValueError) as error:
        raise_damaged(directory / "meta" / "metadata", error)
    version = meta.get("format_version") if isinstance(meta, dict) else None
    if not isinstance(version, int):
        raise UserError(
            f"{directory} was not written by train_jax (its meta names no format_version); give a "
            "checkpoint of a train_jax run."
        )
    if version > FORMAT_VERSION:
        raise UserError(
            f"{directory} is of checkpoint format {version} and this train_jax reads up to "
            f"{FORMAT_VERSION}; install the version that wrote it, or a newer one."
        )
    return meta


def read_params_shapes(path: PathLike, *, part: str = "params") -> Any:
    """Shapes and dtypes of a checkpoint's parameters, without reading them.

    Args:
        path: as for `find`.
        part: which part of the saved state.

    Returns:
        Nested dicts of `jax.ShapeDtypeStruct`.

    Raises:
        UserError: no checkpoint, not one of ours, damaged, or without this part.
    """
    directory = find(path)
    require_files(directory, contents=False)
    read_meta(directory)
    return part_of(read_shapes(directory), part, directory)


def read_shapes(directory: epath.Path) -> dict[str, Any]:
    """The saved tree of `jax.ShapeDtypeStruct`s, its dataclasses and named tuples turned to dicts.

    Raises:
        DamagedCheckpoint: it cannot be read.
    """
    try:
        tree = orbax().PyTreeCheckpointHandler().metadata(directory / "state").tree
    except Exception as error:  # Orbax does not say which it raises
        raise_damaged(directory, error)

    def is_array(node: Any) -> bool:
        return hasattr(node, "shape") and hasattr(node, "dtype")

    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), tree, is_leaf=is_array
    )


def part_of(tree: dict[str, Any], part: str, directory: epath.Path) -> Any:
    """One entry at the top of the saved tree; a UserError if it is not there."""
    if not isinstance(tree, dict) or not tree.get(part):
        raise UserError(
            f"{directory} holds no {part!r} (it holds {', '.join(sorted(tree))}); give a "
            "checkpoint of a train_jax run."
        )
    return tree[part]


def write_inventory(directory: epath.Path) -> None:
    """Notes size and CRC-32 of every file of the items.

    A reader then knows at once what is missing, cut or changed. Buckets check contents by
    themselves, so there only the sizes are noted rather than reading everything back.
    """
    entries = {
        f"{item.name}/{name}": [file.stat().length, None if _is_remote(file) else _crc(file)]
        for item in directory.iterdir()
        if item.is_dir()  # the files beside the items are Orbax's, and still change
        for name, file in _files(item).items()
    }
    (directory / _INVENTORY).write_text(json.dumps(entries, indent=1, sort_keys=True))


def require_files(directory: epath.Path, *, contents: bool) -> None:
    """Checks that every file is as it was written; all processes get the same answer.

    Without an inventory a fault is only found on reading, if at all.

    Args:
        directory: of one checkpoint.
        contents: also reads the files, which somebody who needs a small part would not want.

    Raises:
        DamagedCheckpoint: it names the file.
    """
    fault = _faulty_file(directory, contents=contents) if hosts.is_main() else None
    if not hosts.all_agree(fault is None):
        raise_damaged(directory, OSError(fault or "process 0 found a file missing or changed"))


def raise_damaged(directory: epath.Path, error: BaseException) -> NoReturn:
    """Turns what a reader met into a sentence; what is no fault of the files passes unchanged.

    A device without memory must never make a run go back to an older checkpoint.
    """
    if isinstance(error, (jax.errors.JaxRuntimeError, MemoryError)):
        raise error
    if isinstance(error, PermissionError):
        raise UserError(f"{directory} cannot be read ({brief(error)}); mend its permissions.")
    raise DamagedCheckpoint(
        f"The checkpoint {directory} is damaged ({brief(error)}); use an older one, or copy it "
        "again from its source."
    ) from error


def brief(error: BaseException) -> str:
    """The root of a chain of exceptions, on one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    # TensorStore appends its internals in brackets; what went wrong is said last before them.
    line = re.split(r" \[(?:tensorstore_spec|source locations)=", str(error).strip(), maxsplit=1)[0]
    line = line.split("\n", 1)[0]
    if len(line) > 240:
        line = f"{line[:60]} ... {line[-170:]}"
    return line if " " in line else f"{type(error).__name__} {line}"


def orbax() -> ModuleType:
    """Orbax, with its running commentary turned off."""
    import orbax.checkpoint as ocp

    # It narrates every step of a save through absl's logger; its warnings are kept.
    logger = logging.get_absl_logger()
    if _is_no_commentary not in logger.filters:
        logger.addFilter(_is_no_commentary)
    return ocp


def _is_no_commentary(record: std_logging.LogRecord) -> bool:
    inside = f"{os.sep}orbax{os.sep}" in record.pathname
    return not inside or record.levelno >= std_logging.WARNING


def _faulty_file(directory: epath.Path, *, contents: bool) -> str | None:
    inventory = directory / _INVENTORY
    if not inventory.exists():
        return None
    try:
        wanted = json.loads(inventory.read_text())
        found = _files(directory)
        for name, (size, crc) in wanted.items():
            if name not in found:
                return f"{name} is missing"
            length = found[name].stat().length
            if length != size:
                return f"{name} has {length} bytes instead of {size}"
            if contents and crc is not None and _crc(found[name]) != crc:
                return f"{name} is not as it was written"
    except (OSError, ValueError, TypeError, AttributeError) as error:
        return f"{_INVENTORY}: {brief(error)}"
    return None


def _files(directory: epath.Path) -> dict[str, epath.Path]:
    """Path below `directory` -> path, of all files."""
    files: dict[str, epath.Path] = {}
    for child in directory.iterdir():
        if child.is_dir():
            files |= {f"{child.name}/{name}": file for name, file in _files(child).items()}
        else:
            files[child.name] = child
    return files


def _crc(path: epath.Path) -> int:
    """CRC-32 of a file, read in pieces."""
    crc = 0
    with path.open("rb") as file:
        while piece := file.read(1 << 22):
            crc = zlib.crc32(piece, crc)
    return crc


def _is_remote(path: epath.Path) -> bool:
    return "://" in str(path)
