r"""Accuracy against the size of the pre-training data (ViT paper, Figures 3 and 4).

    python -m experiments.figures.data_size
    python -m experiments.figures.data_size --results=9M=runs/a,30M=runs/b,90M=runs/c \
        --metric=fewshot_imagenet2012/5shot

Figure 3: ImageNet accuracy of Vision Transformers that were pre-trained on ImageNet, ImageNet-21k
and JFT-300M (the paper's Table 5), and over them, full, what was measured with the same recipes (as
`python -m experiments.tables vit_table5` finds them). Figure 4, a study with parts of one data set,
was published without numbers. Here results whose name is a number of examples (30M, 300k, 1797) are
drawn against it, a curve per model: the metric SPLIT/NAME of their records, a mean over runs.

Written are figures/data_size.png, .pdf and .csv.
"""

import re
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from absl import flags

from experiments.figures import canvas, measured
from experiments.figures.measured import Measured
from experiments.tables.match import cells_of
from experiments.vit.datasets import DATASETS
from train_jax.config import from_config
from train_jax.errors import UserError
from vit_jax.models.config import ViTConfig
from vit_jax.recognise import variant_name

TABLE = "vit_table5"
#: As the table calls them, and as they are in `DATASETS`.
PRETRAINING = {
    "ImageNet": "imagenet2012",
    "ImageNet-21k": "imagenet21k",
    "JFT-300M": "jft300m",
}
_UNITS = {"": 1, "k": 10**3, "M": 10**6, "B": 10**9}


def figure_3(results: Sequence[Measured]) -> list[dict[str, Any]]:
    """ImageNet accuracy by model and pre-training data, as published and as measured."""
    points = []
    for cell in cells_of(TABLE, [one.record for one in results if one.record is not None]):
        data, _, task = cell.target.row.partition(": ")
        if task != "ImageNet":
            continue
        values = list(cell.values.values())
        found = [("paper", cell.target.value, 1)]
        found += [("measured", statistics.fmean(values), len(values))] if values else []
        points += [
            _point("Figure 3", cell.target.column, data, _size(data), source, value, runs)
            for source, value, runs in found
        ]
    return points


def study(results: Sequence[Measured], metric: str) -> list[dict[str, Any]]:
    """Accuracy by model and number of examples, of the results that have one for a name.

    Raises:
        UserError: none of the records of a named result has the metric, or a name is no number.
    """
    by_name: dict[str, list[Measured]] = {}
    for one in measured.newest(results):
        if one.named:
            by_name.setdefault(one.name, []).append(one)
    split, _, wanted = metric.rpartition("/")
    groups: dict[tuple[str, int], list[float]] = {}
    for name, ones in by_name.items():
        size = parse_count(name)
        having = [one for one in ones if wanted in one.splits.get(split, {})]
        if not having:
            known = dict.fromkeys(
                f"{where}/{what}"
                for one in ones
                for where, metrics in one.splits.items()
                for what in metrics
            )
            raise UserError(
                f"The results {name} have no {metric}; give one of {', '.join(known)} as --metric."
            )
        for one in having:
            key = (_model_name(one.config), size)
            groups.setdefault(key, []).append(one.splits[split][wanted])
    return [
        _point("Study", model, "", size, "measured", 100 * statistics.fmean(values), len(values))
        for (model, size), values in sorted(groups.items())
    ]


