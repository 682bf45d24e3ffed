"""Images with any number of labels in record files: the shape of JFT-300M.

    --config=experiments/vit/pretrain.py:L/16,jft300m,source=records:/data/jft/{split}-*.tfrecord

A record is a serialized `tf.train.Example`:

| feature | type | meaning |
|---|---|---|
| `image/encoded` | one bytes value | a JPEG or PNG file |
| `image/class/label` | int64 list, may be empty | classes, counted from 0; `label_key` renames it |
| `image/filename` | one bytes value, optional | what to call the image in messages |

The file `labels.txt` beside the records names the classes, one a line, in the order of their
numbers. Files are ArrayRecord (written with `group_size:1`) or TFRecord, told apart by `.tfrecord`
in their names, never compressed as a whole. `{split}` in the path stands for the name of a split,
so that `train[51200:]` reads the files of `train`; a path without it has the one split `all`.

TFRecord files have no index, so one is made when a file is first opened and kept as FILE.index (8
bytes a record); where that cannot be written, it is made again each time. Its lengths are checked
against their checksums; the bytes of an image are not, as a broken image does not decode.
"""

import bisect
import glob
import hashlib
import itertools
import os
import re
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from array_record.python.array_record_data_source import ArrayRecordDataSource
from google.protobuf.message import DecodeError
from tensorflow_datasets.proto import tf_example_pb2

from train_jax.errors import UserError
from vit_jax.data import splits
from vit_jax.data.sources import Example, Source

IMAGE_KEY = "image/encoded"
LABEL_KEY = "image/class/label"
NAME_KEY = "image/filename"
CLASSES_FILE = "labels.txt"

_DEFAULT_MAX_LABELS = 16
# Length (8 bytes), its checksum (4); data, their checksum (4).
_HEADER, _FOOTER = 12, 4


class TfRecordFile:
    """Random access to the records of one TFRecord file; can be pickled and shared by threads."""

    def __init__(self, path: str) -> None:
        """Reads or makes the index.

        Raises:
            UserError: the file is damaged, or no TFRecord file.
        """
        self._path = path
        self._offsets = _index_of(path)
        self._file: int | None = None
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def __getitem__(self, index: int) -> bytes:
        start, stop = self._offsets[index] + _HEADER, self._offsets[index + 1] - _FOOTER
        with self._lock:
            if self._file is None:
                self._file = os.open(self._path, os.O_RDONLY)
        return os.pread(self._file, int(stop - start), int(start))

    def __del__(self) -> None:
        if getattr(self, "_file", None) is not None:
            os.close(self._file)  # pyright: ignore[reportArgumentType]

    def __getstate__(self) -> dict[str, Any]:
        return {"_path": self._path, "_offsets": self._offsets}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _file=None, _lock=threading.Lock())


def _index_of(path: str) -> np.ndarray:
    """Where each record begins, and the end of the file: int64 (n + 1,)."""
    size, kept = os.path.getsize(path), f"{path}.index"
    if os.path.isfile(kept) and os.path.getmtime(kept) >= os.path.getmtime(path):
        offsets = np.fromfile(kept, "<i8")
        if len(offsets) and offsets[-1] == size:
            return offsets
    offsets = _scan(path, size)
    partial = f"{kept}.{os.getpid()}"
    try:
        offsets.astype("<i8").tofile(partial)
        os.replace(partial, kept)
    except OSError:  # data that may only be read
        Path(partial).unlink(missing_ok=True)
    return offsets


def _scan(path: str, size: int) -> np.ndarray:
    offsets, at = [0], 0
    with open(path, "rb") as file:
        while at < size:
            file.seek(at)
            header = file.read(_HEADER)
            length = int.from_bytes(header[:8], "little")
            whole = len(header) == _HEADER and _masked_crc(header[:8]) == header[8:]
            at += _HEADER + length + _FOOTER
            if not whole or at > size:
                raise UserError(
                    f"{path} is damaged at byte {offsets[-1]} (record {len(offsets) - 1}), or is "
                    "compressed, or is no TFRecord file: copy it again, or write it again."
                )
            offsets.append(at)
    return np.array(offsets, np.int64)


def _crc_table() -> list[int]:
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
        table.append(byte)
    return table


_CRC = _crc_table()


