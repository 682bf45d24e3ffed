"""ImageNet-21k's archives: a tar file of tar files, one a synset, and what is in them.

Images are decoded once, for their hashes; what is found in a synset is kept in a file, so that the
next call finds it there.
"""

import dataclasses
import os
import re
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np

from train_jax.errors import UserError
from vit_jax.data.decode import CorruptImageError, Picture
from vit_jax.data.difference_hash import difference_hash

_SYNSET = re.compile(r"(?:.*/)?(n\d{8})\.tar")
_BLOCK = 512


@dataclasses.dataclass(frozen=True)
class Synset:
    """The archive of one class.

    Attributes:
        name: WordNet's, such as "n01440764".
        file: where it is.
        start: its first byte there.
        size: its bytes.
    """

    name: str
    file: str
    start: int
    size: int


@dataclasses.dataclass(frozen=True, eq=False)
class Images:
    """The readable images of some synsets.

    Attributes:
        names: bytes (n,), such as "n01440764_10026.JPEG".
        synsets: int32 (n,), whose they are.
        starts: int64 (n,), their first bytes in the file of the synset.
        sizes: int64 (n,), their bytes.
        hashes: uint64 (n,), see `difference_hash`.
    """

    names: np.ndarray
    synsets: np.ndarray
    starts: np.ndarray
    sizes: np.ndarray
    hashes: np.ndarray

    def __len__(self) -> int:
        return len(self.names)

    def where(self, mask: np.ndarray) -> "Images":
        """Some of them, by mask or index, in that order."""
        return Images(**{f.name: getattr(self, f.name)[mask] for f in dataclasses.fields(self)})


def synsets_of(archive: str) -> dict[str, Synset]:
    """The archives of the synsets by name.

    Raises:
        UserError: there are none, or the archive is compressed or damaged.
    """
    path = Path(archive)
    if path.is_dir():
        files = [(match[1], file) for file in sorted(path.rglob("*.tar"))
                 if (match := _SYNSET.fullmatch(file.name))]  # fmt: skip
        found = [Synset(name, str(file), 0, file.stat().st_size) for name, file in files]
    elif path.is_file():
        with path.open("rb") as file:
            found = [
                Synset(match[1], str(path), member.offset_data, member.size)
                for member in _members(file, str(path))
                if (match := _SYNSET.fullmatch(member.name))
            ]
    else:
        raise UserError(f"There is no archive {archive}.")
    if not found:
        raise UserError(f"{archive} holds no synsets, files named like n01440764.tar.")
    return {synset.name: synset for synset in found}


def _members(file: BinaryIO, name: str) -> list[tarfile.TarInfo]:
    """The files in an uncompressed tar, which must be complete."""
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            members = [member for member in tar if member.isfile()]
    except tarfile.TarError as error:
        raise UserError(
            f"{name} is damaged or compressed ({error}): decompress it, or download it again."
        ) from error
    file.seek(max(size - _BLOCK, 0))
    # Archives end with blocks of zeros.
    if any(file.read(_BLOCK)) or any(m.offset_data + m.size > size for m in members):
        raise UserError(f"{name} ends too early: download it again.")
    return members


class _Window:
    """A part of a file as a file, for tarfile."""

    def __init__(self, file: BinaryIO, start: int, size: int) -> None:
        self._file, self._start, self._size, self._at = file, start, size, 0

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        self._at = base + offset
        return self._at

    def tell(self) -> int:
        return self._at

    def read(self, count: int = -1) -> bytes:
        left = max(self._size - self._at, 0)
        self._file.seek(self._start + self._at)
        data = self._file.read(left if count < 0 else min(count, left))
        self._at += len(data)
        return data


def images_of(synset: Synset, directory: Path) -> tuple[Images, list[str]]:
    """The images of a synset, and lines that say what is wrong with those that cannot be read.

    Args:
        synset: its archive.
        directory: where it is kept for the next call.

    Raises:
        UserError: the archive is damaged.
    """
    kept = directory / f"{synset.name}.npz"
    if kept.exists():
        with np.load(kept) as values:
            if int(values["size"]) == synset.size and int(values["start"]) == synset.start:
                return _images(values), [str(line) for line in values["bad"]]
    rows, bad = [], []
    with open(synset.file, "rb") as file:
        window = cast(BinaryIO, _Window(file, synset.start, synset.size))
        for member in _members(window, f"{synset.name}.tar ({synset.file})"):
            start = synset.start + member.offset_data
            try:
                file.seek(start)
                bits = difference_hash(Picture(file.read(member.size)).pixels)
            except CorruptImageError as error:
                bad.append(f"{synset.name}/{member.name}: {error}")
                continue
            rows.append((os.path.basename(member.name).encode(), start, member.size, bits))
    names, starts, sizes, hashes = zip(*rows, strict=True) if rows else ((), (), (), ())
    values = {
        "names": np.array(names, np.bytes_),
        "starts": np.array(starts, np.int64),
        "sizes": np.array(sizes, np.int64),
        "hashes": np.array(hashes, np.uint64),
    }
    partial = directory / f".{synset.name}.npz"
    with partial.open("wb") as file:
        np.savez(file, size=synset.size, start=synset.start, bad=np.array(bad, np.str_), **values)
    partial.replace(kept)
    return _images(values), bad


def _images(values: Any) -> Images:
    return Images(
        names=values["names"],
        synsets=np.zeros(len(values["names"]), np.int32),
        starts=values["starts"],
        sizes=values["sizes"],
        hashes=values["hashes"],
    )


def join(parts: Sequence[Images]) -> Images:
    """The images of all synsets, numbered in that order."""
    numbered = [
        dataclasses.replace(part, synsets=np.full(len(part), i, np.int32))
        for i, part in enumerate(parts)
    ]
    return Images(
        **{
            field.name: np.concatenate([getattr(part, field.name) for part in numbered])
            for field in dataclasses.fields(Images)
        }
    )


def read_image(images: Images, synsets: Sequence[Synset], index: int) -> bytes:
    """The encoded file of one of the images of some synsets."""
    with open(synsets[images.synsets[index]].file, "rb") as file:
        file.seek(int(images.starts[index]))
        return file.read(int(images.sizes[index]))
