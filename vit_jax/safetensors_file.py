"""The container of PyTorch's published weights: a .safetensors file, read and written.

Eight bytes of length, a JSON header of names, dtypes, shapes and offsets, then the arrays. Nothing
in it can run code. Only the header is read at first, then single arrays on demand.
"""

import dataclasses
import json
import math
import os
import struct
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from train_jax.errors import UserError

_DTYPES: dict[str, np.dtype] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype(jnp.bfloat16),
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
}
_MAX_HEADER_BYTES = 100_000_000


@dataclasses.dataclass(frozen=True)
class SafetensorsFile:
    """Names, shapes and dtypes of a file, or of the shards of one; ``read`` gets one array."""

    path: str
    shapes: dict[str, jax.ShapeDtypeStruct]
    _places: dict[str, tuple[str, int, int]]

    def read(self, name: str) -> np.ndarray:
        """Reads one array.

        Raises:
            UserError: the file has become shorter.
        """
        path, begin, size = self._places[name]
        with epath.Path(path).open("rb") as stream:
            stream.seek(begin)
            data = stream.read(size)
        if len(data) != size:
            raise UserError(f"{path} is cut short; fetch it again.")
        shape = self.shapes[name]
        return np.frombuffer(data, shape.dtype).reshape(shape.shape)


def open_safetensors(path: str | os.PathLike[str]) -> SafetensorsFile:
    """Reads the header of a file, local or remote.

    Raises:
        UserError: it does not exist, is truncated, or is no .safetensors file.
    """
    path = os.fspath(path)
    try:
        with epath.Path(path).open("rb") as stream:
            start = stream.read(8)
            length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
            header = stream.read(length) if 2 <= length <= _MAX_HEADER_BYTES else b""
        total = epath.Path(path).stat().length
    except (OSError, ImportError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{path} cannot be opened: {reason}.") from error
    shapes, places = {}, {}
    try:
        entries = json.loads(header)
        entries.pop("__metadata__", None)
        for name, entry in entries.items():
            dtype, shape = _DTYPES[entry["dtype"]], tuple(map(int, entry["shape"]))
            begin, end = entry["data_offsets"]
            if min(shape, default=0) < 0 or end - begin != math.prod(shape) * dtype.itemsize:
                raise ValueError(f"the size of {name} is not that of its shape")
            if begin < 0 or 8 + length + end > total:
                raise UserError(f"{path} is cut short at {name}; fetch it again.")
            shapes[name] = jax.ShapeDtypeStruct(shape, dtype)
            places[name] = (path, 8 + length + begin, end - begin)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path} is not a .safetensors file of plain arrays ({error}); fetch it again."
        ) from error
    return SafetensorsFile(path, shapes, places)


def open_shards(index: str | os.PathLike[str]) -> SafetensorsFile:
    """The shards that ``model.safetensors.index.json`` lists, as one file.

    Raises:
        UserError: the index is damaged, or a shard is missing or lacks an array.
    """
    index = epath.Path(index)
    try:
        weight_map: dict[str, str] = json.loads(index.read_text())["weight_map"]
        names = sorted(set(weight_map.values()))
        if any("/" in name or name.startswith(".") for name in names):
            raise ValueError("a shard lies elsewhere")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{index} is not an index of shards ({error}); fetch it again.") from error
    shards = {name: open_safetensors(index.parent / name) for name in names}
    for name, shard in weight_map.items():
        if name not in shards[shard].shapes:
            raise UserError(f"{index.parent / shard} lacks {name}; fetch it again.")
    return SafetensorsFile(
        os.fspath(index),
        {name: shards[shard].shapes[name] for name, shard in weight_map.items()},
        {name: shards[shard]._places[name] for name, shard in weight_map.items()},
    )


def write_safetensors(
    path: str | os.PathLike[str],
    shapes: Mapping[str, tuple[int, ...]],
    arrays: Iterable[tuple[str, np.ndarray]],
) -> None:
    """Writes float32 arrays, one at a time, in the order of ``shapes``.

    Raises:
        UserError: it cannot be written.
    """
    path, header, offset = epath.Path(path), {"__metadata__": {"format": "pt"}}, 0
    entries: dict[str, Any] = {}
    for name, shape in shapes.items():
        size = 4 * math.prod(shape)
        entries[name] = {
            "dtype": "F32",
            "shape": list(shape),
            "data_offsets": [offset, offset + size],
        }
        offset += size
    text = json.dumps(header | entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    temporary = path.parent / f".{path.name}.{os.getpid()}.partial"
    try:
        with temporary.open("wb") as stream:
            stream.write(struct.pack("<Q", len(text)) + text)
            for data in _in_order(shapes, arrays):
                stream.write(data)
        temporary.rename(path)
    except (OSError, ImportError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{path} cannot be written: {reason}.") from error


def _in_order(
    shapes: Mapping[str, tuple[int, ...]], arrays: Iterable[tuple[str, np.ndarray]]
) -> Iterator[bytes]:
    for expected, (name, array) in zip(shapes, arrays, strict=True):
        assert (name, array.shape) == (expected, shapes[expected])
        yield np.ascontiguousarray(array, "<f4").tobytes()
