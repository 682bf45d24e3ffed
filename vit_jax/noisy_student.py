"""Noisy Student: training on labelled and pseudo-labelled images at once.

"Self-training with Noisy Student improves ImageNet classification" (Xie et al. 2020): a teacher
that was trained on labelled images labels others, without noise (vit_jax/pseudo_label.py); a
student of its size or larger learns from both, with noise: RandAugment, dropout, stochastic depth;
and becomes the next teacher. Every batch holds ``ratio`` pseudo-labelled images per labelled one,
and the loss is the mean over all of them.
"""

import dataclasses
import functools
from collections.abc import Iterator
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from train_jax.data.dataset import Batch, TrainData
from train_jax.errors import UserError
from train_jax.task import Batch as DeviceBatch
from vit_jax.data.pipeline import DataConfig, data_source, train_data
from vit_jax.data.pseudo_labels import PseudoLabels, Unlabelled, select_balanced

# So that equal positions of the two orders are not cropped and augmented alike.
_OTHER_SEED = 1 << 40


@dataclasses.dataclass(frozen=True, kw_only=True)
class PseudoLabelConfig:
    """Images that a teacher has labelled.

    Attributes:
        data: the images, as the student sees them; their own labels, if any, are not used.
        labels: directory that ``vit_jax.pseudo_label`` wrote for them.
        generation: how many students in a row this one makes: 1 where the teacher has seen labels
            alone. So the config of a run, and its records, say how its labels came about.
        selection: labels by which they are filtered and balanced; None: by ``labels``. In the paper
            an EfficientNet-B0 selects once, and the teachers of all iterations label the same
            images.
        ratio: pseudo-labelled images per labelled image of a batch.
        threshold: only images whose most probable class is more probable are used.
        per_class: to this number every class is cut, or repeated; None: all, once an epoch.
        targets: "soft", all probabilities, or "hard", the most probable class.
    """

    data: DataConfig
    labels: str
    generation: int = 1
    selection: str | None = None
    ratio: int = 14
    threshold: float = 0.3
    per_class: int | None = 130_000
    targets: Literal["soft", "hard"] = "soft"

    def __post_init__(self):
        if self.ratio < 1:
            raise UserError(f"pseudo_labels.ratio={self.ratio} must be at least 1.")
        if self.generation < 1:
            raise UserError(f"pseudo_labels.generation={self.generation} must be at least 1.")
        if not 0 <= self.threshold < 1:
            raise UserError(f"pseudo_labels.threshold={self.threshold} is not in [0, 1).")
        if self.per_class is not None and self.per_class < 1:
            raise UserError(f"pseudo_labels.per_class={self.per_class} must be at least 1.")


def labelled_rows(config: PseudoLabelConfig, batch_size: int) -> int:
    """How many rows of a batch are labelled: the first ones.

    Raises:
        UserError: the batch is no multiple of one labelled image and its pseudo-labelled ones.
    """
    rows, rest = divmod(batch_size, 1 + config.ratio)
    if rest or not rows:
        raise UserError(
            f"The batch of {batch_size} does not split into 1 labelled and {config.ratio} "
            f"pseudo-labelled parts; choose a multiple of {1 + config.ratio}."
        )
    return rows


