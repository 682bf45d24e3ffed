"""What a model does with a checkpoint when it is fine-tuned.

The whole pre-training head is replaced by one zero-initialised linear layer (ViT paper, appendix
B.1.1: more robust than re-initialising its last layer only), the position table is resized to the
new grid (section 3.2), and everything else must be there in the same shape. BiT and EfficientNet
have no such table.
"""

import dataclasses
import re
from collections.abc import Container
from typing import Any, NamedTuple

import numpy as np

from train_jax.errors import UserError
from train_jax.sharding import flat_names
from train_jax.transfer import Rule
from vit_jax.posemb import Grid, infer_grid, resize_posemb
from vit_jax.weights import POSITION_TABLE

_POOLING = (
    "the checkpoint and the model pool differently; set model.pool to the checkpoint's, "
    "or name it in transfer.fresh or transfer.drop"
)
_PROBE = "MAPHead_0/probe"
_LAYERS = (
    "the checkpoint is of another variant; choose it, or set model.width, model.depth, "
    "model.mlp_dim and model.num_heads to the checkpoint's"
)
#: Parameters that only masked patch prediction has.
MASKED_PATCH_PARTS = "mask_token|patch_head/.*"
# The ablations of the ViT paper's Table 8 are evaluated at the size of pre-training.
_OTHER_POSITIONS = (
    r"Transformer/(encoderblock/)?posembed_input/(?!pos_embedding$).*"
    "|Transformer/encoderblock/posembed_input/pos_embedding"
    "|.*/relative_embedding"
)
_OTHER_POSITIONS_HINT = (
    "only a position table at the stem is resized; keep the size of the images, and set "
    "model.position and model.position_at to the checkpoint's"
)


class _Kind(NamedTuple):
    """A kind of model, as its parameters tell it.

    Attributes:
        title: what to call it.
        parameter: one that all of the kind have, and no others.
        hint: the remedy where a shape differs.
    """

    title: str
    parameter: str
    hint: str


_KINDS = (
    _Kind(
        "a Vision Transformer",
        "embedding/kernel",
        "the checkpoint is of another variant; choose it, or set model.patch_size, model.stem and "
        "model.width to the checkpoint's",
    ),
    _Kind(
        "a BiT",
        "norm_pre_head/scale",
        "the checkpoint is of another variant; choose it, or set model.stages and model.width to "
        "the checkpoint's",
    ),
    _Kind(
        "an EfficientNet",
        "conv_head/kernel",
        "the checkpoint is of another variant; choose it, or set model.width and model.depth to "
        "the checkpoint's",
    ),
)


@dataclasses.dataclass(frozen=True)
class TransferConfig:
    """What to do beyond the rules of the paper.

    Attributes:
        keep_head: load the classification head too, to evaluate or continue a fine-tuned model.
        averaged: take the averaged parameters of a run that kept them (Polyak averaging).
        source_grid: (height, width) in patches of the checkpoint's position table; None if square.
        fresh: patterns of parameters that start afresh although the checkpoint may have them.
        drop: patterns of arrays of the checkpoint that the model does without.
    """

    keep_head: bool = False
    averaged: bool = True
    source_grid: tuple[int, int] | None = None
    fresh: tuple[str, ...] = ()
    drop: tuple[str, ...] = ()

    def __post_init__(self):
        for pattern in (*self.fresh, *self.drop):
            try:
                re.compile(pattern)
            except re.error as error:
                raise UserError(
                    f"transfer: {pattern!r} is not a regular expression: {error}."
                ) from error


