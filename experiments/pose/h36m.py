"""Human3.6M with all labels, as in the paper (sections 5 and 6.1; Tables 1 to 3 and 5).

    python -m pose_jax.train --config=experiments/pose/h36m.py:243 --workdir=DIR
    python -m pose_jax.train --config=experiments/pose/h36m.py:27,keypoints=gt --workdir=DIR
    python -m pose_jax.evaluate --config=experiments/pose/h36m.py:243 --checkpoint=DIR

Behind the colon: FRAMES, the receptive field: 243, 81, 27, 9, or 1 for the single-frame baseline;
then any of
    keypoints=cpn   2D from: cpn, fine-tuned on Human3.6M (the default); gt, ground truth;
                    detectron, Mask R-CNN fine-tuned; hourglass, Stacked Hourglass fine-tuned;
                    cpn_coco, detectron_coco, hourglass_mpii, as they come, with the joints of the
                    data set that they learnt from; cpn_gt_boxes, CPN on ground-truth boxes
    confidence=true reads the detector's confidence too, for files that have it
    causal=true     sees no later frame
    dense=true      without dilation: wide kernels, the same receptive field
    channels=N      hidden channels (1024)
    average=false   no averaging with the mirrored video's poses in evaluations
    flip=false      no mirrored examples in training
    seed=N          initial parameters, order, dropout (0)

Recipe: 80 epochs, in each of which every frame is an example twice, as it is and mirrored; batch
1024; AMSGrad, 1e-3 times 0.95 after every epoch; dropout 0.25; batch statistics enter the running
ones with a share that falls from 0.1 to 0.001. S1, S5, S6, S7 and S8 to train on, S9 and S11 to
test on, all four cameras, every frame. S11's first take of Directions is corrupt and is not used.

Expected, in mm; errors of actions averaged over the 15 actions:

    Table 1, MPJPE and P-MPJPE, cpn             Table 2, MPJVE
        243                  46.8   36.5            2.8
        243,causal=true      49.0   38.1
        1                    51.8   40.0           11.6
    keypoints=cpn_gt_boxes (243: Table 1; 81 and 27: published with the implementation)
        243                  47.1   36.8
        81                   47.7   37.2
        27                   48.8   38.0
    Table 3, by detector, 243 frames (*: from memory of the paper, not laid beside it)
        keypoints=gt                             37.2   27.2
        keypoints=detectron                      51.6   40.3
        keypoints=detectron_coco,confidence=true 54.8*  42.0*  (about 1 mm more without confidence)
        keypoints=hourglass                      53.4*  40.1*
        keypoints=hourglass_mpii                 58.6*  45.0*
        keypoints=cpn_coco                       52.1*  40.1*
    Table 5, MPJPE with keypoints=gt,average=false; millions of parameters and of FLOPs per frame
        27,dense=true        41.1   29.53   59.03
        27                   40.6    8.56   17.09
        81                   38.7   12.75   25.48
        243                  37.8   16.95   33.87
    Appendix A*: average=false 47.7 rather than 46.8; flip=false,average=false 49.2
    All of them by action: python -m experiments.tables pose_table1

Cost: 24, 11 and 6 hours for 243, 81 and 27 frames on one GPU of the Pascal generation (published
with the original implementation): 3,047 steps an epoch. By the count of multiply-adds, 0.26, 0.09
and 0.03 exaFLOP.

Data: Human3.6M is licensed. `python -m pose_jax.prepare h36m --help` says what to get and makes
h36m.npz and the file of each detector, in config.data_dir (data/pose). Without it, the open
benchmark has the same comparisons: experiments/pose/cmu.py.
"""

from ml_collections import ConfigDict

from experiments.pose import recipes
from pose_jax import h36m
from pose_jax.measure import MeasureConfig
from pose_jax.models.config import TemporalConfig
from pose_jax.train_config import PoseTrainConfig
from train_jax.config import parse_arg, to_config_dict
from train_jax.train_config import CheckpointConfig

FRAMES = (1, 9, 27, 81, 243)


def get_config(arg: str | None = None) -> ConfigDict:
    """The run, with every key that the command line can override.

    Raises:
        UserError: a wrong argument.
    """
    args = parse_arg(
        arg,
        frames=243,
        keypoints="cpn",
        confidence=False,
        causal=False,
        dense=False,
        channels=1024,
        average=True,
        flip=True,
        seed=0,
    )
    keypoints = args["keypoints"]
    return to_config_dict(
        PoseTrainConfig(
            seed=args["seed"],
            model=TemporalConfig(
                joints_in=recipes.h36m_joints(keypoints),
                features=3 if args["confidence"] else 2,
                widths=recipes.widths(args["frames"], known=FRAMES),
                channels=args["channels"],
                causal=args["causal"],
                dense=args["dense"],
            ),
            data=recipes.h36m_data(keypoints, h36m.SUBJECTS_TRAIN),
            evaluations={
                "test": recipes.h36m_data(keypoints, h36m.SUBJECTS_TEST, actions=h36m.ACTIONS)
            },
            measure=MeasureConfig(flip=args["average"]),
            batch_size=1024,
            total="80 epochs",
            flip=args["flip"],
            optimizer=recipes.OPTIMIZER,
            schedule=recipes.decaying(0.95),
            steps_per_dispatch=50,
            checkpoint=CheckpointConfig(every="1 epoch"),
            log_every="200 steps",
            evaluate_every="5 epochs",
        )
    )
