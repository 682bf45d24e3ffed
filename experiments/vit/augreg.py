r"""Pre-training as in "How to train your ViT?" (AugReg, Steiner et al. 2021; section 3).

    python -m vit_jax.train --config=experiments/vit/augreg.py:B/16,imagenet21k --workdir=DIR
    python -m vit_jax.train \
        --config=experiments/vit/augreg.py:S/16,imagenet2012,aug=medium1,regularised=true \
        --workdir=DIR

Behind the colon: VARIANT,DATASET, then any of
    aug=LEVEL          none, light1, light2, medium1, medium2, strong1 or strong2 (that of
                       big_vision's configs for the model, see recipes.AUGREG). Published files name
                       levels otherwise: their light0 is light1 here, their light1 is light2
    regularised=true   dropout 0.1, and stochastic depth growing linearly to 0.1 (false: neither)
    weight_decay=X     0.03 or 0.1 (the default)
    epochs=N           ImageNet-21k: 30 or 300 (the default); ImageNet: 300
    source=..., seed=N as in pretrain.py

Recipe: Adam (0.9, 0.999), batch 4096, peak learning rate 1e-3, warm-up of 10k steps, cosine decay
to 0, global-norm clip 1, weight decay decoupled and multiplied by the learning rate, 224 px
inception crops and flips, then RandAugment and MixUp by level. No hidden layer in the head. Class
token, as the published files. Sigmoid cross-entropy, with big_vision's head biases: -10 for
ImageNet-21k, -6.9 for ImageNet. Matrix products and residual stream are bfloat16.

Departures: MixUp's partner is the neighbour in the global batch, theirs the neighbour on the same
device; images are rounded to uint8 once before RandAugment.

Evaluation is that of pretrain.py. To fine-tune, use finetune.py with --config.model.dropout=0.0;
the paper's sweep (its Table 4) is lr 0.01, 0.03 for ImageNet and 0.001, 0.003, 0.01 else.

Expected: ImageNet top-1 in %, ImageNet-21k for 300 epochs, best setting, fine-tuned at 224 / 384:
    L/16 83.98 / 85.59     S/16 80.46 / 83.73     R50+L/32 82.74 / 85.99
    B/16 83.96 / 85.49     S/32 73.47 / 79.58     R26+S/32 80.81 / 83.85
    B/32 79.13 / 83.59     Ti/16 73.75 / 78.22    R+Ti/16  69.69 / 75.40
ImageNet for 300 epochs, fine-tuned at 384: B/16 81.63, S/16 80.70, L/16 77.21, B/32 76.60.

Cost: not published by run. A run of 300 epochs costs as much as pretrain.py per image: L/16 on
ImageNet-21k 230 core-days per 90 epochs, about 770 for 300.

Data: experiments/vit/datasets.py says how to prepare them.
"""

from ml_collections import ConfigDict

from experiments.vit import pretrain, recipes
from experiments.vit.datasets import data_config, dataset_named
from train_jax.config import parse_arg, to_config_dict
from train_jax.errors import UserError
from train_jax.optimizers import Adam
from train_jax.schedules import CosineConfig
from vit_jax.data.preprocess import InceptionCrop
from vit_jax.data.randaugment import AUGREG_LEVELS
from vit_jax.models.variants import config_for
from vit_jax.task import ViTTrainConfig


def get_config(arg: str | None = None) -> ConfigDict:
    """The run, with every key that the command line can override.

    Raises:
        UserError: a model, data set, level or length that AugReg does not have, or a wrong
            argument.
    """
    args = parse_arg(
        arg,
        variant="",
        dataset="",
        aug="",
        regularised=False,
        weight_decay=recipes.AUGREG_WEIGHT_DECAYS[-1],
        epochs=0,
        source="",
        seed=0,
    )
    variant, regularised = args["variant"], args["regularised"]
    row = recipes.augreg_row(variant, args["dataset"])
    dataset = dataset_named(row.data)
    epochs = recipes.choose_epochs(args["epochs"], row.epochs, table="AugReg")
    level = AUGREG_LEVELS[_level(args["aug"] or row.levels[variant])]
    return to_config_dict(
        ViTTrainConfig(
            seed=args["seed"],
            model=config_for(
                variant,
                num_classes=dataset.num_classes,
                head_bias=row.head_bias,
                dropout=recipes.AUGREG_DROPOUT if regularised else 0.0,
                stochastic_depth=recipes.AUGREG_STOCHASTIC_DEPTH if regularised else 0.0,
                compute_dtype="bfloat16",
            ),
            data=data_config(
                dataset,
                dataset.part,
                preprocess=InceptionCrop(size=recipes.PRETRAIN_SIZE),
                source=args["source"],
                randaugment=level.randaugment,
            ),
            mixup=level.mixup,
            evaluations=pretrain.evaluations(dataset, source=args["source"]),
            batch_size=recipes.PRETRAIN_BATCH,
            total=f"{epochs} epochs",
            loss="sigmoid",
            optimizer=Adam(
                b1=0.9, b2=0.999, clip_norm=1.0, weight_decay=_weight_decay(args["weight_decay"])
            ),
            schedule=CosineConfig(base=recipes.AUGREG_LR, warmup=recipes.PRETRAIN_WARMUP),
            mesh=recipes.mesh_for(variant),
        )
    )


def _level(name: str) -> str:
    if name not in AUGREG_LEVELS:
        raise UserError(f"Unknown level aug={name!r}; AugReg has {', '.join(AUGREG_LEVELS)}.")
    return name


def _weight_decay(value: float) -> float:
    if value not in recipes.AUGREG_WEIGHT_DECAYS:
        known = " and ".join(map(str, recipes.AUGREG_WEIGHT_DECAYS))
        raise UserError(
            f"AugReg's weight decays are {known}, not {value}; for another one add "
            f"--config.optimizer.weight_decay={value}."
        )
    return value
