"""What was measured here, as the commands of figures take it: result records, or files of results.

``--results`` names directories with the records that runs and evaluate commands write, or files of
``pose_jax.evaluate --output``; each may be given a name to be drawn by: ``ours=runs/ours``.
"""

import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import flags
from etils import epath

from train_jax.errors import UserError
from train_jax.record import Record, read_records


@dataclasses.dataclass(frozen=True)
class Measured:
    """One evaluation of one set of weights.

    Attributes:
        name: to draw it by: the user's, or that of the run's directory.
        named: whether the name is the user's.
        path: of the record.
        checkpoint: the path of the weights.
        config: the config of the evaluation, in JSON values.
        splits: metrics by split.
        record: the whole of it; None for a file of results.
    """

    name: str
    named: bool
    path: str
    checkpoint: str | None
    config: Mapping[str, Any]
    splits: Mapping[str, Mapping[str, float]]
    record: Record | None = None


def define_flags() -> None:
    """The flag of results."""
    flags.DEFINE_list(
        "results",
        [],
        "Directories with result records, or files of pose_jax.evaluate --output; NAME=PATH "
        "gives what is there a name in the figure.",
    )


def read_results(words: Sequence[str]) -> list[Measured]:
    """All results that some words of ``--results`` name, in order of time within each.

    Raises:
        UserError: a path that is not there, or holds nothing of the kind.
    """
    found: list[Measured] = []
    for word in words:
        # The names of directories may have a = in them.
        there = epath.Path(word).exists() or "=" not in word
        name, _, path = ("", "", word) if there else word.partition("=")
        if not path or (not name and not there):
            raise UserError(f"--results: {word!r} is not written like PATH or NAME=PATH.")
        here = [_from_file(path)] if epath.Path(path).is_file() else _from_directory(path)
        if not here:
            raise UserError(
                f"{path} holds no result records; name the directory of a run that was evaluated."
            )
        found += [dataclasses.replace(one, name=name, named=True) for one in here] if name else here
    return found


def newest(results: Sequence[Measured]) -> list[Measured]:
    """Of several evaluations of the same weights on the same splits the last."""
    kept = {(one.name, one.checkpoint, *sorted(one.splits)): one for one in results}
    return list(kept.values())


def _from_directory(path: str) -> list[Measured]:
    return [
        Measured(
            name=run_of(record.checkpoint or str(file)).name,
            named=False,
            path=str(file),
            checkpoint=record.checkpoint,
            config=record.config,
            splits={split: result["metrics"] for split, result in record.splits.items()},
            record=record,
        )
        for file, record in read_records([path])
    ]


def _from_file(path: str) -> Measured:
    """The JSON of ``pose_jax.evaluate --output``."""
    try:
        values = json.loads(epath.Path(path).read_text())
        checkpoint, config = str(values["checkpoint"]["path"]), dict(values["config"])
        splits = {split: dict(metrics) for split, metrics in values["results"].items()}
        for metrics in splits.values():
            if not all(isinstance(value, (int, float)) for value in metrics.values()):
                raise ValueError("a metric is not a number")
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(
            f"{path} is no file of results; name one of pose_jax.evaluate --output, or a directory "
            "with result records."
        ) from error
    return Measured(run_of(checkpoint).name, False, path, checkpoint, config, splits)


def run_of(checkpoint: str) -> Path:
    """The directory of a run, from that of one of its checkpoints."""
    return Path(re.sub(r"/checkpoints(/\d+)?/?$", "", checkpoint))
