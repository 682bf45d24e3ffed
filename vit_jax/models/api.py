"""The seam between the models and everything else: plain dicts in, plain arrays out."""

import re
from typing import Any, cast

import jax
import jax.numpy as jnp

from train_jax.sharding import ParamRule, flat_names
from vit_jax.models.vit import ViT, ViTConfig

Params = dict[str, Any]

_BLOCK = "Transformer/encoderblock"


def _attention_and_mlp_rules(prefix: str, *lead: str | None) -> tuple[ParamRule, ...]:
    """Heads and MLP hidden units are split by tensor parallelism, as Megatron does."""
    attention, mlp = f"{prefix}/MultiHeadDotProductAttention_0", f"{prefix}/MlpBlock_0"
    return (
        (f"{attention}/(query|key|value)/kernel", (*lead, None, "tensor", None)),
        (f"{attention}/(query|key|value)/bias", (*lead, "tensor", None)),
        (f"{attention}/out/kernel", (*lead, "tensor", None, None)),
        (f"{attention}/out/bias", (*lead, None)),
        (f"{mlp}/Dense_0/kernel", (*lead, None, "tensor")),
        (f"{mlp}/Dense_0/bias", (*lead, "tensor")),
        (f"{mlp}/Dense_1/kernel", (*lead, "tensor", None)),
        (f"{mlp}/Dense_1/bias", (*lead, None)),
        (f"{prefix}/LayerNorm_[01]/(scale|bias)", (*lead, None)),
    )


#: Placement of every parameter of every configuration.
PARAM_RULES: tuple[ParamRule, ...] = (
    *_attention_and_mlp_rules(_BLOCK, "layer"),
    *_attention_and_mlp_rules("MAPHead_0"),
    ("Transformer/encoder_norm/(scale|bias)", (None,)),
    ("Transformer/posembed_input/pos_embedding", (None, None, None)),
    ("embedding/kernel", (None, None, None, None)),
    ("embedding/bias", (None,)),
    ("(cls|MAPHead_0/probe)", (None, None, None)),
    ("(head|pre_logits)/kernel", (None, None)),
    ("(head|pre_logits)/bias", (None,)),
    (r"(conv_root|block\d+/unit\d+/conv(\d|_proj))/kernel", (None, None, None, None)),
    (r"(gn_root|block\d+/unit\d+/gn(\d|_proj))/(scale|bias)", (None,)),
)


def init(config: ViTConfig, key: jax.Array, image_shape: tuple[int, ...]) -> Params:
    """Draws the parameters.

    Args:
        config: the model.
        key: the same key gives the same parameters in every execution mode.
        image_shape: (..., height, width, channels), which the position table depends on.

    Returns:
        A nested dict of float32 arrays under the published names; those of the encoder blocks
        have a leading layer axis.

    Raises:
        UserError: the patches do not tile the image.
    """
    config.grid(image_shape)
    images = jax.ShapeDtypeStruct((1, *image_shape[-3:]), jnp.float32)
    return cast(Params, ViT(config).lazy_init(key, images)["params"])


def apply(
    config: ViTConfig, params: Params, images: jax.Array, *, key: jax.Array | None = None
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Runs the model.

    Args:
        config: the model.
        params: as :func:`init` gives them.
        images: (b, h, w, 3), normalised to [-1, 1].
        key: given, the model trains (dropout, stochastic depth); None, it infers.

    Returns:
        Logits, float32 (b, num_classes), or the representation where num_classes is 0, and the
        intermediate results "pre_logits" (b, D or representation_size), float32, and "encoded"
        (b, n, D), the tokens after the last LayerNorm.
    """
    result = ViT(config).apply({"params": params}, images, key=key)
    return cast(tuple[jax.Array, dict[str, jax.Array]], result)


def param_rules(config: ViTConfig, image_shape: tuple[int, ...]) -> tuple[ParamRule, ...]:
    """Those of ``PARAM_RULES`` that say something about a parameter of this model."""
    shapes = jax.eval_shape(lambda key: init(config, key, image_shape), jax.random.key(0))
    names = flat_names(shapes)
    return tuple(
        (pattern, axes)
        for pattern, axes in PARAM_RULES
        if any(re.fullmatch(pattern, name) for name in names)
    )
