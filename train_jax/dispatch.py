"""What the host hands to the devices: batches, and the compiled program that takes them."""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax
import numpy as np

from train_jax.data.placement import (
    Prefetch,
    local_rows,
    prefetch,
    resident_shape,
    stacked_rows,
)
from train_jax.program import Program
from train_jax.sharding import batch_sharding

# The device always has a dispatch to do while the host prepares the next, and the host never runs
# further ahead than that: batches that wait on the device cost memory.
DISPATCHES_IN_FLIGHT = 2

#: (state, window, key, resident data, batch, number of steps) -> (state, window, loss).
CompiledStep = Callable[..., tuple[Any, Any, jax.Array]]

#: Compiled steps, and a maker of empty windows of metrics for them.
Steps = tuple[CompiledStep, Callable[[], Any]]


def start_batches(
    program: Program, start: int, counts: Iterable[int]
) -> Prefetch[dict[str, jax.Array]]:
    """Global batches from step ``start`` on, placed on the mesh, a few ahead of their use.

    One item for every dispatch; with several steps each, their batches are stacked, and a shorter
    dispatch is filled up, so that one program serves all.

    Args:
        program: what takes the batches.
        start: the first step.
        counts: the number of steps of each dispatch.
    """
    config, sharding = program.config, batch_sharding(program.mesh)
    rows = local_rows(sharding, config.batch_size)
    batches = program.task.train_data.start(start, rows)
    if program.several:
        batches = _stacked(batches, counts, config.steps_per_dispatch)
    return prefetch(batches, sharding, config.batch_size, stacked=program.several)


def _stacked(
    batches: Iterator[Mapping[str, np.ndarray]], counts: Iterable[int], most: int
) -> Iterator[dict[str, np.ndarray]]:
    with contextlib.closing(batches):  # pyright: ignore[reportArgumentType]
        for count in counts:
            group = [next(batches) for _ in range(count)]
            group += [group[-1]] * (most - count)
            yield {name: np.stack([batch[name] for batch in group]) for name in group[0]}


def abstract_batch(program: Program) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes and layout of what :func:`start_batches` gives for a dispatch."""
    rows, lead = batch_sharding(program.mesh), ()
    if program.several:
        rows, lead = stacked_rows(rows), (program.config.steps_per_dispatch,)
    return {
        name: jax.ShapeDtypeStruct((*lead, *x.shape), x.dtype, sharding=rows)
        for name, x in program.task.train_data.shapes.items()
    }


def start_compiling(program: Program) -> Future[Steps]:
    """Compiles the steps in the background, by the shapes of the data.

    Meanwhile a checkpoint is restored and the first batch loaded. What goes wrong is raised where
    the result is asked for. A process that ends without asking still waits for the compiler, which
    cannot be interrupted.
    """
    arrays, mesh = program.task.train_data.resident, program.mesh
    resident = {name: resident_shape(array, mesh) for name, array in arrays.items()}

    def compile_by_shapes() -> Steps:
        with jax.set_mesh(mesh):  # every thread has its own
            return compile_program(program, resident, abstract_batch(program))

    executor = ThreadPoolExecutor(1, thread_name_prefix="compile")
    compiling = executor.submit(compile_by_shapes)
    executor.shutdown(wait=False)
    return compiling


def compile_program(program: Program, resident: Any, batch: Any) -> Steps:
    """The compiled steps for batches like this one; arrays may be abstract."""
    lowered, new_window = program.lower(resident, batch)
    compiled = lowered.compile()
    if not program.several:
        return lambda *args: compiled(*args[:-1]), new_window
    return lambda *args: compiled(*args[:-1], np.int32(args[-1])), new_window
