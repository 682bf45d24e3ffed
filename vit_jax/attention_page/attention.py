"""The attention of one picture, reduced to what a page has room for.

For every layer and head the row of the representation (the class token's; of a model without one,
the mean over all queries), the mean over heads of all rows, and, from the last layer down as far as
there is room, all rows of every head.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vit_jax import attention_maps
from vit_jax.models.config import ViTConfig

#: Weights of heads beyond which they are not computed: bytes on the host, a byte each.
MOST_HEAD_WEIGHTS = 256 * 2**20


@dataclasses.dataclass(frozen=True, eq=False)
class Attention:
    """Where a model looks in one picture. Rows are queries, and tokens the class token first.

    Attributes:
        summary: float32 (depth, heads, n), the row of the representation.
        mean: float32 (depth, n, n), over heads.
        heads: uint8 (depth, heads, n, n), of each row's largest weight 1/255; None where that is
            too much to keep.
        largest: float32 (depth, heads, n), that weight.
        rollout: float32 (depth, n): how much of each token flows into the representation if it were
            read after this layer.
        distances: float32 (depth, heads), pixels (ViT paper, Figure 7).
    """

    summary: np.ndarray
    mean: np.ndarray
    heads: np.ndarray | None
    largest: np.ndarray
    rollout: np.ndarray
    distances: np.ndarray


def look(
    config: ViTConfig, params: Any, images: np.ndarray, *, most: int = MOST_HEAD_WEIGHTS
) -> Attention:
    """Runs the encoder on one picture.

    Args:
        config: the model.
        params: its parameters.
        images: float32 (1, h, w, 3) in [-1, 1].
        most: bound on the number of weights in ``heads``.

    Raises:
        UserError: the model is not one whose attention is looked at.
    """
    n = config.num_tokens(images.shape)
    keep = config.depth * config.num_heads * n * n <= most
    reduce = _reduction(config, images.shape, keep=keep)
    run = jax.jit(lambda params, images: attention_maps.each_layer(config, params, images, reduce))
    found = {name: np.asarray(value) for name, value in run(params, images).items()}
    rolled = _rollouts(found["mean"], class_token=config.class_token)
    if config.pool == "map":
        # Its head attends to the tokens once more, which only the whole model tells.
        final = jax.jit(attention_maps.rollout, static_argnums=0)(config, params, images)
        rolled[-1] = np.asarray(final).reshape(-1)
    return Attention(
        found["summary"],
        found["mean"],
        found.get("heads"),
        found["largest"],
        rolled,
        found["distances"],
    )


def _reduction(
    config: ViTConfig, shape: tuple[int, ...], *, keep: bool
) -> Callable[[jax.Array], dict[str, jax.Array]]:
    first = int(config.class_token)
    distances = jnp.asarray(attention_maps.patch_distances(config, shape), jnp.float32)

    def reduce(weights: jax.Array) -> dict[str, jax.Array]:
        weights = weights[0]
        patches = weights[:, first:, first:]
        largest = weights.max(-1)
        found = {
            "summary": weights[:, 0] if config.class_token else weights.mean(1),
            "mean": weights.mean(0),
            "largest": largest,
            "distances": jnp.einsum("hqk,qk->hq", patches, distances).mean(-1),
        }
        if keep:
            found["heads"] = jnp.round(weights / largest[..., None] * 255).astype(jnp.uint8)
        return found

    return reduce


def _rollouts(mean: np.ndarray, *, class_token: bool) -> np.ndarray:
    """Attention rollout of the representation, read after each of the layers."""
    depth, n, _ = mean.shape
    start = np.zeros(n, np.float32) if class_token else np.full(n, 1 / n, np.float32)
    start[0] = 1 if class_token else start[0]
    rows = []
    for layer in range(depth):
        share = start
        for weights in mean[layer::-1]:
            share = (share + share @ weights) / 2
        rows.append(share)
    return np.stack(rows)
