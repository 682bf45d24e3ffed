"""EfficientNet (Tan and Le 2019), the network of Noisy Student: B0 to B8, and L2.

One stack of inverted bottlenecks, scaled in width and depth. Where the paper is silent the authors'
code decides: rounding of channels, drop-connect that grows with the block's index, initialisers
over the fan-out, batch norm with momentum 0.99 and epsilon 0.001.
"""

import dataclasses
import math
from collections.abc import Callable
from functools import partial
from typing import Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from train_jax.errors import UserError
from train_jax.sharding import ParamRule, constrain_batch
from vit_jax.models.initializers import Initializer, normal
from vit_jax.models.layers import Dense, dropout, ones, stochastic_depth, zeros

EPSILON = 1e-3
# Of the block's inputs, not of the widened channels.
SQUEEZE = 0.25
# Positions of a map whose depthwise convolution a CPU does as a product of matrices.
_LARGEST_PRODUCT = 256


class Variant(NamedTuple):
    """How a published model is scaled.

    Attributes:
        width: factor of the channels.
        depth: factor of the blocks.
        resolution: side of its images, in pixels.
        dropout: rate before the head.
    """

    width: float
    depth: float
    resolution: int
    dropout: float


#: EfficientNet's code; B8 from AdvProp (Xie et al. 2020), L2 from Noisy Student, which trains it at
#: 475 px and evaluates at 800.
VARIANTS = {
    "B0": Variant(1.0, 1.0, 224, 0.2),
    "B1": Variant(1.0, 1.1, 240, 0.2),
    "B2": Variant(1.1, 1.2, 260, 0.3),
    "B3": Variant(1.2, 1.4, 300, 0.3),
    "B4": Variant(1.4, 1.8, 380, 0.4),
    "B5": Variant(1.6, 2.2, 456, 0.4),
    "B6": Variant(1.8, 2.6, 528, 0.5),
    "B7": Variant(2.0, 3.1, 600, 0.5),
    "B8": Variant(2.2, 3.6, 672, 0.5),
    "L2": Variant(4.3, 5.3, 800, 0.5),
}


@dataclasses.dataclass(frozen=True)
class EfficientNetConfig:
    """An EfficientNet; :func:`config_for` knows the published ones.

    Attributes:
        width: factor of the channels of B0, which are then rounded to multiples of 8.
        depth: factor of the blocks of each of B0's stages, rounded up.
        num_classes: outputs of the head; 0 for no head, when the representation is returned.
        dropout: rate before the head.
        stochastic_depth: rate of skipping a residual branch, for one example: that of block i of n
            is i/n of it.
        batch_norm_momentum: share of the running statistics that stays at an update. The published
            models average parameters *and* statistics with 0.9999 after the momentum of 0.99; we
            average parameters only (``ema_decay``), and 0.9999 here gives the same statistics up
            to a delay of a hundred updates.
        small_images: the second and third stage keep the resolution, for images of about 32 px
            (Noisy Student's code, for SVHN).
        remat: what the backward pass finds kept of each block: "full" nothing, "none" everything.
        compute_dtype: of the convolutions and what flows between them. Parameters, batch-norm
            statistics, pooling and head are float32 in any case.
        name: tells this kind of model from the others.
    """

    width: float
    depth: float
    num_classes: int = 1000
    dropout: float = 0.2
    stochastic_depth: float = 0.2
    batch_norm_momentum: float = 0.99
    small_images: bool = False
    remat: Literal["none", "full"] = "none"
    compute_dtype: Literal["float32", "bfloat16"] = "float32"
    name: Literal["efficientnet"] = "efficientnet"

    def __post_init__(self):
        for name in ("width", "depth"):
            if not getattr(self, name) > 0:
                raise UserError(f"{name}={getattr(self, name)} is not a positive factor.")
        for name in ("dropout", "stochastic_depth", "batch_norm_momentum"):
            if not 0 <= getattr(self, name) < 1:
                raise UserError(f"{name}={getattr(self, name)} is not a rate in [0, 1).")


def config_for(
    variant: str,
    *,
    num_classes: int = 1000,
    dropout: float | None = None,
    stochastic_depth: float = 0.2,
    batch_norm_momentum: float = 0.99,
    remat: Literal["none", "full"] = "none",
    compute_dtype: Literal["float32", "bfloat16"] = "float32",
) -> EfficientNetConfig:
    """A published model.

    Args:
        variant: "B0" to "B8", or "L2".
        num_classes: outputs of the head.
        dropout: None for the variant's own.
        stochastic_depth: see :class:`EfficientNetConfig`, as all that follow.
        batch_norm_momentum: likewise.
        remat: likewise.
        compute_dtype: likewise.

    Raises:
        UserError: there is no such variant.
    """
    found = variant_named(variant)
    return EfficientNetConfig(
        width=found.width,
        depth=found.depth,
        num_classes=num_classes,
        dropout=found.dropout if dropout is None else dropout,
        stochastic_depth=stochastic_depth,
        batch_norm_momentum=batch_norm_momentum,
        remat=remat,
        compute_dtype=compute_dtype,
    )


