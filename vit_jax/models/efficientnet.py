"""EfficientNet (Tan and Le 2019), the network of Noisy Student: B0 to B8, and L2.

Where the paper is silent the authors' code decides: drop-connect that grows with the block's index,
initialisers over the fan-out, batch norm with momentum 0.99 and epsilon 0.001.
"""

import math
from collections.abc import Callable
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from train_jax.sharding import ParamRule, constrain_batch
from vit_jax.models.efficientnet_config import (
    Block,
    EfficientNetConfig,
    blocks_of,
    head_channels,
    stem_channels,
)
from vit_jax.models.initializers import Initializer, normal
from vit_jax.models.layers import Dense, dropout, ones, stochastic_depth, zeros

EPSILON = 1e-3
# Positions of a map whose depthwise convolution a CPU does as a product of matrices.
_LARGEST_PRODUCT = 256


def _fan_out_normal(kernel: int, channels: int) -> Initializer:
    """Normal of variance 2 / fan-out, not truncated."""
    return normal(math.sqrt(2 / (kernel**2 * channels)))


def _head_kernel(
    key: jax.Array, shape: tuple[int, int], dtype: jax.typing.DTypeLike = jnp.float32
) -> jax.Array:
    """Uniform within 1 / sqrt(classes)."""
    limit = 1 / math.sqrt(shape[1])
    return jax.random.uniform(key, (math.prod(shape),), dtype, -limit, limit).reshape(shape)


class Conv(nn.Module):
    """A convolution without bias, padded as TensorFlow pads ("SAME")."""

    features: int
    size: int
    stride: int
    dtype: jnp.dtype
    depthwise: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps (b, h, w, c) to (b, ceil(h / stride), ceil(w / stride), features)."""
        inputs = 1 if self.depthwise else x.shape[-1]
        # TensorFlow's depthwise kernels are (k, k, c, 1), of which the originals take 1 for the
        # outputs.
        init = _fan_out_normal(self.size, 1 if self.depthwise else self.features)
        kernel = self.param("kernel", init, (self.size, self.size, inputs, self.features))
        kernel = kernel.astype(self.dtype)
        if not self.depthwise:
            return _convolve(x, kernel, stride=self.stride)
        convolve = partial(_convolve, stride=self.stride, groups=self.features)
        if x.shape[1] * x.shape[2] > _LARGEST_PRODUCT:
            return convolve(x, kernel)
        # XLA's grouped convolutions are ten times slower than this on a CPU, and more.
        by_product = partial(_as_product, stride=self.stride)
        return jax.lax.platform_dependent(x, kernel, cpu=by_product, default=convolve)


def _convolve(x: jax.Array, kernel: jax.Array, *, stride: int, groups: int = 1) -> jax.Array:
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(stride, stride),
        padding="SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )


def _as_product(x: jax.Array, kernel: jax.Array, *, stride: int) -> jax.Array:
    """A depthwise convolution, kernel (k, k, 1, c), as one matrix over the whole map a channel."""
    rows, columns = (_taps(side, kernel.shape[0], stride) for side in x.shape[1:3])
    matrices = jnp.einsum(
        "ijc,ihp,jwq->chwpq", kernel[:, :, 0], rows.astype(x.dtype), columns.astype(x.dtype)
    )
    return jnp.einsum("bhwc,chwpq->bpqc", x, matrices)


def _taps(side: int, size: int, stride: int) -> np.ndarray:
    """(k, inputs, outputs), 1 where an element of the kernel takes an input to an output."""
    outputs = -(-side // stride)
    before = max((outputs - 1) * stride + size - side, 0) // 2
    offsets = np.arange(side)[:, None] - stride * np.arange(outputs) + before
    return (offsets == np.arange(size)[:, None, None]).astype(np.float32)


class BatchNorm(nn.Module):
    """Normalises each channel over the global batch and the map, in float32.

    It infers with running statistics, which training updates where "batch_stats" is mutable.
    """

    momentum: float
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Maps (b, h, w, c) to the same shape, in ``dtype``."""
        shape = (x.shape[-1],)
        scale = self.param("scale", ones, shape)
        bias = self.param("bias", zeros, shape)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, shape, jnp.float32)
        running_var = self.variable("batch_stats", "var", jnp.ones, shape, jnp.float32)
        x = x.astype(jnp.float32)
        mean, variance = running_mean.value, running_var.value
        if train:
            # Sums over an axis that is split over devices: the batch is the global one.
            mean = x.mean((0, 1, 2))
            variance = jnp.square(x - mean.reshape(1, 1, 1, -1)).mean((0, 1, 2))
            if self.is_mutable_collection("batch_stats"):
                for running, new in ((running_mean, mean), (running_var, variance)):
                    running.value += (1 - self.momentum) * (new - running.value)
        factor = scale * jax.lax.rsqrt(variance + EPSILON)
        x = (x - mean.reshape(1, 1, 1, -1)) * factor.reshape(1, 1, 1, -1)
        return (x + bias.reshape(1, 1, 1, -1)).astype(self.dtype)


