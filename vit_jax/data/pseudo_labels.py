"""Pseudo-labels: what a teacher makes of images, kept in a directory of files of ours.

    labels.json              the data set and the teacher by their fingerprints, sizes
    00000.probabilities.npy  float16 (n, K): of the first n examples, in the order of the data set
    00000.npz                label int32 (n,), confidence float32 (n,): their largest probability

Written by ``python -m vit_jax.pseudo_label``, a pair of files at a time, the smaller last: where
both are there the pair is complete, and the command, started again, goes on behind it. An image
that could not be read has the label -1. Probabilities are mapped into memory, so that training
reads those of a batch alone: of 300 million images and 1,000 classes they are 600 GB. The directory
must be local, or a bucket that is mounted.
"""

import dataclasses
import itertools
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from train_jax.config import differences
from train_jax.data.order import GlobalOrder
from train_jax.errors import UserError
from vit_jax.data.sources import Example, Source
from vit_jax.npz import open_npz, write_npz

FORMAT = 2
_ABOUT = "labels.json"


@dataclasses.dataclass(frozen=True)
class About:
    """What ``labels.json`` says.

    Attributes:
        data: fingerprint of the data set that is labelled.
        examples: how many it has.
        teacher: fingerprint of the teacher's parameters and of the size that it sees.
        num_classes: of the teacher.
        shard: examples per pair of files.
        generation: of the teacher: 0 of one that has seen labels alone, else one more than that of
            the teacher whose labels it saw.
        format: of the files.
    """

    data: str
    examples: int
    teacher: str
    num_classes: int
    shard: int
    generation: int
    format: int = FORMAT

    @property
    def shards(self) -> int:
        """How many pairs of files there are when all examples are labelled."""
        return -(-self.examples // self.shard)

    def rows(self, shard: int) -> range:
        """The examples of a pair of files."""
        return range(shard * self.shard, min((shard + 1) * self.shard, self.examples))


class Unlabelled:
    """Some examples of a source, with their index in it in the place of labels."""

    num_classes = 1
    class_names = ()
    max_labels = 1

    def __init__(self, source: Source, indices: np.ndarray, *, how: str) -> None:
        """Selects examples.

        Args:
            source: where they come from.
            indices: which ones, int64 (n,); one may be there several times.
            how: what decided them; enters the fingerprint.
        """
        self._source, self._indices = source, np.asarray(indices, np.int64)
        self.fingerprint = f"{source.fingerprint}|unlabelled={how}"

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: int) -> Example:
        row = int(self._indices[index])
        return {**self._source[row], "labels": [row]}

    def labels(self) -> list[list[int]]:
        """Returns the index of every example."""
        return [[int(row)] for row in self._indices]


class PseudoLabels:
    """A directory of pseudo-labels of which all files are there."""

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        """Opens it.

        Raises:
            UserError: there is none, it is not complete, or not in order.
        """
        self.path = _local(directory)
        self.about = _read_about(self.path)
        missing = next((i for i in range(self.about.shards) if not is_complete(self.path, i)), None)
        if missing is not None:
            raise UserError(
                f"{self.path} lacks the labels of the examples from "
                f"{self.about.rows(missing).start} on; start vit_jax.pseudo_label again to go on."
            )
        self._probabilities = [self._map(i) for i in range(self.about.shards)]

    def _map(self, shard: int) -> np.ndarray:
        path = _names(self.path, shard)[0]
        try:
            found = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError) as error:
            raise UserError(
                f"{path} is damaged ({error}); remove it and its .npz, and start "
                "vit_jax.pseudo_label again."
            ) from error
        shape = (len(self.about.rows(shard)), self.about.num_classes)
        if found.shape != shape or found.dtype != np.float16:
            raise UserError(f"{path} holds {found.dtype}{found.shape} and not float16{shape}.")
        return found

    def best(self) -> tuple[np.ndarray, np.ndarray]:
        """Label int32 (n,) and confidence float32 (n,) of every example; -1 if it has none."""
        parts = []
        for shard in range(self.about.shards):
            label, confidence = open_npz(_names(self.path, shard)[1]).read(("label", "confidence"))
            parts.append((label, confidence))
        labels, confidences = zip(*parts, strict=True)
        return np.concatenate(labels), np.concatenate(confidences)

    def probabilities(self, indices: np.ndarray) -> np.ndarray:
        """Those of some examples (k,): float16 (k, K)."""
        out = np.empty((len(indices), self.about.num_classes), np.float16)
        for row, index in zip(out, indices, strict=True):
            shard, place = divmod(int(index), self.about.shard)
            row[:] = self._probabilities[shard][place]
        return out


