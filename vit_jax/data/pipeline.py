"""From a data set to batches: uint8 images and label sets, in an order that follows from the seed.

The example at position p of the endless order (train_jax/data/order.py) is cropped and augmented
with random numbers that follow from (seed, p). So a batch is a pure function of (seed, step),
whatever the number of threads, worker processes and hosts, and a run resumes by starting at a step.
"""

import dataclasses
import functools
import hashlib
import json
import os
from collections.abc import Iterator
from typing import Literal

import jax
import numpy as np
from absl import logging

from train_jax.config import FREE, to_dict
from train_jax.data.dataset import Batch, EvalData, TrainData, eval_positions
from train_jax.data.draws import Draws
from train_jax.data.order import GlobalOrder
from train_jax.errors import UserError
from vit_jax.data.batches import Arrays, in_processes, in_threads
from vit_jax.data.decode import CorruptImageError, Picture
from vit_jax.data.preprocess import InceptionCrop, Preprocess, height_width, preprocess
from vit_jax.data.randaugment import RandAugment, randaugment
from vit_jax.data.sources import Example, Source, open_source, select

# Names of unreadable images that are logged one by one; all are counted.
_LOGGED = 20


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Which examples, and how they become batches.

    Attributes:
        source: data set, see vit_jax/data/sources.py.
        split: split of it, as in "train[:98%]".
        preprocess: from the picture to the input size.
        data_dir: where TFDS data sets are prepared; None for TFDS's default.
        label_key: feature with the labels, for TFDS data sets with several.
        max_labels: width of the label array of multi-label data; None for 16.
        classes: classes to keep, renumbered in the order given; None for all.
        shots: examples per class, for few-shot runs; None for all.
        shots_seed: which ones.
        randaugment: RandAugment in training; None for crop and flip only.
        corrupt: what an unreadable image does: "stop" ends the run with its name; "skip" takes the
            next readable example of the data set in its place, in evaluation it is not counted.
        fast_dct: decode JPEG as TensorFlow does by default instead of accurately.
        threads: threads that decode; 0 for one per core.
        workers: processes that decode, instead of threads; 0 for none. Threads suffice for about
            eight busy cores.
        cache_mib: memory for decoded pictures; data sets that fit are decoded once.
        examples: how many there are, for plans that are made where the data are not.
    """

    source: str
    split: str
    preprocess: Preprocess
    data_dir: str | None = dataclasses.field(default=None, metadata=FREE)
    label_key: str | None = None
    max_labels: int | None = None
    classes: tuple[int, ...] | None = None
    shots: int | None = None
    shots_seed: int = 0
    randaugment: RandAugment | None = None
    corrupt: Literal["stop", "skip"] = "stop"
    fast_dct: bool = False
    threads: int = dataclasses.field(default=0, metadata=FREE)
    workers: int = dataclasses.field(default=0, metadata=FREE)
    cache_mib: int = dataclasses.field(default=256, metadata=FREE)
    examples: int | None = dataclasses.field(default=None, metadata=FREE)


@functools.lru_cache(maxsize=16)
def data_source(config: DataConfig) -> Source:
    """Opens the examples that a config names; asking again does not read them again.

    Raises:
        UserError: see `open_source` and `select`.
    """
    source = open_source(
        config.source,
        config.split,
        data_dir=config.data_dir,
        label_key=config.label_key,
        max_labels=config.max_labels,
    )
    return select(source, classes=config.classes, shots=config.shots, seed=config.shots_seed)


def train_data(
    config: DataConfig, *, batch_size: int, seed: int, source: Source | None = None
) -> TrainData:
    """Makes endless training batches.

    Args:
        config: which examples, and what becomes of them.
        batch_size: rows of the global batch.
        seed: seed of order, crops and augmentations.
        source: examples in the place of those that the config names.

    Returns:
        Data whose batches are `image` uint8 (k, h, w, 3) and `labels` int32 (k, L), class indices
        padded with -1.

    Raises:
        UserError: the data cannot be opened.
    """
    source = source or data_source(config)
    order = GlobalOrder(len(source), seed)
    skipped: list[str] = []
    loader = BatchLoader(source, config, batch_size=batch_size, order=order)

    def start(step: int, rows: np.ndarray) -> Iterator[Batch]:
        return _run(loader.of_rows(rows), config, steps=range(step, 1 << 62), skipped=skipped)

    recipe = to_dict((config.preprocess, config.randaugment, config.fast_dct))
    digest = hashlib.blake2b(json.dumps(recipe).encode(), digest_size=8).hexdigest()
    return TrainData(
        batch_size=batch_size,
        examples_per_epoch=len(source),
        fingerprint=f"{source.fingerprint}|{order.fingerprint}|batch={batch_size}|{digest}",
        start=start,
        shapes={
            name: jax.ShapeDtypeStruct((batch_size, *row.shape[1:]), row.dtype)
            for name, row in loader.of_rows(np.arange(1)).empty().items()
        },
        skipped=lambda: tuple(skipped),
    )


def eval_data(config: DataConfig, *, batch_size: int, source: Source | None = None) -> EvalData:
    """Makes one pass over a split, every example once.

    Args:
        config: which examples, and what becomes of them.
        batch_size: rows of the global batch.
        source: examples in the place of those that the config names.

    Returns:
        Data whose batches are as in training, with `mask` bool (k,): False for padding, examples
        without any label (as in ImageNet-ReaL) and, if allowed, unreadable images.

    Raises:
        UserError: the data cannot be opened, or their preprocessing is random.
    """
    if isinstance(config.preprocess, InceptionCrop) or config.randaugment is not None:
        raise UserError(
            "Evaluation must not be random: use squash, resize_small_crop or resize_crop, and no "
            "randaugment."
        )
    source = source or data_source(config)
    skipped: list[str] = []
    loader = BatchLoader(source, config, batch_size=batch_size, order=None)
    steps = range(-(-len(source) // batch_size))

    def start(rows: np.ndarray) -> Iterator[Batch]:
        return _run(loader.of_rows(rows), config, steps=steps, skipped=skipped)

    return EvalData(
        batch_size=batch_size,
        num_examples=len(source),
        start=start,
        skipped=lambda: tuple(dict.fromkeys(skipped)),
    )


def _run(
    loader: "BatchLoader", config: DataConfig, *, steps: range, skipped: list[str]
) -> Iterator[Batch]:
    """Yields batches and keeps book of what could not be read."""
    if config.workers > 0:
        loaded = in_processes(loader, steps, workers=config.workers)
    else:
        loaded = in_threads(loader, steps, threads=config.threads or os.cpu_count() or 1)
    try:
        for batch, failures in loaded:
            for failure in failures:
                if len(skipped) < _LOGGED:
                    logging.warning("Skipped an unreadable image: %s", failure)
                skipped.append(failure)
            yield batch
    finally:
        loaded.close()


class BatchLoader:
    """Loads any row of any batch; picklable, and shared by threads."""

    def __init__(
        self, source: Source, config: DataConfig, *, batch_size: int, order: GlobalOrder | None
    ) -> None:
        """Describes batches.

        Args:
            source: the examples.
            config: what becomes of them.
            batch_size: rows of the global batch.
            order: order of training; None to evaluate each example once.
        """
        self._source, self._config, self._order = source, config, order
        self._batch_size = batch_size
        self._rows = np.arange(batch_size)
        self._cache: dict[int, Example] = {}
        self._cache_bytes = config.cache_mib << 20

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_cache": {}}

    def of_rows(self, rows: np.ndarray) -> "BatchLoader":
        """Returns a loader of some rows of each batch, which shares the cache of this one."""
        loader = object.__new__(BatchLoader)
        loader.__dict__ = {**self.__dict__, "_rows": np.asarray(rows, np.int64)}
        return loader

    def empty(self) -> Arrays:
        """Returns memory for one batch; what no row writes is padding."""
        rows, size = len(self._rows), height_width(self._config.preprocess.size)
        batch = {
            "image": np.empty((rows, *size, 3), np.uint8),
            "labels": np.full((rows, self._source.max_labels), -1, np.int32),
        }
        if self._order is None:
            batch["mask"] = np.zeros(rows, bool)
        return batch

    @property
    def num_rows(self) -> int:
        """Rows of a batch that this loader loads."""
        return len(self._rows)

    def fill(self, batch: Arrays, step: int, *, rows: range) -> list[str]:
        """Fills rows of a batch in place.

        Args:
            batch: what `empty` returned.
            step: which batch.
            rows: which of its rows, counted among those that this loader loads.

        Returns:
            Descriptions of the images that could not be read.
        """
        mine = self._rows[rows.start : rows.stop]
        positions = eval_positions(step, mine, batch_size=self._batch_size)
        if self._order is None:
            loaded = [
                self._load_eval(batch, r, int(p)) for r, p in zip(rows, positions, strict=True)
            ]
        else:
            indices = self._order.at(positions)
            loaded = [
                self._load_train(batch, r, position=int(p), index=int(i))
                for r, p, i in zip(rows, positions, indices, strict=True)
            ]
        return [failure for failures in loaded for failure in failures]

    def _load_train(self, batch: Arrays, row: int, *, position: int, index: int) -> list[str]:
        assert self._order is not None
        failures = []
        for k in range(len(self._source)):
            # Random numbers start again: the replacement is cropped like an example of its own.
            draws = Draws(self._order.seed, position)
            failure = self._try(batch, row, (index + k) % len(self._source), draws=draws)
            if failure is None:
                return failures
            failures.append(failure)
        raise UserError("No image of the data set can be read.")

    def _load_eval(self, batch: Arrays, row: int, index: int) -> list[str]:
        if index >= len(self._source):
            batch["image"][row] = 0
            return []
        failure = self._try(batch, row, index, draws=None)
        batch["mask"][row] = failure is None and batch["labels"][row, 0] >= 0
        return [] if failure is None else [failure]

    def _try(self, batch: Arrays, row: int, index: int, *, draws: Draws | None) -> str | None:
        """Fills a row; returns what is wrong with the image if it cannot be read."""
        out = batch["image"][row]
        try:
            example, picture = self._example(index)
            result = preprocess(self._config.preprocess, picture, draws=draws, out=out)
            if draws is not None and self._config.randaugment is not None:
                result = randaugment(result, self._config.randaugment, draws=draws)
        except (CorruptImageError, OSError) as error:
            failure = f"{self._name(index)}: {error}"
            if self._config.corrupt == "stop":
                raise UserError(
                    f"An image cannot be read: {failure} (set corrupt='skip' to go on without it)."
                ) from error
            out[...] = 0
            return failure
        if result is not out:
            out[...] = result
        self._write_labels(batch["labels"][row], example)
        return None

    def _name(self, index: int) -> str:
        try:
            return self._source[index]["name"]
        except OSError:  # which names the file itself
            return f"example {index}"

    def _write_labels(self, out: np.ndarray, example: Example) -> None:
        labels = example["labels"]
        if len(labels) > len(out):
            raise UserError(
                f"{example['name']} has {len(labels)} labels: set max_labels to at least that."
            )
        out[: len(labels)] = labels

    def _example(self, index: int) -> tuple[Example, Picture]:
        """Reads an example, or takes it out of the cache with its pixels decoded."""
        example = self._cache.get(index)
        if example is not None:
            return example, Picture(example["image"])
        example = self._source[index]
        picture = Picture(example["image"], fast_dct=self._config.fast_dct)
        height, width = picture.size
        # Decided for the data set as a whole: a part of it would cost memory and save little.
        if height * width * 3 * len(self._source) <= self._cache_bytes:
            self._cache[index] = {**example, "image": picture.pixels}
        return example, picture
