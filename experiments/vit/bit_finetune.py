r"""Fine-tuning of BiT by BiT-HyperRule, or as the ViT paper fine-tunes its ResNets.

    python -m vit_jax.train --config=experiments/vit/bit_finetune.py:R50x1,cifar10 \
        --config.init_from=BiT-M-R50x1.npz --workdir=DIR
    python -m vit_jax.train --config=experiments/vit/bit_finetune.py:R152x2,imagenet2012,rule=vit \
        --config.init_from=PRETRAINED --workdir=DIR

PRETRAINED is the directory of a run of experiments/vit/bit.py, or a published .npz file.

Behind the colon: VARIANT,DATASET, then any of
    rule=vit      the ViT paper's Table 4 in the place of BiT-HyperRule (rule=bit)
    lr=X          rule=vit: base learning rate, as in finetune.py
    crop=480      rule=bit: large pictures are squashed to 512 px and cropped to 480 (as the code
                  published with BiT does), or 448 and 384; the paper, and the default here: 480
                  for R152x4, 384 for all others
    final=false   trains on the sweep's part of the training set and evaluates on the held-out rest
    real=true     on ImageNet also evaluates on the ReaL labels (`real`) and on ImageNet-V2 (`v2`)
    seed=N        order, crops (0); the papers report mean and deviation of three
    source=...    data of your own, tfds:NAME or folder:/PATH, in the place of DATASET's
    classes=N     their number of classes
    examples=N    rule=bit: how many examples they have (DATASET's), and
    side=N        the side of their pictures in pixels (DATASET's): below 96, pictures are small

A VTAB task: bit_finetune.py:R152x4,vtab,source=tfds:dtd,classes=47, and side=32 for CIFAR-100 and
SVHN, side=64 for dSprites and EuroSAT (the 96 px of Camelyon and smallNORB are large).

BiT-HyperRule (vit_jax/hyperrule.py; BiT paper, section 3.3): SGD of 0.003, momentum 0.9, batch 512,
no weight decay; 500 steps below 20k examples, 10k below 500k, else 20k; the rate divided by ten at
30, 60 and 90 percent; MixUp of 0.1 from 20k examples; 160 px cropped to 128 for pictures of less
than 96 x 96 pixels, else 448 to 384; flips; evaluation squashes to the size of the crop.

The ViT paper fine-tuned its ResNets as its transformers (Table 4: SGD, cosine decay, 384 px, clip
1, the grid with 0.06 on ImageNet) and by BiT-HyperRule, and prints the better result (appendix
B.1.1): run both rules.

The head is replaced by one of zeros. Convolutions and residual stream are bfloat16, the authors'
were float32 (--config.model.compute_dtype=float32). --config.accumulate=8 where the batch does not
fit.

Expected, top-1 in %:
                        ImageNet     ReaL   CIFAR-10     CIFAR-100    Pets         Flowers
    BiT-L R152x4 (JFT)  87.54±0.02   90.54  99.37±0.06   93.51±0.08   96.62±0.23   99.63±0.03
    BiT-M R152x4 (I21k) 85.39               98.91        92.17        94.46        99.30
and 76.29±1.70 on VTAB's 19 tasks (ViT paper, Table 2) and 70.64 (BiT paper). With the published
BiT-M files, by the code published with them (batch 128 and rate 0.001 on CIFAR; 480 px): R50x1
ImageNet 80.68, CIFAR-10 97.4, CIFAR-100 86.5; R152x2 85.15, 98.5, 91.2; R101x3 CIFAR-10 98.5,
CIFAR-100 91.2.

JFT, recipe=vit of bit.py (ViT paper, Table 6):
                         ImageNet  ReaL   CIFAR-10  CIFAR-100  Pets   Flowers
    R50x1    7 epochs    77.54     84.56  97.67     86.07      91.11  94.26
    R50x2    7           82.12     87.94  98.29     89.20      93.43  97.02
    R101x1   7           80.67     87.07  98.48     89.17      94.08  95.95
    R152x1   7           81.88     87.96  98.82     90.22      94.17  96.94
    R152x2   7           84.97     89.69  99.06     92.05      95.37  98.62
    R152x2   14          85.56     89.89  99.24     91.92      95.75  98.75
    R200x3   14          87.22     90.15  99.34     93.53      96.32  99.04

Cost: not published. By the count of bit.multiply_adds, fine-tuning R50x1 on CIFAR-10 (10k steps at
128 px) takes 0.04 exaFLOP, R152x4 on ImageNet (20k steps at 480 px) 50.

Data: experiments/vit/datasets.py says how to prepare them.
"""

from typing import Any

from ml_collections import ConfigDict

