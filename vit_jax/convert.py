"""Converts between published weights (.npz) and checkpoint directories.

    python -m vit_jax.convert B_16.npz checkpoint/            published weights -> our checkpoint
    python -m vit_jax.convert checkpoint/ B_16.npz            and back
    python -m vit_jax.convert old.npz new.npz --names=linen   from one published form to another
    python -m vit_jax.convert vit-base-patch16-224/ checkpoint/       Hugging Face's ViT, and back:
    python -m vit_jax.convert checkpoint/ mine/ --names=huggingface
    python -m vit_jax.convert timm.safetensors checkpoint/            timm's ViT, and back:
    python -m vit_jax.convert checkpoint/ mine.safetensors --names=timm

SOURCE may be a run's working directory (its newest checkpoint is taken) or one of its checkpoints,
and may name a subtree of an .npz file (siglip.npz:img). The form of a published file is recognised:
Vision Transformers, hybrids and BiT ResNets. The result can be given to `--config.init_from`.
Nothing is ever overwritten.
"""

import dataclasses
import os
import re
import sys
from collections.abc import Mapping
from typing import Any, Literal

import jax
from absl import flags, logging

from train_jax import command_line
from train_jax.checkpoint import save_once
from train_jax.config import to_dict
from train_jax.errors import UserError
from train_jax.transfer import Plan, Rule, apply_plan, make_plan
from vit_jax.bit_weights import save_bit
from vit_jax.hugging_face import save_torch
from vit_jax.init_from import Source, is_published, open_source
from vit_jax.models import api
from vit_jax.models.bit import BiTConfig
from vit_jax.models.config import ViTConfig
from vit_jax.npz import refuse_existing
from vit_jax.posemb import Grid
from vit_jax.recognise import Recognised, RecognisedBiT, recognise_any
from vit_jax.transfer import MASKED_PATCH_PARTS
from vit_jax.weights import POSITION_TABLE, save_published

_NAMES = flags.DEFINE_enum(
    "names",
    "original",
    ["original", "linen", "huggingface", "timm"],
    "Names inside the blocks of an .npz file to write: those of the original files, which every "
    "reader knows, or those of today's Flax (of a BiT: big_vision's). huggingface writes a "
    "directory for transformers, timm a .safetensors file.",
)
_LAYERS = flags.DEFINE_enum(
    "layers", "separate", ["separate", "stacked"], "Layers of an .npz file to write."
)
_GRID = flags.DEFINE_string(
    "grid", None, "HEIGHTxWIDTH of the position table in patches, if it is not square."
)
_POSITION = flags.DEFINE_enum(
    "position", None, ["sincos2d", "none"], "Position embedding, if no table is learned."
)
_AVERAGED = flags.DEFINE_bool(
    "averaged", True, "Take the averaged parameters of a run that kept them."
)

# Of the ViT paper's Table 8.
_UNPUBLISHED = ("learned2d", "relative")


