r"""Pre-training of BiT, the ResNet that the ViT paper compares with: its own recipe, and ViT's.

    python -m vit_jax.train --config=experiments/vit/bit.py:R152x4,jft300m,source=tfds:my_jft \
        --workdir=gs://BUCKET/RUN
    python -m vit_jax.train --config=experiments/vit/bit.py:R50x1,imagenet21k --workdir=DIR
    python -m vit_jax.train --config=experiments/vit/bit.py:R50x1,jft300m,recipe=vit --workdir=DIR

Behind the colon: VARIANT,DATASET, then any of
    recipe=vit    Adam as in the ViT paper's Table 3, for the ResNets of its Table 6, on JFT;
                  bit (the default): SGD as in the BiT paper, for any R26, R50, R101, R152 or R200
                  of any width, on jft300m (BiT-L), imagenet21k (BiT-M) or imagenet2012 (BiT-S)
    epochs=N      recipe=vit: one of the table's lengths (the longest)
    source=..., seed=N as in pretrain.py

Recipe of BiT (paper, section 3.3): SGD with momentum 0.9, batch 4096, learning rate 0.03 per 256
examples (0.48), warm-up of 5,000 steps; JFT 40 epochs, divided by ten after 10, 23, 30 and 37, all
others 90 epochs, after 30, 60 and 80; weight decay 1e-4. The paper's decay is a gradient that goes
through the momentum, ours is decoupled: 1e-4 / (1 - 0.9) = 1e-3, as big_vision converts it. 224 px
inception crops and flips. Sigmoid cross-entropy (the authors, big_transfer issue 26) with head bias
-10 (big_vision); softmax on ImageNet (big_vision).

Recipe of ViT (Table 3): Adam (0.9, 0.999), batch 4096, warm-up of 10k steps, linear decay to 1e-5,
weight decay 0.1, sigmoid, head bias -10; 1e-3 for R50x1 and R50x2, 8e-4 for R101x1, 6e-4 for R152x1
and R152x2. R200x3 and 14 epochs of R152x2 stand in Table 6 only; they have R152's rate here. The
head is one linear layer.

Convolutions and residual stream are bfloat16 (--config.model.compute_dtype=float32 for all
float32); statistics of GroupNorm and standardisation of kernels are float32 in any case.

Expected: after fine-tuning with bit_finetune.py, whose docstring has the tables. R152x4 on JFT:
ImageNet 87.54 ± 0.02 (ViT paper, Table 2); on ImageNet-21k 85.39 (BiT paper). recipe=vit, ImageNet
(Table 6): R50x1 77.54, R50x2 82.12, R101x1 80.67, R152x1 81.88, R152x2 84.97 and with 14 epochs
85.56, R200x3 87.22. SGD instead of Adam, 7 epochs of JFT (Table 7): R50x1 78.24, R152x2 84.37.

Cost, in TPUv3-core-days: R152x4 on JFT 9,900 (Table 2), on 512 chips with 8 images each. In exaFLOP
(Table 6, recipe=vit): R50x1 50, R50x2 199, R101x1 96, R152x1 141, R152x2 563 or 1126, R200x3 3306.
R50x1 on ImageNet takes big_vision 32 minutes on 128 v3 cores (about 3 core-days).

Data: experiments/vit/datasets.py says how to prepare them.
"""

import dataclasses
from typing import Any

from ml_collections import ConfigDict

from experiments.vit import pretrain, recipes
from experiments.vit.datasets import data_config, dataset_named
from experiments.vit.recipes import PretrainRow
from train_jax.config import parse_arg, to_config_dict
from train_jax.errors import UserError
from train_jax.mesh import MeshConfig
from train_jax.optimizers import Adam, OptimizerConfig, Sgd
from train_jax.schedules import LinearConfig, ScheduleConfig, StepsConfig
from vit_jax.data.preprocess import InceptionCrop
from vit_jax.losses import LossName
from vit_jax.models.bit import bit_config
from vit_jax.task import ViTTrainConfig

