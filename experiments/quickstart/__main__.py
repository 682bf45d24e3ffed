"""Trains small models of both papers and prints their tables, on any machine.

    python -m experiments.quickstart [--workdir=runs/quickstart]

A Vision Transformer on real images: one run pre-trains on six of the digits; three fine-tune from
its checkpoint at a higher resolution on the other four, five labels a class; three train the same
recipe from scratch on the same labels. Then two lifters of 2D keypoints to 3D poses, on motion that
is generated from formulas: one sees a single frame, one 27. The commands that it stands for are
printed as it goes.
"""

import statistics
import sys
import time
from pathlib import Path

import ml_collections
from absl import flags

from experiments.quickstart import finetune, pretrain
from experiments.quickstart.lifting import lifting
from experiments.quickstart.workdir import make_anew
from train_jax import main
from train_jax.budget import SECONDS_PER_DAY
from train_jax.config import from_config
from train_jax.loop import Result, fit
from vit_jax.task import ViTTrainConfig, make_task

_WORKDIR = flags.DEFINE_string("workdir", "runs/quickstart", "Where the runs go; made anew.")

SEEDS = (0, 1, 2)


def quickstart(workdir: Path) -> None:
    """Runs everything and prints the tables of results."""
    make_anew(workdir)
    began = time.perf_counter()
    sys.stdout.write(images(workdir))
    sys.stdout.write(lifting(workdir))
    sys.stdout.write(f"\n{time.perf_counter() - began:.0f} seconds in all; runs are in {workdir}\n")


def images(workdir: Path) -> str:
    """Runs the Vision Transformer's half and returns its table."""
    runs = {"pre-training": [_run("pretrain.py", pretrain.get_config(), workdir / "pretrain")]}
    for row, start in (("fine-tuned", str(workdir / "pretrain")), ("from scratch", None)):
        runs[row] = []
        for seed in SEEDS:
            config = finetune.get_config(str(seed))
            config.init_from = start
            name = f"{'finetune' if start else 'scratch'}-{seed}"
            runs[row].append(_run(f"finetune.py:{seed}", config, workdir / name))
    return f"{table(runs)}\n"


def _run(file: str, config: ml_collections.ConfigDict, workdir: Path) -> Result:
    start = f" --config.init_from={config.init_from}" if config.init_from else ""
    sys.stdout.write(
        f"\npython -m vit_jax.train --config=experiments/quickstart/{file}{start} "
        f"--workdir={workdir}\n"
    )
    sys.stdout.flush()
    frozen = from_config(ViTTrainConfig, config.to_dict())
    result = fit(make_task(frozen), frozen, str(workdir))
    sys.stdout.write(f"  test accuracy {result.metrics['test/accuracy']:.1%}\n")
    return result


def table(runs: dict[str, list[Result]]) -> str:
    """One line per system, mean and standard deviation over its runs as in the paper."""
    what = {
        "pre-training": f"digits {_digits(pretrain.CLASSES)}, all labels, {pretrain.SIZE} px",
        "fine-tuned": f"digits {_digits(finetune.CLASSES)}, {finetune.SHOTS} labels a class, "
        f"{finetune.SIZE} px",
        "from scratch": "the same, without pre-training",
    }
    lines = [
        f"\n{'':14}{'accuracy':>14}{'steps':>8}{'images/s':>10}{'core-days':>12}",
    ]
    for row, results in runs.items():
        accuracy = [100 * result.metrics["test/accuracy"] for result in results]
        spread = f" ± {statistics.stdev(accuracy):.1f}" if len(accuracy) > 1 else ""
        speed = statistics.mean(result.examples_per_second for result in results)
        days = sum(sum(result.core_seconds.values()) for result in results) / SECONDS_PER_DAY
        lines.append(
            f"{row:14}{f'{statistics.mean(accuracy):.1f}{spread}':>14}{results[0].step:>8}"
            f"{speed:>10.0f}{days:>12.5f}   {what[row]}"
        )
    runs_each = f"mean ± standard deviation over {len(SEEDS)} runs"
    lines.append(f"Accuracy in % on held-out images; fine-tuning: {runs_each}.")
    return "\n".join(lines)


def _digits(classes: tuple[int, ...]) -> str:
    return ", ".join(map(str, classes))


def _command() -> None:
    quickstart(Path(_WORKDIR.value))


if __name__ == "__main__":
    main.launch(_command, __doc__ or "")
