"""Accuracy against the compute of pre-training (ViT paper, Figure 5).

    python -m experiments.figures.performance_compute
    python -m experiments.figures.performance_compute --results=runs

The paper's Vision Transformers, ResNets and hybrids (its Table 6): the average over ImageNet,
CIFAR-10, CIFAR-100, Pets and Flowers, and ImageNet alone, against exaFLOP. Over them, full, what
was measured with the same recipes (as `python -m experiments.tables vit_table6` finds them). Runs
on other data have a panel for every split that was evaluated: accuracy against the operations of
the run, or, where it started from another one among the results, of that.

Written are figures/performance_compute.png, .pdf and .csv.
"""

import dataclasses
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from absl import flags

from experiments.figures import canvas, measured
from experiments.figures.measured import Measured
from experiments.tables.match import Cell, cells_of
from experiments.tables.target import targets_of
from experiments.vit.datasets import DATASETS
from train_jax.errors import UserError

TABLE, EXAFLOP = "vit_table6", "exaFLOP of pre-training"
#: The paper's "average-5".
FIVE = ("ImageNet", "CIFAR-10", "CIFAR-100", "Pets", "Flowers")
AVERAGE = "Average of five"

FAMILIES = ("Transformer (ViT)", "Hybrid", "ResNet (BiT)", "EfficientNet")

# Of the paper's models that are close to others: right or left of the mark, above or below.
_PLACES = {
    "ViT-B/32, 7 epochs": (0, 1),
    "ViT-L/32, 7 epochs": (-1, -1),
    "ViT-H/14, 14 epochs": (-1, 1),
    "ResNet152x1, 7 epochs": (-1, 1),
    "R50x1+ViT-B/16, 7 epochs": (1, 1),
}


@dataclasses.dataclass(frozen=True)
class Point:
    """A model somewhere in the figure.

    Attributes:
        panel: the data, or AVERAGE.
        model: its name.
        family: one of FAMILIES.
        source: "paper" or "measured".
        exaflop: of pre-training.
        accuracy: in %.
        runs: over how many it is a mean.
    """

    panel: str
    model: str
    family: str
    source: str
    exaflop: float
    accuracy: float
    runs: int


def points(results: Sequence[Measured]) -> list[Point]:
    """Everything in the figure: the paper's points, those measured beside them, and other data's.

    Raises:
        UserError: there are results, but nothing of them can be drawn.
    """
    rows: dict[str, dict[str, Cell]] = {}
    for cell in cells_of(TABLE, [one.record for one in results if one.record is not None]):
        rows.setdefault(cell.target.row, {})[cell.target.column] = cell
    paper = [point for row in rows.items() for point in _of_paper(*row)]
    ours = [point for row in rows.items() for point in _beside_paper(*row)]
    ours += _elsewhere(results)
    if results and not ours:
        raise UserError(
            "None of the results is an accuracy of a run whose compute is known; name directories "
            "with the records of runs of vit_jax.train."
        )
    return paper + ours


def _of_paper(row: str, cells: Mapping[str, Cell]) -> Iterable[Point]:
    values = {name: cell.target.value for name, cell in cells.items()}
    for panel, columns in ((AVERAGE, FIVE), ("ImageNet", ("ImageNet",))):
        accuracy = statistics.fmean(values[name] for name in columns)
        yield Point(panel, row, _family_of_row(row), "paper", values[EXAFLOP], accuracy, 1)


def _beside_paper(row: str, cells: Mapping[str, Cell]) -> Iterable[Point]:
    for panel, columns in ((AVERAGE, FIVE), ("ImageNet", ("ImageNet",))):
        found = [list(cells[name].values.values()) for name in columns]
        if all(found):
            yield Point(
                panel,
                row,
                _family_of_row(row),
                "measured",
                cells[EXAFLOP].target.value,
                statistics.fmean(map(statistics.fmean, found)),
                min(map(len, found)),
            )


