"""The published figures, one a line in `targets/TABLE.csv`, each with what produces it here.

Columns of the files:

    row, column   where the figure stands; together they name it
    value, std    as printed; std is empty where none is
    unit          %, mm, mm/frame, fraction, ...; what is measured is converted to it
    runs          over how many the std is, if that is said
    source        where it is published
    status        printed: read in the source; memory: from memory of it, not laid beside it since;
                  ours: measured with this repository
    config        FILE:ARGUMENTS --config.key=value ... that trains the run; empty where nothing
                  here does, and `note` says why
    evaluate      the config that it is evaluated with, where that is another one
    start         what it starts from: the config of a pre-training run, or published:VARIANT,DATA
                  for the authors' file of a model that was pre-trained on a data set (which stands
                  for a run of ours too); empty: random parameters
    split, metric as result records name them. @exaflop, @million_parameters and @mflop_per_frame
                  follow from the config; @v3_core_days is the cost of the run; @mean:TABLE:ROW the
                  mean of a row's other figures; @published_hours says what the authors needed, for
                  plans; @mean_of_vtab the mean over the runs of all VTAB's tasks, where
                  no table has figures of the single ones. Empty: the figure is for reading
    examples      how many must have been counted, where that is known
    note          what else a reader should know
"""

import csv
import dataclasses
import functools
import math
import re
import typing
from pathlib import Path
from typing import Literal

from train_jax.errors import UserError

DIRECTORY = Path(__file__).with_name("targets")

Status = Literal["printed", "memory", "ours"]

#: What is computed of a config, without a run.
COMPUTED = ("@exaflop", "@million_parameters", "@mflop_per_frame")
#: What a unit is of the numbers in records.
SCALES = {"%": 100.0}

_COMPUTED_OR_NOT = (*COMPUTED, "@v3_core_days", "@published_hours", "@mean_of_vtab")


@dataclasses.dataclass(frozen=True)
class Table:
    """What there is to say of a table as a whole.

    Attributes:
        title: one line.
        spread: the standard deviation of a figure without one: what is within twice it of the
            published value is within noise.
        spread_source: where that comes from.
    """

    title: str
    spread: float
    spread_source: str


_OF_TABLE_2 = "the largest of the ViT paper's Table 2 with one data set, but BiT's"
_OF_RUNS = "a judgement: no deviations are published"

