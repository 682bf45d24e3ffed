"""Evaluates a checkpoint on the splits of an experiment.

    python -m vit_jax.evaluate --config=experiments/vit/finetune.py:L/16,cifar100 --checkpoint=DIR

The checkpoint is a run of ours (its averaged parameters, where it kept them) or a published .npz
file, its head included. Every example counts exactly once. The last line says what the run has cost
that saved the checkpoint. A result record goes to `results` in the run's directory, or to
--record=DIR, for python -m experiments.tables.
"""

import sys

import jax

from train_jax import hosts, main
from train_jax.budget import spent_of
from train_jax.errors import UserError
from train_jax.evaluation import make_evaluator
from train_jax.mesh import make_mesh
from train_jax.stored import read_meta
from vit_jax.checkpoint_command import define_flags, file_results, named_checkpoint
from vit_jax.flops import multiply_adds
from vit_jax.init_from import is_published, load_model
from vit_jax.task import ViTTrainConfig, image_shape, make_evaluations


def evaluate(config: ViTTrainConfig, checkpoint: str) -> dict[str, dict[str, float]]:
    """The metrics of a checkpoint by split.

    Raises:
        UserError: the checkpoint does not fit the config's model, or there is nothing to evaluate
            on.
    """
    evaluations = make_evaluations(config)
    if not evaluations:
        raise UserError("The config has no evaluations; add a split to config.evaluations.")
    mesh = make_mesh(config.mesh)
    with jax.set_mesh(mesh):
        params, model_state = load_model(
            checkpoint,
            mesh,
            model=config.model,
            image_shape=image_shape(config.data),
            averaged=config.transfer.averaged,
        )
        return {
            name: make_evaluator(evaluation, mesh)(params, model_state)
            for name, evaluation in evaluations.items()
        }


def _command() -> int:
    config = main.read_config(ViTTrainConfig)
    checkpoint = named_checkpoint()
    results = evaluate(config, checkpoint)
    if hosts.is_main():
        sys.stdout.write(table(results) + cost(checkpoint))
        products = multiply_adds(config.model, image_shape(config.data))
        file_results("vit_jax.evaluate", config, results, multiply_adds=products)
    return 0


def table(results: dict[str, dict[str, float]]) -> str:
    """The results as lines of text, a split a line."""
    lines = []
    for split, metrics in results.items():
        cells = [
            f"{name} {value:.2%}" if name in ("accuracy", "top5") else f"{name} {value:.6g}"
            for name, value in metrics.items()
        ]
        lines.append(f"{split}: {'  '.join(cells)}\n")
    return "".join(lines)


def cost(checkpoint: str) -> str:
    """A line about what a run of ours has cost; nothing where that is not known."""
    if is_published(checkpoint):
        return ""
    spent = spent_of(read_meta(checkpoint))
    return f"cost: {spent.summary()}\n" if spent.core_seconds else ""


if __name__ == "__main__":
    define_flags()
    main.launch(_command, __doc__ or "")
