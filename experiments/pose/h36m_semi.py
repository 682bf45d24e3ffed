r"""Human3.6M with few labels and much video, as in the paper (sections 3.3 and 6.2; Figure 5).

    python -m pose_jax.train --config=experiments/pose/h36m_semi.py:S1_10percent --workdir=DIR
    python -m pose_jax.train --config=experiments/pose/h36m_semi.py:S1_10percent,semi=false \
        --workdir=DIR
    python -m pose_jax.evaluate --config=experiments/pose/h36m_semi.py:S1_10percent --checkpoint=DIR

Behind the colon: LABELS, what is labelled: S1_0.1percent, S1_1percent, S1_5percent, S1_10percent,
S1_50percent (of every recording of S1 one contiguous part), S1, S1_S5, S1_S5_S6, or all (five
subjects); then any of
    keypoints=cpn     or gt (also the others of h36m.py, which the paper does not show here)
    semi=false        the supervised baseline: the same labels, no video
    downsample=5      10 frames per second, as Figure 5 (a); the rate also decides what a model sees
    projection=linear the camera without its lens; none: no such term
    bone_length=false without the bone-length term
    frames=N          another receptive field than the figure's
    causal=true       sees no later frame
    seed=N            initial parameters, order, dropout (0)

Recipe: 200 epochs of the labelled examples, batch 64, beside 64 unlabelled; AMSGrad, 1e-3 times
0.98 after every epoch; labels alone for the first epoch, or the first 20 with less than S1. The
published command for 10 % has 5 there: --config.semi.warmup='5 epochs'. Unlabelled are the other
subjects of S1, S5, S6, S7, S8, all their recordings. With all of them labelled it is S2, S3 and
S4, of whom there are videos but no poses (not in the paper; not with keypoints=gt). Receptive
fields: 27 frames, 9 for 1 % and one for 0.1 %; at 10 frames per second 9, 3 for 1 and 5 %, and one.

Expected, in mm, supervised then semi-supervised (Figure 5):

                          0.1 %    1 %     5 %    10 %    50 %    S1     S1_S5  S1_S5_S6   all
    (a) N-MPJPE, cpn,     131.4   101.3    93.4   86.8    69.9   64.4    55.3    52.9     47.1
        downsample=5      121      90.9    84.4   77.5    65.8   61.8    55.3    53.8
    (b) MPJPE, cpn        114.4   106      96.6   88.3    73.2   67.6    65.5    57.6     49
                          102.2    91.3    84.5   78.1    67.3   64.7    63.9    57.6
    (c) MPJPE, gt         106.2   100.7    89.7   80.7    63     55.7    53.8    44.2     39
                           90.8    78.1    72.5   65.2    53.9   49.7    51.7    41.3

With 1 % and gt, bone_length=false gives 91.3. The CPN of (a) and (b) was fine-tuned on the labelled
part only; the published detections know all five subjects, so with them expect less error.

Cost: 10 % of S1 is 775 steps an epoch; S1 is 7,750. No figures are published. By the count of
multiply-adds 10 % of S1 takes 0.0042 exaFLOP, S1 ten times that; h36m.py:243 takes 0.26.

Data: as experiments/pose/h36m.py. Without a licence the same comparison can be made with
experiments/pose/cmu.py:27,labels=0.1,semi=true.
"""

import dataclasses

from ml_collections import ConfigDict

from experiments.pose import recipes
from pose_jax import h36m
from pose_jax.models.config import TemporalConfig
from pose_jax.train_config import PoseTrainConfig, SemiConfig
from train_jax.config import parse_arg, to_config_dict
from train_jax.errors import UserError
from train_jax.train_config import CheckpointConfig


@dataclasses.dataclass(frozen=True)
class Labels:
    """A point of Figure 5.

    Attributes:
        subjects: whose poses are known.
        fraction: of each recording.
        frames: receptive field at 50 frames per second.
        frames_at_10: receptive field at 10.
        warmup: epochs without unlabelled examples.
    """

    subjects: tuple[str, ...]
    fraction: float
    frames: int
    frames_at_10: int
    warmup: int


FIGURE_5 = {
    #                       subjects            part   50 Hz 10 Hz warm-up
    "S1_0.1percent": Labels(("S1",),            0.001,  1,   1,    20),
    "S1_1percent":   Labels(("S1",),            0.01,   9,   3,    20),
    "S1_5percent":   Labels(("S1",),            0.05,   27,  3,    20),
    "S1_10percent":  Labels(("S1",),            0.1,    27,  9,    20),
    "S1_50percent":  Labels(("S1",),            0.5,    27,  9,    20),
    "S1":            Labels(("S1",),            1.0,    27,  9,    1),
    "S1_S5":         Labels(("S1", "S5"),       1.0,    27,  9,    1),
    "S1_S5_S6":      Labels(("S1", "S5", "S6"), 1.0,    27,  9,    1),
    "all":           Labels(h36m.SUBJECTS_TRAIN, 1.0,   27,  9,    1),
}  # fmt: skip

PROJECTIONS = {"full": "full", "linear": "linear", "none": None}


def get_config(arg: str | None = None) -> ConfigDict:
    """The run, with every key that the command line can override.

    Raises:
        UserError: a wrong argument, or subjects without 2D ground truth.
    """
    args = parse_arg(
        arg,
        labels="",
        keypoints="cpn",
        semi=True,
        downsample=1,
        projection="full",
        bone_length=True,
        frames=0,
        causal=False,
        seed=0,
    )
    row = recipes.chosen("labels", args["labels"], FIGURE_5)
    keypoints, rate = args["keypoints"], {"downsample": args["downsample"]}
    frames = recipes.chosen("downsample", args["downsample"], {1: row.frames, 5: row.frames_at_10})
    projection = recipes.chosen("projection", args["projection"], PROJECTIONS)
    semi = None
    if args["semi"]:
        semi = SemiConfig(
            data=recipes.h36m_data(keypoints, unlabelled(row, keypoints), **rate),
            warmup=f"{row.warmup} epochs",
            projection=projection,
            bone_length=args["bone_length"],
        )
    elif projection != "full" or not args["bone_length"]:
        raise UserError("projection and bone_length are about video; leave them out or semi=false.")
    return to_config_dict(
        PoseTrainConfig(
            seed=args["seed"],
            model=TemporalConfig(
                joints_in=recipes.h36m_joints(keypoints),
                widths=recipes.widths(args["frames"] or frames),
                causal=args["causal"],
            ),
            data=recipes.h36m_data(keypoints, row.subjects, fraction=row.fraction, **rate),
            evaluations={
                "test": recipes.h36m_data(
                    keypoints, h36m.SUBJECTS_TEST, actions=h36m.ACTIONS, **rate
                )
            },
            batch_size=64,
            total="200 epochs",
            optimizer=recipes.OPTIMIZER,
            schedule=recipes.decaying(0.98),
            semi=semi,
            steps_per_dispatch=100,
            checkpoint=CheckpointConfig(every="5 percent"),
            log_every="200 steps",
            evaluate_every="5 percent",
        )
    )


def unlabelled(row: Labels, keypoints: str) -> tuple[str, ...]:
    """Whose video goes with the labels.

    Raises:
        UserError: all subjects are labelled, and the keypoints are made of poses.
    """
    others = tuple(s for s in h36m.SUBJECTS_TRAIN if s not in row.subjects)
    if others:
        return others
    if keypoints == "gt":
        raise UserError(
            "S2, S3 and S4 have no ground truth; choose other keypoints or add semi=false."
        )
    return h36m.SUBJECTS_UNLABELLED
