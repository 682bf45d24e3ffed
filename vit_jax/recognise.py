"""Which model a set of parameter shapes belongs to.

Published files carry no configuration. Almost all of it can be read off the shapes; what cannot
(dropout, the head's initial bias) concerns training only and keeps its default.
"""

import dataclasses
import math
import re
from collections.abc import Mapping
from typing import Any, Literal

from train_jax.errors import UserError
from vit_jax.models import bit
from vit_jax.models.bit import BiTConfig
from vit_jax.models.config import ResNetStem, ViTConfig
from vit_jax.models.variants import ROOT_ONLY_PATCH, SIZES, STEMS
from vit_jax.posemb import Grid, infer_grid
from vit_jax.weights import POSITION_TABLE

_ATTENTION = "Transformer/encoderblock/MultiHeadDotProductAttention_0"


@dataclasses.dataclass(frozen=True)
class Recognised:
    """A Vision Transformer, and the images its position table was made for.

    Attributes:
        model: the configuration.
        variant: its name ("B/16", "R50+L/32"), or None for a size without one.
        grid: (height, width) of the position table in patches; None without such a table.
        image_shape: (height, width, channels); None where the grid is unknown.
    """

    model: ViTConfig
    variant: str | None
    grid: Grid | None
    image_shape: tuple[int, int, int] | None

    def describe(self) -> str:
        """One line for people."""
        model = self.model
        size = f"{self.image_shape[0]}x{self.image_shape[1]}" if self.image_shape else "any size"
        head = f"{model.num_classes} classes" if model.num_classes else "no head"
        hidden = model.representation_size
        return (
            f"ViT {self.variant or 'of its own size'} (width {model.width}, {model.depth} layers, "
            f"{model.num_heads} heads), images of {size}, {model.pool} pooling, "
            f"{f'representation layer of {hidden}, ' if hidden else ''}{head}"
        )


@dataclasses.dataclass(frozen=True)
class RecognisedBiT:
    """A BiT; its weights are for images of any size.

    Attributes:
        model: the configuration.
        variant: its name ("R50x1"), or None for a size without one.
        grid: None, as there are no patches.
        image_shape: likewise.
    """

    model: BiTConfig
    variant: str | None
    grid: None = None
    image_shape: None = None

    def describe(self) -> str:
        """One line for people."""
        units = "+".join(map(str, self.model.stages))
        classes = self.model.num_classes
        return (
            f"BiT {self.variant or 'of its own size'} ({units} units, width {self.model.width}), "
            f"images of any size, {f'{classes} classes' if classes else 'no head'}"
        )


def recognise_any(
    shapes: Mapping[str, Any],
    *,
    grid: Grid | None = None,
    position: Literal["sincos2d", "none"] | None = None,
) -> Recognised | RecognisedBiT:
    """Reads the configuration of whichever model off the shapes; see :func:`recognise`."""
    if "norm_pre_head/scale" in shapes:
        if grid is not None or position is not None:
            raise UserError("A BiT has no position embedding; leave grid and position out.")
        model = _bit(shapes)
        return RecognisedBiT(model, bit.variant_name(model))
    return recognise(shapes, grid=grid, position=position)


def recognise(
    shapes: Mapping[str, Any],
    *,
    grid: Grid | None = None,
    position: Literal["sincos2d", "none"] | None = None,
) -> Recognised:
    """Reads the configuration off the shapes.

    Args:
        shapes: our flat names -> anything with ``shape``.
        grid: (height, width) of the position table, if it is not square.
        position: the position embedding, if no table is learned.

    Raises:
        UserError: what is needed is not there, or cannot be inferred and was not given.
    """

    def shape(name: str) -> tuple[int, ...]:
        if name not in shapes:
            raise UserError(f"The weights hold no {name}; they are not a Vision Transformer's.")
        return tuple(shapes[name].shape)

    *patch, _, width = shape("embedding/kernel")
    depth, _, num_heads, _ = shape(f"{_ATTENTION}/query/kernel")
    mlp_dim = shape("Transformer/encoderblock/MlpBlock_0/Dense_0/kernel")[-1]
    learned = POSITION_TABLE in shapes
    if not learned and position is None:
        raise UserError(
            "The weights hold no position table: say whether the positions are sincos2d or none."
        )
    if learned and position is not None:
        raise UserError(f"The weights hold a position table; position={position!r} is wrong.")
    model = ViTConfig(
        patch_size=(patch[0], patch[1]),
        width=width,
        depth=depth,
        mlp_dim=mlp_dim,
        num_heads=num_heads,
        num_classes=shape("head/kernel")[-1] if "head/kernel" in shapes else 0,
        stem=_stem(shapes),
        pool="map" if "MAPHead_0/probe" in shapes else "token" if "cls" in shapes else "gap",
        position=position or "learned",
        representation_size=shape("pre_logits/kernel")[-1]
        if "pre_logits/kernel" in shapes
        else None,
    )
    if learned and grid is None:
        rows = shape(POSITION_TABLE)[1] - model.class_token
        grid = infer_grid(rows, where="The checkpoint")
    return Recognised(model, variant_name(model), grid, _image_shape(model, grid))


def variant_name(model: ViTConfig) -> str | None:
    """The name that ``config_for`` knows the model by; None if there is none."""
    size = (model.width, model.depth, model.mlp_dim, model.num_heads)
    name = next((name for name, known in SIZES.items() if known == size), None)
    if name is None:
        return None
    if model.stem is None:
        height, width = model.patch_size
        return f"{name}/{height}" if height == width else f"{name}/{height}x{width}"
    for (stem, stride), stages in STEMS.items():
        side = 1 if stages else ROOT_ONLY_PATCH
        if model.stem == ResNetStem(stages) and model.patch_size == (side, side):
            return f"{stem}+{name}/{stride}"
    return None


def _bit(shapes: Mapping[str, Any]) -> BiTConfig:
    stages = []
    while (first := f"block{len(stages) + 1}/unit1/conv1/kernel") in shapes:
        others = first.replace("unit1", "units")
        stages.append(1 + (shapes[others].shape[0] if others in shapes else 0))
    return BiTConfig(
        stages=tuple(stages),
        width=shapes["conv_root/kernel"].shape[-1],
        num_classes=shapes["head/kernel"].shape[-1] if "head/kernel" in shapes else 0,
    )


def _stem(shapes: Mapping[str, Any]) -> ResNetStem | None:
    if "conv_root/kernel" not in shapes:
        return None
    units: dict[int, int] = {}
    for name in shapes:
        if match := re.match(r"block(\d+)/unit(\d+)/", name):
            block, unit = int(match[1]), int(match[2])
            units[block] = max(units.get(block, 0), unit)
    stages = tuple(units.get(block, 0) for block in range(1, max(units, default=0) + 1))
    return ResNetStem(stages, width=shapes["conv_root/kernel"].shape[-1])


def _image_shape(model: ViTConfig, grid: Grid | None) -> tuple[int, int, int] | None:
    if grid is None:
        return None
    stride = 1 if model.stem is None else model.stem.stride
    height, width = (
        math.prod((cells, patch, stride))
        for cells, patch in zip(grid, model.patch_size, strict=True)
    )
    return height, width, 3
