"""Evaluates a pose lifter as the paper's tables do: all errors by action, in mm.

    python -m pose_jax.evaluate --config=experiments/pose/h36m.py:243 --checkpoint=DIR
    python -m pose_jax.evaluate --config=... --checkpoint=DIR --by=subject --output=results.json

Protocol 1 is MPJPE, 2 P-MPJPE (after a rigid alignment with scale), 3 N-MPJPE (after an optimal
scale); MPJVE is the velocity error, in mm per frame. Averages are over the frames of an action,
then over actions. What is measured and how is in config.evaluations and config.measure; the
checkpoint is a run of ours or the result of pose_jax.convert.
"""

import json
import sys
from collections.abc import Mapping

import jax
from absl import flags
from etils import epath

from pose_jax.data.views import read_views
from pose_jax.lifter import load_lifter
from pose_jax.measure import make_evaluation
from pose_jax.task import check_model
from pose_jax.train_config import PoseTrainConfig
from train_jax import hosts, main
from train_jax.errors import UserError
from train_jax.evaluation import make_evaluator
from train_jax.mesh import make_mesh
from train_jax.sharding import batch_shards, replicated

_CHECKPOINT = flags.DEFINE_string("checkpoint", None, "A run's directory, or one checkpoint of it.")
_BY = flags.DEFINE_enum(
    "by",
    "action",
    ["action", "subject", "subject and action", "camera"],
    "The columns of the table.",
)
_OUTPUT = flags.DEFINE_string("output", None, "A JSON file to write all figures to.")

ERRORS = {
    "mpjpe": "P1 MPJPE",
    "p_mpjpe": "P2 P-MPJPE",
    "n_mpjpe": "P3 N-MPJPE",
    "mpjve": "MPJVE",
    "trajectory": "trajectory",
}

Results = dict[str, dict[str, float]]


def evaluate(config: PoseTrainConfig, checkpoint: str) -> Results:
    """All errors of a checkpoint, by split; see :func:`pose_jax.measure.summarise` for the names.

    Raises:
        UserError: the checkpoint does not fit the config's data, or there is nothing to evaluate.
    """
    if not config.evaluations:
        raise UserError("The config has no evaluations; add a split to config.evaluations.")
    lifter = load_lifter(checkpoint)
    mesh = make_mesh(config.mesh)
    results: Results = {}
    with jax.set_mesh(mesh):
        params, state = jax.device_put((lifter.params, lifter.state), replicated(mesh))
        for name, chosen in config.evaluations.items():
            views = read_views(chosen, "positions", data_dir=config.data_dir)
            check_model(lifter.model, views)
            for ours, theirs in (
                (lifter.keypoint_layout, views.keypoint_layout),
                (lifter.skeleton, views.skeleton),
            ):
                if ours != theirs:
                    raise UserError(
                        f"The checkpoint was made for {ours.name} joints, and {chosen.keypoints} "
                        f"has {theirs.name if theirs else 'none'}; evaluate it on data like those "
                        "that it was trained on."
                    )
            if lifter.longest_side != chosen.longest_side:
                raise UserError(
                    f"The checkpoint was trained with longest_side={lifter.longest_side}; set it "
                    f"so in config.evaluations.{name} too."
                )
            evaluation = make_evaluation(
                views,
                lifter.model,
                config.measure,
                trajectory=lifter.has_trajectory,
                shards=batch_shards(mesh),
                detail=True,
            )
            results[name] = make_evaluator(evaluation, mesh)(params, state)
    return results


def table(results: Mapping[str, Mapping[str, float]], by: str = "action") -> str:
    """The results as the paper's tables: a line per error, a column per group, the average last."""
    lines: list[str] = []
    for split, values in results.items():
        groups = [
            name.partition(f"mpjpe/{by}/")[2] for name in values if name.startswith(f"mpjpe/{by}/")
        ]
        widths = [max(len(group), 6) for group in groups]
        head = "  ".join(group.rjust(w) for group, w in zip(groups, widths, strict=True))
        lines.append(f"{split}, {values['examples']:,.0f} frames")
        lines.append(f"{'mm':12}{head}{'Avg':>8}")
        for name, title in ERRORS.items():
            if name not in values:
                continue
            cells = [values.get(f"{name}/{by}/{group}") for group in groups]
            row = "  ".join(
                ("-" if cell is None else f"{cell:.1f}").rjust(w)
                for cell, w in zip(cells, widths, strict=True)
            )
            lines.append(f"{title:12}{row}{values[name]:8.1f}")
    return "\n".join(lines) + "\n"


def _command() -> int:
    config = main.read_config(PoseTrainConfig)
    if not _CHECKPOINT.value:
        raise UserError("--checkpoint is missing; name a run's directory.")
    results = evaluate(config, _CHECKPOINT.value)
    if hosts.is_main():
        sys.stdout.write(table(results, _BY.value))
        if _OUTPUT.value:
            epath.Path(_OUTPUT.value).write_text(json.dumps(results, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    main.launch(_command, __doc__ or "")
