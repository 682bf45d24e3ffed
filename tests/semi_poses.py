"""A semi-supervised run of a tiny lifter; an experiment file like any other.

    python -m pose_jax.train --config=tests/semi_poses.py:20 --config.data_dir=DIR --workdir=DIR

Labelled and unlabelled examples, dropout, epochs of 16 steps between which the momentum falls.
The data are ``tiny_poses.poses()`` as tiny.npz.
"""

import tiny_poses

from pose_jax.data.views import PoseDataConfig
from pose_jax.train_config import SemiConfig
from train_jax.config import parse_arg, to_config_dict
from train_jax.train_config import CheckpointConfig


def get_config(arg=None):
    """The run of so many steps."""
    data = {
        subject: PoseDataConfig(keypoints="tiny.npz", subjects=(subject,))
        for subject in ("S9", "S11")
    }
    config = tiny_poses.make_config(
        semi=SemiConfig(data=data["S9"], warmup="5 steps"),
        evaluations={"test": data["S11"]},
        total=f"{parse_arg(arg, steps=20)['steps']} steps",
        checkpoint=CheckpointConfig(every="2 steps"),
        evaluate_every="20 steps",
        log_every="1 steps",
    )
    return to_config_dict(config)
