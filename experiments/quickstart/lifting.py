"""The quick start's second half: trains two lifters and prints the form of the paper's tables."""

import sys
from pathlib import Path

from experiments.quickstart import lift, motion
from pose_jax.evaluate import evaluate, table
from pose_jax.task import make_task
from pose_jax.train_config import PoseTrainConfig
from train_jax.config import from_config
from train_jax.loop import fit

MODELS = {"single-frame model": 1, "temporal model, 27 frames": 27}


def lifting(workdir: Path) -> str:
    """Runs both models and returns their tables.

    Args:
        workdir: existing directory for data and runs.
    """
    path = workdir / lift.FILE
    _say(f"\npython -m experiments.quickstart.motion --file={path}")
    made = motion.make(path)
    _say(f"  {made}")
    results = {name: _run(frames, workdir) for name, frames in MODELS.items()}
    return (
        f"\n{table(results)}Errors in mm, the last in mm per frame, by action, on people that no "
        "model was trained on.\nThe motion is generated from formulas, not recorded: "
        "compare the models, not the figures with\nother tables.\n"
    )


def _run(frames: int, workdir: Path) -> dict[str, float]:
    which = f"--config=experiments/quickstart/lift.py:{frames} --config.data_dir={workdir}"
    run = workdir / f"lift-{frames}"
    config = lift.get_config(str(frames))
    config.data_dir = str(workdir)
    frozen = from_config(PoseTrainConfig, config.to_dict())
    _say(f"\npython -m pose_jax.train {which} --workdir={run}")
    result = fit(make_task(frozen), frozen, str(run))
    _say(f"  test MPJPE {result.metrics['test/mpjpe']:.1f} mm")
    _say(f"python -m pose_jax.evaluate {which} --checkpoint={run}")
    return evaluate(frozen, str(run))["test"]


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
