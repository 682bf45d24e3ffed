"""The small layers: dense, LayerNorm, GELU's MLP, dropout, stochastic depth.

All parameters are float32; ``dtype`` is what the layer computes and returns.
"""

from functools import partial
from typing import Literal, cast

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
    epsilon: float = EPSILON

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps (..., D) to (..., D), in ``dtype``."""
        scale = self.param("scale", ones, (x.shape[-1],))
        bias = self.param("bias", zeros, (x.shape[-1],))
        shape = (1,) * (x.ndim - 1) + scale.shape
        y = cast(jax.Array, _normalise(x, self.epsilon)) * scale.reshape(shape) + bias.reshape(
            shape
        )
        return y.astype(self.dtype)


# The derivative is written out: it needs no more of the forward pass than the two statistics, one
# number each per token, which are kept where the rest is computed again.
@partial(jax.custom_vjp, nondiff_argnums=(1,))
def _normalise(x: jax.Array, epsilon: float) -> jax.Array:
    """Tokens (..., D) of any dtype, with mean 0 and variance 1, in float32."""
    return _normalise_forward(x, epsilon)[0]


def _normalise_forward(x: jax.Array, epsilon: float):
    wide = x.astype(jnp.float32)
    # Both sums in one pass over the tokens, as Flax's layer in the authors' code has them.
    mean = wide.mean(-1, keepdims=True)
    variance = jnp.maximum(jnp.square(wide).mean(-1, keepdims=True) - jnp.square(mean), 0)
    mean = checkpoint_name(mean, "statistics")
    inverse = checkpoint_name(jax.lax.rsqrt(variance + epsilon), "statistics")
    return (wide - mean) * inverse, (x, mean, inverse)


def _normalise_backward(_: float, residuals: tuple[jax.Array, ...], gradient: jax.Array):
    x, mean, inverse = residuals
    y = (x.astype(jnp.float32) - mean) * inverse
    along = (gradient * y).mean(-1, keepdims=True)
    slope = gradient - gradient.mean(-1, keepdims=True) - y * along
    return ((slope * inverse).astype(x.dtype),)


_normalise.defvjp(_normalise_forward, _normalise_backward)


class MlpBlock(nn.Module):
    """Dense, GELU, dropout, dense (ViT paper, section 3.1)."""

    mlp_dim: int
    dropout: float
    dtype: jnp.dtype
    gelu: Literal["tanh", "erf"] = "tanh"

    @nn.compact
    def __call__(self, x: jax.Array, *, key: jax.Array | None = None) -> jax.Array:
        """Maps (..., D) to (..., D); the key is of the dropout."""
        bias_init = normal(MLP_BIAS_STD)
        width = x.shape[-1]
        x = Dense(self.mlp_dim, self.dtype, xavier_uniform, bias_init, name="Dense_0")(x)
        x = checkpoint_name(x, "mlp_pre")
        x = dropout(jax.nn.gelu(x, approximate=self.gelu == "tanh"), self.dropout, key=key)
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
