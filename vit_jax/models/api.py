"""The seam between the models and everything else: plain dicts in, plain arrays out."""

import re
from typing import Any, cast

import jax
import jax.numpy as jnp

from train_jax.sharding import ParamRule, flat_names
from vit_jax.models import bit, efficientnet
from vit_jax.models.bit import BiT, BiTConfig
from vit_jax.models.efficientnet import EfficientNet
from vit_jax.models.efficientnet_config import EfficientNetConfig
from vit_jax.models.vit import ViT, ViTConfig

#: Every kind of model; they are told apart by ``name``.
ModelConfig = ViTConfig | BiTConfig | EfficientNetConfig
Params = dict[str, Any]
ModelState = dict[str, Any]

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


#: Placement of every parameter of every Vision Transformer.
PARAM_RULES: tuple[ParamRule, ...] = (
    *_attention_and_mlp_rules(_BLOCK, "layer"),
    *_attention_and_mlp_rules("MAPHead_0"),
    ("Transformer/encoder_norm/(scale|bias)", (None,)),
    ("Transformer/posembed_input/(pos|cls)_embedding", (None, None, None)),
    ("Transformer/posembed_input/(row|column)_embedding", (None, None)),
    (f"{_BLOCK}/posembed_input/(pos|cls)_embedding", ("layer", None, None, None)),
    (f"{_BLOCK}/posembed_input/(row|column)_embedding", ("layer", None, None)),
    (
        f"{_BLOCK}/MultiHeadDotProductAttention_0/relative_embedding",
        ("layer", None, "tensor", None),
    ),
    ("embedding/kernel", (None, None, None, None)),
    ("embedding/bias", (None,)),
    ("(cls|mask_token|MAPHead_0/probe)", (None, None, None)),
    ("(head|pre_logits|patch_head)/kernel", (None, None)),
    ("(head|pre_logits|patch_head)/bias", (None,)),
    (r"(conv_root|block\d+/unit\d+/conv(\d|_proj))/kernel", (None, None, None, None)),
    (r"(gn_root|block\d+/unit\d+/gn(\d|_proj))/(scale|bias)", (None,)),
)


def grid_of(config: ModelConfig, image_shape: tuple[int, ...]) -> tuple[int, int] | None:
    """Rows and columns of a model's patches; None for one that takes images of any size.

    Raises:
        UserError: the patches do not tile the image.
    """
    return config.grid(image_shape) if isinstance(config, ViTConfig) else None


def init(
    config: ModelConfig, key: jax.Array, image_shape: tuple[int, ...]
) -> tuple[Params, ModelState]:
    """Draws the parameters.

    Args:
        config: the model.
        key: the same key gives the same parameters in every execution mode.
        image_shape: (..., height, width, channels), which the position table depends on.

    Returns:
        Parameters, a nested dict of float32 arrays under the published names (those of a ViT's
        encoder blocks have a leading layer axis), and what else training carries along: the
        running statistics of batch normalisation, or nothing.

    Raises:
        UserError: the patches do not tile the image.
    """
    grid_of(config, image_shape)
    images = jax.ShapeDtypeStruct((1, *image_shape[-3:]), jnp.float32)
    variables = dict(_module(config).lazy_init(key, images))
    return cast(Params, variables.pop("params")), variables


def apply(
    config: ModelConfig,
    params: Params,
    model_state: ModelState,
    images: jax.Array,
    *,
    key: jax.Array | None = None,
) -> tuple[jax.Array, dict[str, jax.Array], ModelState]:
    """Runs the model.

    Args:
        config: the model.
        params: as :func:`init` gives them.
        model_state: likewise.
        images: (b, h, w, 3), normalised to [-1, 1].
        key: given, the model trains (dropout, stochastic depth, statistics of the batch); None, it
            infers.

    Returns:
        Logits, float32 (b, num_classes), or the representation where num_classes is 0; the
        intermediate results "pre_logits" (b, D or representation_size), float32, and, of a ViT,
        "encoded" (b, n, D), the tokens after the last LayerNorm; and the new model state.
    """
    module, variables = _module(config), {"params": params, **model_state}
    if key is None or not model_state:
        logits, outputs = cast(Any, module.apply(variables, images, key=key))
        return logits, outputs, model_state
    (logits, outputs), model_state = cast(
        Any, module.apply(variables, images, key=key, mutable=list(model_state))
    )
    return logits, outputs, model_state


def param_rules(config: ModelConfig, image_shape: tuple[int, ...]) -> tuple[ParamRule, ...]:
    """Those of the model's rules that say something about a parameter that it has."""
    shapes, _ = jax.eval_shape(lambda key: init(config, key, image_shape), jax.random.key(0))
    names = flat_names(shapes)
    return tuple(
        (pattern, axes)
        for pattern, axes in _rules(config)
        if any(re.fullmatch(pattern, name) for name in names)
    )


def _module(config: ModelConfig) -> ViT | BiT | EfficientNet:
    match config:
        case ViTConfig():
            return ViT(config)
        case BiTConfig():
            return BiT(config)
        case EfficientNetConfig():
            return EfficientNet(config)


def _rules(config: ModelConfig) -> tuple[ParamRule, ...]:
    match config:
        case ViTConfig():
            return PARAM_RULES
        case BiTConfig():
            return bit.PARAM_RULES
        case EfficientNetConfig():
            return efficientnet.PARAM_RULES
