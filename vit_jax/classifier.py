"""A checkpoint ready for pictures of any size: its model, preprocessing and class names.

What a run of ours says of itself is used: the preprocessing of its evaluations, its loss, its data.
A published file says nothing; as the ViT paper's code evaluates such files, pictures are resized to
the input whatever their aspect ratio, and values are in [-1, 1] as everywhere here.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

import jax
import numpy as np
from etils import epath

from train_jax.config import from_config
from train_jax.errors import UserError
from train_jax.stored import as_path, brief
from vit_jax.class_names import find_names
from vit_jax.data.decode import CorruptImageError, Picture
from vit_jax.data.on_device import normalise
from vit_jax.data.pipeline import DataConfig
from vit_jax.data.preprocess import (
    InceptionCrop,
    Preprocess,
    ResizeCrop,
    ResizeSmallCrop,
    Squash,
    height_width,
    preprocess,
)
from vit_jax.init_from import Source, open_source, transfer_model
from vit_jax.models import api
from vit_jax.models.bit import variant_name as bit_variant
from vit_jax.models.config import ViTConfig
from vit_jax.recognise import recognise_any, variant_name
from vit_jax.task import ViTTrainConfig
from vit_jax.transfer import TransferConfig

#: Endings of the files that are taken from a directory.
PICTURES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")

# Heads on ImageNet-21k answer with a sigmoid per class (ViT paper, Appendix B.1).
_SIGMOID_CLASSES = 21_843


@dataclasses.dataclass(frozen=True, eq=False)
class Classifier:
    """A model and all that is between it and people.

    Attributes:
        checkpoint: where it is from.
        model: the configuration.
        params: on one device.
        model_state: likewise.
        preprocess: from a picture to the input.
        loss: "sigmoid" where the classes do not exclude each other.
        class_names: one per output.
        names_from: where they come from, for people.
    """

    checkpoint: str
    model: api.ModelConfig
    params: api.Params
    model_state: api.ModelState
    preprocess: Preprocess
    loss: Literal["sigmoid", "softmax"]
    class_names: tuple[str, ...]
    names_from: str

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of the input."""
        return (*height_width(self.preprocess.size), 3)

    @property
    def name(self) -> str:
        """What to call the model."""
        if isinstance(self.model, ViTConfig):
            return f"ViT {variant_name(self.model) or f'of width {self.model.width}'}"
        if isinstance(self.model, api.BiTConfig):
            return f"BiT {bit_variant(self.model) or f'of width {self.model.width}'}"
        return "EfficientNet"


@dataclasses.dataclass(frozen=True)
class _About:
    """What a checkpoint of ours says of itself."""

    model: api.ModelConfig | None = None
    data: DataConfig | None = None
    evaluations: Mapping[str, DataConfig] = dataclasses.field(default_factory=dict)
    loss: Literal["sigmoid", "softmax"] = "softmax"


def open_classifier(
    checkpoint: str,
    *,
    config: ViTTrainConfig | None = None,
    size: int | None = None,
    class_names: str | None = None,
    averaged: bool = True,
) -> Classifier:
    """Reads a checkpoint.

    Args:
        checkpoint: a run's directory, one of its checkpoints, or a published .npz file.
        config: an experiment, in the place of what the checkpoint says of itself.
        size: side of the input in pixels; by default as in evaluation.
        class_names: as :func:`vit_jax.class_names.find_names` takes them.
        averaged: take the averaged parameters of a run that kept them.

    Raises:
        UserError: it cannot be read, does not fit the config, or does not tell the size of images.
    """
    source = open_source(checkpoint, averaged=averaged)
    about = _about(source) if config is None else _of_config(config)
    model, seen = about.model, None
    if model is None:
        found = recognise_any(source.shapes, grid=source.grid)
        model, seen = found.model, found.image_shape
    if isinstance(model, ViTConfig):
        # The head of masked patch prediction is of no use here.
        model = dataclasses.replace(model, patch_outputs=0)
    way = _preprocessing(about, seen, size)
    if way is None:
        raise UserError(
            f"{checkpoint} does not tell the size of its images; give --size, such as --size=224."
        )
    params, model_state = _load(source, model, (*height_width(way.size), 3), averaged=averaged)
    names = find_names(model.num_classes, data=about.data, given=class_names)
    loss = about.loss
    if about.data is None and model.num_classes == _SIGMOID_CLASSES:
        loss = "sigmoid"
    return Classifier(checkpoint, model, params, model_state, way, loss, names.names, names.origin)


def _of_config(config: ViTTrainConfig) -> _About:
    return _About(config.model, config.data, config.evaluations, config.loss)


def _about(source: Source) -> _About:
    values = {"model": source.about["model"]} if "model" in source.about else {}
    config = source.about.get("config") or {}
    if config.get("package") == "vit_jax":
        values |= {key: config[key] for key in ("data", "evaluations", "loss") if key in config}
    return from_config(_About, values, path="checkpoint")


