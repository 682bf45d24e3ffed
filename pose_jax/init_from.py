"""Starting a lifter from a checkpoint: a run of ours, or what pose_jax.convert made."""

from collections.abc import Mapping
from typing import Any

import jax
from absl import logging

from train_jax.config import differences
from train_jax.errors import UserError
from train_jax.restore import restore_params, restore_parts
from train_jax.stored import find, read_meta, read_shapes
from train_jax.task import ModelState, Params

# What may change from one run to the next without the weights losing their meaning.
_FREE = ("dropout", "compute_dtype")


def transfer_lifter(
    path: str, about: Mapping[str, Any], params: Params, model_state: ModelState
) -> tuple[Params, ModelState]:
    """Parameters and running statistics of a run that starts from a checkpoint.

    A trajectory network that the checkpoint lacks keeps its fresh values, one that the run lacks
    is left out. Averaged parameters are taken where the checkpoint has them.

    Args:
        path: a run's directory, or any of its checkpoints.
        about: what the run's own checkpoints will say of its networks.
        params: fresh, by network, wherever they are placed.
        model_state: likewise.

    Returns:
        Both, in the same places.

    Raises:
        UserError: it is not the checkpoint of a lifter, or that of another network.
    """
    if path.endswith((".bin", ".pt", ".pth")):
        raise UserError(f"{path} must be converted before: python -m pose_jax.convert.")
    directory = find(path)
    meta = read_meta(directory)
    if "model" not in meta or "keypoint_layout" not in meta:
        raise UserError(f"{directory} is not a checkpoint of a pose lifter.")
    different = differences(_lasting(meta), _lasting(about), path="config.model")
    for key in ("keypoint_layout", "skeleton"):
        different += differences(meta[key], about[key], path=key)
    if different:
        raise UserError(f"{directory} holds another network than config: {'; '.join(different)}.")
    names = [name for name in params if name in read_shapes(directory)["params"]]

    def wanted(tree: Any) -> Any:
        return jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding),
            {name: tree[name] for name in names},
        )

    logging.info(
        "Starting from %s: %s.",
        directory,
        ", ".join(f"{name} {'loaded' if name in names else 'fresh'}" for name in params),
    )
    found = restore_params(directory, wanted(params), prefer_ema=True)
    state = restore_parts(directory, {"model_state": wanted(model_state)})["model_state"]
    return {**params, **found}, {**model_state, **state}


def _lasting(about: Mapping[str, Any]) -> dict[str, Any]:
    """What of a model must agree for weights to mean the same."""
    return {name: value for name, value in about["model"].items() if name not in _FREE}