def _masked_crc(data: bytes) -> bytes:
    """CRC-32C as TFRecord stores it: rotated right by 15 bits, plus a constant."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _CRC[(crc ^ byte) & 0xFF] ^ crc >> 8
    crc ^= 0xFFFFFFFF
    masked = ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
    return masked.to_bytes(4, "little")


class RecordsSource:
    """Some records of some files, in the order of the files' names."""

    def __init__(
        self,
        files: Sequence[str],
        readers: Sequence[Any],
        ranges: Sequence[range],
        *,
        class_names: Sequence[str],
        label_key: str,
        max_labels: int,
    ) -> None:
        """Opens nothing itself: `open_records` does.

        Args:
            files: names of the files.
            readers: of each file, by index to bytes.
            ranges: which records, counted over all files.
            class_names: names of the classes.
            label_key: the feature with the labels.
            max_labels: see `open_source`.
        """
        self._files, self._readers, self._ranges = tuple(files), tuple(readers), tuple(ranges)
        self._ends = list(itertools.accumulate(map(len, readers)))
        self._range_ends = list(itertools.accumulate(map(len, ranges)))
        self._label_key = label_key
        self.class_names = tuple(class_names)
        self.num_classes, self.max_labels = len(self.class_names), max_labels
        digest = hashlib.blake2b(digest_size=8)
        for file, end in zip(self._files, self._ends, strict=True):
            digest.update(f"{os.path.basename(file)}\0{end}\n".encode())
        cuts = "+".join(f"{r.start}:{r.stop}" for r in ranges)
        self.fingerprint = f"records:{digest.hexdigest()}:{cuts}:{label_key}"

    def __len__(self) -> int:
        return self._range_ends[-1]

    def __getitem__(self, index: int) -> Example:
        example, where = self._parse(index)
        features = example.features.feature
        images: Any = features[IMAGE_KEY].bytes_list.value if IMAGE_KEY in features else ()
        if len(images) != 1:
            raise OSError(f"{where} has no {IMAGE_KEY}")
        names: Any = features[NAME_KEY].bytes_list.value if NAME_KEY in features else ()
        name = f"{names[0].decode(errors='replace')} ({where})" if len(names) else where
        return {"image": images[0], "labels": self._labels(example, where), "name": name}

    def _parse(self, index: int) -> tuple[Any, str]:
        part = bisect.bisect_right(self._range_ends, index)
        at = self._ranges[part][index - (self._range_ends[part - 1] if part else 0)]
        file = bisect.bisect_right(self._ends, at)
        at -= self._ends[file - 1] if file else 0
        where = f"record {at} of {self._files[file]}"
        try:
            data = self._readers[file][at]
            return tf_example_pb2.Example.FromString(data), where  # pyright: ignore
        except (DecodeError, RuntimeError, ValueError, OSError) as error:
            raise OSError(f"{where} is damaged ({str(error).partition(',')[0]})") from error

    def _labels(self, example: Any, where: str) -> list[int]:
        features = example.features.feature
        if self._label_key not in features:
            raise UserError(
                f"{where} has no feature '{self._label_key}' but {', '.join(sorted(features))}: "
                "set label_key."
            )
        labels = list(features[self._label_key].int64_list.value)
        wrong = [label for label in labels if not 0 <= label < self.num_classes]
        if wrong:
            raise UserError(
                f"{where} has the label {wrong[0]}, but {CLASSES_FILE} names the "
                f"{self.num_classes} classes 0 to {self.num_classes - 1}."
            )
        return labels

    def labels(self) -> list[list[int]]:
        """Returns the labels of every example; reads all records."""
        return [self._labels(*self._parse(i)) for i in range(len(self))]


def open_records(
    path: str, split: str, *, label_key: str | None = None, max_labels: int | None = None
) -> Source:
    """Opens record files; see `vit_jax.data.sources.open_source`."""
    path = os.path.expanduser(path)
    if "://" in path:
        raise UserError(f"Record files are read from a local or mounted directory, not {path}.")
    parts, named = splits.parse(split), "{split}" in path
    files: list[str] = []
    places: dict[str, tuple[int, int]] = {}
    for name in dict.fromkeys(part.name for part in parts):
        if not named and name != "all":
            raise UserError(
                f"records:{path} has the one split 'all', not '{name}': write all[51200:], or "
                "{split} where the splits' names stand in the path."
            )
        found = _files(path.replace("{split}", name))
        places[name] = len(files), len(files) + len(found)
        files += found
    readers = [_reader(file) for file in files]
    ends = [0, *itertools.accumulate(map(len, readers))]
    ranges = []
    for part in parts:
        first, last = (ends[i] for i in places[part.name])
        piece = part.range(last - first)
        ranges.append(range(first + piece.start, max(first + piece.stop, first + piece.start)))
    if not sum(map(len, ranges)):
        raise UserError(f"The split '{split}' of records:{path} holds no records: choose another.")
    return RecordsSource(
        files,
        readers,
        ranges,
        class_names=_class_names(Path(files[0]).parent / CLASSES_FILE),
        label_key=label_key or LABEL_KEY,
        max_labels=max_labels or _DEFAULT_MAX_LABELS,
    )


def _files(pattern: str) -> list[str]:
    found = [file for file in glob.glob(pattern) if os.path.isfile(file)]
    found = sorted(file for file in found if not re.search(r"\.(index|txt)(\.\d+)?$", file))
    if not found:
        raise UserError(f"No record file matches {pattern}: check the path, or the split's name.")
    return found


def _reader(file: str) -> Any:
    if ".tfrecord" in os.path.basename(file):
        return TfRecordFile(file)
    try:
        return ArrayRecordDataSource([file])
    except (RuntimeError, ValueError, OSError) as error:
        raise UserError(
            f"{file} is damaged, or is no ArrayRecord file: copy it again, or write it again "
            f"({str(error).partition(';')[0]})."
        ) from error


def _class_names(file: Path) -> list[str]:
    try:
        names = file.read_text(encoding="utf-8").split("\n")
    except OSError as error:
        raise UserError(
            f"{file} is missing: write the names of the classes into it, one a line, in the order "
            "of their numbers."
        ) from error
    names = names[:-1] if names[-1] == "" else names
    if not names or "" in names:
        raise UserError(f"{file} must name one class a line, without empty lines.")
    return names