def _preprocessing(
    about: _About, seen: tuple[int, int, int] | None, size: int | None
) -> Preprocess | None:
    """That of the first evaluation; where there is none, the whole picture at the input size."""
    way = next((data.preprocess for data in about.evaluations.values()), None)
    if way is None and about.data is not None:
        way = Squash(size=about.data.preprocess.size)
    if way is None or isinstance(way, InceptionCrop):
        side = size or (way.size if way else seen and seen[:2])
        return Squash(size=side) if side else None
    return way if size is None else enlarged(way, size / max(height_width(way.size)))


def enlarged(way: Preprocess, factor: float) -> Preprocess:
    """The same cut of a picture with more (or fewer) pixels."""

    def scaled(size: int | tuple[int, int]) -> Any:
        height, width = (max(round(side * factor), 1) for side in height_width(size))
        return height if isinstance(size, int) else (height, width)

    size = scaled(way.size)
    if isinstance(way, (ResizeSmallCrop, ResizeCrop)):
        return dataclasses.replace(way, size=size, resize=scaled(way.resize))
    return dataclasses.replace(way, size=size)


def _load(
    source: Source, model: api.ModelConfig, shape: tuple[int, int, int], *, averaged: bool
) -> tuple[api.Params, api.ModelState]:
    place = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    abstract = jax.eval_shape(lambda key: api.init(model, key, shape), jax.random.key(0))
    fresh, model_state = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place), abstract
    )
    config = TransferConfig(keep_head=True, averaged=averaged)
    return transfer_model(
        source.path, fresh, model_state, model=model, image_shape=shape, config=config
    )


def make_scorer(classifier: Classifier) -> Callable[[np.ndarray], np.ndarray]:
    """A function from inputs, uint8 (b, h, w, 3), to probabilities, float64 (b, num_classes).

    One program is compiled per b.

    Raises:
        UserError: the model has no head.
    """
    if not classifier.model.num_classes:
        raise UserError(
            f"{classifier.checkpoint} has no classification head; fine-tune it first, or look at "
            "what it attends to with python -m vit_jax.attention_page."
        )
    run = jax.jit(
        lambda params, state, images: api.apply(classifier.model, params, state, normalise(images))[
            0
        ]
    )

    def score(images: np.ndarray) -> np.ndarray:
        logits = np.asarray(run(classifier.params, classifier.model_state, images), np.float64)
        return probabilities(logits, loss=classifier.loss)

    return score


def probabilities(logits: np.ndarray, *, loss: Literal["sigmoid", "softmax"]) -> np.ndarray:
    """What logits (b, K) say of each class: a distribution, or independent odds."""
    if loss == "sigmoid":
        return np.exp(-np.logaddexp(0, -logits))
    shifted = np.exp(logits - logits.max(-1, keepdims=True))
    return shifted / shifted.sum(-1, keepdims=True)


def best(scores: np.ndarray, count: int) -> list[int]:
    """Indices of the largest of the scores (K,), falling; of equal ones the first."""
    return [int(i) for i in np.argsort(-scores, kind="stable")[:count]]


def find_pictures(words: Sequence[str]) -> list[str]:
    """Image files, from names of files and of directories, which are searched in depth.

    Raises:
        UserError: a name is of nothing, or of a directory without images.
    """
    found: list[str] = []
    for word in words:
        path = _path(word)
        if path.is_dir():
            inside = sorted(_pictures_in(path))
            if not inside:
                raise UserError(
                    f"There is no image in {word}; images end in {', '.join(PICTURES)}."
                )
            found += inside
        elif path.exists():
            found.append(word)
        else:
            raise UserError(f"There is no file {word}; name image files or directories of them.")
    return found


def _path(word: str) -> epath.Path:
    """A path as it was written; of a bucket only if there is something that reads buckets."""
    return as_path(word) if "://" in word else epath.Path(word)


def _pictures_in(directory: epath.Path) -> Iterator[str]:
    for child in directory.iterdir():
        if child.name.startswith("."):
            continue
        if child.is_dir():
            yield from _pictures_in(child)
        elif child.suffix.lower() in PICTURES:
            yield str(child)


def open_picture(path: str) -> Picture:
    """An image file, decoded.

    Raises:
        UserError: it is not an image, or damaged.
    """
    try:
        picture = Picture(_path(path).read_bytes())
        _ = picture.pixels
    except (CorruptImageError, OSError) as error:
        raise UserError(
            f"{path} is not a readable image ({brief(error)}); name JPEG, PNG, BMP or WebP files."
        ) from error
    return picture


def seen_pixels(classifier: Classifier, picture: Picture) -> np.ndarray:
    """A picture as the model gets it, uint8 (h, w, 3)."""
    return preprocess(classifier.preprocess, picture, draws=None)
