"""Which result records stand in which cell, and what they say about the published figure.

A record counts for a figure where
  * the run was trained with the figure's config. Free are the seed, the path and place of the data,
    precision, and how the batch is split; for what is fine-tuned also the learning rate, which a
    sweep chooses. Keys that did not exist when the record was written are passed over;
  * it started from a run of the figure's pre-training config, or from the authors' file of such a
    model, which is known by its size;
  * it was measured on the figure's split with its preprocessing (a few-shot evaluation on its
    training and test images, with its number of choices and its penalty), and counted as many
    examples as the split has, where that is known. Data of another place (folder:..., tfds:...)
    stand for the published ones only with this check;
  * the run was at its end.
That a student stands in the row of its generation is in its config: training refuses labels of a
teacher of another (vit_jax/noisy_student.py).
Of several records of a seed the newest counts. Runs with several learning rates are not averaged:
those with the most seeds count (of equals, the newest).

Verdicts: a mean over n runs is within noise where it differs from the published value by no more
than twice the standard deviation: the larger of the printed one and that of the runs; where none
is printed, that of the table (`target.TABLES` says where it is from); and never less than half of
the last printed digit. What is computed of a config is within noise at 2 percent.
"""

import dataclasses
import functools
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import jax

from experiments.tables.recipe import (
    Config,
    config_of,
    exaflop_of,
    mflop_per_frame,
    million_parameters,
)
from experiments.tables.target import COMPUTED, Target, targets_of
from experiments.vit.datasets import dataset_named
from train_jax.config import differences, to_dict
from train_jax.config import identity as identity_of_config
from train_jax.errors import UserError
from train_jax.record import Record, hash_of
from vit_jax.least_squares import FEW_SHOT
from vit_jax.models import api
from vit_jax.models.variants import config_for
from vit_jax.task import ViTTrainConfig, image_shape
from vit_jax.vtab import TASKS

Verdict = Literal["within noise", "above", "below", "not run", "not made here"]

#: Keys of a training config that may differ from the figure's.
FREE_KEYS = (
    "seed", "init_from", "accumulate", "nonfinite", "transfer",
    "model.compute_dtype", "data.label_key", "data.max_labels", "data.corrupt", "data.fast_dct",
    "data.shots_seed",
    "pseudo_labels.labels", "pseudo_labels.selection", "pseudo_labels.data.source",
)  # fmt: skip
#: What a sweep on held-out data chooses, where a run starts from another.
SWEPT_KEY = "schedule.base"
#: Keys of an evaluation's data that say where they are and how they are read.
FREE_DATA_KEYS = (
    "source", "data_dir", "label_key", "max_labels", "corrupt", "threads", "workers", "cache_mib",
    "examples", "fast_dct",
)  # fmt: skip

# A share of the size of a file, for names and headers beside its arrays.
_FILE_OVERHEAD = 1e-3
_COMPUTED_SPREAD = 0.01


@dataclasses.dataclass(frozen=True)
class Cell:
    """A figure and what is known of it.

    Attributes:
        target: the published figure.
        values: what was measured, by seed, in the unit of the figure.
        verdict: see the module's docstring.
        notes: what a reader should know of records that were passed over.
    """

    target: Target
    values: Mapping[Any, float]
    verdict: Verdict
    notes: tuple[str, ...] = ()

    @property
    def mean(self) -> float | None:
        """Over the runs; None without runs."""
        return statistics.fmean(self.values.values()) if self.values else None

    @property
    def std(self) -> float | None:
        """Of the runs; None of fewer than two."""
        return statistics.stdev(self.values.values()) if len(self.values) > 1 else None

    @property
    def difference(self) -> float | None:
        """Measured minus published."""
        return None if self.mean is None else self.mean - self.target.value


def cells_of(table: str, records: Iterable[Record]) -> list[Cell]:
    """Every figure of a table with what the records say of it.

    Raises:
        UserError: there is no such table.
    """
    records = list(records)
    return [_cell(target, records) for target in targets_of(table)]


def verdict_of(target: Target, values: Sequence[float]) -> Verdict:
    """By the rule in the module's docstring."""
    if not values:
        return "not run" if target.runnable else "not made here"
    spread = target.spread
    if target.metric in COMPUTED:
        spread = _COMPUTED_SPREAD * abs(target.value)
    elif len(values) > 1:
        spread = max(spread, statistics.stdev(values))
    difference = statistics.fmean(values) - target.value
    # Rounding must not decide at the very edge.
    if abs(difference) <= 2 * spread * (1 + 1e-9):
        return "within noise"
    return "above" if difference > 0 else "below"


