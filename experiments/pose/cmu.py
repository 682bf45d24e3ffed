"""The open benchmark: the paper's comparisons on motion that anybody can have.

python -m pose_jax.prepare cmu --source=cmu_actions_h36m17.npz --output=data/pose/cmu.npz
python -m pose_jax.train --config=experiments/pose/cmu.py:27 --workdir=DIR
python -m pose_jax.train --config=experiments/pose/cmu.py:9,labels=0.01,semi=true --workdir=DIR
python -m pose_jax.evaluate --config=experiments/pose/cmu.py:27 --checkpoint=DIR
"""

from ml_collections import ConfigDict

from experiments.pose import recipes
from pose_jax.data.views import PoseDataConfig
from pose_jax.models.config import TemporalConfig
from pose_jax.train_config import PoseTrainConfig, SemiConfig
from train_jax.config import parse_arg, to_config_dict
from train_jax.errors import UserError
from train_jax.train_config import CheckpointConfig


def get_config(arg: str | None = None) -> ConfigDict:
    """The run, with every key that the command line can override.

    Raises:
        UserError: a wrong argument.
    """
    args = parse_arg(arg, frames=27, labels=1.0, semi=False, causal=False, seed=0)
    if not 0 < args["labels"] <= 1:
        raise UserError(
            f"Config argument labels={args['labels']} must be a share of the frames in (0, 1]."
        )
    train = PoseDataConfig(keypoints="cmu.npz", subjects=("train",))
    return to_config_dict(
        PoseTrainConfig(
            seed=args["seed"],
            model=TemporalConfig(
                widths=recipes.widths(args["frames"]), channels=128, causal=args["causal"]
            ),
            data=PoseDataConfig(keypoints="cmu.npz", subjects=("train",), fraction=args["labels"]),
            evaluations={"test": PoseDataConfig(keypoints="cmu.npz", subjects=("test",))},
            batch_size=128 if args["labels"] == 1 else 64,
            total="10_000 steps",
            optimizer=recipes.OPTIMIZER,
            # As in the paper's 80 epochs.
            schedule=recipes.decaying(0.95, every="1.25 percent"),
            semi=SemiConfig(data=train, warmup="10 percent") if args["semi"] else None,
            steps_per_dispatch=100,
            checkpoint=CheckpointConfig(every="50 percent"),
            log_every="5 percent",
            evaluate_every="50 percent",
        )
    )
