r"""Trains a Vision Transformer: from scratch, or from a checkpoint (fine-tuning).

    python -m vit_jax.train --config=experiments/vit/pretrain.py:L/16,imagenet21k --workdir=DIR
    python -m vit_jax.train --config=experiments/vit/finetune.py:L/16,cifar100 \
        --config.init_from=DIR --workdir=OTHER

The same command continues a run that was stopped; one that has spent config.budget ends with exit
code 0. Every experiment file says what it takes behind the colon, what result to expect and what it
costs.
"""

from absl import flags

from train_jax import hosts, main
from train_jax.errors import UserError
from train_jax.loop import fit
from train_jax.settle import settle
from vit_jax.task import ViTTrainConfig, make_task

_WORKDIR = flags.DEFINE_string(
    "workdir",
    None,
    "Directory of the run, local or gs://: checkpoints, metrics.jsonl, TensorBoard.",
)


def train() -> int:
    """The command; returns the exit code."""
    config = main.read_config(ViTTrainConfig)
    if not _WORKDIR.value:
        raise UserError("--workdir is missing; name a directory for the run.")
    config = settle(make_task, config, _WORKDIR.value)
    result = fit(make_task(config), config, _WORKDIR.value)
    return hosts.PREEMPTED_EXIT_CODE if result.preempted else 0


if __name__ == "__main__":
    main.launch(train, __doc__ or "")