def variant_named(variant: str) -> Variant:
    """The scaling of a published model.

    Raises:
        UserError: there is no such variant.
    """
    if variant not in VARIANTS:
        raise UserError(f"Unknown EfficientNet {variant!r}; there are {', '.join(VARIANTS)}.")
    return VARIANTS[variant]


class _Stage(NamedTuple):
    """A row of the EfficientNet paper's Table 1."""

    blocks: int
    kernel: int
    stride: int
    expand: int
    channels: int


_STEM_CHANNELS, _HEAD_CHANNELS = 32, 1280
_STAGES = (
    _Stage(1, 3, 1, 1, 16),
    _Stage(2, 3, 2, 6, 24),
    _Stage(2, 5, 2, 6, 40),
    _Stage(3, 3, 2, 6, 80),
    _Stage(3, 5, 1, 6, 112),
    _Stage(4, 5, 2, 6, 192),
    _Stage(1, 3, 1, 6, 320),
)
# Which stages keep the resolution of small images.
_SMALL_IMAGE_STAGES = (1, 2)


class Block(NamedTuple):
    """Sizes of one inverted bottleneck: channels in and out, and of the 1x1 widening."""

    inputs: int
    outputs: int
    kernel: int
    stride: int
    expand: int

    @property
    def hidden(self) -> int:
        """Channels of the depthwise convolution."""
        return self.inputs * self.expand

    @property
    def squeezed(self) -> int:
        """Channels of the squeeze-and-excitation bottleneck."""
        return max(1, int(self.inputs * SQUEEZE))

    @property
    def residual(self) -> bool:
        """Whether the block adds its input to its output."""
        return self.stride == 1 and self.inputs == self.outputs


def round_channels(channels: int, width: float) -> int:
    """Scaled channels: the nearest multiple of 8 that is no more than a tenth too small."""
    scaled = channels * width
    rounded = max(8, int(scaled + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * scaled else rounded


def blocks_of(config: EfficientNetConfig) -> list[Block]:
    """The blocks of a model, first to last."""
    blocks, inputs = [], round_channels(_STEM_CHANNELS, config.width)
    for i, stage in enumerate(_STAGES):
        outputs = round_channels(stage.channels, config.width)
        keeps = config.small_images and i in _SMALL_IMAGE_STAGES
        for repeat in range(math.ceil(stage.blocks * config.depth)):
            stride = 1 if repeat or keeps else stage.stride
            blocks.append(Block(inputs, outputs, stage.kernel, stride, stage.expand))
            inputs = outputs
    return blocks


def multiply_adds(config: EfficientNetConfig, image_shape: tuple[int, ...]) -> int:
    """Multiply-adds of all products of a forward pass over one image (..., h, w, channels).

    The papers call them FLOPS.
    """
    height, width, channels = image_shape[-3:]
    height, width = -(-height // 2), -(-width // 2)
    stem = round_channels(_STEM_CHANNELS, config.width)
    total = height * width * 9 * channels * stem
    outputs = stem
    for block in blocks_of(config):
        if block.expand > 1:
            total += height * width * block.inputs * block.hidden
        height, width = -(-height // block.stride), -(-width // block.stride)
        total += height * width * block.hidden * (block.kernel**2 + block.outputs)
        total += 2 * block.hidden * block.squeezed
        outputs = block.outputs
    features = round_channels(_HEAD_CHANNELS, config.width)
    return total + height * width * outputs * features + features * config.num_classes


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
        x = Conv(round_channels(_STEM_CHANNELS, config.width), 3, 2, dtype, name="conv_stem")(
            images.astype(dtype)
        )
        x = nn.swish(BatchNorm(momentum, dtype, name="bn_stem")(x, train))
        for i, block in enumerate(blocks):
            rate = jnp.float32(config.stochastic_depth * i / len(blocks))
            x = module(block, momentum, dtype, name=f"block{i}")(constrain_batch(x), rate, keys[i])
        x = Conv(round_channels(_HEAD_CHANNELS, config.width), 1, 1, dtype, name="conv_head")(x)
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