# ViT paper, Table 3: its pure ResNets. The row of R200x3, and 14 epochs, are from Table 6.
TABLE_3: tuple[PretrainRow, ...] = (
    #           data       models              epochs    base LR decay   wd   dropout
    PretrainRow("jft300m", ("R50x1", "R50x2"), (7,),     1e-3, "linear", 0.1, 0.0),
    PretrainRow("jft300m", ("R101x1",),        (7,),     8e-4, "linear", 0.1, 0.0),
    PretrainRow("jft300m", ("R152x1",),        (7,),     6e-4, "linear", 0.1, 0.0),
    PretrainRow("jft300m", ("R152x2",),        (7, 14),  6e-4, "linear", 0.1, 0.0),
    PretrainRow("jft300m", ("R200x3",),        (14,),    6e-4, "linear", 0.1, 0.0),
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class UpstreamRow:
    """How the BiT paper trains on a data set (section 3.3).

    Attributes:
        epochs: the length.
        boundaries: epochs after which the rate is divided by ten.
        loss: see the module's docstring.
        head_bias: initial bias of the head.
    """

    epochs: int
    boundaries: tuple[int, ...]
    loss: LossName
    head_bias: float


UPSTREAM: dict[str, UpstreamRow] = {
    "jft300m": UpstreamRow(40, (10, 23, 30, 37), "sigmoid", -10.0),
    "imagenet21k": UpstreamRow(90, (30, 60, 80), "sigmoid", -10.0),
    "imagenet2012": UpstreamRow(90, (30, 60, 80), "softmax", 0.0),
}

BATCH = 4096
LR_PER_256 = 0.03
WARMUP = "5_000 steps"
MOMENTUM = 0.9
# 1e-4 / (1 - MOMENTUM): what a decay of 1e-4 within the gradient adds up to in the momentum.
WEIGHT_DECAY = 1e-3


def get_config(arg: str | None = None) -> ConfigDict:
    """The run, with every key that the command line can override.

    Raises:
        UserError: a model, data set or length that the recipe does not have, or a wrong argument.
    """
    args = parse_arg(arg, variant="", dataset="", recipe="bit", epochs=0, source="", seed=0)
    make = {"bit": bit_run, "vit": vit_run}.get(args["recipe"])
    if make is None:
        raise UserError(f"Config argument recipe={args['recipe']} must be bit or vit.")
    return to_config_dict(make(args))


def bit_run(args: dict[str, Any]) -> ViTTrainConfig:
    """The recipe of the BiT paper."""
    row = UPSTREAM.get(args["dataset"])
    if row is None:
        raise UserError(
            f"The BiT paper does not pre-train on {args['dataset'] or 'no data set'!r}; write "
            f"VARIANT,DATASET as in R50x1,imagenet21k. It has {', '.join(UPSTREAM)}."
        )
    if args["epochs"] not in (0, row.epochs):
        raise UserError(
            f"The BiT paper trains {row.epochs} epochs on {args['dataset']}; for another length "
            "set --config.total and --config.schedule.boundaries."
        )
    return _run(
        args,
        head_bias=row.head_bias,
        total=f"{row.epochs} epochs",
        loss=row.loss,
        optimizer=Sgd(momentum=MOMENTUM, weight_decay=WEIGHT_DECAY),
        schedule=StepsConfig(
            base=LR_PER_256 * BATCH / 256,
            boundaries=tuple(f"{epoch} epochs" for epoch in row.boundaries),
            factor=0.1,
            warmup=WARMUP,
        ),
    )


def vit_run(args: dict[str, Any]) -> ViTTrainConfig:
    """The recipe of the ViT paper's Table 3."""
    variant, data = args["variant"], args["dataset"]
    row = next((row for row in TABLE_3 if row.data == data and variant in row.models), None)
    if row is None:
        known = ", ".join(model for row in TABLE_3 for model in row.models)
        raise UserError(
            f"The ViT paper does not train {variant or 'no model'!r} on {data or 'no data set'!r} "
            f"with its own recipe; its ResNets are {known}, on jft300m."
        )
    epochs = recipes.choose_epochs(args["epochs"], row.epochs, table="The ViT paper")
    return _run(
        args,
        head_bias=recipes.PRETRAIN_HEAD_BIAS,
        total=f"{epochs} epochs",
        loss="sigmoid",
        optimizer=Adam(b1=0.9, b2=0.999, weight_decay=row.weight_decay),
        schedule=LinearConfig(base=row.base_lr, end=1e-5, warmup=recipes.PRETRAIN_WARMUP),
    )


def _run(
    args: dict[str, Any],
    *,
    head_bias: float,
    total: str,
    loss: LossName,
    optimizer: OptimizerConfig,
    schedule: ScheduleConfig,
) -> ViTTrainConfig:
    dataset, variant, source = dataset_named(args["dataset"]), args["variant"], args["source"]
    return ViTTrainConfig(
        seed=args["seed"],
        model=bit_config(
            variant, num_classes=dataset.num_classes, head_bias=head_bias, compute_dtype="bfloat16"
        ),
        data=data_config(
            dataset,
            dataset.part,
            preprocess=InceptionCrop(size=recipes.PRETRAIN_SIZE),
            source=source,
        ),
        evaluations=pretrain.evaluations(dataset, source=source),
        batch_size=BATCH,
        total=total,
        loss=loss,
        optimizer=optimizer,
        schedule=schedule,
        mesh=mesh_for(variant),
    )


def mesh_for(variant: str) -> MeshConfig:
    """How devices are used: from twice the width on, parameters are split.

    R152x4's with their gradients and momentum take 11 GB, of the 16 GiB of a TPU v3 core.
    """
    return MeshConfig() if variant.endswith("x1") else MeshConfig(data=-1, fsdp=-1)
