"""Few labels, with and without video that has none (VideoPose3D paper, Figure 5).

    python -m experiments.figures.pose_semi
    python -m experiments.figures.pose_semi --results=runs/semi

The paper's three panels: N-MPJPE at 10 frames per second with detected keypoints, MPJPE at full
rate, and MPJPE with exact keypoints, against what is labelled. Over them the runs of
experiments/pose/h36m_semi.py that were evaluated, the mean of those with equal settings. Runs on
other data (experiments/pose/cmu.py) have a panel of their own for every file of keypoints.

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
from experiments.figures.published import published
from experiments.pose import recipes
from experiments.pose.h36m_semi import FIGURE_5
from train_jax.config import to_dict
from train_jax.errors import UserError

SUPERVISED, SEMI = "supervised", "semi-supervised"
#: Panels of the paper: its row in the table of targets -> keypoints, every n-th frame, and error.
PAPER = {
    "(a) N-MPJPE, 10 FPS, CPN": ("cpn", 5, "n_mpjpe"),
    "(b) MPJPE, CPN": ("cpn", 1, "mpjpe"),
    "(c) MPJPE, ground truth": ("gt", 1, "mpjpe"),
}
_TITLES = {
    "(a) N-MPJPE, 10 FPS, CPN": "(a) CPN, 10 frames per second",
    "(b) MPJPE, CPN": "(b) CPN",
    "(c) MPJPE, ground truth": "(c) exact keypoints",
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
    labels: Sequence[str]
    paper: Mapping[str, Mapping[str, float]]
    ours: dict[str, dict[str, list[float]]]


def panels(results: Sequence[Measured]) -> list[Panel]:
    """The paper's panels, and one for every other file of keypoints among the results.

    Raises:
        UserError: none of the results is of a lifter.
    """
    chosen = [one for one in measured.newest(results) if _errors(one)]
    if results and not chosen:
        raise UserError(f"{results[0].path} holds no MPJPE; name results of pose_jax.evaluate.")
    paper = _paper_panels()
    known = _known_settings()
    others: dict[str, list[Measured]] = {}
    for one in chosen:
        kind = SUPERVISED if one.config.get("semi") is None else SEMI
        place = known.get(_setting(one.config))
        if place is None:
            others.setdefault(one.config["data"]["keypoints"], []).append(one)
            continue
        row, label = place
        paper[row].ours[kind].setdefault(label, []).append(_errors(one)[paper[row].error])
    return [*paper.values(), *(_other_panel(name, found) for name, found in others.items())]


def _errors(one: Measured) -> Mapping[str, float]:
    """Of the only split; nothing where there is none that is of poses."""
    splits = [metrics for metrics in one.splits.values() if "mpjpe" in metrics]
    return splits[0] if splits else {}


def _paper_panels() -> dict[str, Panel]:
    rows = published("pose_figure5")
    return {
        row: Panel(
            title=_TITLES[row],
            error=error,
            labels=list(rows[f"{row}: {SUPERVISED}"]),
            paper={kind: rows[f"{row}: {kind}"] for kind in (SUPERVISED, SEMI)},
            ours={SUPERVISED: {}, SEMI: {}},
        )
        for row, (_, _, error) in PAPER.items()
    }


def _known_settings() -> dict[tuple[Any, ...], tuple[str, str]]:
    """The labelled data of every point of the figure -> its panel and label."""
    columns = list(published("pose_figure5")["(b) MPJPE, CPN: supervised"])
    return {
        _setting(
            {
                "data": to_dict(
                    recipes.h36m_data(
                        keypoints, labels.subjects, fraction=labels.fraction, downsample=downsample
                    )
                )
            }
        ): (row, column)
        for row, (keypoints, downsample, _) in PAPER.items()
        for column, labels in zip(columns, FIGURE_5.values(), strict=True)
    }


def _setting(config: Mapping[str, Any]) -> tuple[Any, ...]:
    data = config["data"]
    return data["keypoints"], tuple(data["subjects"]), data["fraction"], data["downsample"]


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
    figure.legend(list(legend.values()), list(legend), loc="outside upper center", ncols=4)
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