TABLES: dict[str, Table] = {
    "vit_table2": Table("ViT, Table 2: comparison with the state of the art", 0.15, _OF_TABLE_2),
    "vit_table5": Table("ViT, Table 5: top-1 by pre-training data set", 0.15, _OF_TABLE_2),
    "vit_table6": Table("ViT, Table 6: pre-training on JFT, the scaling study", 0.15, _OF_TABLE_2),
    "vit_table7": Table("ViT, Table 7: optimisers of ResNets", 0.15, _OF_TABLE_2),
    "vit_table8": Table("ViT, Table 8: position embeddings, 5-shot", 0.0015, _OF_TABLE_2),
    "vit_table9": Table("ViT, Table 9: VTAB-1k by task", 1.0, _OF_RUNS),
    "vit_extra": Table("ViT: further published figures", 0.15, _OF_TABLE_2),
    "vit_open": Table("ViT: small runs on open data", 0.5, _OF_RUNS),
    "pose_table1": Table("VideoPose3D, Table 1: Human3.6M by action", 0.3, _OF_RUNS),
    "pose_table2": Table("VideoPose3D, Table 2: velocity error", 0.1, _OF_RUNS),
    "pose_table3": Table("VideoPose3D, Table 3: 2D detectors", 0.3, _OF_RUNS),
    "pose_table4": Table("VideoPose3D, Table 4: HumanEva-I, P-MPJPE", 0.5, _OF_RUNS),
    "pose_table5": Table("VideoPose3D, Table 5: complexity", 0.3, _OF_RUNS),
    "pose_figure5": Table("VideoPose3D, Figure 5: few labels", 1.0, _OF_RUNS),
    "pose_ablations": Table("VideoPose3D: ablations", 0.3, _OF_RUNS),
    "pose_readme": Table("VideoPose3D: figures of its README and issues", 0.3, _OF_RUNS),
    "pose_open": Table(
        "Lifting: the open benchmark (CMU motion, simulated detections)",
        0.5,
        "half of what MPJPE of two seeds differ by at most (experiments/RESULTS.md)",
    ),
    "pose_quickstart": Table("Lifting: the quick start on generated motion", 0.5, _OF_RUNS),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Target:
    """A published figure; the module's docstring says what the fields are."""

    table: str
    row: str
    column: str
    value: float
    decimals: int
    std: float | None
    unit: str
    runs: int | None
    source: str
    status: Status
    config: str
    evaluate: str
    start: str
    split: str
    metric: str
    examples: int | None
    note: str

    @property
    def name(self) -> str:
        """Where it stands, in words."""
        return f"{self.table}: {self.row}, {self.column}"

    @property
    def runnable(self) -> bool:
        """Whether something here produces the figure."""
        return bool(self.metric) and self.metric != "@published_hours"

    @property
    def scale(self) -> float:
        """From the unit of records to that of the figure."""
        return SCALES.get(self.unit, 1.0)

    @property
    def spread(self) -> float:
        """Standard deviation for the verdict: the printed one, else that of the table.

        Never less than half of the last digit that is printed.
        """
        known = TABLES[self.table].spread if self.std is None else self.std
        return max(known, 0.5 * 10.0**-self.decimals)


def table_named(name: str) -> Table:
    """What is known of a table.

    Raises:
        UserError: there is none of that name.
    """
    if name not in TABLES:
        raise UserError(f"There is no table {name!r}; there are {', '.join(TABLES)}.")
    return TABLES[name]


@functools.cache
def targets_of(table: str) -> tuple[Target, ...]:
    """All figures of a table, in its order.

    Raises:
        UserError: there is no such table, or its file is faulty.
    """
    table_named(table)
    return parse((DIRECTORY / f"{table}.csv").read_text(encoding="utf-8"), table)


def parse(text: str, table: str) -> tuple[Target, ...]:
    """The targets of a file.

    Raises:
        UserError: a line that is not right, with its number.
    """
    reader = csv.DictReader(text.splitlines())
    names = [f.name for f in dataclasses.fields(Target) if f.name not in ("table", "decimals")]
    if reader.fieldnames != names:
        raise UserError(f"{table}.csv must have the columns {', '.join(names)}.")
    targets: dict[tuple[str, str], Target] = {}
    for fields in reader:
        try:
            target = _target(table, fields)
            if (target.row, target.column) in targets:
                raise ValueError("row and column stand there twice")
        except ValueError as error:
            raise UserError(f"{table}.csv, line {reader.line_num}: {error}.") from error
        targets[target.row, target.column] = target
    return tuple(targets.values())


def _target(table: str, fields: dict[str, str]) -> Target:
    if None in fields or None in fields.values():
        raise ValueError("it has another number of fields than the first line")
    for name in ("row", "column", "value", "unit", "source"):
        if not fields[name]:
            raise ValueError(f"{name} is empty")
    if fields["status"] not in typing.get_args(Status):
        raise ValueError(f"status is {fields['status']!r}")
    metric = fields["metric"]
    if metric.startswith("@"):
        if metric not in _COMPUTED_OR_NOT and not re.fullmatch("@mean:[^:]+:.+", metric):
            raise ValueError(f"metric is {metric!r}")
    elif bool(metric) != bool(fields["split"]):
        raise ValueError("metric and split must both be there, or neither")
    if metric and not fields["config"] and not metric.startswith("@mean:"):
        raise ValueError("a figure that is measured needs a config")
    if not metric and not fields["note"]:
        raise ValueError("a figure that is not measured needs a note that says why")
    value = fields["value"]
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"value is {value}")
    return Target(
        **{
            **fields,
            "table": table,
            "value": number,
            "decimals": len(value.partition(".")[2]),
            "std": float(fields["std"]) if fields["std"] else None,
            "runs": int(fields["runs"]) if fields["runs"] else None,
            "examples": int(fields["examples"]) if fields["examples"] else None,
        }  # pyright: ignore[reportArgumentType]
    )
