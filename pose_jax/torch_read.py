"""PyTorch's files of weights, read without PyTorch and without running their pickles.

Two layouts are in use (torch/serialization.py). Since PyTorch 1.6 a file is an uncompressed zip
archive: NAME/data.pkl is a pickle in which every tensor is a view (offset, shape, strides) of a
storage, NAME/data/KEY the bytes of a storage. Older files, all that the original has published
among them, are five pickles in a row (a magic number, a version, facts about the machine, the
object, the keys of the storages) and then the storages, each after its number of elements.
"""

import dataclasses
import math
import os
import struct
import zipfile
from collections.abc import Callable, Iterator, Mapping
from typing import IO, Any

import numpy as np

from pose_jax.data.pickles import (
    Ignored,
    Made,
    PathLike,
    Refused,
    StandIn,
    explained,
    opened,
    unpickle,
)
from train_jax.errors import UserError

State = dict[str, np.ndarray]
#: Storage keys and the type of their elements -> their contents.
Storages = Callable[[Mapping[str, np.dtype]], State]

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_VERSION = 1001


@dataclasses.dataclass(frozen=True)
class _Tensor:
    """Where in the file a tensor is: elements of a storage."""

    storage: str
    dtype: np.dtype
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def of(self, storage: np.ndarray) -> np.ndarray:
        """The tensor as an array of its own."""
        last = self.offset + sum((n - 1) * s for n, s in zip(self.shape, self.strides, strict=True))
        size = math.prod(self.shape)
        if storage.dtype != self.dtype:
            raise ValueError("a storage of two types")
        if min((self.offset, *self.shape, *self.strides)) < 0 or size > len(storage):
            raise ValueError("a tensor is larger than its storage")
        if size and last >= len(storage):
            raise ValueError("a tensor reaches beyond its storage")
        strides = [stride * storage.itemsize for stride in self.strides]
        view = np.lib.stride_tricks.as_strided(storage[self.offset :], self.shape, strides)
        return view.copy()


def read_bin(path: PathLike) -> dict[str, Any]:
    """Reads the weights of a file that the original has written, of either layout.

    Args:
        path: local or gs://.

    Returns:
        "model_pos": parameter name -> array; "model_traj": the same of the trajectory network, or
        None; "epoch" and "lr", None where the file does not tell. Optimizer and random generators
        are left unread.

    Raises:
        UserError: the file does not exist, is damaged, holds anything but tensors and plain data,
            or is not one of the original's.
    """
    path = os.fspath(path)
    with opened(path) as stream, explained(path):
        read = _read_zip if stream.read(4) == b"PK\x03\x04" else _read_legacy
        stream.seek(0)
        content, storages = read(stream)
        if not isinstance(content, dict) or not isinstance(content.get("model_pos"), dict):
            raise UserError(
                f"{path} holds no model_pos; only checkpoints of the original (VideoPose3D) and "
                "files of the same form can be read."
            )
        models = {name: _tensors(content, name, path) for name in ("model_pos", "model_traj")}
        found = storages(
            {t.storage: t.dtype for state in models.values() for t in (state or {}).values()}
        )
        arrays = {
            model: None if state is None else {k: t.of(found[t.storage]) for k, t in state.items()}
            for model, state in models.items()
        }
        return {**arrays, "epoch": content.get("epoch"), "lr": content.get("lr")}


def _tensors(content: Mapping[str, Any], model: str, path: str) -> dict[str, _Tensor] | None:
    """The tensors of one network by name; None if the file holds no such network."""
    state = content.get(model)
    if state is None:
        return None
    if not isinstance(state, dict):
        raise UserError(f"{path}: {model} is no set of tensors but a {type(state).__name__}.")
    for name, tensor in state.items():
        if not isinstance(tensor, _Tensor):
            raise UserError(f"{path}: {name!r} is not a tensor but a {type(tensor).__name__}.")
    return state


