r"""VTAB-1k: fine-tuning on 1,000 images of each of 19 tasks (ViT paper, section 4.1, Table 9).

All of them, three runs each, and their means:
    python -m experiments.vtab --config=experiments/vit/vtab.py:L/16 \
        --config.init_from=ViT-L_16.npz --workdir=DIR
One:
    python -m vit_jax.train --config=experiments/vit/vtab.py:L/16,clevr_count \
        --config.init_from=ViT-L_16.npz --workdir=DIR

Behind the colon: VARIANT,TASK (see vit_jax/vtab.py), then any of
    lr=X          base learning rate (0.01)
    steps=N       updates (2500)
    final=false   trains on the task's 800 examples and evaluates on 200; true (the default): on all
                  1,000, evaluated on the test set
    seed=N        order, crops, dropout (0)
    resolution=N  image side in pixels (384)

Recipe: that of finetune.py (SGD with momentum 0.9, batch 512, cosine decay, clip 1, no weight
decay), with one setting for all tasks: rate 0.01 and 2,500 steps at 384 px, chosen among two rates
and two lengths by the mean score on the 200 examples (appendix B.1.1; which, is not published;
`--rates=0.003,0.01 --steps=500,2500` chooses likewise). Warm-up, which is not published, is 200
steps, 100 for 500. Pictures are squashed to 448 px and cropped to 384 at random, and mirrored,
as BiT does, at one resolution for all tasks; evaluation squashes to 384. BiT's exceptions: neither
flips for dSprites' location and orientation and smallNORB's azimuth, nor crops for Clevr, DMLab,
KITTI and dSprites' location.

Expected, top-1 in % (Table 9), after pre-training on JFT or ImageNet-21k:

                  H/14 (JFT)  L/16 (JFT)  L/16 (I21k)
    Caltech101    95.3        95.4        90.8
    CIFAR-100     85.5        81.9        84.1
    DTD           75.2        74.3        74.1
    Flowers102    99.7        99.7        99.3
    Pets          97.2        96.7        92.7
    Sun397        65.0        63.5        61.0
    SVHN          88.9        87.4        80.9
    Camelyon      83.3        83.6        82.5
    EuroSAT       96.7        96.5        95.6
    Resisc45      91.4        89.7        85.2
    Retinopathy   76.6        77.1        75.3
    Clevr-Count   91.7        86.4        70.3
    Clevr-Dist    63.8        63.1        56.1
    DMLab         53.1        49.7        41.9
    dSpr-Loc      79.4        74.5        74.7
    dSpr-Ori      63.3        60.5        64.9
    KITTI-Dist    84.5        82.2        79.9
    sNORB-Azim    33.2        36.2        30.5
    sNORB-Elev    51.2        51.1        41.7
    mean          77.63±0.23  76.28±0.46  72.72±0.21

Cost: not published. By the count of the paper's Table 6, a run of L/16 (2,500 steps of 512 images)
takes 1.5 exaFLOP, the 57 runs 84; B/16 0.43 and 24.

Data: each task's TFDS data set, `python -m vit_jax.data.prepare tfds:NAME` with NAME from
vit_jax/vtab.py. Retinopathy and Resisc45 first want archives that TFDS may not download.
"""

from ml_collections import ConfigDict

from experiments.vit import recipes
from train_jax.config import parse_arg, to_config_dict
from train_jax.errors import UserError
from train_jax.optimizers import Sgd
from train_jax.schedules import CosineConfig
from train_jax.train_config import CheckpointConfig
from vit_jax.data.pipeline import DataConfig
from vit_jax.data.preprocess import Preprocess, ResizeCrop, Squash
from vit_jax.models.variants import config_for
from vit_jax.task import ViTTrainConfig
from vit_jax.vtab import EXAMPLES, TASKS, TRAIN, task_named

#: In the place of a task: the command line of experiments.vtab, which names them one by one.
ALL = "all"
# BiT-HyperRule.
_RESIZE, _CROP = 448, 384


def get_config(arg: str | None = None) -> ConfigDict:
    """The run, with every key that the command line can override.

    Raises:
        UserError: an unknown task or model, or a wrong argument.
    """
    row = recipes.finetune_row("vtab")
    args = parse_arg(
        arg,
        variant="",
        task=ALL,
        lr=row.lrs[0],
        steps=row.steps,
        final=True,
        seed=0,
        resolution=0,
    )
    for name in ("lr", "steps", "resolution"):
        if args[name] < 0:
            raise UserError(f"Config argument {name}={args[name]} must be positive.")
    name, variant, steps = args["task"], args["variant"], args["steps"]
    # The command line reads a config of all tasks, of which only the keys matter.
    task = task_named(next(iter(TASKS)) if name == ALL else name)
    model = config_for(
        variant,
        num_classes=task.num_classes,
        dropout=recipes.FINETUNE_DROPOUT.get(variant, 0.0),
        compute_dtype="bfloat16",
    )
    size = args["resolution"] or recipes.tiled_size(model, recipes.FINETUNE_SIZE)
    crop = ResizeCrop(resize=round(size * _RESIZE / _CROP), size=size)
    data, evaluations = data_of(
        name,
        final=args["final"],
        training=crop if task.crop else Squash(size=size),
        evaluation=Squash(size=size),
    )
    return to_config_dict(
        ViTTrainConfig(
            seed=args["seed"],
            model=model,
            data=data,
            evaluations=evaluations,
            batch_size=recipes.FINETUNE_BATCH,
            total=f"{steps} steps",
            loss="softmax",
            flip=task.flip,
            optimizer=Sgd(momentum=0.9, accumulator_dtype="bfloat16", clip_norm=1.0),
            schedule=CosineConfig(
                base=args["lr"],
                warmup=f"{recipes.FINETUNE_WARMUP.get(steps, min(200, steps // 5))} steps",
            ),
            mesh=recipes.mesh_for(variant),
            checkpoint=CheckpointConfig(every="20 percent"),
            # Test sets have up to 73,728 images (dSprites): once, at the end.
            evaluate_every="100 percent",
        )
    )


def data_of(
    task: str, *, final: bool, training: Preprocess, evaluation: Squash
) -> tuple[DataConfig, dict[str, DataConfig]]:
    """What a task is trained on and what is measured: the test set by a final run.

    Args:
        task: its name.
        final: all 1,000 examples and the test set; or 800, and the 200 held out.
        training: from the picture to the input size.
        evaluation: likewise.
    """
    source = f"vtab:{task}"
    train, count = ("train800val200", EXAMPLES) if final else ("train800", TRAIN)
    data = DataConfig(source=source, split=train, preprocess=training, examples=count)
    if final:
        name, test = "test", DataConfig(source=source, split="test", preprocess=evaluation)
    else:
        name, test = "held_out", DataConfig(source=source, split="val200", preprocess=evaluation)
    return data, {name: test}
