"""Initial values, as the originals draw them.

Every draw is of a flat array that is then given its shape: XLA takes ten times longer to compile
the counters of a draw of several axes.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

# (key, shape, dtype) -> array; the rest is optional.
Initializer = Callable[..., jax.Array]

# Standard deviation of a standard normal cut off at two of them.
_TRUNCATED_STD = 0.87962566103423978


def lecun_normal(
    key: jax.Array, shape: tuple[int, ...], dtype: jax.typing.DTypeLike = jnp.float32
) -> jax.Array:
    """Truncated normal of variance 1 / fan-in (all axes but the last)."""
    std = math.sqrt(1 / math.prod(shape[:-1])) / _TRUNCATED_STD
    draw = jax.random.truncated_normal(key, -2, 2, (math.prod(shape),), dtype)
    return (std * draw).reshape(shape)


def xavier_uniform(
    key: jax.Array,
    shape: tuple[int, ...],
    dtype: jax.typing.DTypeLike = jnp.float32,
    *,
    input_axes: int = -1,
) -> jax.Array:
    """Uniform within sqrt(6 / (fan-in + fan-out)).

    The fans are those of the kernel flattened to a matrix, whose rows are the first ``input_axes``
    axes: the published models initialise Q, K, V and the output projection each as a (D, D) matrix
    (ViT paper's code), not per head and not as one fused (D, 3D).
    """
    limit = math.sqrt(6 / (math.prod(shape[:input_axes]) + math.prod(shape[input_axes:])))
    draw = jax.random.uniform(key, (math.prod(shape),), dtype, -limit, limit)
    return draw.reshape(shape)


def normal(std: float) -> Initializer:
    """Normal of mean 0."""

    def init(
        key: jax.Array, shape: tuple[int, ...], dtype: jax.typing.DTypeLike = jnp.float32
    ) -> jax.Array:
        return (std * jax.random.normal(key, (math.prod(shape),), dtype)).reshape(shape)

    return init