def joint_data(
    labelled: DataConfig,
    pseudo: PseudoLabelConfig,
    *,
    batch_size: int,
    seed: int,
    num_classes: int,
) -> TrainData:
    """Batches of labelled and pseudo-labelled images.

    Args:
        labelled: images with labels.
        pseudo: images with pseudo-labels.
        batch_size: rows of the global batch, of both kinds.
        seed: seed of orders, crops and augmentations.
        num_classes: of the student.

    Returns:
        Data whose batches are as those of ``train_data``, with ``probabilities``, float16 (k, K),
        of the rows whose labels are all -1. An epoch is one over the labelled images.

    Raises:
        UserError: the data cannot be opened, do not fit the labels, or the sizes do not fit.
    """
    count = labelled_rows(pseudo, batch_size)
    found, images = _open(pseudo, num_classes)
    one = train_data(labelled, batch_size=count, seed=seed)
    two = train_data(
        pseudo.data, batch_size=batch_size - count, seed=seed + _OTHER_SEED, source=images
    )

    def start(step: int, rows: np.ndarray) -> Iterator[Batch]:
        rows = np.asarray(rows)
        mine = one.start(step, rows[rows < count])
        others = two.start(step, rows[rows >= count] - count)
        for a, b in zip(mine, others, strict=True):
            yield _joined(a, b, found.probabilities(b["labels"][:, 0]), hard=hard)

    hard = pseudo.targets == "hard"
    shapes = {
        name: jax.ShapeDtypeStruct((batch_size, *one.shapes[name].shape[1:]), spec.dtype)
        for name, spec in one.shapes.items()
    }
    return TrainData(
        batch_size=batch_size,
        examples_per_epoch=one.examples_per_epoch * (1 + pseudo.ratio),
        fingerprint=f"{one.fingerprint}|{two.fingerprint}|by={found.about.teacher}"
        f"|{pseudo.targets}",
        start=start,
        shapes=shapes | probabilities_shape(batch_size, num_classes),
        skipped=lambda: (*one.skipped(), *two.skipped()),
    )


def probabilities_shape(batch_size: int, num_classes: int) -> dict[str, jax.ShapeDtypeStruct]:
    """What a batch has beside images and labels."""
    return {"probabilities": jax.ShapeDtypeStruct((batch_size, num_classes), np.float16)}


def joint_targets(targets: jax.Array, batch: DeviceBatch) -> jax.Array:
    """The targets (b, K) of a batch: those given where a row is labelled, else the teacher's."""
    probabilities = batch["probabilities"].astype(jnp.float32)
    # Rounded to float16 they do not quite add up to one.
    total = jnp.maximum(probabilities.sum(axis=1, keepdims=True), jnp.float32(0.5))
    return jnp.where(batch["labels"][:, :1] >= 0, targets, probabilities / total)


# Selecting among hundreds of millions takes a while, and a run asks more than once.
@functools.lru_cache(maxsize=4)
def _open(pseudo: PseudoLabelConfig, num_classes: int) -> tuple[PseudoLabels, Unlabelled]:
    found, source = PseudoLabels(pseudo.labels), data_source(pseudo.data)
    if found.about.generation + 1 != pseudo.generation:
        raise UserError(
            f"{found.path} holds labels of a teacher of generation {found.about.generation}; set "
            f"config.pseudo_labels.generation={found.about.generation + 1}, or take other labels."
        )
    by = found if pseudo.selection is None else PseudoLabels(pseudo.selection)
    for labels in (found, by):
        if labels.about.data != source.fingerprint:
            raise UserError(
                f"{labels.path} holds labels of other images than {pseudo.data.source} "
                f"({pseudo.data.split}); label those with vit_jax.pseudo_label."
            )
        if labels.about.num_classes != num_classes:
            raise UserError(
                f"{labels.path} holds labels of {labels.about.num_classes} classes and the "
                f"student's head has {num_classes}; set config.model.num_classes, or take another "
                "teacher."
            )
    indices = select_balanced(
        *by.best(),
        num_classes=num_classes,
        threshold=pseudo.threshold,
        per_class=pseudo.per_class,
    )
    how = f"{by.about.teacher}:{pseudo.threshold}:{pseudo.per_class}"
    return found, Unlabelled(source, indices, how=how)


def _joined(a: Batch, b: Batch, probabilities: np.ndarray, *, hard: bool) -> Batch:
    """Labelled rows, then pseudo-labelled ones."""
    if hard:
        best = probabilities.argmax(axis=1)
        probabilities = np.eye(probabilities.shape[1], dtype=np.float16)[best]
    none = np.zeros((len(a["labels"]), probabilities.shape[1]), np.float16)
    unknown = np.full((len(b["labels"]), a["labels"].shape[1]), -1, np.int32)
    return {
        "image": np.concatenate([a["image"], b["image"]]),
        "labels": np.concatenate([a["labels"], unknown]),
        "probabilities": np.concatenate([none, probabilities]),
    }