def _elsewhere(results: Sequence[Measured]) -> list[Point]:
    """What was measured on data that the paper's figure has not."""
    compute = {
        measured.run_of(one.checkpoint): one.record.cost["exaflop"]
        for one in results
        if one.checkpoint and one.record is not None and one.record.cost.get("exaflop")
    }
    papers = {DATASETS[name].source for name in _paper_data()}
    groups: dict[tuple[str, str, str], list[tuple[float, float]]] = {}
    for one in measured.newest(results):
        record = one.record
        if record is None or not one.checkpoint:
            continue
        start = one.checkpoint if record.start is None else record.start["path"]
        exaflop = compute.get(measured.run_of(start))
        for split, result in record.splits.items():
            source = (result["data"] or {}).get("source")
            if exaflop and source not in (None, *papers) and "accuracy" in result["metrics"]:
                key = (f"{source}, {split}", one.name, _family_of_config(one.config["model"]))
                groups.setdefault(key, []).append((exaflop, result["metrics"]["accuracy"]))
    return [
        Point(
            panel,
            name,
            family,
            "measured",
            statistics.fmean(exaflop for exaflop, _ in found),
            100 * statistics.fmean(accuracy for _, accuracy in found),
            len(found),
        )
        for (panel, name, family), found in groups.items()
    ]


def _paper_data() -> set[str]:
    """Names of the data sets that the table's models are fine-tuned on."""
    return {
        target.config.partition(":")[2].split(",")[1]
        for target in targets_of(TABLE)
        if target.column in FIVE
    }


def _family_of_row(row: str) -> str:
    if "+" in row:
        return FAMILIES[1]
    return FAMILIES[2] if row.startswith("ResNet") else FAMILIES[0]


def _family_of_config(model: Mapping[str, Any]) -> str:
    if model["name"] == "vit":
        return FAMILIES[0] if model["stem"] is None else FAMILIES[1]
    return FAMILIES[2] if model["name"] == "bit" else FAMILIES[3]


def draw(shown: Sequence[Point]) -> canvas.Drawing:
    """A panel per data set; the paper's points are hollow, ours full."""
    panels = list(dict.fromkeys(point.panel for point in shown))
    columns = min(len(panels), 2)
    lines = -(-len(panels) // columns)
    figure = canvas.new_figure(canvas.WIDTH, 2.5 * lines + 0.3)
    axes = figure.subplots(lines, columns, squeeze=False).ravel()
    for unused in axes[len(panels) :]:
        unused.remove()
    legend: dict[str, Any] = {}
    for axis, panel in zip(axes, panels, strict=False):
        for point in (point for point in shown if point.panel == panel):
            i, ours = FAMILIES.index(point.family), point.source == "measured"
            label = f"{point.family}{'' if ours else ' (paper)'}"
            legend[label] = axis.plot(
                point.exaflop,
                point.accuracy,
                canvas.MARKS[i],
                color=canvas.COLOURS[i],
                markerfacecolor=canvas.COLOURS[i] if ours else "white",
                markersize=6 if ours else 4,
            )[0]
            if not ours or panel not in (AVERAGE, "ImageNet"):
                right, up = _place(point.model)
                axis.annotate(
                    _short(point.model),
                    (point.exaflop, point.accuracy),
                    textcoords="offset points",
                    xytext=(3 * right, 2 * up if right else 4 * up),
                    ha={-1: "right", 0: "center", 1: "left"}[right],
                    va="bottom" if up > 0 else "top",
                    fontsize=5,
                    color=canvas.GREY,
                )
        axis.set_xscale("log")
        axis.margins(x=0.14, y=0.08)
        axis.set_title(panel)
        axis.set_xlabel("Pre-training compute (exaFLOP)")
        axis.set_ylabel("Accuracy (%)")
        axis.grid(axis="y")
    figure.legend(list(legend.values()), list(legend), loc="outside upper center", ncols=3)
    return canvas.Drawing(figure, [_row(point) for point in shown])


def _place(model: str) -> tuple[int, int]:
    """On which side of its mark a name stands: where no other mark or name is."""
    if model in _PLACES:
        return _PLACES[model]
    return (-1, 1) if "+" in model else (1, -1)


def _short(model: str) -> str:
    """A name that fits beside a mark."""
    name = model.partition(", ")[0]
    return name.replace("R50x1+ViT-", "R50+").replace("ViT-", "").replace("ResNet", "R")


def _row(point: Point) -> dict[str, Any]:
    row = dataclasses.asdict(point)
    return row | {"exaflop": f"{point.exaflop:.6g}", "accuracy": f"{point.accuracy:.4f}"}


def _command() -> canvas.Drawing:
    return draw(points(measured.read_results(flags.FLAGS.results)))


if __name__ == "__main__":
    measured.define_flags()
    canvas.launch(
        _command, __doc__ or "", name="performance_compute", flags_of=(measured.__name__,)
    )
