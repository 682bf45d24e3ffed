"""From the files of a checkpoint to arrays on the devices of any mesh."""

from typing import Any, TypeVar

import jax
from etils import epath

from train_jax import hosts
from train_jax.errors import UserError
from train_jax.stored import (
    PathLike,
    find,
    orbax,
    part_of,
    raise_damaged,
    read_meta,
    read_shapes,
    require_files,
)

T = TypeVar("T")


def restore_params(path: PathLike, abstract_params: T, *, prefer_ema: bool = False) -> T:
    """Reads parameters from somebody's run, and nothing else of it.

    Args:
        path: a run's working directory, its `checkpoints` directory, or one step's.
        abstract_params: tree of `jax.ShapeDtypeStruct`s, of all parameters or some; their
          shardings say where the arrays go, their dtypes what they become.
        prefer_ema: take the run's averaged parameters, if it kept them.

    Returns:
        Arrays in the structure of `abstract_params`.

    Raises:
        UserError: no checkpoint, not one of ours, damaged, or it lacks a parameter or has it in
          another shape.
    """
    directory = find(path)
    averaged = False
    if prefer_ema:
        require_files(directory, contents=False)
        averaged = bool(read_shapes(directory).get("ema"))
    part = "ema" if averaged else "params"
    return restore_parts(directory, {part: abstract_params})[part]


def restore_parts(path: PathLike, abstract: dict[str, Any]) -> dict[str, Any]:
    """Reads some parts of a saved state, such as `{"params": ..., "model_state": ...}`.

    Arguments and errors are those of `restore_params`.
    """
    directory = find(path)
    require_files(directory, contents=False)
    read_meta(directory)
    saved = read_shapes(directory)
    for part in abstract:
        part_of(saved, part, directory)
    return read_arrays(directory, abstract, whole=False)


def read_arrays(directory: epath.Path, abstract: Any, *, whole: bool) -> Any:
    """Reads arrays; all processes succeed, or all raise.

    Args:
        directory: of one checkpoint whose files have been checked.
        abstract: tree of `jax.ShapeDtypeStruct`s, placed on one device where they name no sharding.
        whole: the saved state must agree with `abstract` in names, shapes and dtypes; otherwise it
          may hold more, and dtypes are converted.

    Raises:
        DamagedCheckpoint: the bytes cannot be read.
        UserError: they do not fit.
    """
    saved = _named_leaves(read_shapes(directory))
    _require_fit(saved, _named_leaves(abstract), directory, whole=whole)
    ocp = orbax()
    placed = jax.tree.map(_with_sharding, abstract)
    args = ocp.args.PyTreeRestore(
        placed,
        restore_args=ocp.checkpoint_utils.construct_restore_args(placed),
        partial_restore=not whole,
    )
    state, fault = None, None
    try:
        # The handler and not the manager: the manager waits for the other processes after it has
        # read, and would wait long for one that could not.
        state = ocp.PyTreeCheckpointHandler().restore(directory / "state", args=args)
        jax.block_until_ready(state)
    except Exception as error:  # Orbax raises plain Exception for bytes it cannot read
        fault = error
    if not hosts.all_agree(fault is None):
        fault = fault or OSError("another process could not read its part")
        raise_damaged(directory, fault)
    return state


def _with_sharding(leaf: Any) -> jax.ShapeDtypeStruct:
    sharding = getattr(leaf, "sharding", None)
    if sharding is None:
        sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def _named_leaves(tree: Any) -> dict[str, Any]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def _require_fit(
    saved: dict[str, Any], wanted: dict[str, Any], directory: epath.Path, *, whole: bool
) -> None:
    faults = [f"{name} is missing there" for name in wanted if name not in saved]
    if whole:
        faults += [f"{name} is not known here" for name in saved if name not in wanted]
    for name in wanted.keys() & saved.keys():
        there, here = saved[name], wanted[name]
        if tuple(there.shape) != tuple(here.shape) or (whole and there.dtype != here.dtype):
            faults.append(f"{name} is {_describe(there)} there and {_describe(here)} here")
    if not faults:
        return
    shown = "; ".join(sorted(faults)[:4])
    more = f"; and {len(faults) - 4} more" if len(faults) > 4 else ""
    remedy = "give the config of the model that wrote it"
    if whole:
        remedy = "resume with the config that wrote it, or start a new run from it with init_from"
    raise UserError(f"{directory} does not fit this model: {shown}{more}; {remedy}.")


def _describe(leaf: Any) -> str:
    return f"{leaf.dtype}[{','.join(map(str, leaf.shape))}]"