def _cell(target: Target, records: Sequence[Record]) -> Cell:
    values, notes = _values(target, records)
    return Cell(target, values, verdict_of(target, list(values.values())), notes)


def _values(target: Target, records: Sequence[Record]) -> tuple[dict[Any, float], tuple[str, ...]]:
    if not target.runnable:
        return {}, ()
    if target.metric in COMPUTED:
        compute = {
            "@exaflop": exaflop_of,
            "@million_parameters": million_parameters,
            "@mflop_per_frame": mflop_per_frame,
        }[target.metric]
        value = compute(target.config)
        return ({} if value is None else {"config": value}), ()
    if target.metric.startswith("@mean:"):
        return _mean(target, records), ()
    if target.metric == "@mean_of_vtab":
        return _mean_of_vtab(target, records), ()
    return _measured(target, records)


def _mean(target: Target, records: Sequence[Record]) -> dict[Any, float]:
    """The mean of the other figures of a row, for every seed that has all of them."""
    _, table, row = target.metric.split(":", 2)
    others = [
        _values(other, records)[0]
        for other in targets_of(table)
        if other.row == row and not other.metric.startswith("@")
    ]
    return _mean_by_seed(others)


def _mean_of_vtab(target: Target, records: Sequence[Record]) -> dict[Any, float]:
    """The mean over all tasks, for every seed that has them."""
    tasks = (
        dataclasses.replace(
            target, config=f"{target.config},{task}", split="test", metric="accuracy"
        )
        for task in TASKS
    )
    return _mean_by_seed([_values(task, records)[0] for task in tasks])


def _mean_by_seed(values: Sequence[Mapping[Any, float]]) -> dict[Any, float]:
    """For every seed that all of them have."""
    seeds = functools.reduce(lambda a, b: a & b, (set(each) for each in values))
    return {seed: statistics.fmean(each[seed] for each in values) for seed in sorted(seeds)}


def _measured(
    target: Target, records: Sequence[Record]
) -> tuple[dict[Any, float], tuple[str, ...]]:
    groups: dict[str, dict[Any, float]] = {}
    newest: dict[str, str] = {}
    miscounted, unfinished = [], 0
    for record in sorted(records, key=lambda record: record.time):
        value = _value(target, record)
        if value is None or not _is_run_of(target, record):
            continue
        if not record.finished:
            unfinished += 1
            continue
        counted = record.splits.get(target.split, {}).get("examples")
        if target.examples not in (None, counted):
            miscounted.append(counted)
            continue
        assert record.trained is not None
        group = hash_of(_without(record.trained, FREE_KEYS))
        groups.setdefault(group, {})[record.seed] = value * target.scale
        newest[group] = record.time
    notes = []
    if miscounted:
        counts = ", ".join(sorted({str(count) for count in miscounted}))
        notes.append(
            f"{target.row}, {target.column}: {len(miscounted)} records counted {counts} examples "
            f"rather than {target.examples} and are left out"
        )
    if unfinished:
        notes.append(f"{target.row}, {target.column}: {unfinished} runs were not at their end")
    if not groups:
        return {}, tuple(notes)
    best = max(groups, key=lambda group: (len(groups[group]), newest[group]))
    if len(groups) > 1:
        notes.append(
            f"{target.row}, {target.column}: {len(groups)} settings of what is free; the one with "
            "the most seeds is shown"
        )
    return dict(sorted(groups[best].items(), key=str)), tuple(notes)


def _value(target: Target, record: Record) -> float | None:
    """The figure's metric in a record, in the unit of records."""
    if target.metric == "@v3_core_days":
        return record.cost.get("v3_core_days")
    return record.splits.get(target.split, {}).get("metrics", {}).get(target.metric)


