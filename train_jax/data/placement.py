"""From the rows that one process loads to arrays that span the pod.

Which rows a process must load follows from the sharding alone, so it is right for any mesh: also
when the tensor axis spans hosts, where several processes hold (and therefore load) the same rows.
"""

import contextlib
import math
import queue
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any, Generic, TypeVar

import jax
import numpy as np

from train_jax.errors import UserError

# How often a blocked producer looks whether it has been told to stop, in seconds.
_POLL_S = 0.1

T = TypeVar("T")


def local_rows(sharding: jax.sharding.Sharding, batch_size: int) -> np.ndarray:
    """Returns the rows of the global batch that this process must load.

    Args:
        sharding: how the batch axis is laid out over devices.
        batch_size: rows of the global batch.

    Returns:
        Sorted rows without repetition, int64 (k,).

    Raises:
        UserError: the batch size is not divisible by the number of shards.
    """
    shards = _num_shards(sharding)
    if batch_size % shards:
        raise UserError(
            f"The batch size {batch_size} is not divisible by the {shards} data shards of the "
            "mesh: change the batch size or the mesh."
        )
    slices = sharding.addressable_devices_indices_map((batch_size,))
    every = np.arange(batch_size, dtype=np.int64)
    parts = [every[index[0]] for index in slices.values() if index is not None]
    return np.unique(np.concatenate(parts))


def _num_shards(sharding: jax.sharding.Sharding) -> int:
    """Number of parts into which a named sharding cuts the first axis."""
    if not isinstance(sharding, jax.sharding.NamedSharding) or not sharding.spec:
        return 1
    names = sharding.spec[0] or ()
    names = (names,) if isinstance(names, str) else names
    return int(np.prod([sharding.mesh.shape[str(name)] for name in names], dtype=np.int64))


def to_device(
    batch: Mapping[str, np.ndarray],
    sharding: jax.sharding.NamedSharding,
    batch_size: int,
    *,
    stacked: bool = False,
) -> dict[str, jax.Array]:
    """Builds global arrays out of the rows that each process loaded.

    Args:
        batch: arrays whose batch axis is `local_rows(sharding, batch_size)`, in that order.
        sharding: sharding of the batch axis; further axes are whole on every device.
        batch_size: rows of the global batch.
        stacked: whether an axis of several batches comes before that of the rows.

    Returns:
        Arrays of shape ([k,] batch_size, ...), laid out by `sharding`.
    """
    rows, axis = local_rows(sharding, batch_size), int(stacked)
    if stacked:
        sharding = stacked_rows(sharding)

    def place(name: str, local: np.ndarray) -> jax.Array:
        found = local.shape[axis]
        if found != len(rows):
            raise ValueError(f"'{name}' has {found} rows, this process holds {len(rows)}.")

        def part(index: tuple[slice, ...] | None) -> np.ndarray:
            assert index is not None  # only devices of this process are asked for
            first, last, _ = index[axis].indices(batch_size)
            # A device's rows are contiguous in the global batch, hence also among our sorted ones.
            begin = int(np.searchsorted(rows, first))
            own = slice(begin, begin + last - first)
            return local[:, own] if stacked else local[own]

        shape = (*local.shape[:axis], batch_size, *local.shape[axis + 1 :])
        return jax.make_array_from_callback(shape, sharding, part)

    return {name: place(name, np.asarray(value)) for name, value in batch.items()}


def stacked_rows(sharding: jax.sharding.NamedSharding) -> jax.sharding.NamedSharding:
    """The layout of several batches, stacked along a first axis, each of which is laid out so."""
    return jax.sharding.NamedSharding(
        sharding.mesh, jax.sharding.PartitionSpec(None, *sharding.spec)
    )


# Larger arrays are split over the devices: the examples of a step are then gathered over the
# network. Human3.6M takes 0.6 GB.
REPLICATED_BYTES = 4 << 30


def to_reside(arrays: Mapping[str, np.ndarray], mesh: jax.sharding.Mesh) -> dict[str, jax.Array]:
    """Puts arrays on the devices for good: whole on each, or split along the first axis if large.

    Args:
        arrays: the same on every process.
        mesh: all devices.

    Returns:
        Global arrays. The first axis of one that is split is filled up with zeros to a multiple of
        the number of devices.
    """

    def place(local: np.ndarray) -> jax.Array:
        shape = resident_shape(local, mesh)
        short = shape.shape[0] - len(local)
        if short:
            local = np.pad(local, [(0, short)] + [(0, 0)] * (local.ndim - 1))
        return jax.make_array_from_callback(local.shape, shape.sharding, lambda index: local[index])

    return {name: place(np.asarray(value)) for name, value in arrays.items()}


