"""The hyper-parameter tables of the ViT and AugReg papers, row by row.

They are kept as the papers print them, so that a reader can lay the page beside the file. What the
tables leave open is stated below each, with its source. The experiment files turn a row into a run.
"""

import dataclasses
import math
import re
from typing import Literal

from train_jax.errors import UserError
from train_jax.mesh import MeshConfig
from vit_jax.models.config import ViTConfig

ANY_VIT = "ViT-*"


@dataclasses.dataclass(frozen=True)
class PretrainRow:
    """A row of the ViT paper's Table 3; the fields are its columns.

    Attributes:
        data: data set.
        models: variants, or `ANY_VIT` for every one without a ResNet stem.
        epochs: the lengths that the paper trained; the last is the default.
        base_lr: learning rate after the warm-up.
        decay: shape of the schedule.
        weight_decay: decoupled, multiplied by the learning rate.
        dropout: rate.
        clip_norm: clipping of the gradient's global norm, from the caption.
    """

    data: str
    models: tuple[str, ...]
    epochs: tuple[int, ...]
    base_lr: float
    decay: Literal["linear", "cosine"]
    weight_decay: float
    dropout: float
    clip_norm: float | None = None

    def covers(self, variant: str) -> bool:
        """Whether the row is about a model."""
        return variant in self.models or (ANY_VIT in self.models and "+" not in variant)


# ViT paper, Table 3, without the rows of pure ResNets. Adam with 0.9 and 0.999, batch 4096, warm-up
# of 10k steps, resolution 224.
TABLE_3: tuple[PretrainRow, ...] = (
    #           data            models                epochs    base LR decay   wd    dropout
    PretrainRow("jft300m",      ("B/16", "B/32"),         (7,),    8e-4, "linear", 0.1,  0.0),
    PretrainRow("jft300m",      ("L/32",),                (7,),    6e-4, "linear", 0.1,  0.0),
    PretrainRow("jft300m",      ("L/16",),                (7, 14), 4e-4, "linear", 0.1,  0.0),
    PretrainRow("jft300m",      ("H/14",),                (14,),   3e-4, "linear", 0.1,  0.0),
    PretrainRow("jft300m",      ("R50+B/16", "R50+B/32"), (7,),    8e-4, "linear", 0.1,  0.0),
    PretrainRow("jft300m",      ("R50+L/32",),            (7,),    2e-4, "linear", 0.1,  0.0),
    PretrainRow("jft300m",      ("R50+L/16",),            (7, 14), 4e-4, "linear", 0.1,  0.0),
    PretrainRow("imagenet21k",  ("B/16", "B/32"),         (90,),   1e-3, "linear", 0.03, 0.1),
    PretrainRow("imagenet21k",  ("L/16", "L/32"),      (30, 90),   1e-3, "linear", 0.03, 0.1),
    PretrainRow("imagenet2012", (ANY_VIT,),               (300,),  3e-3, "cosine", 0.3,  0.1, 1.0),
)  # fmt: skip

PRETRAIN_BATCH = 4096
PRETRAIN_WARMUP = "10_000 steps"
PRETRAIN_SIZE = 224
# With the sigmoid loss every class begins as improbable; stated by the authors for JFT and
# ImageNet-21k, and used by those who reproduced the ImageNet numbers.
PRETRAIN_HEAD_BIAS = -10.0
# Evaluation at 224: the shorter side to 256, then the centre (big_vision).
PRETRAIN_EVAL_RESIZE = 256


@dataclasses.dataclass(frozen=True)
class FinetuneRow:
    """A row of the ViT paper's Table 4; the fields are its columns.

    Attributes:
        data: data set.
        steps: updates.
        lrs: the grid of base learning rates, of which the held-out split chooses one.
    """

    data: str
    steps: int
    lrs: tuple[float, ...]


# ViT paper, Table 4. SGD with momentum 0.9, batch 512, cosine decay, no weight decay, gradient clip
# at global norm 1, resolution 384.
TABLE_4: tuple[FinetuneRow, ...] = (
    #           data                 steps   base LR
    FinetuneRow("imagenet2012",      20_000, (0.003, 0.01, 0.03, 0.06)),
    FinetuneRow("cifar100",          10_000, (0.001, 0.003, 0.01, 0.03)),
    FinetuneRow("cifar10",           10_000, (0.001, 0.003, 0.01, 0.03)),
    FinetuneRow("oxford_iiit_pet",   500,    (0.001, 0.003, 0.01, 0.03)),
    FinetuneRow("oxford_flowers102", 500,    (0.001, 0.003, 0.01, 0.03)),
    FinetuneRow("vtab",              2_500,  (0.01,)),
)  # fmt: skip

FINETUNE_BATCH = 512
FINETUNE_SIZE = 384
# Steps to warm-up steps, which the paper does not print: the authors' code, and for 2,500 steps the
# AugReg paper's Table 4.
FINETUNE_WARMUP = {20_000: 500, 10_000: 500, 2_500: 200, 500: 100}
# The paper does not print which rate won; these did for AugReg's B/32 in big_vision's transfers.
FINETUNE_LR = {
    "imagenet2012": 0.03,
    "cifar100": 0.01,
    "cifar10": 0.003,
    "oxford_iiit_pet": 0.003,
    "oxford_flowers102": 0.003,
    "vtab": 0.01,
}
# The authors' model definitions; R50+B/32 and R50+L/16, which they did not publish, as their
# sisters. All others: 0.
FINETUNE_DROPOUT = {
    "L/16": 0.1,
    "H/14": 0.1,
    "R50+B/16": 0.1,
    "R50+B/32": 0.1,
    "R50+L/16": 0.1,
    "R50+L/32": 0.1,
}
# ViT paper, section 4.1: the ImageNet rows of Table 2 (only) are at these sizes and averaged.
TABLE_2_SIZE = {"L/16": 512, "H/14": 518}
TABLE_2_POLYAK = 0.9999