def _is_run_of(target: Target, record: Record) -> bool:
    """Whether a record is of a run that the figure is of, and measured as the figure was."""
    if record.trained is None:
        return False
    config, others = config_of(target.config), []
    free = FREE_KEYS + ((SWEPT_KEY,) if target.start else ())
    ours, theirs = _identity(target.config), record.trained
    if not _agree(_without(ours, (*free, "data.source")), theirs):
        return False
    if not _started_from(target.start, record.start):
        return False
    others.append((_get(ours, "data.source"), _get(theirs, "data.source")))
    evaluated = config_of(target.evaluate) if target.evaluate else config
    measured_on = record.splits.get(target.split, {}).get("data") or {}
    for part, wanted in _data_of(evaluated, target.split).items():
        data = measured_on.get(part, {}) if part else measured_on
        if not _agree(_without(wanted, FREE_DATA_KEYS), data):
            return False
        others.append((wanted.get("source"), data.get("source")))
    few = getattr(evaluated, "fewshot", None) if target.split.startswith(FEW_SHOT) else None
    how = {} if few is None else {"seeds": few.seeds, "l2": few.l2}
    if not _agree(to_dict(how), record.config.get("fewshot") or {}):
        return False
    measure = getattr(evaluated, "measure", None)
    if measure is not None and not _agree(to_dict(measure), record.config.get("measure", {})):
        return False
    counts = target.examples is not None
    return all(_stands_for(found, wanted, counts) for wanted, found in others)


def _data_of(config: Config, split: str) -> dict[str, dict[str, Any]]:
    """What a split of a config is measured on, by part ("" where it has none)."""
    name = split.removeprefix(FEW_SHOT)
    if name != split and isinstance(config, ViTTrainConfig) and config.fewshot is not None:
        return to_dict(config.fewshot.datasets[name])
    data = config.evaluations.get(split)
    return {} if data is None else {"": to_dict(data)}


def _stands_for(found: str | None, wanted: str | None, counted: bool) -> bool:
    """Whether data may be those of a figure, by their names.

    Data that nobody can download are under whatever name their owner gives them.
    """
    if found == wanted or wanted is None or found is None or wanted.startswith("user:"):
        return True
    return counted and found.startswith(("folder:", "tfds:")) and wanted.startswith("tfds:")


def _started_from(start: str, found: Mapping[str, Any] | None) -> bool:
    if not start or found is None:
        return not start and found is None
    if "bytes" in found:
        expected = 4 * _file_parameters(start)
        return abs(found["bytes"] / expected - 1) <= _FILE_OVERHEAD
    trained = found.get("config")
    command = start
    if start.startswith("published:"):
        command = f"experiments/vit/pretrain.py:{start.removeprefix('published:')}"
    try:
        wanted = _without(_identity(command), (*FREE_KEYS, "data.source"))
    except UserError:  # the authors have published models that the paper's Table 3 has not
        return False
    return trained is not None and _agree(wanted, trained)


@functools.cache
def _file_parameters(start: str) -> int:
    """How many parameters the authors' file has of a model that was pre-trained so."""
    if start.startswith("published:"):
        variant, _, data = start.removeprefix("published:").partition(",")
        model: api.ModelConfig = config_for(variant, num_classes=dataset_named(data).num_classes)
        model = dataclasses.replace(model, representation_size=model.width)
        shape = (224, 224, 3)
    else:
        config = config_of(start)
        assert isinstance(config, ViTTrainConfig)
        model, shape = config.model, image_shape(config.data)
    params, _ = jax.eval_shape(lambda key: api.init(model, key, shape), jax.random.key(0))
    return sum(leaf.size for leaf in jax.tree.leaves(params))


@functools.cache
def _identity(command: str) -> Mapping[str, Any]:
    return identity_of_config(config_of(command))


def _agree(wanted: Any, found: Any) -> bool:
    """Whether values are the same, as far as the record knows their keys."""
    if isinstance(wanted, Mapping) and isinstance(found, Mapping):
        return all(_agree(value, found[key]) for key, value in wanted.items() if key in found)
    return not differences(wanted, found)


def _without(values: Mapping[str, Any], keys: Iterable[str]) -> dict[str, Any]:
    """A nested mapping without some dotted keys."""
    result = dict(values)
    for key in keys:
        group, _, rest = key.partition(".")
        if not rest:
            result.pop(group, None)
        elif isinstance(result.get(group), Mapping):
            result[group] = _without(result[group], (rest,))
    return result


def _get(values: Mapping[str, Any], key: str) -> Any:
    for part in key.split("."):
        values = values.get(part, {}) if isinstance(values, Mapping) else {}
    return values if isinstance(values, str) else None
