"""Frozen representations: what a model makes of the images of a split, on the host.

The representation is that which the classification head sees ("pre_logits": behind the hidden layer
of the pre-training head where there is one), without augmentation. Few-shot linear evaluation
(vit_jax/fewshot.py) and nearest neighbours (vit_jax/knn.py) start from it.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from train_jax.config import from_config
from train_jax.errors import UserError
from train_jax.evaluation import make_collector
from train_jax.task import Batch, ModelState, Params
from vit_jax.data.on_device import normalise
from vit_jax.data.pipeline import DataConfig, data_source, eval_data
from vit_jax.data.preprocess import height_width
from vit_jax.init_from import load_model, open_source
from vit_jax.models import api
from vit_jax.models.config import ViTConfig
from vit_jax.recognise import recognise_any


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProbeData:
    """A data set on which a representation is tried.

    Attributes:
        train: where labelled examples are taken from; read without augmentation.
        test: the examples that are classified.
    """

    train: DataConfig
    test: DataConfig


@dataclasses.dataclass(frozen=True, eq=False)
class Represented:
    """Representations of the labelled images of a split, in the order of the data set.

    Attributes:
        features: float32 (n, D).
        labels: int32 (n, L), class indices padded with -1; the first is a class in any case.
        num_classes: of the data set.
    """

    features: np.ndarray
    labels: np.ndarray
    num_classes: int

    def __len__(self) -> int:
        return len(self.features)


#: (params, model_state) -> the representations of the training and the test images.
Extractor = Callable[[Any, Any], tuple[Represented, Represented]]


@dataclasses.dataclass(frozen=True, eq=False)
class FrozenModel:
    """A checkpoint without its head.

    Attributes:
        model: the configuration; ``num_classes`` is 0.
        params: placed on the mesh.
        model_state: likewise.
    """

    model: api.ModelConfig
    params: Params
    model_state: ModelState


@dataclasses.dataclass(frozen=True)
class _About:
    """What a checkpoint of ours says of its model."""

    model: api.ModelConfig


def load_frozen(
    checkpoint: str, mesh: Mesh, *, image_shape: tuple[int, int, int], averaged: bool = True
) -> FrozenModel:
    """The model of a checkpoint, for images of a size; under ``jax.set_mesh``.

    Args:
        checkpoint: a run of ours, or a published file, whose model is recognised.
        mesh: where the parameters go.
        image_shape: (height, width, channels); a position table is resized to it.
        averaged: take the averaged parameters of a run that kept them.

    Raises:
        UserError: the checkpoint cannot be read, or its patches do not tile such images.
    """
    source = open_source(checkpoint, averaged=averaged)
    if "model" in source.about:
        model = from_config(_About, {"model": source.about["model"]}, path="checkpoint").model
    else:
        model = recognise_any(source.shapes, grid=source.grid).model
    model = dataclasses.replace(model, num_classes=0)
    if isinstance(model, ViTConfig):
        model = dataclasses.replace(model, patch_outputs=0)
    params, model_state = load_model(
        checkpoint, mesh, model=model, image_shape=image_shape, averaged=averaged
    )
    return FrozenModel(model, params, model_state)


def make_extractor(
    model: api.ModelConfig, data: ProbeData, mesh: Mesh, *, batch_size: int
) -> Extractor:
    """A function that represents the images of a data set, on every process.

    Raises:
        UserError: the data cannot be opened, or their images do not fit the model or each other.
    """
    splits = [data_source(split) for split in (data.train, data.test)]
    if splits[0].num_classes != splits[1].num_classes:
        raise UserError(
            f"{data.train.source} ({data.train.split}) has {splits[0].num_classes} classes and "
            f"{data.test.source} ({data.test.split}) {splits[1].num_classes}; choose splits of "
            "the same classes."
        )
    for split in (data.train, data.test):
        api.grid_of(model, (*height_width(split.preprocess.size), 3))

    def represent(params: Params, model_state: ModelState, batch: Batch) -> dict[str, jax.Array]:
        _, outputs, _ = api.apply(model, params, model_state, normalise(batch["image"]))
        return {"features": outputs["pre_logits"], "labels": batch["labels"]}

    collectors = [
        make_collector(eval_data(split, batch_size=batch_size), represent, mesh)
        for split in (data.train, data.test)
    ]

    def extract(params: Any, model_state: Any) -> tuple[Represented, Represented]:
        train, test = (
            Represented(**collect(params, model_state), num_classes=splits[0].num_classes)
            for collect in collectors
        )
        return train, test

    return extract


def only_size(data: Mapping[str, ProbeData]) -> tuple[int, int, int]:
    """The one shape (height, width, channels) of the images of several data sets.

    Raises:
        UserError: there is no data set, or their images differ in size.
    """
    sizes = {
        height_width(split.preprocess.size)
        for each in data.values()
        for split in (each.train, each.test)
    }
    if len(sizes) != 1:
        found = ", ".join(f"{height}x{width}" for height, width in sorted(sizes))
        raise UserError(
            f"The images of all data sets must have one size; found {found}."
            if sizes
            else "The config has no data sets; add one to config.datasets."
        )
    return (*sizes.pop(), 3)
