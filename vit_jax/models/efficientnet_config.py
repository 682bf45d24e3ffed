"""The sizes of an EfficientNet, as plain values: how B0 is scaled, and what that costs.

EfficientNet (Tan and Le 2019) is one stack of inverted bottlenecks, scaled in width and depth.
Where the paper is silent on rounding, the authors' code decides.
"""

import dataclasses
import math
from typing import Literal, NamedTuple

from train_jax.errors import UserError

# Of the block's inputs, not of the widened channels.
SQUEEZE = 0.25


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


def stem_channels(config: EfficientNetConfig) -> int:
    """Channels of the first convolution."""
    return round_channels(_STEM_CHANNELS, config.width)


def head_channels(config: EfficientNetConfig) -> int:
    """Channels of the last convolution, the size of the representation."""
    return round_channels(_HEAD_CHANNELS, config.width)


def blocks_of(config: EfficientNetConfig) -> list[Block]:
    """The blocks of a model, first to last."""
    blocks, inputs = [], stem_channels(config)
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
    stem = stem_channels(config)
    total = height * width * 9 * channels * stem
    outputs = stem
    for block in blocks_of(config):
        if block.expand > 1:
            total += height * width * block.inputs * block.hidden
        height, width = -(-height // block.stride), -(-width // block.stride)
        total += height * width * block.hidden * (block.kernel**2 + block.outputs)
        total += 2 * block.hidden * block.squeezed
        outputs = block.outputs
    features = head_channels(config)
    return total + height * width * outputs * features + features * config.num_classes