def resident_shape(
    array: np.ndarray | jax.ShapeDtypeStruct, mesh: jax.sharding.Mesh
) -> jax.ShapeDtypeStruct:
    """Shape and sharding of an array under :func:`to_reside`."""
    shape, spec = array.shape, jax.sharding.PartitionSpec()
    if math.prod(shape) * array.dtype.itemsize > REPLICATED_BYTES:
        spec = jax.sharding.PartitionSpec(mesh.axis_names)
        shape = (-(-shape[0] // mesh.size) * mesh.size, *shape[1:])
    sharding = jax.sharding.NamedSharding(mesh, spec)
    return jax.ShapeDtypeStruct(shape, array.dtype, sharding=sharding)


class Prefetch(Generic[T]):
    """Runs an iterator ahead in a background thread.

    Exceptions of the iterator are raised by `next` at the place of the item that failed. Use it as
    a context manager or call `close`: that ends the thread and closes the iterator.

    Attributes:
        waited_s: seconds that the consumer has spent in `next` so far, i.e. the time that the
            input pipeline cost the run.
    """

    def __init__(self, iterator: Iterator[T], *, ahead: int = 2) -> None:
        if ahead < 1:
            raise ValueError(f"ahead must be at least 1, got {ahead}.")
        self.waited_s = 0.0
        self._iterator = iterator
        # One finished item waits in the producer's hands, the others in the queue.
        self._queue: queue.Queue[tuple[str, Any]] = queue.Queue(ahead)
        self._stop = threading.Event()
        self._ended: tuple[str, Any] | None = None
        self._thread = threading.Thread(target=self._produce, name="prefetch", daemon=True)
        self._thread.start()

    def _put(self, entry: tuple[str, Any]) -> None:
        while not self._stop.is_set():
            try:
                return self._queue.put(entry, timeout=_POLL_S)
            except queue.Full:
                continue
        return None

    def _produce(self) -> None:
        try:
            for item in self._iterator:
                self._put(("item", item))
                if self._stop.is_set():
                    break
            self._put(("end", None))
        except BaseException as error:  # handed over to the consumer, whatever it is
            self._put(("error", error))
        finally:
            # A generator must be closed by the thread that runs it.
            close = getattr(self._iterator, "close", None)
            if close is not None:
                close()

    def __iter__(self) -> "Prefetch[T]":
        return self

    def __next__(self) -> T:
        if self._ended is None:
            began = time.perf_counter()
            kind, value = self._queue.get()
            self.waited_s += time.perf_counter() - began
            if kind == "item":
                return value
            self._ended = (kind, value)
        kind, value = self._ended
        if kind == "error":
            raise value
        raise StopIteration

    def close(self) -> None:
        """Stops the thread and closes the iterator; calling it twice does no harm."""
        self._stop.set()
        self._ended = self._ended or ("end", None)
        while self._thread.is_alive():
            with contextlib.suppress(queue.Empty):
                self._queue.get_nowait()
            self._thread.join(_POLL_S)

    def __enter__(self) -> "Prefetch[T]":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def prefetch(
    iterator: Iterator[Mapping[str, np.ndarray]],
    sharding: jax.sharding.NamedSharding,
    batch_size: int,
    *,
    ahead: int = 2,
    stacked: bool = False,
) -> Prefetch[dict[str, jax.Array]]:
    """Places batches on the devices, `ahead` of them before they are asked for.

    Args:
        iterator: yields this process's rows of each batch; closed with the result.
        sharding: sharding of the batch axis.
        batch_size: rows of the global batch.
        ahead: batches on the devices in advance; two hide the transfer behind the step.
        stacked: whether each item holds several batches along a first axis.

    Returns:
        An iterator of global arrays.
    """
    return Prefetch(_placed(iterator, sharding, batch_size, stacked), ahead=ahead)


def _placed(
    iterator: Iterator[Mapping[str, np.ndarray]],
    sharding: jax.sharding.NamedSharding,
    batch_size: int,
    stacked: bool,
) -> Iterator[dict[str, jax.Array]]:
    try:
        for batch in iterator:
            yield to_device(batch, sharding, batch_size, stacked=stacked)
    finally:
        close = getattr(iterator, "close", None)
        if close is not None:
            close()
