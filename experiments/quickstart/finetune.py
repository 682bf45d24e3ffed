r"""Fine-tuning in small: five labels for each of the digits that pre-training never saw.

    python -m vit_jax.train --config=experiments/quickstart/finetune.py:SEED \
        --config.init_from=runs/pretrain --workdir=runs/finetune

The recipe is that of the ViT paper's Table 4 with other sizes: SGD with momentum, cosine decay,
gradient clipping, no weight decay, a higher resolution with interpolated position embeddings, a
zero-initialised head. Without ``init_from`` the same recipe trains from scratch. The seed (0) also
picks the labels.

Expected: see the table that ``make quickstart`` prints. Cost: a few seconds on 2 CPU cores.
"""

import dataclasses

from ml_collections import ConfigDict

from experiments.quickstart import pretrain
from train_jax.config import parse_arg, to_config_dict
from train_jax.optimizers import Sgd
from train_jax.schedules import CosineConfig
from train_jax.train_config import CheckpointConfig
from vit_jax.data.pipeline import DataConfig
from vit_jax.data.preprocess import InceptionCrop, Squash
from vit_jax.task import ViTTrainConfig

CLASSES = tuple(digit for digit in range(10) if digit not in pretrain.CLASSES)
SHOTS = 5
SIZE = 24


def get_config(arg: str | None = None) -> ConfigDict:
    """The run, with every key that the command line can override."""
    seed = parse_arg(arg, seed=0)["seed"]
    return to_config_dict(
        ViTTrainConfig(
            seed=seed,
            model=dataclasses.replace(
                pretrain.MODEL,
                num_classes=len(CLASSES),
                representation_size=None,
                head_bias=0.0,
            ),
            data=DataConfig(
                source="digits",
                split="train",
                classes=CLASSES,
                shots=SHOTS,
                shots_seed=seed,
                preprocess=InceptionCrop(size=SIZE, min_area=0.5),
            ),
            evaluations={
                "test": DataConfig(
                    source="digits",
                    split="test",
                    classes=CLASSES,
                    preprocess=Squash(size=SIZE),
                )
            },
            batch_size=32,
            total="60 steps",
            loss="softmax",
            flip=False,
            optimizer=Sgd(momentum=0.9, clip_norm=1.0),
            schedule=CosineConfig(base=0.03, warmup="6 steps"),
            checkpoint=CheckpointConfig(every="100 percent"),
            log_every="20 steps",
            evaluate_every="100 percent",
        )
    )