def parse_count(text: str) -> int:
    """A number of examples from "30M", "300k" or "1797".

    Raises:
        UserError: it is none.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([kMB]?)", text)
    count = round(float(match[1]) * _UNITS[match[2]]) if match else 0
    if count < 1:
        raise UserError(
            f"--results: {text!r} is not a number of examples such as 30M, 300k or 1797."
        )
    return count


def _count_text(count: int) -> str:
    """The shortest way that :func:`parse_count` reads: 30M, 1.5k, 300."""
    unit, factor = max(
        ((unit, factor) for unit, factor in _UNITS.items() if factor <= count),
        key=lambda pair: pair[1],
    )
    return f"{count / factor:.4g}{unit}"


def _size(data: str) -> int:
    return DATASETS[PRETRAINING[data]].num_examples


def _model_name(config: Mapping[str, Any]) -> str:
    """That of a ViT where it has one, or the kind of the model."""
    model = config.get("model") or {}
    if model.get("name") != "vit":
        return str(model.get("name", "model"))
    vit = from_config(ViTConfig, dict(model))
    return f"ViT-{variant_name(vit) or f'{vit.width}x{vit.depth}'}"


def _point(
    panel: str, model: str, data: str, size: int, source: str, accuracy: float, runs: int
) -> dict[str, Any]:
    return {
        "panel": panel,
        "model": model,
        "data": data,
        "examples": size,
        "source": source,
        "accuracy": accuracy,
        "runs": runs,
    }


def draw(
    first: Sequence[Mapping[str, Any]], second: Sequence[Mapping[str, Any]], metric: str
) -> canvas.Drawing:
    """Figure 3, and the study where there is one; the paper's points are hollow, ours full.

    Args:
        first: as :func:`figure_3` gives them.
        second: as :func:`study` gives them.
        metric: of the second.
    """
    shown = [first, second] if second else [first]
    figure = canvas.new_figure(canvas.WIDTH if second else 3.4, 2.8)
    axes = figure.subplots(1, len(shown), squeeze=False)[0]
    models = list(dict.fromkeys(point["model"] for points in shown for point in points))
    legend: dict[str, Any] = {}
    for axis, points in zip(axes, shown, strict=True):
        for i, model in enumerate(models):
            for source in ("paper", "measured"):
                chosen = [p for p in points if (p["model"], p["source"]) == (model, source)]
                if not chosen:
                    continue
                colour, mark = canvas.COLOURS[i % 7], canvas.MARKS[i % 7]
                paper = source == "paper"
                legend[f"{model}{' (paper)' if paper else ''}"] = axis.plot(
                    [point["examples"] for point in chosen],
                    [point["accuracy"] for point in chosen],
                    f"{mark}-" if paper or points is second else mark,
                    color=colour,
                    markerfacecolor="white" if paper else colour,
                    markersize=4 if paper else 6,
                )[0]
        axis.set_xscale("log")
        axis.grid(axis="y")
    axes[0].set_xticks([_size(data) for data in PRETRAINING], list(PRETRAINING))
    axes[0].minorticks_off()
    axes[0].margins(x=0.12)
    axes[0].set_xlabel("Pre-training data set")
    axes[0].set_ylabel("ImageNet top-1 accuracy (%)")
    if second:
        sizes = sorted({point["examples"] for point in second})
        axes[1].set_xticks(sizes, [_count_text(size) for size in sizes])
        axes[1].minorticks_off()
        axes[1].set_xlabel("Number of training examples")
        axes[1].set_ylabel(f"{metric} (%)")
    figure.legend(list(legend.values()), list(legend), loc="outside upper center", ncols=3)
    rows = [
        {**point, "accuracy": f"{point['accuracy']:.4f}"} for points in shown for point in points
    ]
    return canvas.Drawing(figure, rows)


def _command() -> canvas.Drawing:
    results, metric = measured.read_results(flags.FLAGS.results), flags.FLAGS.metric
    first, second = figure_3(results), study(results, metric)
    if results and not second and all(point["source"] == "paper" for point in first):
        raise UserError(
            "None of the results is of a run of the paper's Table 5; name others by their number "
            "of training examples, as in --results=30M=DIR."
        )
    return draw(first, second, metric)


if __name__ == "__main__":
    measured.define_flags()
    flags.DEFINE_string(
        "metric", "test/accuracy", "SPLIT/NAME of what is drawn of results named by a number."
    )
    canvas.launch(_command, __doc__ or "", name="data_size", flags_of=(measured.__name__,))