@dataclasses.dataclass(frozen=True)
class AugRegRow:
    """What "How to train your ViT?", section 3, trains on one data set.

    Attributes:
        data: data set.
        epochs: lengths; the last is the default.
        head_bias: initial bias of the head (big_vision).
        levels: the augmentation that big_vision's configs choose for each model; hybrids take that
            of the transformer behind the stem, which is our choice.
    """

    data: str
    epochs: tuple[int, ...]
    head_bias: float
    levels: dict[str, str]


AUGREG: tuple[AugRegRow, ...] = (
    AugRegRow(
        "imagenet21k",
        (30, 300),
        -10.0,
        {
            "Ti/16": "none",
            "S/32": "none",
            "S/16": "light1",
            "B/32": "light2",
            "B/16": "light2",
            "L/16": "medium2",
            "R+Ti/16": "none",
            "R26+S/32": "none",
            "R50+L/32": "medium2",
        },
    ),
    AugRegRow(
        "imagenet2012",
        (300,),
        -6.9,
        {
            "Ti/16": "light1",
            "S/32": "medium1",
            "S/16": "medium2",
            "B/32": "medium2",
            "B/16": "medium2",
            "L/16": "medium2",
            "R+Ti/16": "light1",
            "R26+S/32": "medium1",
            "R50+L/32": "medium2",
        },
    ),
)
AUGREG_LR = 1e-3
AUGREG_WEIGHT_DECAYS = (0.03, 0.1)
AUGREG_DROPOUT = 0.1
AUGREG_STOCHASTIC_DEPTH = 0.1

# Sizes whose parameters are so few that every device may have its own.
_WHOLE_SIZES = ("Ti", "S")


def pretrain_row(variant: str, data: str) -> PretrainRow:
    """The row of Table 3 for a model on a data set.

    Raises:
        UserError: the table has none; the message says what it has.
    """
    for row in TABLE_3:
        if row.data == data and row.covers(variant):
            return row
    known = "; ".join(f"{row.data}: {', '.join(row.models)}" for row in TABLE_3)
    raise UserError(
        f"Table 3 of the ViT paper has no row for {variant or 'no model'!r} on "
        f"{data or 'no data set'!r}; write VARIANT,DATASET as in L/16,imagenet21k. "
        f"It has {known}."
    )


def finetune_row(data: str) -> FinetuneRow:
    """The row of Table 4 for a data set.

    Raises:
        UserError: the table has none; the message says what it has.
    """
    for row in TABLE_4:
        if row.data == data:
            return row
    raise UserError(
        f"Table 4 of the ViT paper has no row for {data or 'no data set'!r}; write VARIANT,DATASET "
        f"as in L/16,cifar100. It has {', '.join(row.data for row in TABLE_4)}."
    )


def augreg_row(variant: str, data: str) -> AugRegRow:
    """What AugReg does with a model on a data set.

    Raises:
        UserError: the paper does not train that; the message says what it trains.
    """
    for row in AUGREG:
        if row.data == data and variant in row.levels:
            return row
    known = "; ".join(f"{row.data}: {', '.join(row.levels)}" for row in AUGREG)
    raise UserError(
        f"AugReg does not train {variant or 'no model'!r} on {data or 'no data set'!r}; write "
        f"VARIANT,DATASET as in B/16,imagenet21k. It has {known}."
    )


def choose_epochs(epochs: int, known: tuple[int, ...], *, table: str) -> int:
    """The length of a run: the last of the table's for 0.

    Raises:
        UserError: the table has no such length.
    """
    if epochs and epochs not in known:
        raise UserError(
            f"{table} has no run of {epochs} epochs but of {' or '.join(map(str, known))}; "
            f"for another length add --config.total='{epochs} epochs'."
        )
    return epochs or known[-1]


def mesh_for(variant: str) -> MeshConfig:
    """How devices are used: from B on, parameters are split over up to 64 of them.

    On a pod a device has few images, 8 per core of v3:16x16 at batch 4096, and the optimiser's
    update of all parameters would take up to a fifth of its step. Estimated core-days of the
    paper's runs on JFT (benchmarks/plan_table.py options), each device with all parameters against
    the split: on v3:16x16, B/16 128 against 103, L/16 793 against 621; on v5e:16x16, B/16 44
    against 31, L/16 275 against 185. Nothing has been timed.
    """
    size = re.sub(r"^R\d*\+", "", variant).partition("/")[0]
    return MeshConfig() if size in _WHOLE_SIZES else MeshConfig(data=-1, fsdp=-1)


def tiled_size(model: ViTConfig, size: int) -> int:
    """The largest image side up to ``size`` that the model's patches tile.

    384 is no multiple of 14. The original's convolution leaves the last pixels of such an image
    out; resizing to a multiple gives the same number of patches (27 x 27 for H/14).
    """
    stride = math.lcm(*model.patch_size) * (1 if model.stem is None else model.stem.stride)
    return size // stride * stride
