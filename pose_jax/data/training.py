"""Training batches: a few integers per example; the examples themselves are on the device."""

from collections.abc import Iterator
from typing import Literal

import jax
import numpy as np

from pose_jax.data.windows import Windows
from train_jax.data import device_order
from train_jax.data.dataset import DeviceBatch, TrainData
from train_jax.data.order import mix64

Order = Literal["device", "original"]

# Of the original implementation's generators.
_SEED, _UNLABELLED_SEED = 1234, 4321
_UNLABELLED = "unlabelled_"


def training_data(
    labelled: Windows,
    unlabelled: Windows | None,
    *,
    batch_size: int,
    seed: int,
    order: Order,
    content: str,
) -> TrainData:
    """Endless batches of labelled windows, each with as many unlabelled ones.

    Args:
        labelled: windows with positions.
        unlabelled: windows with intrinsics, in an order of their own.
        batch_size: windows of either kind in a step.
        seed: of the order "device".
        order: "device": shuffled in the step; a batch may straddle two epochs. "original": the
            permutations of the original implementation, whose last batch of an epoch is smaller
            (rows that fill it up are masked).
        content: identifies the data in checkpoints.

    Returns:
        Batches that expand to ``keypoints``, ``positions``, ``mask`` (b,) of
        :class:`~pose_jax.data.windows.Windows`, and with the prefix ``unlabelled_`` to
        ``keypoints``, ``intrinsics`` and ``mask``.
    """
    streams = {"": (labelled, seed, _SEED)}
    if unlabelled is not None:
        streams[_UNLABELLED] = (unlabelled, _other(seed), _UNLABELLED_SEED)

    def start(step: int, rows: np.ndarray) -> Iterator[dict[str, np.ndarray]]:
        making = {
            prefix: _OriginalOrder(windows.num_examples, original_seed, batch_size)
            for prefix, (windows, _, original_seed) in streams.items()
            if order == "original"
        }
        while True:
            batch: dict[str, np.ndarray] = {}
            for prefix, (windows, _, _) in streams.items():
                if order == "original":
                    example, mask = making[prefix].batch(step)
                    batch[f"{prefix}example"] = example[rows]
                    batch[f"{prefix}mask"] = mask[rows]
                else:
                    epoch, offset = np.divmod(step * batch_size + rows, windows.num_examples)
                    batch[f"{prefix}epoch"] = epoch.astype(np.int32)
                    batch[f"{prefix}offset"] = offset.astype(np.int32)
            yield batch
            step += 1

    def expand(resident: DeviceBatch, batch: DeviceBatch) -> DeviceBatch:
        expanded: dict[str, jax.Array] = {}
        for prefix, (windows, seed, _) in streams.items():
            arrays = {name: resident[f"{prefix}{name}"] for name in windows.arrays}
            if order == "original":
                example, mask = batch[f"{prefix}example"], batch[f"{prefix}mask"]
            else:
                offset, epoch = batch[f"{prefix}offset"], batch[f"{prefix}epoch"]
                example = device_order.shuffled(
                    offset, epoch, num_examples=windows.num_examples, seed=seed
                )
                mask = None
            examples = windows.gather(arrays, example)
            expanded |= {f"{prefix}{name}": x for name, x in examples.items()}
            if mask is not None:
                expanded[f"{prefix}mask"] = mask
        return expanded

    sizes = "+".join(str(windows.num_examples) for windows, _, _ in streams.values())
    scheme = "original" if order == "original" else f"{device_order.SCHEME}:seed={seed}"
    per_epoch = labelled.num_examples
    if order == "original":
        per_epoch = -(-per_epoch // batch_size) * batch_size
    return TrainData(
        batch_size=batch_size,
        examples_per_epoch=per_epoch,
        fingerprint=f"{scheme}:n={sizes}:{content}",
        start=start,
        shapes={
            name: jax.ShapeDtypeStruct(x.shape, x.dtype)
            for name, x in next(start(0, np.arange(batch_size))).items()
        },
        resident={
            f"{prefix}{name}": array
            for prefix, (windows, _, _) in streams.items()
            for name, array in windows.arrays.items()
        },
        expand=expand,
    )


class _OriginalOrder:
    """The order of the original implementation: a NumPy permutation per epoch, one after another.

    It can only be run from the start, which costs a tenth of a second per million examples and
    epoch where a run is resumed.
    """

    def __init__(self, num_examples: int, seed: int, batch_size: int):
        self._random = np.random.RandomState(seed)
        self._num_examples, self._batch_size = num_examples, batch_size
        self._batches = -(-num_examples // batch_size)
        self._epoch, self._order = -1, np.empty(0, np.int64)

    def batch(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Examples int32 (b,) of a step not before the last one, and which of them count."""
        epoch, batch = divmod(step, self._batches)
        while self._epoch < epoch:
            self._order = self._random.permutation(self._num_examples)
            self._epoch += 1
        index = batch * self._batch_size + np.arange(self._batch_size)
        mask = index < self._num_examples
        return self._order[np.where(mask, index, 0)].astype(np.int32), mask


def _other(seed: int) -> int:
    """Another seed, so that the two orders are independent."""
    return int(mix64(np.array([seed], np.uint64))[0] >> np.uint64(33))
