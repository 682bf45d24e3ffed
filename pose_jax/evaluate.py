"""Evaluates a pose lifter as the paper's tables do: all errors by action, in mm.

    python -m pose_jax.evaluate --config=experiments/pose/h36m.py:243 --checkpoint=DIR
    python -m pose_jax.evaluate --config=... --checkpoint=DIR --by=subject --output=results.json

A result record goes to `results` in the run's directory, or to --record=DIR, for
python -m experiments.tables.

Protocol 1 is MPJPE, 2 P-MPJPE (after a rigid alignment with scale), 3 N-MPJPE (after an optimal
scale); MPJVE is the velocity error, in mm per frame. Averages are over the frames of an action,
then over actions. What is measured and how is in config.evaluations and config.measure; the
checkpoint is a run of ours or the result of pose_jax.convert.
"""

import dataclasses
import json
import sys
from collections.abc import Mapping
from typing import Any

import jax
from absl import flags
from etils import epath

from pose_jax.data.store import refuse_existing
from pose_jax.data.views import Views, read_views
from pose_jax.flops import multiply_adds
from pose_jax.lifter import Lifter, load_lifter
from pose_jax.measure import make_evaluation
from pose_jax.task import check_model
from pose_jax.train_config import PoseTrainConfig
from train_jax import hosts, main
from train_jax.budget import spent_of
from train_jax.checkpoint import require_writable
from train_jax.config import differences, to_dict
from train_jax.errors import UserError
from train_jax.evaluation import make_evaluator
from train_jax.mesh import make_mesh
from train_jax.record import file_result, make_record
from train_jax.sharding import batch_shards, replicated
from train_jax.stored import find, read_meta

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
        UserError: the checkpoint fits neither the config nor its data, or there is nothing to
            evaluate.
    """
    if not config.evaluations:
        raise UserError("The config has no evaluations; add a split to config.evaluations.")
    lifter = load_lifter(checkpoint)
    _require_same_network(lifter, config)
    splits = {
        name: read_views(chosen, "positions", data_dir=config.data_dir)
        for name, chosen in config.evaluations.items()
    }
    for name, views in splits.items():
        _require_fit(lifter, views, name, config)
        lifter.warn_of_rate(views.fps)
    mesh = make_mesh(config.mesh)
    with jax.set_mesh(mesh):
        weights = jax.device_get((lifter.params, lifter.state))
        params, state = jax.device_put(weights, replicated(mesh))
        results: Results = {}
        for name, views in splits.items():
            evaluation = make_evaluation(
                views,
                config.model,
                config.measure,
                trajectory=lifter.has_trajectory,
                shards=batch_shards(mesh),
                detail=True,
            )
            results[name] = make_evaluator(evaluation, mesh)(params, state)
    return results


def record(config: PoseTrainConfig, checkpoint: str, results: Results) -> dict[str, Any]:
    """Results, with all that is needed to get them again and what they have cost, as JSON."""
    directory = find(checkpoint)
    meta = read_meta(directory)
    cost = {"cost": spent_of(meta).cost()} if "spent" in meta else {}
    return {
        "results": results,
        "checkpoint": {"path": str(directory), "step": meta["step"]}
        | {key: meta[key] for key in ("identity", "converted_from") if key in meta}
        | cost,
        "config": to_dict(config),
    }


def _require_same_network(lifter: Lifter, config: PoseTrainConfig) -> None:
    """Dropout is not used here, and products may be of any precision."""
    free = {"dropout": config.model.dropout, "compute_dtype": config.model.compute_dtype}
    there = dataclasses.replace(lifter.model, **free)
    faults = differences(to_dict(there), to_dict(config.model), path="config.model")
    if faults:
        raise UserError(
            f"The checkpoint and the config are of different networks ({'; '.join(faults)}); name "
            "the config of the checkpoint."
        )


def _require_fit(lifter: Lifter, views: Views, split: str, config: PoseTrainConfig) -> None:
    chosen = config.evaluations[split]
    for ours, theirs in (
        (lifter.keypoint_layout, views.keypoint_layout),
        (lifter.skeleton, views.skeleton),
    ):
        if ours != theirs:
            raise UserError(
                f"The checkpoint was made for {ours.name} joints, and {chosen.keypoints} has "
                f"{theirs.name if theirs else 'none'}; evaluate it on data like those that it was "
                "trained on."
            )
    check_model(config.model, views)
    if lifter.longest_side != chosen.longest_side:
        raise UserError(
            f"The checkpoint was trained with longest_side={lifter.longest_side}; set "
            f"config.evaluations.{split}.longest_side so too."
        )


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
    given = flags.FLAGS
    if not given.checkpoint:
        raise UserError("--checkpoint is missing; name a run's directory.")
    checkpoint, output = given.checkpoint, given.output
    if output:
        refuse_existing(output)
        require_writable(epath.Path(output).parent)
    results = evaluate(config, checkpoint)
    if hosts.is_main():
        sys.stdout.write(table(results, given.by))
        if output:
            text = json.dumps(record(config, checkpoint, results), indent=2)
            epath.Path(output).write_text(f"{text}\n")
        directory = find(checkpoint)
        made = make_record(
            "pose_jax.evaluate",
            config,
            results,
            meta=read_meta(directory),
            checkpoint=str(directory),
            multiply_adds=multiply_adds(config),
        )
        file_result(made, given.record)
    return 0


def _define_flags() -> None:
    """Not on import, because other commands have flags of the same names."""
    flags.DEFINE_string("checkpoint", None, "A run's directory, or one checkpoint of it.")
    flags.DEFINE_enum(
        "by",
        "action",
        ["action", "subject", "subject and action", "camera"],
        "The columns of the table.",
    )
    flags.DEFINE_string(
        "record", None, "A directory for the result record, in the place of the run's own."
    )
    flags.DEFINE_string("output", None, "A JSON file to write everything to; must not exist.")


if __name__ == "__main__":
    _define_flags()
    main.launch(_command, __doc__ or "")
