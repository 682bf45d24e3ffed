"""BiT, the ResNet that the ViT paper compares with (Big Transfer, Kolesnikov et al. 2020).

A ResNet of version 2 (normalisation and ReLU stand before each convolution) with GroupNorm and
standardised weights in the place of batch normalisation (BiT paper, section 3.2). The second and
later units of a stage are alike: their parameters lie in one tree with a leading axis, whichever
way they are run, as those of a transformer's blocks do.
"""

import dataclasses
import math
import re
from collections.abc import Callable
from functools import partial
from typing import Any, Literal, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from train_jax.errors import UserError
from train_jax.sharding import ParamRule, constrain_batch
from vit_jax.models.layers import Dense, zeros
from vit_jax.models.resnet_stem import GROUPS, GroupNorm, StdConv

# Unlike a hybrid's stem: 1e-6 there, and an epsilon added to the standard deviation.
NORM_EPSILON = 1e-5
VARIANCE_EPSILON = 1e-10

#: Units of the four stages (He et al. 2016, Table 1; 200: "Identity Mappings in Deep ResNets").
DEPTHS: dict[int, tuple[int, ...]] = {
    26: (2, 2, 2, 2),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
    200: (3, 24, 36, 3),
}

#: Those of the BiT paper and its published files, and of the ViT paper's Tables 3 and 6.
VARIANTS = ("R50x1", "R50x2", "R50x3", "R101x1", "R101x3", "R152x1", "R152x2", "R152x4", "R200x3")

#: Placement of every parameter.
PARAM_RULES: tuple[ParamRule, ...] = (
    (r"(conv_root|block\d+/unit1/conv(\d|_proj))/kernel", (None, None, None, None)),
    (r"(block\d+/unit1/gn\d|norm_pre_head)/(scale|bias)", (None,)),
    (r"block\d+/units/conv\d/kernel", ("layer", None, None, None, None)),
    (r"block\d+/units/gn\d/(scale|bias)", ("layer", None)),
    ("head/kernel", (None, None)),
    ("head/bias", (None,)),
)

#: What the backward pass finds kept of each unit, per ``BiTConfig.remat``; "none" has no policy.
REMAT_POLICIES: dict[str, Callable[..., bool]] = {
    "convs": jax.checkpoint_policies.save_only_these_names("conv"),
    "full": jax.checkpoint_policies.nothing_saveable,
}


@dataclasses.dataclass(frozen=True)
class BiTConfig:
    """A BiT ResNet; :func:`bit_config` knows those that have names.

    Attributes:
        stages: number of bottleneck units in each stage.
        width: channels of the root; stage i (from 0) gives ``4 * width * 2**i`` channels.
        num_classes: outputs of the head; 0 for no head, when the representation is returned.
        head_bias: initial value of the head's bias (-10 where the loss is a sigmoid).
        root_padding: what surrounds the feature map that the root's pooling takes the maximum of:
            "zeros" in the code that was published with the weights, which says that it matters;
            "lowest", so that the border never wins, in big_vision.
        execution: "scan" compiles one of the units that are alike, "unrolled" all of them; the
            numbers are the same.
        remat: what the backward pass finds kept of each unit: "convs" its input and the results of
            its first two convolutions, so that only norms are repeated; "full" its input, "none"
            everything.
        compute_dtype: of the convolutions and the residual stream. Parameters, their
            standardisation, GroupNorm, pooling and head are float32 in any case.
        name: tells this kind of model from the others.
    """

    stages: tuple[int, ...]
    width: int = 64
    num_classes: int = 1000
    head_bias: float = 0.0
    root_padding: Literal["zeros", "lowest"] = "zeros"
    execution: Literal["scan", "unrolled"] = "scan"
    remat: Literal["none", "convs", "full"] = "convs"
    compute_dtype: Literal["float32", "bfloat16"] = "float32"
    name: Literal["bit"] = "bit"

    def __post_init__(self):
        if not self.stages or min(self.stages) < 1:
            raise UserError(
                f"stages={self.stages} is not a number of units, at least 1, for each stage."
            )
        if self.width < 1 or self.width % GROUPS:
            raise UserError(
                f"The width {self.width} is not a multiple of the {GROUPS} groups of GroupNorm; "
                "choose another width."
            )

    @property
    def representation_size(self) -> int:
        """Channels before the head."""
        return 4 * self.width * 2 ** (len(self.stages) - 1)


