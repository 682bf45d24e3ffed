"""Result records: what an evaluation measured, of which weights, and how to get it again.

    WORKDIR/results/20261125T024118.123456Z-step10000.result.json

A file per evaluation, written by process 0 in one motion: by the evaluation at the end of a run,
and by the evaluate commands of the packages. `python -m experiments.tables` reads them. Everything
in it is JSON, and enough to tell whether two results may stand in the same cell of a table.
"""

import dataclasses
import datetime
import hashlib
import importlib.metadata
import json
import platform
import subprocess
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from absl import logging
from etils import epath

from train_jax import hosts
from train_jax.budget import BudgetConfig, Limit, spent_of
from train_jax.config import identity, to_dict
from train_jax.errors import UserError
from train_jax.ledger_file import write_atomically
from train_jax.stored import as_path, brief, find, read_meta

FORMAT_VERSION = 2
"""Raised whenever older code could misread what newer code writes."""

DIRECTORY = "results"
SUFFIX = ".result.json"

#: Operations of training per multiply-add of a forward pass, as the ViT paper's Table 6 counts.
TRAINING_OPERATIONS = 6

_PACKAGES = ("vit-pose-jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
# Directories of a run that hold no records, and many files.
_PASSED_OVER = ("checkpoints", "tensorboard", "profile")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Record:
    """One evaluation of one set of weights.

    Attributes:
        program: what evaluated ("vit_jax.evaluate", or "train_jax.loop" at the end of a run).
        time: when, UTC, ISO 8601.
        config: the resolved config of the evaluation.
        trained: what of the training run's config decides its numbers (`config.identity`); None for
            weights that were not trained here, as converted ones.
        trained_on: fingerprint of the training data; where a teacher has labelled some of them, it
            ends in that of the teacher. None as for `trained`, and in records of format 1.
        config_hash: of `trained` (of `config`'s identity where that is None); see `hash_of`.
        splits: by name ``data`` (the data set, its split and its preprocessing, as the config has
            them), ``examples`` (how many were counted; None where that is not one number, as of a
            few-shot evaluation) and ``metrics``.
        checkpoint: the path of the weights.
        start: what the training run started from, see `start_of`; None: random parameters.
        seed: of the training run.
        step: how far it was.
        total_steps: its length.
        cost: of the run up to the checkpoint ``core_days``, ``core_seconds``, ``hours`` and
            ``goodput`` (see `budget`); ``v3_core_days``, converted as budgets are; ``exaflop``, the
            useful operations. As far as they are known.
        commit: of the code, when it lies in a git repository; "+" behind it: with changes.
        versions: of the packages and of Python.
        devices: ``platform``, ``kind``, ``count`` and ``processes`` of the evaluation.
    """

    program: str
    time: str
    config: Mapping[str, Any]
    trained: Mapping[str, Any] | None
    trained_on: str | None
    config_hash: str
    splits: Mapping[str, Mapping[str, Any]]
    checkpoint: str | None
    start: Mapping[str, Any] | None
    seed: int | None
    step: int | None
    total_steps: int | None
    cost: Mapping[str, Any]
    commit: str | None
    versions: Mapping[str, str]
    devices: Mapping[str, Any]

    @property
    def finished(self) -> bool:
        """Whether the training run was at its end, as far as is known."""
        return None in (self.step, self.total_steps) or self.step == self.total_steps


def make_record(
    program: str,
    config: Any,
    results: Mapping[str, Mapping[str, float]],
    *,
    meta: Mapping[str, Any],
    checkpoint: str | None,
    multiply_adds: float | None = None,
    data: Mapping[str, Any] | None = None,
) -> Record:
    """The record of an evaluation.

    Args:
        program: what evaluated.
        config: the dataclass of the evaluation; of its ``evaluations`` those of `results` are kept
            as the splits' data.
        results: by split, then metric; ``examples`` may be among them.
        meta: what the checkpoint says of itself (`stored.read_meta`); empty for published files.
        checkpoint: where it is.
        multiply_adds: of a forward pass over one example, for the operations of training.
        data: by split the config of its data, of splits that are not among those ``evaluations``.
    """
    trained = meta.get("identity", {}).get("config")
    known = {**(data or {}), **getattr(config, "evaluations", {})}
    splits = {
        split: {
            "data": to_dict(known.get(split)),
            "examples": int(metrics["examples"]) if "examples" in metrics else None,
            "metrics": {name: value for name, value in metrics.items() if name != "examples"},
        }
        for split, metrics in results.items()
    }
    devices = jax.devices()
    return Record(
        program=program,
        time=datetime.datetime.now(datetime.UTC).isoformat(timespec="microseconds"),
        config=to_dict(config),
        trained=trained,
        trained_on=meta.get("identity", {}).get("data"),
        config_hash=hash_of(identity(config) if trained is None else trained),
        splits=splits,
        checkpoint=checkpoint,
        start=start_of((meta.get("config") or {}).get("init_from")),
        seed=meta.get("seed"),
        step=meta.get("step"),
        total_steps=meta.get("total_steps"),
        cost=_cost(meta, multiply_adds),
        commit=commit_of(Path(__file__)),
        versions=_versions(),
        devices={
            "platform": devices[0].platform,
            "kind": devices[0].device_kind,
            "count": len(devices),
            "processes": jax.process_count(),
        },
    )


def hash_of(values: Any) -> str:
    """Sixteen hexadecimal digits of a config's JSON values, whatever the order of their keys."""
    text = json.dumps(values, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def start_of(path: str | None) -> dict[str, Any] | None:
    """What a run began with, as far as it can still be read.

    Returns:
        ``path``; for a run of ours also ``step`` and ``config`` (its identity), for a published
        file ``bytes``. None where there is none.
    """
    if not path:
        return None
    found: dict[str, Any] = {"path": path}
    try:
        file = path.rpartition(":")[0]  # behind the colon: a subtree of the file
        place = as_path(file if file.endswith(".npz") else path)
        if place.is_file():
            found["bytes"] = place.stat().length
        else:
            meta = read_meta(place)
            found |= {"step": meta.get("step"), "config": meta.get("identity", {}).get("config")}
    except (UserError, OSError) as error:
        logging.warning("What the run started from cannot be described: %s", brief(error))
    return found


def commit_of(file: Path) -> str | None:
    """The commit that a file of code is of, with "+" where tracked files have changed since.

    None without git, and for code that is not tracked, as that of an installed package.
    """

    def git(*words: str) -> str:
        # Without locks: it must not be in the way of somebody who commits.
        return subprocess.run(
            ("git", "--no-optional-locks", "-C", str(file.parent), *words),
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        ).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", file.name)
        changed = git("status", "--porcelain", "--untracked-files=no")
        return git("rev-parse", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.SubprocessError):
        return None


def directory_of(checkpoint: str) -> epath.Path | None:
    """Where records about a run's checkpoint belong: ``results`` in its working directory.

    None for a file, and for a checkpoint that does not lie in such a directory.
    """
    if as_path(checkpoint).is_file():
        return None
    parent = find(checkpoint).parent
    return parent.parent / DIRECTORY if parent.name == "checkpoints" else None


def write(record: Record, directory: epath.Path) -> epath.Path | None:
    """Writes a record; every process but the main one does nothing.

    Returns:
        The file.

    Raises:
        UserError: it cannot be written.
    """
    if not hosts.is_main():
        return None
    moment = datetime.datetime.fromisoformat(record.time).strftime("%Y%m%dT%H%M%S.%fZ")
    step = "" if record.step is None else f"-step{record.step}"
    path = directory / f"{moment}{step}{SUFFIX}"
    values = {"format_version": FORMAT_VERSION, **dataclasses.asdict(record)}
    try:
        directory.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(values, indent=1) + "\n")
    except OSError as error:
        raise UserError(
            f"The result record {path} cannot be written ({brief(error)}); name another directory."
        ) from error
    return path


def note(record: Record, directory: epath.Path) -> None:
    """Writes a record where that is possible; a result that was printed is no reason to fail."""
    try:
        write(record, directory)
    except UserError as error:
        logging.warning("%s", error)


def file_result(record: Record, directory: str | None) -> None:
    """Writes the record of an evaluate command.

    Args:
        record: with the path of its checkpoint.
        directory: what the user named; None for the ``results`` of the run that the checkpoint is
            of, if it is of a run.

    Raises:
        UserError: what the user named cannot be written.
    """
    if directory is not None:
        write(record, as_path(directory))
    elif record.checkpoint is not None and (place := directory_of(record.checkpoint)) is not None:
        note(record, place)


def read_records(directories: Sequence[str]) -> list[tuple[epath.Path, Record]]:
    """All records below some directories, in order of time.

    Raises:
        UserError: a directory that is not there; or records that are damaged, all of them named.
    """
    found, faults = [], []
    for directory in directories:
        root = as_path(directory)
        if not root.is_dir():
            raise UserError(f"There is no directory {directory}; name one with results of runs.")
        for path in _files(root):
            try:
                found.append((path, _parse(path.read_text())))
            except (OSError, ValueError) as error:
                faults.append(f"{path} ({brief(error)})")
    if faults:
        raise UserError(
            f"Damaged result records: {', '.join(faults)}; remove them and evaluate again."
        )
    return sorted(found, key=lambda pair: (pair[1].time, str(pair[0])))


def _parse(text: str) -> Record:
    values = json.loads(text)
    if not isinstance(values, dict):
        raise ValueError("it is no JSON object")
    version = values.pop("format_version", None)
    if not isinstance(version, int):
        raise ValueError("it names no format_version")
    if version > FORMAT_VERSION:
        raise UserError(
            f"A result record is of format {version} and this train_jax reads up to "
            f"{FORMAT_VERSION}; install the version that wrote it, or a newer one."
        )
    if version == 1:
        values.setdefault("trained_on", None)
    hints = typing.get_type_hints(Record)
    if values.keys() != hints.keys():
        odd = sorted(values.keys() ^ hints.keys())
        raise ValueError(f"its keys differ from those of a record by {', '.join(odd)}")
    for name, hint in hints.items():
        kinds = [typing.get_origin(kind) or kind for kind in (typing.get_args(hint) or (hint,))]
        kinds = [Mapping] if typing.get_origin(hint) is Mapping else kinds
        if not isinstance(values[name], tuple(kinds)):
            raise ValueError(f"its {name} is {values[name]!r}")
    for split, result in values["splits"].items():
        metrics = result.get("metrics") if isinstance(result, dict) else None
        numbers = isinstance(metrics, dict) and all(
            isinstance(value, (int, float)) for value in metrics.values()
        )
        if not numbers or not isinstance(result.get("examples", ""), (int, type(None))):
            raise ValueError(f"its split {split} has no metrics and examples")
    datetime.datetime.fromisoformat(values["time"])
    return Record(**values)


def _files(directory: epath.Path) -> Iterator[epath.Path]:
    for child in sorted(directory.iterdir()):
        if child.name.endswith(SUFFIX):
            if not child.name.startswith("."):  # drafts, which a kill may leave behind
                yield child
        elif child.name not in _PASSED_OVER and child.is_dir():
            yield from _files(child)


def _cost(meta: Mapping[str, Any], multiply_adds: float | None) -> dict[str, Any]:
    cost: dict[str, Any] = {}
    if "spent" in meta:
        spent = spent_of(meta)
        cost = spent.cost()
        try:
            # How often a budget of one core-day is spent.
            cost["v3_core_days"] = Limit(BudgetConfig(core_days=1.0, chip="v3")).share(spent)
        except UserError:  # of a CPU or GPU, which is not converted
            cost["v3_core_days"] = None
    batch_size = (meta.get("config") or {}).get("batch_size")
    if multiply_adds is not None and batch_size and meta.get("step"):
        examples = batch_size * meta["step"]
        cost["exaflop"] = TRAINING_OPERATIONS * multiply_adds * examples / 1e18
    return cost


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions
