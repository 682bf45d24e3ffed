"""A run of ``vit_jax.train`` without its data, for ``train_jax.plan``."""

import re
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from train_jax.data.dataset import TrainData
from train_jax.errors import UserError
from train_jax.outline import Outline, Published
from train_jax.task import Task
from vit_jax.flops import multiply_adds
from vit_jax.models import api, bit
from vit_jax.models.bit import BiTConfig
from vit_jax.models.config import ViTConfig
from vit_jax.models.efficientnet_config import VARIANTS, EfficientNetConfig
from vit_jax.noisy_student import labelled_rows, probabilities_shape
from vit_jax.recognise import variant_name
from vit_jax.task import ViTTrainConfig, image_shape, make_loss

CONFIG = ViTTrainConfig

# Of data sets with several labels per image (vit_jax/data/sources.py).
_MAX_LABELS = 16

#: ViT paper, Tables 2 and 6: pre-training on JFT-300M at 224: variant, epochs -> thousands of
#: TPUv3-core-days, exaFLOP. The ResNets are BiT's; 40 epochs are BiT-L's.
PUBLISHED: dict[tuple[str, int], tuple[float | None, int | None]] = {
    ("B/32", 7): (None, 55),
    ("B/16", 7): (None, 224),
    ("L/32", 7): (None, 196),
    ("L/16", 7): (None, 783),
    ("L/16", 14): (0.68, 1567),
    ("H/14", 14): (2.5, 4262),
    ("R50+B/32", 7): (None, 106),
    ("R50+B/16", 7): (None, 274),
    ("R50+L/32", 7): (None, 246),
    ("R50+L/16", 7): (None, 859),
    ("R50+L/16", 14): (None, 1668),
    ("R50x1", 7): (None, 50),
    ("R50x2", 7): (None, 199),
    ("R101x1", 7): (None, 96),
    ("R152x1", 7): (None, 141),
    ("R152x2", 7): (None, 563),
    ("R152x2", 14): (None, 1126),
    ("R200x3", 14): (None, 3306),
    ("R152x4", 40): (9.9, None),
}


def outline(config: ViTTrainConfig) -> Outline:
    """The task of a config, and the shapes of its batches.

    Raises:
        UserError: the model does not fit the images, or the length of an epoch is not known.
    """
    model, shape = config.model, image_shape(config.data)
    api.grid_of(model, shape)
    several = config.loss == "sigmoid"
    labels = config.data.max_labels or (_MAX_LABELS if several else 1)
    batch = {
        "image": jax.ShapeDtypeStruct((config.batch_size, *shape), np.uint8),
        "labels": jax.ShapeDtypeStruct((config.batch_size, labels), np.int32),
    }
    if config.pseudo_labels is not None:
        labelled_rows(config.pseudo_labels, config.batch_size)
        batch |= probabilities_shape(config.batch_size, model.num_classes)
    task = Task(
        init=lambda key: api.init(model, key, shape),
        loss=make_loss(config),
        train_data=TrainData(config.batch_size, _examples(config), "outline", _no_data, batch),
        evaluations={},
        param_rules=api.param_rules(model, shape),
    )
    return Outline(
        task=task,
        resident={},
        batch=batch,
        multiply_adds=multiply_adds(model, shape),
        choices=_choices(config),
        published=_published(config, shape),
    )


def _choices(config: ViTTrainConfig) -> dict[str, tuple[str, ...]]:
    match config.model:
        case EfficientNetConfig():
            return {"model.remat": ("none", "full")}
        case BiTConfig():
            return {"model.remat": ("none", "convs", "full")}
        case _:
            return {"model.remat": ("names", "dots", "full")}


def _no_data(step: int, rows: np.ndarray) -> Iterator[Any]:
    raise AssertionError("an outline has no data")


def _examples(config: ViTTrainConfig) -> int:
    data = config.data
    if data.shots is not None:
        return data.shots * (len(data.classes) if data.classes else config.model.num_classes)
    if data.examples is not None:
        # An epoch is one over the labelled images.
        ratio = 0 if config.pseudo_labels is None else config.pseudo_labels.ratio
        return data.examples * (1 + ratio)
    if re.search("epoch|example", config.total):
        raise UserError(
            f"How many examples {data.source} ({data.split}) has is not known, and the run is of "
            f"{config.total}; add --config.data.examples=N."
        )
    return config.batch_size


def _published(config: ViTTrainConfig, shape: tuple[int, ...]) -> tuple[Published, ...]:
    if config.pseudo_labels is not None:
        sizes = (getattr(config.model, "width", 0), getattr(config.model, "depth", 0))
        like_l2 = sizes == VARIANTS["L2"][:2] and shape[:2] == (475, 475)
        if like_l2 and config.pseudo_labels.ratio == 14 and config.total == "350 epochs":
            return (Published("v3_core_days", 12_300, "ViT paper, Table 2 (Noisy Student)"),)
        return ()
    if "jft300m" not in config.data.source or shape[:2] != (224, 224):
        return ()
    mine = _variant(config.model)
    found = []
    for (variant, epochs), (thousand_days, exaflop) in PUBLISHED.items():
        if variant == mine and config.total == f"{epochs} epochs":
            if exaflop is not None:
                found.append(Published("exaflop", exaflop, "ViT paper, Table 6"))
            if thousand_days is not None:
                found.append(Published("v3_core_days", 1000 * thousand_days, "ViT paper, Table 2"))
    return tuple(found)


def _variant(model: api.ModelConfig) -> str | None:
    match model:
        case ViTConfig():
            return variant_name(model)
        case BiTConfig():
            return bit.variant_name(model)
        case EfficientNetConfig():
            return None
