"""Several batches at once, handed out in order: by threads, or by worker processes.

Threads write straight into the memory of the batch: decoding and resampling release the
interpreter, so nothing is pickled or copied until the batch goes to the device. Processes write
into memory that they share with this one, which costs one copy.
"""

import collections
import concurrent.futures
import contextlib
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
from collections.abc import Callable, Generator, Mapping
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.shared_memory import SharedMemory
from typing import Protocol

import numpy as np

from train_jax.errors import UserError

# Examples per task: few enough to spread over threads evenly, enough to hide the hand-over.
_CHUNK = 8
# Batches that are loaded while the caller works with one: two, so that no thread waits for the
# slowest image of a batch.
_AHEAD = 2

# The most that glibc's malloc learns from, see `_keep_freed_memory`.
_LEARNT_BYTES = 24 << 20

Arrays = dict[str, np.ndarray]
Loaded = tuple[Arrays, list[str]]
Future = concurrent.futures.Future[list[str]]


class Loader(Protocol):
    """What knows how to fill the rows of a batch."""

    @property
    def num_rows(self) -> int:
        """Rows of a batch."""
        ...

    def empty(self) -> Arrays:
        """Returns memory for a batch, with padding in the rows that nobody fills."""
        ...

    def fill(self, batch: Arrays, step: int, *, rows: range) -> list[str]:
        """Fills rows of batch `step` in place; returns what could not be read."""
        ...


def _chunks(num_rows: int) -> list[range]:
    return [range(i, min(i + _CHUNK, num_rows)) for i in range(0, num_rows, _CHUNK)]


def _result(futures: list[Future]) -> list[str]:
    return [failure for future in futures for failure in future.result()]


def in_threads(loader: Loader, steps: range, *, threads: int) -> Generator[Loaded, None, None]:
    """Loads batches in threads of this process.

    Args:
        loader: fills rows.
        steps: which batches.
        threads: number of threads.

    Yields:
        Each batch and the descriptions of the images in it that could not be read.
    """
    _keep_freed_memory()
    pool = concurrent.futures.ThreadPoolExecutor(threads, thread_name_prefix="images")

    def begin(step: int) -> Callable[[], Loaded]:
        batch = loader.empty()
        futures = [
            pool.submit(loader.fill, batch, step, rows=rows) for rows in _chunks(loader.num_rows)
        ]
        return lambda: (batch, _result(futures))

    with contextlib.ExitStack() as stack:
        stack.callback(pool.shutdown, wait=True, cancel_futures=True)
        yield from _in_order(begin, steps)


def _keep_freed_memory() -> None:
    """Makes malloc keep the memory of temporary images instead of returning it to the system.

    Otherwise each image is paid for in page faults, which may take longer than the arithmetic: up
    to five times for operations with several temporaries. glibc raises both of its thresholds to
    the size of the largest mapped block that was freed so far (at most 32 MiB): so we free one.
    """
    block = np.empty(_LEARNT_BYTES, np.uint8)
    del block


def _in_order(
    begin: Callable[[int], Callable[[], Loaded]], steps: range
) -> Generator[Loaded, None, None]:
    """Begins batches ahead of time and yields them in order."""
    pending: collections.deque[Callable[[], Loaded]] = collections.deque()
    for step in steps:
        pending.append(begin(step))
        if len(pending) > _AHEAD:
            yield pending.popleft()()
    while pending:
        yield pending.popleft()()


def in_processes(loader: Loader, steps: range, *, workers: int) -> Generator[Loaded, None, None]:
    """Loads batches in worker processes.

    The interpreter lock of one process lets about eight cores work; hosts with more need this. The
    script must have a `__main__` guard, since workers import it.

    Args:
        loader: fills rows; must be picklable.
        steps: which batches.
        workers: number of processes.

    Yields:
        The same as `in_threads`.

    Raises:
        UserError: a worker died.
    """
    pool = concurrent.futures.ProcessPoolExecutor(
        workers,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_start_worker,
        initargs=(loader,),
    )
    template = loader.empty()
    blocks = [_Block(template) for _ in range(_AHEAD + 1)]
    free = list(blocks)

    def begin(step: int) -> Callable[[], Loaded]:
        block = free.pop()
        block.reset(template)
        futures = [
            pool.submit(_fill_block, block.name, step, rows) for rows in _chunks(loader.num_rows)
        ]

        def finish() -> Loaded:
            failures = _result(futures)
            # Copied, because the device may read the memory long after we have moved on.
            batch = {name: view.copy() for name, view in block.views.items()}
            free.append(block)
            return batch, failures

        return finish

    with contextlib.ExitStack() as stack:
        for block in blocks:
            stack.callback(block.close)
        stack.callback(pool.shutdown, wait=True, cancel_futures=True)
        try:
            yield from _in_order(begin, steps)
        except BrokenProcessPool as error:
            raise UserError(
                "A process that loads images has died: a script that uses workers needs an "
                "`if __name__ == '__main__':` guard, and the host enough memory for them."
            ) from error


class _Block:
    """Memory of one batch that several processes see."""

    def __init__(self, template: Mapping[str, np.ndarray], *, name: str | None = None) -> None:
        """Allocates the memory, or attaches to that of the given name."""
        size = sum(array.nbytes for array in template.values())
        self._memory = SharedMemory(name, create=name is None, size=max(size, 1))
        self._owned = name is None
        self.name = self._memory.name
        self.views: Arrays = {}
        offset = 0
        for key, array in template.items():
            self.views[key] = np.ndarray(array.shape, array.dtype, self._memory.buf, offset)
            offset += array.nbytes

    def reset(self, template: Mapping[str, np.ndarray]) -> None:
        """Writes the padding; the images, all of which are written, stay as they are."""
        for key, array in template.items():
            if key != "image":
                self.views[key][...] = array

    def close(self) -> None:
        """Gives the memory back."""
        self.views.clear()
        self._memory.close()
        if self._owned:
            self._memory.unlink()


# What a worker process keeps from one task to the next.
_worker_loader: Loader | None = None
_worker_blocks: dict[str, _Block] = {}


def _start_worker(loader: Loader) -> None:
    global _worker_loader
    _worker_loader = loader
    _keep_freed_memory()
    # Ctrl-C goes to the whole group of processes; the parent decides what becomes of us.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Ends this process when its parent is killed, which nobody else would tell it."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)


def _fill_block(name: str, step: int, rows: range) -> list[str]:
    assert _worker_loader is not None
    if name not in _worker_blocks:
        _worker_blocks[name] = _Block(_worker_loader.empty(), name=name)
    return _worker_loader.fill(_worker_blocks[name].views, step, rows=rows)
