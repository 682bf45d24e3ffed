"""Folders of image files: `{split}/{class}/*.jpg`, or `{class}/*.jpg` with the one split `all`.

Files are taken in the order of a hash of their names: a slice such as `all[:90%]` then holds every
class in proportion, and a file that is added moves no other file to the other side of a cut by
more than its own place.
"""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

from train_jax.errors import UserError
from vit_jax.data import splits
from vit_jax.data.sources import Example, Source

_SUFFIXES = (".jpg", ".jpeg", ".png")


class FolderSource:
    """Image files with the class that their directory is named after."""

    max_labels = 1

    def __init__(
        self, root: Path, files: Sequence[tuple[str, int]], *, class_names: Sequence[str]
    ) -> None:
        """Lists nothing itself: `open_folder` does.

        Args:
            root: directory that the names are relative to.
            files: relative name and class index of each file.
            class_names: names of the classes.
        """
        self._root, self._files = root, tuple(files)
        self.class_names = tuple(class_names)
        self.num_classes = len(self.class_names)
        digest = hashlib.blake2b(digest_size=8)
        for name, label in self._files:
            digest.update(f"{name}\0{label}\n".encode())
        self.fingerprint = f"folder:n={len(self._files)}:{digest.hexdigest()}"

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> Example:
        name, label = self._files[index]
        path = self._root / name
        return {"image": path.read_bytes(), "labels": [label], "name": str(path)}

    def labels(self) -> list[list[int]]:
        """Returns the labels of every example."""
        return [[label] for _, label in self._files]


def open_folder(path: str, split: str) -> Source:
    """Opens image files in folders; see `vit_jax.data.sources.open_source`."""
    root = Path(path).expanduser()
    if not root.is_dir():
        raise UserError(f"The image folder {root} does not exist.")
    parts = splits.parse(split)
    names = [part.name for part in parts]
    known = [d for d in _directories(root) if _directories(root / d)]
    flat = "all" in names and "all" not in known
    missing = [name for name in names if name not in (("all",) if flat else known)]
    if missing:
        raise UserError(
            f"{root} has no split '{missing[0]}': its splits are "
            f"{', '.join(known) or 'all (class directories without a split above them)'}."
        )
    # Numbered over all splits: a class without test images must not shift the others.
    places = {"all": root} if flat else {name: root / name for name in known}
    classes = sorted({c for place in places.values() for c in _directories(place)})
    listed = {name: _files(root, places[name], classes) for name in dict.fromkeys(names)}
    chosen = [listed[part.name][i] for part in parts for i in part.range(len(listed[part.name]))]
    if not chosen:
        raise UserError(
            f"The split '{split}' of {root} holds no images ({', '.join(_SUFFIXES)}, in one "
            "directory per class)."
        )
    return FolderSource(root, chosen, class_names=classes)


def _directories(path: Path) -> list[str]:
    with os.scandir(path) as entries:
        return sorted(e.name for e in entries if e.is_dir() and not e.name.startswith("."))


def _files(root: Path, place: Path, classes: Sequence[str]) -> list[tuple[str, int]]:
    """Names relative to `root` and classes of all images below `place`, in hashed order."""
    found = []
    for label, name in enumerate(classes):
        if not (place / name).is_dir():
            continue
        with os.scandir(place / name) as entries:
            for entry in entries:
                if entry.name.lower().endswith(_SUFFIXES) and entry.is_file():
                    relative = f"{name}/{entry.name}"
                    digest = hashlib.blake2b(relative.encode(), digest_size=8).digest()
                    found.append((digest, relative, label))
    prefix = "" if place == root else f"{place.name}/"
    return [(prefix + name, label) for _, name, label in sorted(found)]
