"""Training an image classifier: what a step minimises, what an evaluation measures."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Literal

import jax

from train_jax.config import FREE, to_dict
from train_jax.data.dataset import TrainData
from train_jax.errors import UserError
from train_jax.metrics import Metrics, mean_of
from train_jax.task import Batch, Evaluation, LossFn, ModelState, Params, Probe, Task
from train_jax.train_config import TrainConfig
from vit_jax import masked_patch, noisy_student
from vit_jax.data.on_device import mixup, normalise, random_flip
from vit_jax.data.pipeline import DataConfig, data_source, eval_data, train_data
from vit_jax.data.preprocess import height_width
from vit_jax.flops import multiply_adds
from vit_jax.init_from import transfer_model
from vit_jax.least_squares import FewShotConfig, make_probes
from vit_jax.losses import LossName, cross_entropy, multi_hot, smooth_labels, top_k_accuracy
from vit_jax.masked_patch import MaskedPatchConfig
from vit_jax.models import api
from vit_jax.models.config import ViTConfig
from vit_jax.noisy_student import PseudoLabelConfig
from vit_jax.transfer import TransferConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class ViTTrainConfig(TrainConfig):
    """A run of ``vit_jax.train``: the keys of every run, and those of images.

    Attributes:
        model: the network; ``num_classes`` must be that of the data.
        data: what is trained on.
        evaluations: what is measured, by name.
        evaluation_batch_size: examples per evaluation step; None: as in training.
        loss: "sigmoid" for pre-training on several labels per image, "softmax" else.
        label_smoothing: the share of the target that is spread over all classes.
        mixup: p of the Beta(p, p) from which the mixing weight is drawn; 0: off.
        flip: whether images are mirrored at random.
        pseudo_labels: images that a teacher has labelled, beside ``data`` (Noisy Student). Then
            ``batch_size`` counts both kinds, and an epoch is one over ``data``.
        masked_patches: pre-training without labels, in the place of ``loss``; None: classification.
        fewshot: few-shot linear evaluation of the representation, whenever there is an evaluation.
        transfer: what to do with ``init_from`` beyond the paper's rules.
        package: which package the config is of (see train_jax/outline.py).
    """

    model: api.ModelConfig
    data: DataConfig
    evaluations: Mapping[str, DataConfig] = dataclasses.field(default_factory=dict, metadata=FREE)
    evaluation_batch_size: int | None = dataclasses.field(default=None, metadata=FREE)
    loss: LossName = "softmax"
    label_smoothing: float = 0.0
    mixup: float = 0.0
    flip: bool = True
    pseudo_labels: PseudoLabelConfig | None = None
    masked_patches: MaskedPatchConfig | None = None
    fewshot: FewShotConfig | None = dataclasses.field(default=None, metadata=FREE)
    transfer: TransferConfig = dataclasses.field(default_factory=TransferConfig)
    package: Literal["vit_jax"] = dataclasses.field(default="vit_jax", metadata=FREE)

    def __post_init__(self):
        if self.masked_patches is not None:
            masked_patch.check_model(self.masked_patches, self.model)
            if self.pseudo_labels is not None:
                raise UserError(
                    "Masked patch prediction does not look at labels; set config.masked_patches or "
                    "config.pseudo_labels, not both."
                )
            if self.mixup or self.label_smoothing or self.loss != "softmax":
                raise UserError(
                    "Masked patch prediction has no labels to mix or smooth and a loss of its own; "
                    "leave config.mixup, config.label_smoothing and config.loss alone."
                )
        elif getattr(self.model, "patch_outputs", 0):
            raise UserError(
                "config.model.patch_outputs is for masked patch prediction; set it to 0, or "
                "config.masked_patches."
            )


def make_task(config: ViTTrainConfig) -> Task:
    """The task of a config.

    Raises:
        UserError: data that are not there, or a model that does not fit them.
    """
    model, shape = config.model, image_shape(config.data)
    grid = api.grid_of(model, shape)
    data = _train_data(config)
    _require_classes(config, config.data)

    def init(key: jax.Array) -> tuple[Params, ModelState]:
        return api.init(model, key, shape)

    def transfer(fresh: Params, model_state: ModelState) -> tuple[Params, ModelState]:
        assert config.init_from is not None
        return transfer_model(
            config.init_from,
            fresh,
            model_state,
            model=model,
            image_shape=shape,
            config=config.transfer,
        )

    return Task(
        init=init,
        loss=make_loss(config),
        train_data=data,
        evaluations={**make_evaluations(config), **_probes(config)},
        param_rules=api.param_rules(model, shape),
        transfer=None if config.init_from is None else transfer,
        multiply_adds=multiply_adds(model, shape),
        about={"model": to_dict(model), "image_shape": list(shape), "grid": grid and list(grid)},
    )


def _train_data(config: ViTTrainConfig) -> TrainData:
    if config.pseudo_labels is None:
        return train_data(config.data, batch_size=config.batch_size, seed=config.seed)
    return noisy_student.joint_data(
        config.data,
        config.pseudo_labels,
        batch_size=config.batch_size,
        seed=config.seed,
        num_classes=config.model.num_classes,
    )


def make_loss(config: ViTTrainConfig) -> LossFn:
    """What a step minimises: augmentation on the device, model, cross-entropy."""
    model = config.model
    if config.masked_patches is not None:
        assert isinstance(model, ViTConfig)
        return masked_patch.make_loss(config.masked_patches, model, flip=config.flip)

    def loss(
        params: Params, model_state: ModelState, batch: Batch, key: jax.Array, step: jax.Array
    ) -> tuple[jax.Array, tuple[ModelState, Metrics]]:
        del step
        flip_key, mixup_key, model_key = jax.random.split(key, 3)
        images = normalise(batch["image"])
        if config.flip:
            images = random_flip(images, flip_key)
        targets = smooth_labels(
            multi_hot(batch["labels"], model.num_classes), config.label_smoothing
        )
        if config.pseudo_labels is not None:
            targets = noisy_student.joint_targets(targets, batch)
        if config.mixup:
            images, targets = mixup(images, targets, key=mixup_key, p=config.mixup)
        logits, _, model_state = api.apply(model, params, model_state, images, key=model_key)
        losses = cross_entropy(logits, targets, kind=config.loss)
        metrics = {"accuracy": top_k_accuracy(logits, batch["labels"])}
        return losses.mean(), (model_state, metrics)

    return loss


def make_evaluations(config: ViTTrainConfig) -> dict[str, Evaluation]:
    """Loss, top-1 and top-5 accuracy on every split of ``config.evaluations``.

    On data with several labels an example counts as right where the prediction is one of them, and
    an example without labels does not count (the rule of ImageNet-ReaL). In masked patch prediction
    loss and accuracy are those of the corrupted patches.
    """
    batch_size, metrics = _evaluation_batch_size(config), _make_metrics(config)
    evaluations = {}
    for name, data in config.evaluations.items():
        _require_classes(config, data)
        _require_grid(config, name, data)
        evaluations[name] = Evaluation(eval_data(data, batch_size=batch_size), metrics)
    return evaluations


def _make_metrics(config: ViTTrainConfig) -> Callable[[Params, ModelState, Batch], Metrics]:
    model = config.model
    if config.masked_patches is not None:
        assert isinstance(model, ViTConfig)
        return masked_patch.make_metrics(config.masked_patches, model)

    def metrics(params: Params, model_state: ModelState, batch: Batch) -> Metrics:
        logits, *_ = api.apply(model, params, model_state, normalise(batch["image"]))
        labels, mask = batch["labels"], batch["mask"]
        losses = cross_entropy(logits, multi_hot(labels, model.num_classes), kind=config.loss)
        return {
            "accuracy": top_k_accuracy(logits, labels, mask=mask),
            "top5": top_k_accuracy(logits, labels, k=5, mask=mask),
            "loss": mean_of(losses, mask),
        }

    return metrics


def _evaluation_batch_size(config: ViTTrainConfig) -> int:
    return config.evaluation_batch_size or config.batch_size


def _probes(config: ViTTrainConfig) -> dict[str, Probe]:
    if config.fewshot is None:
        return {}
    return make_probes(config.fewshot, config.model, batch_size=_evaluation_batch_size(config))


def image_shape(data: DataConfig) -> tuple[int, int, int]:
    """Height, width and channels of the images that reach the model."""
    return (*height_width(data.preprocess.size), 3)


def _require_grid(config: ViTTrainConfig, name: str, data: DataConfig) -> None:
    """Refuses images that the model's position table is not made for."""
    shape, trained = image_shape(data), image_shape(config.data)
    grid = api.grid_of(config.model, shape)
    fixed = not isinstance(config.model, ViTConfig) or config.model.position in ("sincos2d", "none")
    if not fixed and grid != api.grid_of(config.model, trained):
        raise UserError(
            f"config.evaluations.{name} has images of {shape[0]}x{shape[1]} and the model's "
            f"position table is for {trained[0]}x{trained[1]}; give both the same preprocess.size."
        )


def _require_classes(config: ViTTrainConfig, data: DataConfig) -> None:
    found, expected = data_source(data).num_classes, config.model.num_classes
    if config.masked_patches is None and found != expected:
        raise UserError(
            f"{data.source} ({data.split}) has {found} classes and the model's head "
            f"{expected}; set config.model.num_classes={found}."
        )