class SqueezeExcite(nn.Module):
    """Scales each channel by a gate that is computed from the means of all."""

    squeezed: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps (b, h, w, c) to the same shape."""
        channels = x.shape[-1]
        y = x.astype(jnp.float32).mean((1, 2)).astype(self.dtype)
        init = _fan_out_normal(1, self.squeezed)
        y = nn.swish(Dense(self.squeezed, self.dtype, init, name="reduce")(y))
        y = Dense(channels, self.dtype, _fan_out_normal(1, channels), name="expand")(y)
        return x * nn.sigmoid(y)[:, None, None, :]


class MBConv(nn.Module):
    """1x1 to more channels, depthwise k x k, squeeze-and-excitation, 1x1 to the outputs."""

    block: Block
    momentum: float
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array, drop_rate: jax.Array, key: jax.Array | None) -> jax.Array:
        """Maps (b, h, w, inputs) to (b, h / stride, w / stride, outputs).

        The key trains, and is that of stochastic depth at the rate ``drop_rate``.
        """
        block, dtype, train = self.block, self.dtype, key is not None

        def norm(y: jax.Array, name: str) -> jax.Array:
            return BatchNorm(self.momentum, dtype, name=name)(y, train)

        y = x
        if block.expand > 1:
            y = Conv(block.hidden, 1, 1, dtype, name="conv_expand")(y)
            y = nn.swish(norm(y, "bn_expand"))
        y = Conv(block.hidden, block.kernel, block.stride, dtype, True, name="conv_depthwise")(y)
        y = nn.swish(norm(y, "bn_depthwise"))
        y = SqueezeExcite(block.squeezed, dtype, name="se")(y)
        y = norm(Conv(block.outputs, 1, 1, dtype, name="conv_project")(y), "bn_project")
        if not block.residual:
            return y
        return x + (y if key is None else stochastic_depth(y, drop_rate, key=key))


class EfficientNet(nn.Module):
    """Stem, blocks, 1x1 convolution, mean over the map, and a head."""

    config: EfficientNetConfig

    @nn.compact
    def __call__(
        self, images: jax.Array, *, key: jax.Array | None = None
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Classifies images.

        Args:
            images: (b, h, w, 3), in [-1, 1].
            key: of dropout and stochastic depth; with one, batch norm takes the statistics of the
                batch. None to infer.

        Returns:
            Logits, float32 (b, num_classes), and the intermediate result "pre_logits" (b, D),
            float32: the pooled features before dropout.
        """
        config = self.config
        dtype, momentum = jnp.dtype(config.compute_dtype), config.batch_norm_momentum
        blocks, train = blocks_of(config), key is not None
        keys = [None] * (len(blocks) + 1) if key is None else jax.random.split(key, len(blocks) + 1)
        # Keeps nothing of a block but its input.
        module: Callable[..., MBConv] = nn.remat(MBConv) if config.remat == "full" else MBConv
        x = images.astype(dtype)
        x = Conv(stem_channels(config), 3, 2, dtype, name="conv_stem")(x)
        x = nn.swish(BatchNorm(momentum, dtype, name="bn_stem")(x, train))
        for i, block in enumerate(blocks):
            rate = jnp.float32(config.stochastic_depth * i / len(blocks))
            x = module(block, momentum, dtype, name=f"block{i}")(constrain_batch(x), rate, keys[i])
        x = Conv(head_channels(config), 1, 1, dtype, name="conv_head")(x)
        x = nn.swish(BatchNorm(momentum, dtype, name="bn_head")(x, train))
        x = x.astype(jnp.float32).mean((1, 2))
        outputs = {"pre_logits": x}
        if config.num_classes:
            x = dropout(x, config.dropout, key=keys[-1])
            x = Dense(config.num_classes, x.dtype, _head_kernel, name="head")(x)
        return x, outputs


#: Placement of every parameter.
PARAM_RULES: tuple[ParamRule, ...] = (
    (r"(block\d+/)?conv_\w+/kernel", (None, None, None, None)),
    (r"(block\d+/)?bn_\w+/(scale|bias)", (None,)),
    (r"(block\d+/se/(reduce|expand)|head)/kernel", (None, None)),
    (r"(block\d+/se/(reduce|expand)|head)/bias", (None,)),
)
