r"""HumanEva-I, as in the paper (section 5; Table 4).

    python -m pose_jax.train --config=experiments/pose/humaneva.py:all --workdir=DIR
    python -m pose_jax.train --config=experiments/pose/humaneva.py:Walking --workdir=DIR
    python -m pose_jax.evaluate --config=experiments/pose/humaneva.py:all --checkpoint=DIR \
        --by='subject and action'

Behind the colon: ACTION: all for one model of the three actions (the default), or Walking, Jog or
Box for a model of its own; then any of
    causal=true     sees no later frame
    seed=N          initial parameters, order, dropout (0)

Recipe: 27 frames, from the 17 joints of COCO as Mask R-CNN finds them to 15; 1000 epochs, batch
128; AMSGrad, 1e-3 times 0.996 after every epoch. The training half of S1, S2 and S3 to train on,
the validation half to test on, three cameras.

Expected, P-MPJPE in mm (Table 4):

                      Walk: S1   S2    S3     Jog: S1   S2    S3     Box: S1   S2    S3
    one action            14.5  10.5  47.3        21.9  13.4  13.9        24.3  34.9  32.1
    all                   13.9  10.2  46.6        20.9  13.1  13.8        23.8  33.7  32.0

All but S3's Walk, which suffers from a fault of the motion capture, are from memory of the paper.
The average MPJPE of the model of all actions is 33.0 (published with the implementation).

Cost: about 50 minutes on one GPU of the Pascal generation (published likewise).

Data: HumanEva is licensed. `python -m pose_jax.prepare humaneva --help` says what to get and makes
humaneva15.npz and humaneva15_detectron_pt_coco.npz, in config.data_dir (data/pose).
"""

from ml_collections import ConfigDict

from experiments.pose import recipes
from pose_jax import humaneva
from pose_jax.data.views import PoseDataConfig
from pose_jax.models.config import TemporalConfig
from pose_jax.train_config import PoseTrainConfig
from train_jax.config import parse_arg, to_config_dict
from train_jax.train_config import CheckpointConfig


def get_config(arg: str | None = None) -> ConfigDict:
    """The run, with every key that the command line can override.

    Raises:
        UserError: a wrong argument.
    """
    args = parse_arg(arg, action="all", causal=False, seed=0)
    choices = {"all": humaneva.ACTIONS} | {action: (action,) for action in humaneva.ACTIONS}
    actions = recipes.chosen("action", args["action"], choices)

    def data(subjects: tuple[str, ...]) -> PoseDataConfig:
        return PoseDataConfig(
            keypoints="humaneva15_detectron_pt_coco.npz",
            positions="humaneva15.npz",
            subjects=subjects,
            actions=actions,
        )

    return to_config_dict(
        PoseTrainConfig(
            seed=args["seed"],
            model=TemporalConfig(
                joints_in=17, joints_out=15, widths=recipes.widths(27), causal=args["causal"]
            ),
            data=data(humaneva.SUBJECTS_TRAIN),
            evaluations={"test": data(humaneva.SUBJECTS_TEST)},
            batch_size=128,
            total="1000 epochs",
            optimizer=recipes.OPTIMIZER,
            schedule=recipes.decaying(0.996),
            steps_per_dispatch=100,
            checkpoint=CheckpointConfig(every="5 percent"),
            log_every="200 steps",
            evaluate_every="5 percent",
        )
    )
