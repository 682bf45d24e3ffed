"""A guard against silent corruption of data: copies that should be equal are compared.

A core that computes wrongly, or a bit that flips in its memory, raises no error. Every device
updates its own copy of the state from the same summed gradient, so a copy that differs from the
others shows it. All of the state is compared. Moments that differ would make the parameters differ
one step later; but in a checkpoint, which takes one of the copies, they would be those of all
devices after a restart, and an average of the parameters influences nothing that could tell. The
comparison is of checksums, made on the devices: it reads the state once (with Adam and an average,
four times what the parameters take), moves four bytes per device and array, and takes no memory to
speak of.
"""

import dataclasses
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from train_jax.errors import UserError
from train_jax.sharding import flat_names, replicated

# Knuth's multiplier for hashing; odd, so that the product with it loses nothing.
_MULTIPLIER = 2_654_435_761


@dataclasses.dataclass(frozen=True)
class Fault:
    """Copies of one array, or of one part of it, that are not equal.

    Attributes:
        array: its path.
        wrong: devices whose copy is not that of the majority; all of them if there is no majority.
        copies: how many copies there are.
    """

    array: str
    wrong: tuple[Any, ...]
    copies: int


def make_replica_check(state: Any, mesh: Mesh) -> Callable[[Any, int], None]:
    """A function (state, step) that raises where copies of an array differ.

    Every process calls it, and all get the same answer. Arrays that no two devices hold are not
    checked; there is nothing to compare.

    Args:
        state: tree of arrays or ``ShapeDtypeStruct`` with a ``NamedSharding`` on ``mesh``.
        mesh: the devices.
    """
    named = flat_names(state)
    specs = {name: leaf.sharding.spec for name, leaf in named.items()}
    compared = {
        name: _axes_of_copies(spec, mesh)
        for name, spec in specs.items()
        if any(mesh.shape[axis] > 1 for axis in _axes_of_copies(spec, mesh))
    }
    if not compared:
        return lambda state, step: None

    def local(arrays: dict[str, jax.Array]) -> jax.Array:
        sums = jnp.stack([checksum(arrays[name]) for name in compared])
        return sums.reshape((1,) * len(mesh.axis_names) + sums.shape)

    everywhere = replicated(mesh)
    table = jax.jit(
        jax.shard_map(
            local,
            mesh=mesh,
            in_specs=({name: specs[name] for name in compared},),
            out_specs=P(*mesh.axis_names),
            check_vma=False,  # that the copies are equal is the question
        ),
        out_shardings=everywhere,
    )

    def check(state: Any, step: int) -> None:
        leaves = flat_names(state)
        sums = np.asarray(table({name: leaves[name] for name in compared}))
        faults = [
            fault
            for number, (name, axes) in enumerate(compared.items())
            for fault in _faults(name, sums[..., number], axes, mesh)
        ]
        if faults:
            raise UserError(_sentence(faults, step))

    return check


def checksum(x: jax.Array) -> jax.Array:
    """A uint32 of an array's bits; any change of one element changes it.

    Sums modulo 2**32 do not depend on their order, so the same bits give the same sum whatever the
    compiler does.
    """
    bits = _bits(x).ravel()
    place = jax.lax.iota(jnp.uint32, bits.size) * jnp.uint32(_MULTIPLIER) | jnp.uint32(1)
    return jnp.sum(bits * place, dtype=jnp.uint32)


def _bits(x: jax.Array) -> jax.Array:
    if x.dtype == jnp.bool_:
        return x.astype(jnp.uint32)
    unsigned = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32, 8: jnp.uint32}[x.dtype.itemsize]
    # Eight bytes become two numbers along a new last axis.
    return jax.lax.bitcast_convert_type(x, unsigned).astype(jnp.uint32)


def _axes_of_copies(spec: P, mesh: Mesh) -> tuple[str, ...]:
    """The mesh axes along which every device holds the same."""
    split = {
        axis
        for entry in spec
        if entry is not None
        for axis in (entry if isinstance(entry, tuple) else (entry,))
    }
    return tuple(axis for axis in mesh.axis_names if axis not in split)


def _faults(name: str, sums: np.ndarray, axes: Sequence[str], mesh: Mesh) -> list[Fault]:
    """The groups of unequal copies in a table of checksums of the mesh's shape."""
    last = [mesh.axis_names.index(axis) for axis in axes]
    first = [axis for axis in range(sums.ndim) if axis not in last]
    copies = int(np.prod([sums.shape[axis] for axis in last]))
    groups = sums.transpose(*first, *last).reshape(-1, copies)
    devices = mesh.devices.transpose(*first, *last).reshape(-1, copies)
    faults = []
    for values, holders in zip(groups.tolist(), devices, strict=True):
        (usual, votes), *others = Counter(values).most_common()
        if others:
            majority = 2 * votes > copies
            pairs = zip(values, holders, strict=True)
            wrong = tuple(device for value, device in pairs if not majority or value != usual)
            faults.append(Fault(name, wrong, copies))
    return faults


def _sentence(faults: Sequence[Fault], step: int) -> str:
    first = faults[0]
    devices = [
        f"device {device.id} of process {device.process_index}" for device in first.wrong[:4]
    ]
    if len(first.wrong) > 4:
        devices.append(f"{len(first.wrong) - 4} more")
    where = ("between " if len(first.wrong) == first.copies else "from the others on ") + ", ".join(
        devices
    )
    others = len({fault.array for fault in faults} - {first.array})
    also = f", and those of {others} other arrays differ too" if others else ""
    return (
        f"After step {step} the copies of {first.array} differ {where}{also}: the "
        "hardware has corrupted data; this state is not saved, so replace what is faulty and start "
        "the run again, which goes on from its last checkpoint."
    )
