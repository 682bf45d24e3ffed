"""Where examples come from: catalogue data sets, folders of images, data sets of our own.

| source | means |
|---|---|
| `tfds:cifar100`, `tfds:imagenet_v2/topimages` | a TFDS data set, prepared as ArrayRecord |
| `folder:/data/pets` | `{split}/{class}/*.jpg`, or `{class}/*.jpg` with the one split `all` |
| `records:/data/jft/{split}-*.array_record` | record files of our own (vit_jax/data/records.py) |
| `vtab:clevr_count` | a task of VTAB-1k, with its splits and labels (vit_jax/data/vtab_source.py) |
| `digits` | scikit-learn's digits, prepared on first use (vit_jax/data/digits.py) |
| `user:jft300m` | nothing yet: data that only the user can supply, by naming one of the above |

A split is written as in TFDS: `train`, `train[:98%]`, `train[-5000:]`, `train+validation`. All
sources are random-access and never import TensorFlow; whatever is wrong with them is said when
they are opened.
"""

import collections
import difflib
import hashlib
from collections.abc import Sequence
from typing import Protocol, TypedDict

import numpy as np

from train_jax.data.order import GlobalOrder
from train_jax.errors import UserError


class Example(TypedDict):
    """One labelled image.

    Attributes:
        image: an encoded file, or pixels uint8 (h, w, c).
        labels: class indices; several for multi-label data, none where nobody knows.
        name: what to call it in messages.
    """

    image: bytes | np.ndarray
    labels: list[int]
    name: str


class Source(Protocol):
    """Random access to the examples of one split; instances can be pickled and shared by threads.

    Attributes:
        num_classes: number of classes.
        class_names: their names, or () where there are none.
        max_labels: upper bound of the number of labels of an example.
        fingerprint: text that changes when the examples or their order change.
    """

    num_classes: int
    class_names: tuple[str, ...]
    max_labels: int
    fingerprint: str

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Example: ...

    def labels(self) -> list[list[int]]:
        """Returns the labels of every example; may have to read all of them."""
        ...


def open_source(
    source: str,
    split: str,
    *,
    data_dir: str | None = None,
    label_key: str | None = None,
    max_labels: int | None = None,
) -> Source:
    """Opens one split of a data set.

    Args:
        source: what to open, see the module docstring.
        split: which examples of it.
        data_dir: where TFDS data sets are prepared; TFDS's own default if None.
        label_key: the feature that holds the labels of a TFDS data set, when it has several.
        max_labels: upper bound of the labels of one example of multi-label data (default 16).

    Raises:
        UserError: there is no such data set or split, it is not prepared, or it is empty.
    """
    kind, _, rest = source.partition(":")
    if kind == "tfds" and rest:
        from vit_jax.data import tfds_source

        return tfds_source.open_tfds(
            rest, split, data_dir=data_dir, label_key=label_key, max_labels=max_labels
        )
    if kind == "folder" and rest:
        from vit_jax.data import folder

        return folder.open_folder(rest, split)
    if kind == "records" and rest:
        from vit_jax.data import records

        return records.open_records(rest, split, label_key=label_key, max_labels=max_labels)
    if kind == "vtab" and rest:
        from vit_jax.data import vtab_source

        return vtab_source.open_vtab(rest, split, data_dir=data_dir)
    if source == "digits":
        from vit_jax.data import digits, tfds_source

        directory = digits.prepare(data_dir)
        return tfds_source.open_tfds("digits", split, data_dir=directory)
    if kind == "user" and rest:
        raise UserError(
            f"The data set '{rest}' is yours to supply: name it with source=tfds:NAME, "
            "source=folder:/PATH or source=records:/PATH/* behind the colon of --config, or with "
            "--config.data.source and --config.evaluations.NAME.source."
        )
    hint = difflib.get_close_matches(source, ["digits", f"tfds:{source}", f"folder:{source}"], 1, 0)
    raise UserError(
        f"Unknown data source '{source}', did you mean '{hint[0]}'? "
        "Sources are tfds:NAME, folder:/PATH, records:/PATH/*, vtab:TASK and digits."
    )


class Subset:
    """Some examples of a source, with the classes renumbered."""

    def __init__(
        self, source: Source, indices: np.ndarray, *, classes: Sequence[int] | None, how: str
    ) -> None:
        """Selects examples.

        Args:
            source: where they come from.
            indices: which ones, int64 (n,).
            classes: old class indices in their new order; other labels are dropped. None: all.
            how: what makes up the selection besides the source; enters the fingerprint.
        """
        self._source, self._indices = source, np.asarray(indices, np.int64)
        keep = tuple(range(source.num_classes) if classes is None else classes)
        self._new = {old: new for new, old in enumerate(keep)}
        self.num_classes = len(keep)
        names = source.class_names
        self.class_names = tuple(names[c] for c in keep) if names else ()
        self.max_labels = source.max_labels
        self.fingerprint = f"{source.fingerprint}|{how}"

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: int) -> Example:
        example = self._source[int(self._indices[index])]
        return {**example, "labels": self._renumber(example["labels"])}

    def _renumber(self, labels: list[int]) -> list[int]:
        return [self._new[label] for label in labels if label in self._new]

    def labels(self) -> list[list[int]]:
        """Returns the labels of every example."""
        every = self._source.labels()
        return [self._renumber(every[i]) for i in self._indices]


def select(
    source: Source,
    *,
    classes: tuple[int, ...] | None = None,
    shots: int | None = None,
    seed: int = 0,
) -> Source:
    """Restricts a source to some classes and to a few examples of each.

    Args:
        source: where the examples come from.
        classes: classes to keep; they become 0, 1, ... in the order given.
        shots: examples per class, the first of a permutation of the class that `seed` decides; an
            example with several labels counts for the first one.
        seed: another seed, other examples.

    Returns:
        The source itself if nothing is asked for.

    Raises:
        UserError: a class that does not exist, or with fewer than `shots` examples.
    """
    if classes is None and shots is None:
        return source
    keep = tuple(range(source.num_classes) if classes is None else classes)
    if len(set(keep)) < len(keep) or any(not 0 <= c < source.num_classes for c in keep):
        raise UserError(
            f"classes={keep} must be different numbers from 0 to {source.num_classes - 1}."
        )
    members: dict[int, list[int]] = collections.defaultdict(list)
    wanted = set(keep)
    for i, labels in enumerate(source.labels()):
        kept = [label for label in labels if label in wanted]
        if kept:
            members[kept[0]].append(i)
    chosen = [_shots_of(members[c], c, shots=shots, seed=seed) for c in keep]
    indices = np.sort(np.concatenate(chosen)) if chosen else np.zeros(0, np.int64)
    digest = hashlib.blake2b(repr(keep).encode(), digest_size=8).hexdigest()
    how = f"classes={digest}" + ("" if shots is None else f"|shots={shots}|seed={seed}")
    return Subset(source, indices, classes=classes, how=how)


def _shots_of(members: list[int], label: int, *, shots: int | None, seed: int) -> np.ndarray:
    every = np.array(members, np.int64)
    if shots is None:
        return every
    if shots < 1 or len(every) < shots:
        raise UserError(f"Class {label} has {len(every)} examples, shots={shots} were asked for.")
    return every[GlobalOrder(len(every), seed).indices(0, shots)]