from experiments.vit import finetune, recipes
from experiments.vit.bit import mesh_for
from experiments.vit.datasets import Dataset, data_config, dataset_named
from train_jax.config import parse_arg, to_config_dict
from train_jax.errors import UserError
from train_jax.optimizers import OptimizerConfig, Sgd
from train_jax.schedules import CosineConfig, ScheduleConfig
from train_jax.train_config import CheckpointConfig
from vit_jax import hyperrule
from vit_jax.data.preprocess import InceptionCrop, Preprocess, Squash
from vit_jax.models.bit import bit_config
from vit_jax.task import ViTTrainConfig

#: Data sets of small pictures: their side in pixels. All others have large ones.
SIDES = {"cifar10": 32, "cifar100": 32}
LARGE_SIDE = 224
_CROPS = {sides[1]: sides for sides in (hyperrule.LARGE_SIDES, hyperrule.LARGEST_SIDES)}


def get_config(arg: str | None = None) -> ConfigDict:
    """The run, with every key that the command line can override.

    Raises:
        UserError: a data set that Table 4 does not have, an unknown model, or a wrong argument.
    """
    args = parse_arg(
        arg,
        variant="",
        dataset="",
        rule="bit",
        lr=0.0,
        crop=0,
        final=True,
        real=False,
        seed=0,
        source="",
        classes=0,
        examples=0,
        side=0,
    )
    recipes.finetune_row(args["dataset"])  # refuses what the papers do not fine-tune on
    make = {"bit": bit_run, "vit": vit_run}.get(args["rule"])
    if make is None:
        raise UserError(f"Config argument rule={args['rule']} must be bit or vit.")
    foreign = ("lr",) if args["rule"] == "bit" else ("crop", "examples", "side")
    for name in ("lr", "crop", "classes", "examples", "side"):
        if args[name] < 0:
            raise UserError(f"Config argument {name}={args[name]} must be positive.")
        if args[name] and name in foreign:
            raise UserError(f"Config argument {name} has no place in rule={args['rule']}; drop it.")
    return to_config_dict(make(args, dataset_named(args["dataset"])))


def bit_run(args: dict[str, Any], dataset: Dataset) -> ViTTrainConfig:
    """BiT-HyperRule."""
    side = args["side"] or SIDES.get(args["dataset"], LARGE_SIDE)
    crop = args["crop"] or (480 if args["variant"] == "R152x4" else 384)
    if crop not in _CROPS:
        raise UserError(f"Config argument crop={crop} must be 384 or 480.")
    rule = hyperrule.hyperrule(
        args["examples"] or dataset.num_examples, (side, side), large=_CROPS[crop]
    )
    return _run(
        args,
        dataset,
        training=rule.training,
        evaluation=rule.evaluation,
        total=f"{rule.steps} steps",
        mixup=rule.mixup,
        optimizer=rule.optimizer,
        schedule=rule.schedule,
    )


def vit_run(args: dict[str, Any], dataset: Dataset) -> ViTTrainConfig:
    """The ViT paper's Table 4."""
    row = recipes.finetune_row(args["dataset"])
    size = recipes.FINETUNE_SIZE
    return _run(
        args,
        dataset,
        training=InceptionCrop(size=size),
        evaluation=Squash(size=size),
        total=f"{row.steps} steps",
        mixup=0.0,
        optimizer=Sgd(momentum=0.9, accumulator_dtype="bfloat16", clip_norm=1.0),
        schedule=CosineConfig(
            base=args["lr"] or recipes.FINETUNE_LR[row.data],
            warmup=f"{recipes.FINETUNE_WARMUP[row.steps]} steps",
        ),
    )


def _run(
    args: dict[str, Any],
    dataset: Dataset,
    *,
    training: Preprocess,
    evaluation: Squash,
    total: str,
    mixup: float,
    optimizer: OptimizerConfig,
    schedule: ScheduleConfig,
) -> ViTTrainConfig:
    if args["real"] and args["dataset"] != "imagenet2012":
        raise UserError(f"real=true is for imagenet2012; {args['dataset']} has no other labels.")
    variant, final, source = args["variant"], args["final"], args["source"]
    return ViTTrainConfig(
        seed=args["seed"],
        model=bit_config(
            variant,
            num_classes=args["classes"] or dataset.num_classes,
            compute_dtype="bfloat16",
        ),
        data=data_config(
            dataset,
            dataset.whole if final else dataset.part,
            preprocess=training,
            source=source,
        ),
        evaluations=finetune.evaluations(
            dataset, evaluation, final=final, real=args["real"], source=source
        ),
        batch_size=hyperrule.BATCH,
        total=total,
        loss="softmax",
        mixup=mixup,
        optimizer=optimizer,
        schedule=schedule,
        mesh=mesh_for(variant),
        checkpoint=CheckpointConfig(every="10 percent"),
    )
