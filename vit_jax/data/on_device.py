"""The part of preprocessing that runs inside the jitted step, on the whole global batch.

Images travel as uint8: a quarter of the bytes of float32, and what the host would spend on the
conversion is a third of its throughput. Randomness comes from the step's key alone, so results do
not depend on how the batch is spread over devices and hosts.
"""

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike


def normalise(images: jax.Array, *, dtype: DTypeLike = jnp.float32) -> jax.Array:
    """Maps uint8 [0, 255] to [-1, 1], the range of all published weights.

    Args:
        images: uint8 (b, h, w, 3).
        dtype: type of the result; the arithmetic is float32 in any case.

    Returns:
        (x - 127.5) / 127.5, same shape.
    """
    return ((images.astype(jnp.float32) - 127.5) / 127.5).astype(dtype)


def random_flip(images: jax.Array, key: jax.Array) -> jax.Array:
    """Mirrors each image left to right with probability one half.

    Args:
        images: (b, h, w, c) of any type.
        key: typed random key.

    Returns:
        Images of the same shape and type.
    """
    flip = jax.random.bernoulli(key, shape=(images.shape[0], 1, 1, 1))
    return jnp.where(flip, images[:, :, ::-1], images)


def mixup(
    images: jax.Array, targets: jax.Array, *, key: jax.Array, p: float
) -> tuple[jax.Array, jax.Array]:
    """Mixes every example with its neighbour in the global batch (Zhang et al. 2018).

    One weight a ~ Beta(p, p) is drawn per batch and max(a, 1 - a) is the share of the example
    itself, as in AugReg (Steiner et al. 2021). AugReg's neighbour is the next example on the same
    device; ours is the next one of the global batch, whatever the mesh.

    Args:
        images: normalised images (b, h, w, c), floating point.
        targets: one- or multi-hot targets (b, K), floating point.
        key: typed random key.
        p: parameter of the Beta distribution; 0 leaves the batch as it is.

    Returns:
        Mixed images and targets, shapes and types as given.
    """
    if p < 0:
        raise ValueError(f"mixup needs p >= 0, got {p}.")
    if p == 0:
        return images, targets
    share = jax.random.beta(key, jnp.float32(p), jnp.float32(p), dtype=jnp.float32)
    share = jnp.maximum(share, 1 - share)

    def mix(x: jax.Array) -> jax.Array:
        own, other = x.astype(jnp.float32), jnp.roll(x, 1, axis=0).astype(jnp.float32)
        return (share * own + (1 - share) * other).astype(x.dtype)

    return mix(images), mix(targets)