def bit_config(variant: str, **overrides: Any) -> BiTConfig:
    """The model of a name.

    Args:
        variant: "R50x1", "R152x4": a known depth and any whole factor of the width.
        **overrides: fields of :class:`BiTConfig`.

    Raises:
        UserError: no such name.
    """
    match = re.fullmatch(r"R(\d+)x([1-9]\d*)", variant)
    if match is None or int(match[1]) not in DEPTHS:
        known = ", ".join(f"R{depth}" for depth in DEPTHS)
        raise UserError(
            f"Unknown BiT {variant!r}; write the depth and the factor of the width as in 'R50x1'; "
            f"depths are {known}."
        )
    fields: dict[str, Any] = {"stages": DEPTHS[int(match[1])], "width": 64 * int(match[2])}
    return BiTConfig(**(fields | overrides))


def variant_name(config: BiTConfig) -> str | None:
    """The name that :func:`bit_config` knows the model by; None if there is none."""
    depth = next((depth for depth, stages in DEPTHS.items() if stages == config.stages), None)
    return None if depth is None or config.width % 64 else f"R{depth}x{config.width // 64}"


class BiT(nn.Module):
    """Root, stages of units, a last normalisation, the mean over the map, and a head."""

    config: BiTConfig

    @nn.compact
    def __call__(
        self, images: jax.Array, *, key: jax.Array | None = None
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Classifies images.

        Args:
            images: (b, h, w, 3), in [-1, 1], of any size.
            key: makes no difference, as nothing here is random.

        Returns:
            Logits, float32 (b, num_classes), and the intermediate result "pre_logits" (b, D),
            float32.
        """
        del key
        config = self.config
        dtype = jnp.dtype(config.compute_dtype)
        x = _conv(config.width, 7, 2, dtype, name="conv_root")(images.astype(dtype))
        x = constrain_batch(root_pool(x, config.root_padding))
        for i, units in enumerate(config.stages):
            stride = 1 if i == 0 else 2
            x = Stage(config, units, config.width * 2**i, stride, name=f"block{i + 1}")(x)
        x = nn.relu(_norm(dtype, name="norm_pre_head")(x))
        x = x.astype(jnp.float32).mean((1, 2))
        outputs = {"pre_logits": x}
        if config.num_classes:
            head_bias = nn.initializers.constant(config.head_bias)
            x = Dense(config.num_classes, x.dtype, zeros, head_bias, name="head")(x)
        return x, outputs


class Unit(nn.Module):
    """Normalised, 1x1, 3x3 (with the stride), 1x1, and added to the input (version 2)."""

    width: int
    stride: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps (b, h, w, c) to (b, h / stride, w / stride, 4 * width)."""
        dtype, outputs = self.dtype, 4 * self.width
        y = nn.relu(_norm(dtype, name="gn1")(x))
        if x.shape[-1] != outputs or self.stride != 1:
            # The projection reads what was normalised for the first convolution.
            x = _conv(outputs, 1, self.stride, dtype, name="conv_proj")(y)
        y = checkpoint_name(_conv(self.width, 1, 1, dtype, name="conv1")(y), "conv")
        y = nn.relu(_norm(dtype, name="gn2")(y))
        y = checkpoint_name(_conv(self.width, 3, self.stride, dtype, name="conv2")(y), "conv")
        y = nn.relu(_norm(dtype, name="gn3")(y))
        return x + _conv(outputs, 1, 1, dtype, name="conv3")(y)


class Stage(nn.Module):
    """Units, the first of which has the stride and widens; the others are alike."""

    config: BiTConfig
    units: int
    width: int
    stride: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps (b, h, w, c) to (b, h / stride, w / stride, 4 * width)."""
        dtype = jnp.dtype(self.config.compute_dtype)
        first = Unit(self.width, self.stride, dtype, parent=None)
        x = self._run(first, self.param("unit1", partial(_draw, first, x.shape[-1])), x)
        if self.units == 1:
            return x
        other, channels = Unit(self.width, 1, dtype, parent=None), x.shape[-1]

        def draw(key: jax.Array) -> Any:
            keys = jax.random.split(key, self.units - 1)
            return jax.vmap(partial(_draw, other, channels))(keys)

        stacked = self.param("units", draw)
        if self.config.execution == "scan":
            x, _ = jax.lax.scan(lambda x, unit: (self._run(other, unit, x), None), x, stacked)
        else:
            for unit in _unstack(stacked, self.units - 1):
                x = self._run(other, unit, x)
        return x

    def _run(self, unit: Unit, params: Any, x: jax.Array) -> jax.Array:
        def run(params: Any, x: jax.Array) -> jax.Array:
            return constrain_batch(cast(jax.Array, unit.apply({"params": params}, x)))

        if self.config.remat != "none":
            run = jax.checkpoint(run, policy=REMAT_POLICIES[self.config.remat])
        return run(params, x)


def multiply_adds(config: BiTConfig, image_shape: tuple[int, ...]) -> int:
    """Multiply-adds of the convolutions of a forward pass over one image, without the head.

    Products with padding do not count, as in a compiler's count. So the ViT paper's Table 6 comes
    out, by the rule of :func:`vit_jax.flops.multiply_adds`, within one percent (exaFLOP, printed):
    R50x1 50.2 (50), R50x2 197.9 (199), R101x1 95.1 (96), R152x1 140.3 (141), R152x2 558.3 (563) and
    1116.7 (1126), R200x3 3288 (3306). With them all rows would be 3 to 4 percent above the table.
    """
    height, width, inputs = image_shape[-3:]
    total = _taps(height, 7, 2) * _taps(width, 7, 2) * inputs * config.width
    sides, inputs = _halved(_halved((height, width))), config.width
    for i, units in enumerate(config.stages):
        narrow, outputs = config.width * 2**i, 4 * config.width * 2**i
        for unit in range(units):
            before, stride = math.prod(sides), 2 if i > 0 and unit == 0 else 1
            total += before * inputs * narrow
            total += math.prod(_taps(side, 3, stride) for side in sides) * narrow * narrow
            sides = sides if stride == 1 else _halved(sides)
            after = math.prod(sides)
            total += after * outputs * (narrow + (inputs if unit == 0 else 0))
            inputs = outputs
    return total


def _halved(sides: tuple[int, int]) -> tuple[int, int]:
    return (sides[0] + 1) // 2, (sides[1] + 1) // 2


def _taps(side: int, size: int, stride: int) -> int:
    """How often a kernel's rows meet the rows of a map, over all of its places."""
    places = range(-(size // 2), side - size // 2, stride)
    return sum(min(place + size, side) - max(place, 0) for place in places)


def _conv(features: int, size: int, stride: int, dtype: jnp.dtype, *, name: str) -> StdConv:
    return StdConv(features, size, stride, dtype, size // 2, _std, name=name)


def _std(variance: jax.Array) -> jax.Array:
    return jnp.sqrt(variance + VARIANCE_EPSILON)


def _norm(dtype: jnp.dtype, *, name: str) -> GroupNorm:
    return GroupNorm(dtype, epsilon=NORM_EPSILON, name=name)


def root_pool(x: jax.Array, padding: Literal["zeros", "lowest"]) -> jax.Array:
    """Maxima of 3x3 at every second place, (b, h, w, c) to (b, h / 2, w / 2, c)."""
    around = 0.0 if padding == "zeros" else -jnp.inf
    x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=around)
    return nn.max_pool(x, (3, 3), strides=(2, 2), padding="VALID")


def _draw(unit: Unit, channels: int, key: jax.Array) -> Any:
    """The parameters of a unit; they do not depend on the size of the map."""
    return unit.init(key, jnp.zeros((1, 1, 1, channels), unit.dtype))["params"]


def _unstack(stacked: Any, count: int) -> list[Any]:
    """One tree per unit; by ``split``, whose derivative is one concatenation."""
    leaves, tree = jax.tree.flatten(stacked)
    split = [[x[0] for x in jax.lax.split(leaf, [1] * count, axis=0)] for leaf in leaves]
    return [tree.unflatten(unit) for unit in zip(*split, strict=True)]
