"""How many products a model takes, counted from its sizes."""

import math

from vit_jax.models import bit, efficientnet_config
from vit_jax.models.bit import BiTConfig
from vit_jax.models.config import ResNetStem, ViTConfig
from vit_jax.models.efficientnet_config import EfficientNetConfig


def multiply_adds(
    config: ViTConfig | BiTConfig | EfficientNetConfig, image_shape: tuple[int, ...]
) -> int:
    """Multiply-adds of the products of a forward pass over one image, of whichever model."""
    match config:
        case ViTConfig():
            return _transformer(config, image_shape)
        case BiTConfig():
            return bit.multiply_adds(config, image_shape)
        case EfficientNetConfig():
            return efficientnet_config.multiply_adds(config, image_shape)


def _transformer(config: ViTConfig, image_shape: tuple[int, ...]) -> int:
    """Of a Vision Transformer.

    Patches (and stem), the dense layers of all blocks, and both products of attention. Not the
    representation layer and the head, a matter of thousandths.

    With 2 operations for a multiply-add, a backward pass of twice the forward pass, and 303 million
    images an epoch, this is how the ViT paper's Table 6 counts exaFLOP: B/16, L/32, both lengths of
    L/16, R50+B/16 and R50+L/16 at 14 epochs come out as printed. Not so H/14 at 4,258 (printed:
    4,262), B/32 at 56.1 (55), R50+B/32 at 107.6 (106), R50+L/32 at 247.0 (246) and R50+L/16 at 7
    epochs at 834 (859). No one rule gives all: the two lengths of R50+L/16 are not in proportion.
    """
    rows, columns = config.grid(image_shape)
    total, channels = 0, image_shape[-1]
    if config.stem is not None:
        stem, channels = _stem(config.stem, image_shape)
        total += stem
    patch = math.prod(config.patch_size) * channels
    total += rows * columns * patch * config.width
    tokens, width = config.num_tokens(image_shape), config.width
    dense = 4 * width * width + 2 * width * config.mlp_dim
    # Relative positions are one more product of attention.
    products = 3 if config.position == "relative" else 2
    total += config.depth * (tokens * dense + products * tokens * tokens * width)
    if config.pool == "map":
        # One query; keys and values of all tokens.
        total += tokens * 2 * width * width + 2 * tokens * width
        total += 2 * width * width + 2 * width * config.mlp_dim
    return total


def _stem(stem: ResNetStem, image_shape: tuple[int, ...]) -> tuple[int, int]:
    """Multiply-adds of a convolutional front, and the channels that it gives."""
    height, width, channels = image_shape[-3:]
    area, inputs = (height // 2) * (width // 2), stem.width
    total = area * 49 * channels * stem.width
    area //= 4
    for i, units in enumerate(stem.stages):
        narrow, outputs = stem.width * 2**i, 4 * stem.width * 2**i
        for unit in range(units):
            before = area
            area //= 4 if unit == 0 and i > 0 else 1
            total += before * inputs * narrow + area * narrow * (9 * narrow + outputs)
            total += area * inputs * outputs if unit == 0 else 0
            inputs = outputs
    return total, inputs
