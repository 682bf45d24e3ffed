"""The small layers: dense, LayerNorm, GELU's MLP, dropout, stochastic depth.

All parameters are float32; ``dtype`` is what the layer computes and returns.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from vit_jax.models.initializers import Initializer, lecun_normal, normal, xavier_uniform

EPSILON = 1e-6
# Of both biases of an MLP (ViT paper's code).
MLP_BIAS_STD = 1e-6

zeros = nn.initializers.zeros
ones = nn.initializers.ones


def add_bias(x: jax.Array, bias: jax.Array) -> jax.Array:
    """Adds a vector to the last axes, in the dtype of ``x``."""
    shape = (1,) * (x.ndim - bias.ndim) + bias.shape
    return x + bias.astype(x.dtype).reshape(shape)


class Dense(nn.Module):
    """A matrix product on the last axis, and a bias."""

    features: int
    dtype: jnp.dtype
    kernel_init: Initializer = lecun_normal
    bias_init: Initializer = zeros

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps (..., d) to (..., features)."""
        kernel = self.param("kernel", self.kernel_init, (x.shape[-1], self.features))
        bias = self.param("bias", self.bias_init, (self.features,))
        y = jnp.einsum("...d,df->...f", x.astype(self.dtype), kernel.astype(self.dtype))
        return add_bias(y, bias)


class LayerNorm(nn.Module):
    """Normalises each token to mean 0 and variance 1, in float32, then scales and shifts."""

    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps (..., D) to (..., D), in ``dtype``."""
        scale = self.param("scale", ones, (x.shape[-1],))
        bias = self.param("bias", zeros, (x.shape[-1],))
        x = x.astype(jnp.float32)
        mean = x.mean(-1, keepdims=True)
        centred = x - mean
        variance = jnp.square(centred).mean(-1, keepdims=True)
        y = centred * jax.lax.rsqrt(variance + EPSILON)
        shape = (1,) * (x.ndim - 1) + scale.shape
        return (y * scale.reshape(shape) + bias.reshape(shape)).astype(self.dtype)


class MlpBlock(nn.Module):
    """Dense, GELU (tanh form), dropout, dense (ViT paper, section 3.1)."""

    mlp_dim: int
    dropout: float
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array, *, key: jax.Array | None = None) -> jax.Array:
        """Maps (..., D) to (..., D); the key is of the dropout."""
        bias_init = normal(MLP_BIAS_STD)
        width = x.shape[-1]
        x = Dense(self.mlp_dim, self.dtype, xavier_uniform, bias_init, name="Dense_0")(x)
        x = checkpoint_name(x, "mlp_pre")
        x = dropout(jax.nn.gelu(x, approximate=True), self.dropout, key=key)
        return Dense(width, self.dtype, xavier_uniform, bias_init, name="Dense_1")(x)


def dropout(x: jax.Array, rate: float, *, key: jax.Array | None) -> jax.Array:
    """Zeroes each element with probability ``rate`` and scales the others up to keep the mean.

    Without a key, or at rate 0, it returns ``x``.
    """
    if key is None or rate == 0:
        return x
    keep = jax.random.bernoulli(key, 1 - rate, x.shape)
    return jnp.where(keep, x * jnp.asarray(1 / (1 - rate), x.dtype), jnp.zeros((), x.dtype))


def stochastic_depth(branch: jax.Array, rate: jax.Array, *, key: jax.Array) -> jax.Array:
    """Drops the whole branch of an example with probability ``rate`` (scalar), keeping the mean."""
    keep = jax.random.bernoulli(key, 1 - rate, (branch.shape[0],) + (1,) * (branch.ndim - 1))
    scale = jnp.where(keep, 1 / (1 - rate), 0.0).astype(branch.dtype)
    return branch * scale
