r"""Lifting 2D keypoints to 3D poses in small: a temporal model, and one that sees a single frame.

    python -m experiments.quickstart.motion --file=runs/motion.npz
    python -m pose_jax.train --config=experiments/quickstart/lift.py:27 --config.data_dir=runs \
        --workdir=runs/temporal
    python -m pose_jax.evaluate --config=experiments/quickstart/lift.py:27 --config.data_dir=runs \
        --checkpoint=runs/temporal

Behind the colon: FRAMES, 27 or 1.

The recipe is that of the paper, see experiments/pose/h36m.py, with other sizes: 128 channels rather
than 1024, 5,000 steps of 128 rather than 243,760 of 1024.

Expected: see the table that ``make quickstart`` prints. Cost: less than a minute on 2 CPU cores.
"""

from ml_collections import ConfigDict

from experiments.pose import recipes
from pose_jax.data.views import PoseDataConfig
from pose_jax.models.config import TemporalConfig
from pose_jax.train_config import PoseTrainConfig
from train_jax.config import parse_arg, to_config_dict
from train_jax.train_config import CheckpointConfig

FILE = "motion.npz"


def get_config(arg: str | None = None) -> ConfigDict:
    """The run, with every key that the command line can override."""
    frames = parse_arg(arg, frames=27)["frames"]

    def data(split: str) -> PoseDataConfig:
        return PoseDataConfig(keypoints=FILE, subjects=(split,))

    return to_config_dict(
        PoseTrainConfig(
            model=TemporalConfig(widths=recipes.widths(frames, known=(1, 27)), channels=128),
            data=data("train"),
            evaluations={"test": data("test")},
            data_dir="runs",
            batch_size=128,
            total="5_000 steps",
            optimizer=recipes.OPTIMIZER,
            # As often as in the paper's 80 epochs.
            schedule=recipes.decaying(0.95, every="1.25 percent"),
            steps_per_dispatch=100,
            checkpoint=CheckpointConfig(every="100 percent"),
            log_every="20 percent",
            evaluate_every="100 percent",
        )
    )
