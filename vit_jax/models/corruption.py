"""Corrupted patch embeddings, from which masked patch prediction recovers patches (section 4.6)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

#: In the place of a source: the learned [mask] embedding.
MASK = -1


class Corruption(NamedTuple):
    """What happens to the n patches of each image of a batch.

    Attributes:
        sources: int32 (b, n), for each patch the one of the same image whose embedding it gets (its
            own where it is left as it is), or `MASK`.
        predicted: int32 (b, k), the patches to predict.
    """

    sources: jax.Array
    predicted: jax.Array


def corrupt(x: jax.Array, sources: jax.Array, mask: jax.Array) -> jax.Array:
    """Embeddings (b, n, D) after corruption; ``mask`` (1, 1, D) is the [mask] embedding."""
    masked = (sources == MASK)[:, :, None]
    return jnp.where(masked, mask.astype(x.dtype), take(x, sources))


def take(x: jax.Array, indices: jax.Array) -> jax.Array:
    """Rows (b, k, D) of (b, n, D) by indices (b, k); zeros where there is no such row.

    A product with zeros and ones, exact at this precision: the derivative of a gather would be a
    scatter, which TPUs do row by row.
    """
    chosen = jax.nn.one_hot(indices, x.shape[1], dtype=x.dtype)
    return jnp.einsum("bkn,bnd->bkd", chosen, x, precision=jax.lax.Precision.HIGHEST)
