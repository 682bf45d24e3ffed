r"""The open benchmark: the paper's comparisons on motion that anybody can have.

    python -m pose_jax.prepare cmu --source=cmu_actions_h36m17.npz --output=data/pose/cmu.npz
    python -m pose_jax.train --config=experiments/pose/cmu.py:27 --workdir=DIR
    python -m pose_jax.train --workdir=DIR \
        --config=experiments/pose/cmu.py:27,labelled=walking+jumping,semi=true
    python -m pose_jax.evaluate --config=experiments/pose/cmu.py:27 --checkpoint=DIR

Behind the colon: FRAMES, the receptive field: 1, 3, 9, 27 (the default), 81 or 243; then any of
    causal=true              sees no later frame
    labelled=A+B             poses are known in the clips of actions A and B only
    labels=F                 and of each such clip in a contiguous share F only
    semi=true                all training clips serve as video without labels besides
    seed=N                   initial parameters, order, dropout (0)

Real motion capture at 60 Hz (CMU), 72 clips to train on and 24 others to test on, 7 actions, one of
them never trained on; seen by the cameras of Human3.6M's S1 and S9 through their lenses, each clip
turned at random, with simulated detections (`pose_jax.data.filming`). All clips share one skeleton.

Recipe: the paper's (experiments/pose/h36m.py) with other sizes, the same for all: 128 channels,
10,000 steps of 128 examples; with few labels 64, beside 64 without; labels alone for the first
tenth of the run. Without dropout the model of 27 frames is 8 mm worse: there is little motion.

Expected, in mm (experiments/RESULTS.md; means of seeds 0 and 1), W standing for walking+jumping, a
tenth of the labels:

                                          MPJPE  P-MPJPE  N-MPJPE  MPJVE
    1                                      71.3     58.0     71.4   18.8
    27                                     62.0     50.2     61.9    7.8
    27,causal=true                         64.1     51.9     64.0    9.2
    27,labelled=W                          69.8     54.5     68.7    8.3
    27,labelled=W,semi=true                67.1     52.2     66.6    8.4
    9,labelled=W,labels=0.1                84.1     65.9     82.1   10.0
    9,labelled=W,labels=0.1,semi=true      78.7     60.8     76.8    9.8

Cost: 1 to 5 minutes on two CPU cores. Data: `python -m pose_jax.prepare cmu --help`.
"""

import dataclasses

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
    args = parse_arg(arg, frames=27, labelled="", labels=1.0, semi=False, causal=False, seed=0)
    if not 0 < args["labels"] <= 1:
        raise UserError(
            f"Config argument labels={args['labels']} must be a share of the frames in (0, 1]."
        )
    train = PoseDataConfig(keypoints="cmu.npz", subjects=("train",))
    actions = tuple(filter(None, args["labelled"].split("+")))
    few = bool(actions) or args["labels"] < 1
    return to_config_dict(
        PoseTrainConfig(
            seed=args["seed"],
            model=TemporalConfig(
                widths=recipes.widths(args["frames"]), channels=128, causal=args["causal"]
            ),
            data=dataclasses.replace(train, actions=actions, fraction=args["labels"]),
            evaluations={"test": PoseDataConfig(keypoints="cmu.npz", subjects=("test",))},
            batch_size=64 if few else 128,
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