def convert(
    source: str | os.PathLike[str],
    destination: str | os.PathLike[str],
    *,
    names: Literal["original", "linen", "huggingface", "timm"] = "original",
    layers: Literal["separate", "stacked"] = "separate",
    grid: Grid | None = None,
    position: Literal["sincos2d", "none"] | None = None,
    averaged: bool = True,
) -> str:
    """Converts one checkpoint.

    Args:
        source: a published file or a checkpoint directory.
        destination: an .npz file or a directory to make; must not exist.
        names: see :func:`vit_jax.weights.save_published` and :mod:`vit_jax.hugging_face`.
        layers: the same.
        grid: (height, width) of the position table, if it is not square.
        position: the position embedding, if no table is learned.
        averaged: take the averaged parameters of a run that kept them.

    Returns:
        A report: the model that was recognised, and every array.

    Raises:
        UserError: the source is of no model that is known, or the destination exists.
    """
    destination = os.fspath(destination)
    refuse_existing(destination)
    opened = open_source(source, averaged=averaged)
    torch = names in ("huggingface", "timm")
    if not is_published(source) and not is_published(destination) and not torch:
        raise UserError(
            f"{opened.path} and {destination} are both checkpoint directories; one of SOURCE and "
            "DESTINATION must end in .npz."
        )
    model = opened.about.get("model", {})
    if model.get("position") in _UNPUBLISHED or model.get("position_at", "stem") != "stem":
        raise UserError(
            f"{opened.path} has position={model['position']!r} and "
            f"position_at={model['position_at']!r}, which published files have no names for; "
            "they have one vector per token, at the stem."
        )
    if position is None and POSITION_TABLE not in opened.shapes:
        position = model.get("position")
    found = recognise_any(opened.shapes, grid=grid or opened.grid, position=position)
    plan, params = _read(opened, found)
    model = _with_numerics(found.model, opened.about.get("model", {}))
    if names in ("huggingface", "timm"):
        save_torch(
            destination,
            model,
            params,
            names=names,
            image_shape=found.image_shape,
            labels=opened.about.get("labels"),
        )
    elif is_published(destination) and isinstance(found.model, BiTConfig):
        if layers == "stacked":
            raise UserError("Files of a BiT have one array per unit; leave --layers out.")
        save_bit(destination, params, names=names)
    elif is_published(destination):
        save_published(destination, params, names=names, layers=layers)
    else:
        save_once(destination, {"params": params}, _meta(opened, found, model))
    total = sum(leaf.size for leaf in jax.tree.leaves(params))
    return (
        f"{found.describe()}\n{plan.table()}\n{total:,} parameters: {opened.path} -> {destination}"
    )


def _read(source: Source, found: Recognised | RecognisedBiT) -> tuple[Plan, Any]:
    """All parameters in float32, checked by name and shape against the model's own."""
    image_shape = found.image_shape or _any_image_shape(found.model)
    key = jax.random.key(0)
    target, _ = jax.eval_shape(lambda key: api.init(found.model, key, image_shape), key)
    # A published file has nothing of masked patch prediction, as fine-tuning needs nothing of it.
    rules = [Rule(MASKED_PATCH_PARTS, "drop"), Rule(".*", "load")]
    plan = make_plan(source.shapes, target, rules)
    place = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    fresh = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place), target
    )
    return plan, apply_plan(plan, source.read(source.shapes), fresh)


def _any_image_shape(model: ViTConfig | BiTConfig) -> tuple[int, int, int]:
    """Where no table fixes the size of the images, any size gives the same parameters."""
    if isinstance(model, BiTConfig):
        return 32, 32, 3
    stride = model.stem.stride if model.stem else 1
    height, width = (patch * stride for patch in model.patch_size)
    return height, width, 3


def _with_numerics(model: ViTConfig | BiTConfig, about: Mapping[str, Any]) -> ViTConfig | BiTConfig:
    """What no shape tells, as the checkpoint says it."""
    if isinstance(model, BiTConfig):
        return model
    told = {name: about[name] for name in ("gelu", "norm_epsilon") if name in about}
    return dataclasses.replace(model, **told)


def _meta(
    source: Source, found: Recognised | RecognisedBiT, model: ViTConfig | BiTConfig
) -> dict[str, Any]:
    labels = source.about.get("labels")
    return {
        **({"labels": labels} if labels else {}),
        "converted_from": source.path,
        "variant": found.variant,
        "model": to_dict(model),
        "image_shape": found.image_shape,
        "grid": found.grid,
    }


def _parse_grid(text: str | None) -> Grid | None:
    if text is None:
        return None
    match = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", text)
    if match is None:
        raise UserError(f"--grid={text!r} is not written like 14x28 (height x width in patches).")
    return int(match[1]), int(match[2])


def main() -> None:
    """The command line."""
    logging.set_verbosity(logging.WARNING)
    # Weights are only moved: an accelerator would have to be waited for, or may be in use.
    jax.config.update("jax_platforms", "cpu")
    source, destination = command_line.parse(
        sys.argv, __doc__ or "", arguments=("SOURCE", "DESTINATION")
    )
    options: dict[str, Any] = {
        "names": _NAMES.value,
        "layers": _LAYERS.value,
        "grid": _parse_grid(_GRID.value),
        "position": _POSITION.value,
        "averaged": _AVERAGED.value,
    }
    report = convert(source, destination, **options)
    sys.stdout.write(f"{report}\n")


if __name__ == "__main__":
    sys.exit(command_line.exit_code(main))
