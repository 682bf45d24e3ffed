"""Trains a pose lifter, with labels alone or with unlabelled video beside them.

    python -m pose_jax.train --config=experiments/pose/h36m.py:243 --workdir=DIR
    python -m pose_jax.train --config=experiments/pose/h36m_semi.py:S1_10percent --workdir=DIR

The same command continues a run that was stopped; one that has spent config.budget ends with exit
code 0. Every experiment file says what it takes behind the colon, which data it needs, what result
to expect and what it costs.
"""

from absl import flags

from pose_jax.task import make_task
from pose_jax.train_config import PoseTrainConfig
from train_jax import hosts, main
from train_jax.errors import UserError
from train_jax.loop import fit
from train_jax.settle import settle

_WORKDIR = flags.DEFINE_string(
    "workdir",
    None,
    "Directory of the run, local or gs://: checkpoints, metrics.jsonl, TensorBoard.",
)


def train() -> int:
    """The command; returns the exit code."""
    config = main.read_config(PoseTrainConfig)
    if not _WORKDIR.value:
        raise UserError("--workdir is missing; name a directory for the run.")
    config = settle(make_task, config, _WORKDIR.value)
    result = fit(make_task(config), config, _WORKDIR.value)
    return hosts.PREEMPTED_EXIT_CODE if result.preempted else 0


if __name__ == "__main__":
    main.launch(train, __doc__ or "")
