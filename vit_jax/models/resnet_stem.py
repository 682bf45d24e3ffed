"""The convolutional front of a hybrid: weight-standardised convolutions and GroupNorm."""

from collections.abc import Callable
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from vit_jax.models.config import ResNetStem
from vit_jax.models.initializers import Initializer, lecun_normal
from vit_jax.models.layers import EPSILON, ones, zeros

GROUPS = 32
# Added to the standard deviation, not to the variance.
STANDARDISE_EPSILON = 1e-5


def std_plus_epsilon(variance: jax.Array) -> jax.Array:
    """What kernels are divided by, from their variance."""
    return jnp.sqrt(variance) + STANDARDISE_EPSILON


class StdConv(nn.Module):
    """A convolution without bias whose kernel is standardised over (height, width, input).

    ``padding`` is that of every side in pixels, or "SAME" for as little as the stride allows, of
    which an odd pixel goes to the end.
    """

    features: int
    size: int
    stride: int
    dtype: jnp.dtype
    padding: int | Literal["SAME"] = "SAME"
    divisor: Callable[[jax.Array], jax.Array] = std_plus_epsilon

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps (b, h, w, c) to (b, h / stride, w / stride, features)."""
        shape = (self.size, self.size, x.shape[-1], self.features)
        kernel = self.param("kernel", lecun_normal, shape)
        kernel = kernel - kernel.mean((0, 1, 2), keepdims=True)
        kernel = kernel / self.divisor(jnp.square(kernel).mean((0, 1, 2), keepdims=True))
        padding = "SAME" if self.padding == "SAME" else [(self.padding, self.padding)] * 2
        return jax.lax.conv_general_dilated(
            x,
            kernel.astype(self.dtype),
            window_strides=(self.stride, self.stride),
            padding=padding,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )


class GroupNorm(nn.Module):
    """Normalises 32 groups of channels over the whole map of an example, in float32."""

    dtype: jnp.dtype
    scale_init: Initializer = ones
    epsilon: float = EPSILON

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps (b, h, w, c) to the same shape, in ``dtype``."""
        channels = x.shape[-1]
        scale = self.param("scale", self.scale_init, (channels,)).reshape(1, 1, 1, channels)
        bias = self.param("bias", zeros, (channels,)).reshape(1, 1, 1, channels)
        groups = x.astype(jnp.float32).reshape(*x.shape[:3], GROUPS, channels // GROUPS)
        mean = groups.mean((1, 2, 4), keepdims=True)
        variance = jnp.square(groups - mean).mean((1, 2, 4), keepdims=True)
        y = ((groups - mean) * jax.lax.rsqrt(variance + self.epsilon)).reshape(x.shape)
        return (y * scale + bias).astype(self.dtype)


class Bottleneck(nn.Module):
    """1x1, 3x3 (with the stride), 1x1; the sum is rectified (a version-1 unit)."""

    width: int
    stride: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps (b, h, w, c) to (b, h / stride, w / stride, 4 * width)."""
        dtype, outputs = self.dtype, 4 * self.width
        y = StdConv(self.width, 1, 1, dtype, name="conv1")(x)
        y = nn.relu(GroupNorm(dtype, name="gn1")(y))
        y = StdConv(self.width, 3, self.stride, dtype, name="conv2")(y)
        y = nn.relu(GroupNorm(dtype, name="gn2")(y))
        y = StdConv(outputs, 1, 1, dtype, name="conv3")(y)
        y = GroupNorm(dtype, zeros, name="gn3")(y)
        if x.shape[-1] != outputs or self.stride != 1:
            x = StdConv(outputs, 1, self.stride, dtype, name="conv_proj")(x)
            x = GroupNorm(dtype, name="gn_proj")(x)
        return nn.relu(x + y)


class Stage(nn.Module):
    """Bottleneck units, the first of which has the stride."""

    units: int
    width: int
    stride: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps (b, h, w, c) to (b, h / stride, w / stride, 4 * width)."""
        for unit in range(self.units):
            stride = self.stride if unit == 0 else 1
            x = Bottleneck(self.width, stride, self.dtype, name=f"unit{unit + 1}")(x)
        return x


def run_stem(stem: ResNetStem, images: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """Features (b, h / stride, w / stride, channels) of images (b, h, w, 3).

    To be called inside the compact method of a module, which owns the layers.
    """
    x = StdConv(stem.width, 7, 2, dtype, name="conv_root")(images)
    x = nn.relu(GroupNorm(dtype, name="gn_root")(x))
    x = nn.max_pool(x, (3, 3), strides=(2, 2), padding="SAME")
    for i, units in enumerate(stem.stages):
        stage = Stage(units, stem.width * 2**i, 1 if i == 0 else 2, dtype, name=f"block{i + 1}")
        x = stage(x)
    return x
