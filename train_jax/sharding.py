"""Which part of every array lives where.

Parameters are placed by rules on their path, outside the models; activations and batches are split
along their first axis. The table that :func:`sharding_table` prints is the place to look before a
large run.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from train_jax.errors import UserError

#: A pattern for the whole path of a parameter ("Transformer/encoderblock/.../kernel"), and for each
#: of its axes "tensor" (split by tensor parallelism), "layer" (the stacked layers, never split) or
#: None.
ParamRule = tuple[str, tuple[str | None, ...]]

BATCH_AXES = ("data", "fsdp")

# Smaller arrays are replicated: gathering them costs more than they take (64 Ki elements = 256
# KiB).
MIN_FSDP_SIZE = 1 << 16


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Batches are split along their first axis over the data and FSDP axes."""
    return NamedSharding(mesh, P(BATCH_AXES))


def replicated(mesh: Mesh) -> NamedSharding:
    """A whole copy on every device."""
    return NamedSharding(mesh, P())


def batch_shards(mesh: Mesh) -> int:
    """In how many parts a batch is split."""
    return math.prod(mesh.shape[axis] for axis in BATCH_AXES)


def constrain_batch(x: jax.Array) -> jax.Array:
    """Keeps an activation (b, ...) split along its batch axis.

    Models call this at every block boundary. Without it, the compiler may propagate the split of
    the weights into the activations, which multiplies the memory of FSDP several times over.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or not set(BATCH_AXES) <= set(mesh.axis_names):
        return x
    shards = math.prod(mesh.shape[axis] for axis in BATCH_AXES)
    if shards == 1 or x.shape[0] % shards:
        return x
    return jax.lax.with_sharding_constraint(x, P(BATCH_AXES))


def on_every_device(function: Callable[..., jax.Array], *arrays: jax.Array) -> jax.Array:
    """Calls ``function`` on every device by itself, with whole arrays: it exchanges nothing.

    Only saying where the arrays should lie would not do: inside a loop the compiler may still
    split them as the consumer of the result does (jax 0.12).
    """
    if jax.sharding.get_abstract_mesh().empty:
        return function(*arrays)
    return jax.shard_map(function, in_specs=P(), out_specs=P(), check_vma=False)(*arrays)


def path_name(path: Sequence[Any]) -> str:
    """A tree path as published checkpoints write it: ``Transformer/encoder_norm/scale``."""
    return jax.tree_util.keystr(tuple(path), simple=True, separator="/")


def flat_names(tree: Any) -> dict[str, Any]:
    """A tree as a flat dict from path to leaf."""
    return {path_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def param_shardings(params: Any, rules: Sequence[ParamRule], mesh: Mesh) -> Any:
    """The sharding of every parameter.

    Args:
        params: a tree of arrays or ``ShapeDtypeStruct``.
        rules: the first rule whose pattern matches a path decides.
        mesh: the mesh with axes data, fsdp, tensor.

    Returns:
        The tree with a ``NamedSharding`` in the place of each array.

    Raises:
        UserError: a parameter without a rule, a rule without a parameter, or a rule of another
            rank.
    """
    matched: set[str] = set()

    def sharding(path: Sequence[Any], leaf: Any) -> NamedSharding:
        name = path_name(path)
        for pattern, axes in rules:
            if re.fullmatch(pattern, name):
                matched.add(pattern)
                return NamedSharding(mesh, _spec(name, leaf.shape, axes, mesh))
        raise UserError(f"No sharding rule matches the parameter {name}; add one to PARAM_RULES.")

    tree = jax.tree_util.tree_map_with_path(sharding, params)
    unused = [pattern for pattern, _ in rules if pattern not in matched]
    if unused:
        raise UserError(f"Sharding rules that match no parameter: {', '.join(unused)}; drop them.")
    return tree


def _spec(name: str, shape: tuple[int, ...], axes: Sequence[str | None], mesh: Mesh) -> P:
    if len(axes) != len(shape):
        raise UserError(
            f"The sharding rule of {name} has {len(axes)} axes, the array {len(shape)}."
        )
    spec: list[str | None] = [None] * len(shape)
    tensor, fsdp = mesh.shape["tensor"], mesh.shape["fsdp"]
    for axis, use in enumerate(axes):
        if use == "tensor" and tensor > 1 and shape[axis] % tensor == 0:
            spec[axis] = "tensor"
    free = [
        axis
        for axis, use in enumerate(axes)
        if use != "layer" and spec[axis] is None and shape[axis] % fsdp == 0
    ]
    if fsdp > 1 and free and math.prod(shape) >= MIN_FSDP_SIZE:
        spec[max(free, key=lambda axis: shape[axis])] = "fsdp"
    while spec and spec[-1] is None:
        spec.pop()
    return P(*spec)


def sharding_table(tree: Any, shardings: Any) -> str:
    """Array, shape, spec and bytes per device of every array, with the total."""
    rows, total = [("array", "shape", "spec", "bytes per device")], 0
    specs: Mapping[str, NamedSharding] = flat_names(shardings)
    for name, leaf in flat_names(tree).items():
        sharding = specs[name]
        size = math.prod(sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        total += size
        shape = "x".join(map(str, leaf.shape)) or "scalar"
        rows.append((name, shape, str(tuple(sharding.spec)), f"{size:,}"))
    rows.append(("total", "", "", f"{total:,}"))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if column == 3 else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    )
