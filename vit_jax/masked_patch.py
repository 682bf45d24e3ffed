"""Masked patch prediction: pre-training without labels (ViT paper, section 4.6; appendix B.1.2).

Half of the patch embeddings of an image are corrupted: 80 % of those become a learned [mask]
embedding, 10 % that of another patch, 10 % stay as they are. From its final representation every
corrupted patch is predicted, by one linear layer: its mean colour with 3 bits per channel (512
classes); or 4x4 such colours; or all its pixels, by least squares.

What the paper leaves open, and what is done here: the numbers are exact (98 of the 196 patches of a
224-pixel image: 78, 10 and 10), so that shapes are static and only corrupted patches pass the
prediction layer; the other patch is one of the same image; colours are averages of the 8-bit values
after crop and flip, cut at multiples of 32; the 4x4 version is the average of each sixteenth of the
patch; the losses of its 16 predictions, and of pixels (in [-1, 1]), are averaged.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, cast

import jax
import jax.numpy as jnp

from train_jax.errors import UserError
from train_jax.metrics import Metrics, mean_of
from train_jax.task import Batch, LossFn, ModelState, Params
from vit_jax.data.on_device import normalise, random_flip
from vit_jax.losses import softmax_cross_entropy
from vit_jax.models.config import ViTConfig
from vit_jax.models.corruption import MASK, Corruption
from vit_jax.models.vit import ViT

Target = Literal["mean_colour", "small_patch", "pixels"]

BITS = 3
COLOURS = 2 ** (3 * BITS)
# Rows and columns of the small version of a patch.
SMALL = 4


@dataclasses.dataclass(frozen=True)
class MaskedPatchConfig:
    """The task; the defaults are the paper's.

    Attributes:
        target: what is predicted of a patch.
        corrupted: share of the patches (15 %, as BERT, was slightly worse).
        masked: share of the corrupted patches that become the [mask] embedding.
        swapped: share of the corrupted patches that get the embedding of another patch.
    """

    target: Target = "mean_colour"
    corrupted: float = 0.5
    masked: float = 0.8
    swapped: float = 0.1

    def __post_init__(self):
        if not 0 < self.corrupted <= 1:
            raise UserError(f"masked_patches.corrupted={self.corrupted} is not in (0, 1].")
        if min(self.masked, self.swapped) < 0 or self.masked + self.swapped > 1:
            raise UserError(
                f"masked_patches.masked={self.masked} and swapped={self.swapped} must be shares "
                "of 1 together."
            )


def num_outputs(target: Target, model: ViTConfig) -> int:
    """How many numbers are predicted of a patch: ``patch_outputs`` of the model.

    Raises:
        UserError: patches that cannot be made small.
    """
    height, width = patch_pixels(model)
    if target == "mean_colour":
        return COLOURS
    if target == "pixels":
        return height * width * 3
    if height % SMALL or width % SMALL:
        raise UserError(
            f"target='small_patch' needs patches whose sides are multiples of {SMALL} pixels, not "
            f"{height}x{width}; choose mean_colour or pixels."
        )
    return SMALL * SMALL * COLOURS


def patch_pixels(model: ViTConfig) -> tuple[int, int]:
    """Height and width of a patch in the image."""
    stride = 1 if model.stem is None else model.stem.stride
    return model.patch_size[0] * stride, model.patch_size[1] * stride


def check_model(config: MaskedPatchConfig, model: Any) -> None:
    """Refuses a model that does not predict what the config asks for.

    Raises:
        UserError: with the remedy.
    """
    if not isinstance(model, ViTConfig):
        raise UserError("Masked patch prediction needs patches; config.model must be a ViT.")
    if model.num_classes or model.representation_size is not None:
        raise UserError(
            "Masked patch prediction has no use for a classification head; set "
            "config.model.num_classes=0 and config.model.representation_size=None."
        )
    outputs = num_outputs(config.target, model)
    if model.patch_outputs != outputs:
        raise UserError(
            f"Predicting {config.target} takes {outputs} outputs per patch, the model has "
            f"{model.patch_outputs}; set config.model.patch_outputs={outputs}."
        )


def draw_corruption(
    config: MaskedPatchConfig, key: jax.Array, *, shape: tuple[int, ...]
) -> Corruption:
    """Which patches of each image are corrupted, and how.

    Args:
        config: shares; the numbers of patches are rounded from them.
        key: typed random key.
        shape: (b, n): images, patches of each.
    """
    order_key, other_key = jax.random.split(key)
    n = shape[1]
    num_corrupted = max(1, round(config.corrupted * n))
    num_masked = round(config.masked * num_corrupted)
    num_swapped = min(round(config.swapped * num_corrupted), num_corrupted - num_masked)
    order = jnp.argsort(jax.random.uniform(order_key, shape), axis=1).astype(jnp.int32)
    rank = jnp.argsort(order, axis=1)
    own = jnp.broadcast_to(jnp.arange(n, dtype=jnp.int32)[None], shape)
    other = (own + jax.random.randint(other_key, shape, 1, max(n, 2), jnp.int32)) % n
    sources = jnp.where(rank < num_masked + num_swapped, other, own)
    sources = jnp.where(rank < num_masked, jnp.int32(MASK), sources)
    return Corruption(sources, order[:, :num_corrupted])


def colours(images: jax.Array, cell: tuple[int, int]) -> jax.Array:
    """The 3-bit mean colours of cells of pixels, as classes 64 r + 8 g + b.

    Args:
        images: uint8 (b, h, w, 3).
        cell: height and width of a cell in pixels.

    Returns:
        int32 (b, h / height, w / width) in [0, 512).
    """
    b, h, w, _ = images.shape
    cells = images.reshape(b, h // cell[0], cell[0], w // cell[1], cell[1], 3)
    # Exact: the mean is below 32 (i + 1) exactly where the sum is below that many times the pixels.
    sums = cells.astype(jnp.int32).sum(axis=(2, 4))
    levels = sums // (cell[0] * cell[1] * 2 ** (8 - BITS))
    return (levels[..., 0] << 2 * BITS) | (levels[..., 1] << BITS) | levels[..., 2]


def targets(images: jax.Array, target: Target, patch: tuple[int, int]) -> jax.Array:
    """What is to be predicted of every patch, row by row.

    Args:
        images: uint8 (b, h, w, 3).
        target: what.
        patch: height and width in pixels.

    Returns:
        int32 (b, n, 1) or (b, n, 16) classes of colours, or float32 (b, n, pixels * 3) in [-1, 1].
    """
    height, width = patch
    if target == "pixels":
        return _by_patch(normalise(images), patch)
    if target == "mean_colour":
        return _by_patch(colours(images, patch)[..., None], (1, 1))
    small = colours(images, (height // SMALL, width // SMALL))
    return _by_patch(small[..., None], (SMALL, SMALL))


def _by_patch(x: jax.Array, patch: tuple[int, int]) -> jax.Array:
    """(b, h, w, c) as (b, patches, values of a patch)."""
    b, h, w, c = x.shape
    x = x.reshape(b, h // patch[0], patch[0], w // patch[1], patch[1], c)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(b, -1, patch[0] * patch[1] * c)


def make_loss(config: MaskedPatchConfig, model: ViTConfig, *, flip: bool) -> LossFn:
    """What a step minimises: the mean loss over the corrupted patches of all images."""
    measure = _make_measure(config, model)

    def loss(
        params: Params, model_state: ModelState, batch: Batch, key: jax.Array, step: jax.Array
    ) -> tuple[jax.Array, tuple[ModelState, Metrics]]:
        del step
        flip_key, corruption_key, model_key = jax.random.split(key, 3)
        images = random_flip(batch["image"], flip_key) if flip else batch["image"]
        measured = measure(params, images, corruption_key, model_key)
        metrics = {name: mean_of(values) for name, values in measured.items() if name != "loss"}
        return measured["loss"].mean(), (model_state, metrics)

    return loss


def make_metrics(
    config: MaskedPatchConfig, model: ViTConfig
) -> Callable[[Params, ModelState, Batch], Metrics]:
    """What an evaluation measures: loss and accuracy, with the same corruption every time."""
    measure = _make_measure(config, model)

    def metrics(params: Params, model_state: ModelState, batch: Batch) -> Metrics:
        del model_state
        measured = measure(params, batch["image"], jax.random.key(0), None)
        return {name: mean_of(values, batch["mask"]) for name, values in measured.items()}

    return metrics


def _make_measure(config: MaskedPatchConfig, model: ViTConfig) -> Callable[..., Any]:
    patch = patch_pixels(model)

    def measure(
        params: Params, images: jax.Array, corruption_key: jax.Array, model_key: jax.Array | None
    ) -> dict[str, jax.Array]:
        """Loss and, of colours, accuracy of each image, (b,)."""
        wanted = targets(images, config.target, patch)
        corruption = draw_corruption(config, corruption_key, shape=wanted.shape[:2])
        wanted = jnp.take_along_axis(wanted, corruption.predicted[:, :, None], axis=1)
        _, outputs = cast(
            Any,
            ViT(model).apply(
                {"params": params}, normalise(images), key=model_key, corruption=corruption
            ),
        )
        predicted = outputs["patches"]
        if config.target == "pixels":
            return {"loss": jnp.square(predicted - wanted).mean(axis=(1, 2))}
        predicted = predicted.reshape(*wanted.shape, COLOURS)
        losses = softmax_cross_entropy(predicted, jax.nn.one_hot(wanted, COLOURS))
        right = jnp.argmax(predicted, axis=-1) == wanted
        return {
            "loss": losses.mean(axis=(1, 2)),
            "accuracy": right.astype(jnp.float32).mean(axis=(1, 2)),
        }

    return measure
