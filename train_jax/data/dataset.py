"""What the training loop knows of a data set: how to start it, and how long it is.

Batches are dictionaries of NumPy arrays whose first axis is the rows of the global batch that this
process loads. The loop turns them into global arrays (train_jax/data/placement.py).
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping

import jax
import numpy as np

Batch = Mapping[str, np.ndarray]
DeviceBatch = Mapping[str, jax.Array]


def as_loaded(resident: DeviceBatch, batch: DeviceBatch) -> DeviceBatch:
    """The batch itself: nothing of it lives on the device."""
    del resident
    return batch


@dataclasses.dataclass(frozen=True)
class TrainData:
    """Endless training batches that can be started at any step.

    Attributes:
        batch_size: rows of the global batch.
        examples_per_epoch: size of the data set.
        fingerprint: text from which order and content of all batches follow; kept in
            checkpoints, so that a run is not continued on other data by accident.
        start: `start(step, rows)` yields the batches of steps step, step + 1, ...; `rows` are the
            sorted rows of the global batch to load, int (k,). Each batch depends on (step, row)
            only, never on where the iterator was started or on who else loads what.
        shapes: of a whole global batch. By them the step is compiled while the first is loaded.
        skipped: names of the examples that could not be read so far and were replaced.
        resident: arrays that are put on the devices once and stay there.
        expand: `expand(resident, batch)` makes of loaded rows what the loss takes, inside the
            step: examples that are gathered from `resident`, so that a few integers travel.
    """

    batch_size: int
    examples_per_epoch: int
    fingerprint: str
    start: Callable[[int, np.ndarray], Iterator[Batch]]
    shapes: Mapping[str, jax.ShapeDtypeStruct]
    skipped: Callable[[], tuple[str, ...]] = tuple
    resident: Batch = dataclasses.field(default_factory=dict)
    expand: Callable[[DeviceBatch, DeviceBatch], DeviceBatch] = as_loaded


@dataclasses.dataclass(frozen=True)
class EvalData:
    """One pass over a data set, every example exactly once.

    Attributes:
        batch_size: rows of the global batch.
        num_examples: size of the data set.
        start: `start(rows)` yields `num_batches` batches on every process. Each has a `mask`,
            bool (k,), False for rows that pad the last batch or could not be read.
        skipped: names of the examples that could not be read and were not counted.
        resident: arrays that are put on the devices once per evaluator.
        expand: `expand(resident, batch)` makes of loaded rows what the metrics take. What it
            returns has a `mask` too, and what that marks is what counts as an example.
    """

    batch_size: int
    num_examples: int
    start: Callable[[np.ndarray], Iterator[Batch]]
    skipped: Callable[[], tuple[str, ...]] = tuple
    resident: Batch = dataclasses.field(default_factory=dict)
    expand: Callable[[DeviceBatch, DeviceBatch], DeviceBatch] = as_loaded

    @property
    def num_batches(self) -> int:
        """Number of batches of one pass, the same on every process."""
        return -(-self.num_examples // self.batch_size)


def eval_positions(step: int, rows: np.ndarray, *, batch_size: int) -> np.ndarray:
    """Returns the dataset positions of evaluation batch `step`, int64 (k,).

    Positions at or beyond the size of the data set are padding. The last batch is filled up
    rather than shortened, so that one compiled program serves all batches and every process
    takes part in each of them, even one without any example left.
    """
    return np.int64(step) * batch_size + np.asarray(rows, np.int64)