def transfer_rules(
    source: Any,
    target: Any,
    *,
    source_grid: Grid | None = None,
    target_grid: Grid | None = None,
    config: TransferConfig | None = None,
) -> tuple[Rule, ...]:
    """The rules for :func:`train_jax.transfer.make_plan`.

    Args:
        source: the checkpoint's parameters, nested or flat, arrays or shapes.
        target: the model's in the same way.
        source_grid: (height, width) in patches of the checkpoint's position table, where the
            checkpoint says so itself; ``config.source_grid`` goes before it; None if square.
        target_grid: the same of the model's table.
        config: departures from the paper's rules.

    Raises:
        UserError: the two are of different kinds of model; a grid that is needed cannot be
            inferred, or does not fit its table; or a pattern of ``config`` matches nothing.
    """
    config = config or TransferConfig()
    sources, targets = flat_names(source), flat_names(target)
    found, kind = _kind_of(sources), _kind_of(targets)
    if found and kind and found is not kind:
        raise UserError(
            f"The checkpoint holds {found.title} and config.model is {kind.title}; take another "
            "checkpoint, or the experiment of its kind of model."
        )
    for key, patterns in (("fresh", config.fresh), ("drop", config.drop)):
        for pattern in patterns:
            if not any(re.fullmatch(pattern, name) for name in (*sources, *targets)):
                raise UserError(
                    f"transfer.{key}: {pattern!r} matches no whole name of the checkpoint or the "
                    "model; correct it or take it out."
                )
    grids = (config.source_grid or source_grid, target_grid)
    hint = kind.hint if kind else ""
    same_pool = all((name in sources) == (name in targets) for name in ("cls", _PROBE))
    return (
        *(Rule(pattern, "fresh") for pattern in config.fresh),
        *(Rule(pattern, "drop") for pattern in config.drop),
        _head_rule(sources, targets, keep_head=config.keep_head, hint=hint),
        _pre_logits_rule(targets),
        _masked_patch_rule(targets),
        _position_rule(sources, targets, grids=grids),
        Rule(_OTHER_POSITIONS, "load", hint=_OTHER_POSITIONS_HINT),
        Rule("cls|MAPHead_0/.*", "load", hint=hint if same_pool else _POOLING),
        Rule("Transformer/encoder.*", "load", hint=_LAYERS),
        Rule(".*", "load", hint=hint),
    )


def _kind_of(names: Container[str]) -> _Kind | None:
    return next((kind for kind in _KINDS if kind.parameter in names), None)


def _head_rule(
    sources: dict[str, Any], targets: dict[str, Any], *, keep_head: bool, hint: str
) -> Rule:
    if "head/kernel" not in targets:
        return Rule("head/.*", "drop")
    if keep_head:
        found = sources.get("head/kernel")
        if found is None or found.shape[-1] != targets["head/kernel"].shape[-1]:
            hint = "set model.num_classes to the checkpoint's, or transfer.keep_head to False"
        return Rule("head/.*", "load", hint=hint)
    return Rule("head/.*", "zero")


def _pre_logits_rule(targets: dict[str, Any]) -> Rule:
    if "pre_logits/kernel" not in targets:
        return Rule("pre_logits/.*", "drop")
    hint = "set model.representation_size to the checkpoint's, or to None to fine-tune without it"
    return Rule("pre_logits/.*", "load", hint=hint)


def _masked_patch_rule(targets: dict[str, Any]) -> Rule:
    if "mask_token" not in targets:
        return Rule(MASKED_PATCH_PARTS, "drop")
    hint = "to begin masked patch prediction from it, name them in transfer.fresh"
    return Rule(MASKED_PATCH_PARTS, "load", hint=hint)


def _position_rule(
    sources: dict[str, Any],
    targets: dict[str, Any],
    *,
    grids: tuple[Grid | None, Grid | None],
) -> Rule:
    hint = "set model.position to the checkpoint's"
    pattern = re.escape(POSITION_TABLE)
    load = Rule(pattern, "load", hint=hint)
    if POSITION_TABLE not in sources or POSITION_TABLE not in targets:
        return load
    old, new = sources[POSITION_TABLE].shape, targets[POSITION_TABLE].shape
    if old[2] != new[2]:
        return Rule(pattern, "load", hint=_LAYERS)
    # A class token, not the name of the pooling, decides whether there is a row for it.
    old_class, new_class = "cls" in sources, "cls" in targets
    old_rows, new_rows = old[1] - old_class, new[1] - new_class
    if grids == (None, None) and old == new:
        return load
    old_grid = grids[0] or infer_grid(old_rows, where="The checkpoint")
    new_grid = grids[1] or infer_grid(new_rows, where="The model")
    for who, rows, grid in (("checkpoint", old_rows, old_grid), ("model", new_rows, new_grid)):
        if rows != grid[0] * grid[1]:
            raise UserError(
                f"The {who}'s position table has {rows} rows for patches, but its grid is given as "
                f"{grid[0]}x{grid[1]}; correct the grid (height, width)."
            )
    if old_grid == new_grid and old_class == new_class:
        return load

    def resize(table: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        del shape  # follows from the grid
        table = resize_posemb(table, old_grid=old_grid, new_grid=new_grid, has_class_row=old_class)
        if old_class and not new_class:
            return table[:, 1:]
        if new_class and not old_class:
            return np.concatenate([np.zeros_like(table[:, :1]), table], axis=1)
        return table

    return Rule(pattern, "resize", resize=resize)
