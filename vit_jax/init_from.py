"""Starting a model from a checkpoint: a run of ours, or a published file."""

import dataclasses
import os
import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
from absl import logging
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from train_jax.checkpoint import read_meta, read_params_shapes, restore_params, restore_parts
from train_jax.errors import UserError
from train_jax.sharding import flat_names, param_shardings, replicated
from train_jax.transfer import Plan, apply_plan, draft_plan
from vit_jax.bit_weights import BiTWeights, is_bit, open_bit
from vit_jax.hugging_face import is_torch, open_torch
from vit_jax.models import api
from vit_jax.models.api import ModelConfig, ModelState, Params, grid_of
from vit_jax.npz import open_npz
from vit_jax.posemb import Grid
from vit_jax.transfer import TransferConfig, transfer_rules
from vit_jax.weights import PublishedWeights, split_subtree, understand

Shapes = Mapping[str, jax.ShapeDtypeStruct]


@dataclasses.dataclass(frozen=True)
class Source:
    """A checkpoint of which only names and shapes are known yet.

    Attributes:
        path: where it is.
        shapes: flat name -> shape and dtype.
        about: what it says of itself; nothing for a published file.
        read: shapes (with shardings, where they matter) of the arrays wanted -> the arrays.
    """

    path: str
    shapes: dict[str, jax.ShapeDtypeStruct]
    about: Mapping[str, Any]
    read: Callable[[Shapes], Mapping[str, Any]]

    @property
    def grid(self) -> Grid | None:
        """(height, width) in patches of its position table, where it says so itself."""
        grid = self.about.get("grid")
        return (int(grid[0]), int(grid[1])) if grid else None


def is_published(path: str | os.PathLike[str]) -> bool:
    """Whether a path is that of a published file, with or without the name of a subtree."""
    return re.search(r"\.npz(:[\w/]+)?$", os.fspath(path)) is not None or is_torch(path)


def open_source(path: str | os.PathLike[str], *, averaged: bool = True) -> Source:
    """Looks at a checkpoint without reading its arrays.

    Args:
        path: a published file (``file.npz``, ``file.npz:subtree``, ``timm.safetensors``), a
            directory of Hugging Face, or a run's working directory or
            any of its checkpoints.
        averaged: take the averaged parameters of a run that kept them.

    Raises:
        UserError: it cannot be read, or is not a checkpoint.
    """
    path = os.fspath(path)
    if is_torch(path):
        weights, about = open_torch(path)
        return Source(path, weights.shapes, about, lambda wanted: weights)
    if is_published(path):
        weights = _open_published(path)
        return Source(path, weights.shapes, {}, lambda wanted: weights)
    shapes = flat_names(read_params_shapes(path))

    def read(wanted: Shapes) -> Mapping[str, Any]:
        return flat_names(restore_params(path, nested(wanted), prefer_ema=averaged))

    return Source(path, shapes, read_meta(path), read)


def _open_published(path: str) -> PublishedWeights | BiTWeights:
    """Understands a published file of whichever kind of model."""
    text, subtree = split_subtree(path)
    file = open_npz(text)
    return open_bit(file) if is_bit(file.shapes) else understand(file, subtree=subtree)


def transfer_model(
    path: str | os.PathLike[str],
    fresh: Params,
    model_state: ModelState,
    *,
    model: ModelConfig,
    image_shape: tuple[int, ...],
    config: TransferConfig | None = None,
) -> tuple[Params, ModelState]:
    """A model that starts from a checkpoint, as fine-tuning does.

    The whole plan is logged; see :func:`vit_jax.transfer.transfer_rules` for what it does.

    Args:
        path: as for :func:`open_source`.
        fresh: the model's initial parameters, wherever they are placed.
        model_state: running statistics of batch normalisation, likewise; or nothing.
        model: the model.
        image_shape: (..., height, width, channels) of its images.
        config: departures from the paper's rules.

    Returns:
        Parameters like ``fresh``, float32, and the checkpoint's statistics, in the same places.

    Raises:
        UserError: the checkpoint cannot be read, or a name, shape or dtype is unexplained.
    """
    config = config or TransferConfig()
    if model_state and is_published(path):
        raise UserError(
            f"{os.fspath(path)} is a published file, which holds no running statistics of batch "
            "normalisation; name the directory of a run of ours."
        )
    source = open_source(path, averaged=config.averaged)
    _require_same_functions(source, model)
    rules = transfer_rules(
        source.shapes,
        fresh,
        source_grid=source.grid,
        target_grid=grid_of(model, image_shape),
        config=config,
    )
    plan = draft_plan(source.shapes, fresh, rules)
    logging.info("Starting from %s:\n%s", source.path, plan.table())
    plan.check()
    params = apply_plan(plan, source.read(_wanted(plan, fresh)), fresh)
    if model_state:
        places = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), model_state
        )
        model_state = restore_parts(path, {"model_state": places})["model_state"]
    return params, model_state


def _require_same_functions(source: Source, model: ModelConfig) -> None:
    """Refuses a model that computes something else with the checkpoint's weights."""
    about = source.about.get("model") or (source.about.get("config") or {}).get("model") or {}
    for name in ("gelu", "norm_epsilon"):
        expected = about.get(name)
        if expected is not None and expected != getattr(model, name, expected):
            raise UserError(
                f"{source.path} is of a model with {name}={expected!r}, not "
                f"{getattr(model, name)!r}; set config.model.{name}={expected}."
            )


def load_model(
    path: str | os.PathLike[str],
    mesh: Mesh,
    *,
    model: ModelConfig,
    image_shape: tuple[int, ...],
    averaged: bool = True,
) -> tuple[Params, ModelState]:
    """A checkpoint's model, its head included unless ``model`` has none, placed on the mesh.

    Args:
        path: as for :func:`open_source`.
        mesh: the devices.
        model: the model.
        image_shape: (..., height, width, channels) of its images.
        averaged: take the averaged parameters of a run that kept them.

    Raises:
        UserError: the checkpoint cannot be read, or does not fit the model.
    """
    abstract = jax.eval_shape(lambda key: api.init(model, key, image_shape), jax.random.key(0))
    shardings = (
        param_shardings(abstract[0], api.param_rules(model, image_shape), mesh),
        jax.tree.map(lambda _: replicated(mesh), abstract[1]),
    )
    params, model_state = jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        abstract,
        shardings,
    )
    return transfer_model(
        path,
        params,
        model_state,
        model=model,
        image_shape=image_shape,
        # What started the run (grids, patterns) does not apply to its own checkpoints.
        config=TransferConfig(keep_head=True, averaged=averaged),
    )


def nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    """A flat dict of "a/b/c" names as nested dicts."""
    tree: dict[str, Any] = {}
    for name, leaf in flat.items():
        *parents, last = name.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = leaf
    return tree


def _wanted(plan: Plan, fresh: Any) -> Shapes:
    """What must be read, and to where: straight to its place, or as a whole if it is resized."""
    leaves, wanted = flat_names(fresh), {}
    for entry in plan.entries:
        if entry.name in plan.needed and entry.source is not None:
            sharding = getattr(leaves[entry.name], "sharding", None)
            if entry.status == "resized" and isinstance(sharding, NamedSharding):
                sharding = NamedSharding(sharding.mesh, PartitionSpec())
            wanted[entry.name] = jax.ShapeDtypeStruct(
                entry.source.shape, entry.source.dtype, sharding=sharding
            )
    return wanted