def select_balanced(
    labels: np.ndarray,
    confidences: np.ndarray,
    *,
    num_classes: int,
    threshold: float,
    per_class: int | None,
    seed: int = 0,
) -> np.ndarray:
    """Filters pseudo-labelled examples and balances their classes (Noisy Student, section 3.1).

    An example counts for its most probable class where that is more probable than ``threshold``. Of
    a class with more examples than ``per_class`` the most confident are taken, of equals the first;
    one with fewer is repeated: as often as all of it fits, then at random without repetition. A
    class without an example stays empty.

    Args:
        labels: most probable class, int (n,); -1 for an example that is left out.
        confidences: its probability, (n,).
        num_classes: number of classes.
        threshold: probability that must be exceeded.
        per_class: examples of every class; None takes what passes the threshold, once.
        seed: decides what is repeated.

    Returns:
        Indices of examples, int64 (m,), in increasing order.

    Raises:
        UserError: no example is left.
    """
    kept = np.flatnonzero((labels >= 0) & (confidences > threshold))
    if not len(kept):
        raise UserError(f"No pseudo-label is more confident than {threshold}; lower the threshold.")
    if per_class is None:
        return kept
    # Sorted by class, then by confidence from the highest, then by place.
    order = kept[np.lexsort((-confidences[kept], labels[kept]))]
    starts = np.searchsorted(labels[order], np.arange(num_classes + 1))
    chosen = []
    for members in (order[i:j] for i, j in itertools.pairwise(starts)):
        if len(members) >= per_class:
            chosen.append(members[:per_class])
        elif len(members):
            # An endless order is one permutation after the other.
            repeated = GlobalOrder(len(members), seed).indices(0, per_class)
            chosen.append(members[repeated])
    return np.sort(np.concatenate(chosen))


def start_writing(directory: str | os.PathLike[str], about: About) -> list[int]:
    """Makes a directory for pseudo-labels, or goes on with one.

    Returns:
        Which pairs of files are still to be written.

    Raises:
        UserError: it cannot be written, or holds labels of other images or by another teacher.
    """
    path = _local(directory)
    if (path / _ABOUT).exists():
        found = _read_about(path)
        lines = differences(dataclasses.asdict(found), dataclasses.asdict(about), path="labels")
        if lines:
            raise UserError(
                f"{path} holds other labels ({'; '.join(lines)}); name another directory."
            )
    else:
        try:
            path.mkdir(parents=True, exist_ok=True)
            partial = path / f".{_ABOUT}.partial"
            partial.write_text(json.dumps(dataclasses.asdict(about), indent=1), encoding="utf-8")
            partial.rename(path / _ABOUT)
        except OSError as error:
            raise UserError(f"{path} cannot be written: {error.strerror}.") from error
    return [i for i in range(about.shards) if not is_complete(path, i)]


def write_shard(
    directory: str | os.PathLike[str], shard: int, arrays: Mapping[str, np.ndarray]
) -> None:
    """Writes a pair of files.

    Args:
        directory: that was started.
        shard: which pair.
        arrays: "probabilities" (n, K), "label" (n,), "confidence" (n,).

    Raises:
        UserError: they cannot be written.
    """
    large, small = _names(_local(directory), shard)
    partial = large.with_name(f".{large.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as stream:
            np.save(stream, arrays["probabilities"].astype(np.float16), allow_pickle=False)
        partial.rename(large)
    except OSError as error:
        raise UserError(f"{large} cannot be written: {error.strerror}.") from error
    finally:
        partial.unlink(missing_ok=True)
    write_npz(
        small,
        [
            ("label", arrays["label"].astype(np.int32)),
            ("confidence", arrays["confidence"].astype(np.float32)),
        ],
    )


def is_complete(directory: Path, shard: int) -> bool:
    """Whether a pair of files is there."""
    return all(path.exists() for path in _names(directory, shard))


def _names(directory: Path, shard: int) -> tuple[Path, Path]:
    return directory / f"{shard:05}.probabilities.npy", directory / f"{shard:05}.npz"


def _local(directory: str | os.PathLike[str]) -> Path:
    if "://" in os.fspath(directory):
        raise UserError(
            f"{directory}: pseudo-labels are mapped into memory; mount the bucket and give the "
            "local path."
        )
    return Path(directory).expanduser()


def _read_about(path: Path) -> About:
    try:
        found: dict[str, Any] = json.loads((path / _ABOUT).read_text(encoding="utf-8"))
        about = About(**found)
    except FileNotFoundError as error:
        raise UserError(
            f"{path} holds no pseudo-labels; write them with python -m vit_jax.pseudo_label."
        ) from error
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{path / _ABOUT} cannot be read ({error}).") from error
    if about.format != FORMAT:
        raise UserError(f"{path} is of format {about.format}; this code reads {FORMAT}.")
    return about