def _read_zip(stream: IO[bytes]) -> tuple[Any, Storages]:
    archive = zipfile.ZipFile(stream)
    names = archive.namelist()
    pickles = [name for name in names if name.endswith("/data.pkl")]
    if not pickles:
        raise ValueError("a zip archive without data.pkl")
    root = pickles[0].removesuffix("data.pkl")
    if f"{root}byteorder" in names:
        _require_little_endian(archive.read(f"{root}byteorder") == b"little")

    def storages(wanted: Mapping[str, np.dtype]) -> State:
        return {
            key: np.frombuffer(archive.read(f"{root}data/{key}"), dtype)
            for key, dtype in wanted.items()
        }

    with archive.open(f"{root}data.pkl") as pickled:
        return unpickle(pickled, names=_NAMES, persistent=_storage), storages


def _read_legacy(stream: IO[bytes]) -> tuple[Any, Storages]:
    if (unpickle(stream), unpickle(stream)) != (_LEGACY_MAGIC, _LEGACY_VERSION):
        raise ValueError("not a file of PyTorch")
    _require_little_endian(unpickle(stream)["little_endian"])
    dtypes: dict[str, np.dtype] = {}

    def storage(reference: Any) -> Made:
        made = _storage(reference)
        key, dtype = made.value
        dtypes[key] = dtype
        return made

    content = unpickle(stream, names=_NAMES, persistent=storage)
    keys = unpickle(stream)

    def storages(wanted: Mapping[str, np.dtype]) -> State:
        every = _legacy_storages(stream, keys, dtypes)
        return {key: array for key, array in every if key in wanted}

    return content, storages


def _legacy_storages(
    stream: IO[bytes], keys: list[str], dtypes: Mapping[str, np.dtype]
) -> Iterator[tuple[str, np.ndarray]]:
    for key in keys:
        (elements,) = struct.unpack("<q", stream.read(8))
        if elements < 0:
            raise ValueError("a storage of a negative size")
        data = stream.read(elements * dtypes[key].itemsize)
        if len(data) != elements * dtypes[key].itemsize:
            raise EOFError("the file ends within a storage")
        yield key, np.frombuffer(data, dtypes[key])


def _require_little_endian(little: bool) -> None:
    if not little:
        raise ValueError("written on a big-endian machine")


def _storage(reference: Any) -> Made:
    """("storage", its type, key, device, number of elements[, None]) -> key and type."""
    kind, dtype, key, _device, _elements, *view = reference
    if kind != "storage" or not isinstance(dtype, _Storage) or any(v is not None for v in view):
        raise Refused("a reference to something else than a storage")
    return Made((key, dtype.dtype))


class _Storage(StandIn):
    """The class of a storage of one type of elements; only ever named."""

    __slots__ = ("dtype",)

    def __init__(self, dtype: str) -> None:
        super().__init__(lambda *_: Ignored())
        self.dtype = np.dtype(f"<{dtype}")


def _tensor(storage: Made, offset: int, shape: Any, strides: Any, *_: Any) -> Made:
    key, dtype = storage.value
    return Made(_Tensor(key, dtype, int(offset), tuple(shape), tuple(strides)))


_STORAGES = {
    "Half": "f2",
    "Float": "f4",
    "Double": "f8",
    "Byte": "u1",
    "Char": "i1",
    "Short": "i2",
    "Int": "i4",
    "Long": "i8",
    "Bool": "?",
}

#: What the original's checkpoints name beside data: tensors, and random generators, not needed.
_NAMES = {
    ("torch._utils", "_rebuild_tensor"): StandIn(_tensor),
    ("torch._utils", "_rebuild_tensor_v2"): StandIn(_tensor),
    ("torch._utils", "_rebuild_parameter"): StandIn(lambda tensor, *_: tensor),
    **{("torch", f"{name}Storage"): _Storage(dtype) for name, dtype in _STORAGES.items()},
    **{
        name: StandIn(lambda *_: Ignored())
        for name in (
            ("numpy.random", "__RandomState_ctor"),
            ("numpy.random._pickle", "__randomstate_ctor"),
            ("numpy.random._pickle", "__bit_generator_ctor"),
            ("numpy.random._mt19937", "MT19937"),
        )
    },
}
