"""Few labels, with and without video that has none (VideoPose3D paper, Figure 5).

    python -m experiments.figures.pose_semi
    python -m experiments.figures.pose_semi --results=runs/semi

The paper's three panels: N-MPJPE at 10 frames per second with detected keypoints, MPJPE at full
rate, and MPJPE with exact keypoints, against what is labelled. Over them, full, the runs of
experiments/pose/h36m_semi.py as `python -m experiments.tables pose_figure5` finds their records.
Results on other data (experiments/pose/cmu.py) have a panel for every file of keypoints.

Written are figures/pose_semi.png, .pdf and .csv.
"""

import dataclasses
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from absl import flags

from experiments.figures import canvas, measured
from experiments.figures.measured import Measured
from experiments.pose import recipes
from experiments.tables.match import cells_of
from train_jax.errors import UserError
from train_jax.record import Record

SUPERVISED, SEMI = "supervised", "semi-supervised"
#: Rows of the table of targets -> the panel's title, and the error in it.
PAPER = {
    "(a) N-MPJPE, 10 FPS, CPN": ("(a) CPN, 10 frames per second", "n_mpjpe"),
    "(b) MPJPE, CPN": ("(b) CPN", "mpjpe"),
    "(c) MPJPE, ground truth": ("(c) exact keypoints", "mpjpe"),
}


@dataclasses.dataclass(frozen=True)
class Panel:
    """Curves against what is labelled.

    Attributes:
        title: of the panel.
        error: what is measured.
        labels: what is labelled, from little to much.
        paper: SUPERVISED or SEMI -> label -> mm, as published.
        ours: the same as measured; a list of runs.
    """

    title: str
    error: str
    labels: list[str]
    paper: dict[str, dict[str, float]]
    ours: dict[str, dict[str, list[float]]]


def panels(results: Sequence[Measured]) -> list[Panel]:
    """The paper's panels, and one for every other file of keypoints among the results.

    Raises:
        UserError: there are results, but nothing of them can be drawn.
    """
    paper = _paper_panels([one.record for one in results if one.record is not None])
    others: dict[str, list[Measured]] = {}
    for one in measured.newest(results):
        keypoints = (one.config.get("data") or {}).get("keypoints")
        if _errors(one) and keypoints not in (None, *recipes.H36M_KEYPOINTS.values()):
            others.setdefault(keypoints, []).append(one)
    found = [*paper, *(_other_panel(name, ones) for name, ones in others.items())]
    if results and not any(panel.ours[SUPERVISED] or panel.ours[SEMI] for panel in found):
        raise UserError(
            f"Of {results[0].path} nothing belongs here; name directories with the records of runs "
            "of experiments/pose/h36m_semi.py, or results of pose_jax.evaluate on other data."
        )
    return found


def _errors(one: Measured) -> Mapping[str, float]:
    """Of the first split that is of poses; nothing where there is none."""
    splits = [metrics for metrics in one.splits.values() if "mpjpe" in metrics]
    return splits[0] if splits else {}


def _paper_panels(records: Sequence[Record]) -> list[Panel]:
    found: dict[str, Panel] = {
        row: Panel(title, error, [], {SUPERVISED: {}, SEMI: {}}, {SUPERVISED: {}, SEMI: {}})
        for row, (title, error) in PAPER.items()
    }
    for cell in cells_of("pose_figure5", records):
        row, _, kind = cell.target.row.rpartition(": ")
        if row not in PAPER or kind not in (SUPERVISED, SEMI):
            continue
        panel, label = found[row], cell.target.column
        if label not in panel.labels:
            panel.labels.append(label)
        panel.paper[kind][label] = cell.target.value
        if cell.values:
            panel.ours[kind][label] = list(cell.values.values())
    return list(found.values())


def _other_panel(keypoints: str, results: Sequence[Measured]) -> Panel:
    """Labels are what is labelled and which share of it, from the smallest share on."""

    def order(one: Measured) -> tuple[float, float]:
        data = one.config["data"]
        return data["fraction"], len(data["actions"]) or math.inf

    ours: dict[str, dict[str, list[float]]] = {SUPERVISED: {}, SEMI: {}}
    labels: dict[str, None] = {}
    for one in sorted(results, key=order):
        data = one.config["data"]
        what = "+".join(data["actions"]) or "all"
        label = what if data["fraction"] == 1 else f"{100 * data['fraction']:g} % of {what}"
        labels[label] = None
        kind = SUPERVISED if one.config.get("semi") is None else SEMI
        ours[kind].setdefault(label, []).append(_errors(one)["mpjpe"])
    return Panel(keypoints, "mpjpe", list(labels), {}, ours)


def draw(shown: Sequence[Panel]) -> canvas.Drawing:
    """A panel per setting; the paper's values are hollow and joined, ours full."""
    columns = min(len(shown), 3)
    lines = -(-len(shown) // columns)
    figure = canvas.new_figure(canvas.WIDTH, 2.3 * lines + 0.2)
    axes = figure.subplots(lines, columns, squeeze=False).ravel()
    for unused in axes[len(shown) :]:
        unused.remove()
    rows: list[canvas.Row] = []
    legend: dict[str, Any] = {}
    for axis, panel in zip(axes, shown, strict=False):
        for i, kind in enumerate((SUPERVISED, SEMI)):
            colour, mark = canvas.COLOURS[i], canvas.MARKS[i]
            paper = panel.paper.get(kind, {})
            if paper:
                legend[f"{kind} (paper)"] = axis.plot(
                    [panel.labels.index(label) for label in paper],
                    list(paper.values()),
                    f"{mark}-",
                    color=colour,
                    markerfacecolor="white",
                )[0]
            ours = panel.ours[kind]
            if ours:
                means = {label: statistics.mean(values) for label, values in ours.items()}
                legend[kind] = axis.plot(
                    [panel.labels.index(label) for label in means],
                    list(means.values()),
                    mark,
                    color=colour,
                    markersize=6,
                )[0]
            rows += [_row(panel, kind, "paper", label, value, 1) for label, value in paper.items()]
            rows += [
                _row(panel, kind, "measured", label, statistics.mean(values), len(values))
                for label, values in ours.items()
            ]
        axis.set_title(panel.title)
        ticks = range(len(panel.labels))
        axis.set_xticks(ticks, panel.labels, rotation=90)
        axis.set_xlim(-0.5, len(panel.labels) - 0.5)
        axis.set_ylabel("N-MPJPE (mm)" if panel.error == "n_mpjpe" else "MPJPE (mm)")
        axis.grid(axis="y")
    figure.supxlabel("Labelled part", fontsize=8)
    names = sorted(legend, key=lambda name: (not name.endswith("(paper)"), name.startswith(SEMI)))
    figure.legend([legend[name] for name in names], names, loc="outside upper center", ncols=4)
    return canvas.Drawing(figure, rows)


def _row(
    panel: Panel, kind: str, source: str, label: str, value: float, runs: int
) -> dict[str, Any]:
    return {
        "panel": panel.title,
        "labelled": label,
        "training": kind,
        "source": source,
        "error": panel.error,
        "mm": f"{value:.4f}",
        "runs": runs,
    }


def _command() -> canvas.Drawing:
    return draw(panels(measured.read_results(flags.FLAGS.results)))


if __name__ == "__main__":
    measured.define_flags()
    canvas.launch(_command, __doc__ or "", name="pose_semi", flags_of=(measured.__name__,))
