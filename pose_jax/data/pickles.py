"""Pickles of arrays, read without running what they say.

A pickle is a program: unpickling it calls whatever it names. The unpickler here knows a short list
of names and puts stand-ins of its own in their place, which only note what was asked for. When the
program has ended, what it left is rebuilt from arrays, numbers, texts, bytes, lists, tuples and
dictionaries. Anything else ends the reading with a sentence that tells what was refused.

The original's data files are .npz archives whose members are single objects; ``read_object_npz``
reads them.
"""

import collections
import contextlib
import os
import pickle
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping
from typing import IO, Any, Literal

import numpy as np
from etils import epath

from train_jax.errors import UserError

PathLike = str | os.PathLike[str]


class Refused(pickle.UnpicklingError):
    """Something that is not on the list; the message names it."""


class StandIn:
    """What a name of the list stands for: can be called, and nothing can be written to it."""

    __slots__ = ("_call",)

    def __init__(self, call: Callable[..., Any]) -> None:
        self._call = call

    def __call__(self, *args: Any) -> Any:
        """What the pickle gets for its call."""
        return self._call(*args)

    def __setstate__(self, state: Any) -> None:
        raise Refused("a change to a function")


class Ignored:
    """An object that nobody needs, such as a random generator; whatever it holds is dropped."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> None:
        pass


class Made:
    """What a stand-in has made of its arguments; it stays as it is."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value

    def __setstate__(self, state: Any) -> None:
        raise Refused("a change to what was made")


def unpickle(
    stream: IO[bytes],
    *,
    names: Mapping[tuple[str, str], StandIn] | None = None,
    persistent: Callable[[Any], Any] | None = None,
) -> Any:
    """Reads one object: arrays, numbers, texts, bytes, None, lists, tuples, dictionaries.

    Args:
        stream: at the beginning of a pickle; afterwards at its end.
        names: further (module, name) pairs, and what to call in their place.
        persistent: resolves references to what is stored outside of the pickle. What it and the
            names give must be data, `Made` or `Ignored`.

    Returns:
        The object, in which dictionaries of any kind are plain ones and ignored objects are None.

    Raises:
        Refused: it holds or names anything else.
        Exception: of any kind, where the bytes are damaged.
    """
    return _rebuilt(_Unpickler(stream, {**_NAMES, **(names or {})}, persistent).load(), {})


def read_object_npz(path: PathLike, *, stream: IO[bytes] | None = None) -> dict[str, Any]:
    """Reads an .npz file whose members may be objects, as the original writes them.

    Args:
        path: local or gs://.
        stream: of the file, if it cannot be opened by that name but lies in an archive.

    Returns:
        Member name -> array, or the object itself where a member is a single one.

    Raises:
        UserError: it does not exist, is damaged, or holds more than arrays, numbers, texts, lists
            and dictionaries.
    """
    path = os.fspath(path)
    members: dict[str, Any] = {}
    source = opened(path) if stream is None else contextlib.nullcontext(stream)
    with source as content, explained(path), zipfile.ZipFile(content) as archive:
        for member in archive.namelist():
            if member.endswith(".npy"):
                with archive.open(member) as array:
                    members[member.removesuffix(".npy")] = _read_member(array)
    if not members:
        raise UserError(f"{path} is a zip archive but holds no arrays (.npy).")
    return members


@contextlib.contextmanager
def opened(path: PathLike) -> Iterator[IO[bytes]]:
    """Opens a file for reading; a UserError if that fails."""
    try:
        stream = epath.Path(path).open("rb")
    except (OSError, ImportError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{os.fspath(path)} cannot be opened: {reason}.") from error
    with stream:
        yield stream


@contextlib.contextmanager
def explained(path: PathLike) -> Iterator[None]:
    """Turns whatever a foreign file makes the readers raise into one sentence."""
    try:
        yield
    except UserError:
        raise
    except Refused as error:
        raise UserError(
            f"{os.fspath(path)} holds {error}, which is no array, number, text, list or "
            "dictionary and could run code: not loaded."
        ) from error
    except Exception as error:  # damaged pickles raise almost anything
        raise UserError(
            f"{os.fspath(path)} is damaged or of another kind ({type(error).__name__}: {error}); "
            "fetch it again."
        ) from error


def _read_member(stream: IO[bytes]) -> Any:
    version = np.lib.format.read_magic(stream)
    read_header = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }[version]
    shape, by_column, dtype = read_header(stream)
    if dtype.hasobject:
        found = unpickle(stream)
        return found.item() if isinstance(found, np.ndarray) and found.ndim == 0 else found
    data = np.frombuffer(bytearray(stream.read()), dtype=dtype)
    return data.reshape(shape, order="F" if by_column else "C")


class _Unpickler(pickle.Unpickler):
    def __init__(
        self,
        stream: IO[bytes],
        names: Mapping[tuple[str, str], StandIn],
        persistent: Callable[[Any], Any] | None,
    ) -> None:
        # latin1: numpy arrays pickled by Python 2 need it.
        super().__init__(stream, encoding="latin1")
        self._names = names
        self._persistent = persistent

    def find_class(self, module: str, name: str) -> Any:
        # numpy 2 calls its core numpy._core.
        key = (module.replace("numpy._core", "numpy.core"), name)
        if key not in self._names:
            raise Refused(f"{module}.{name}")
        return self._names[key]

    def persistent_load(self, pid: Any) -> Any:
        if self._persistent is None:
            raise Refused("a reference to something outside of it")
        return self._persistent(pid)


class _DType:
    """The type of an array's elements: numbers, texts, bytes or objects, but no records."""

    __slots__ = ("value",)

    def __init__(self, code: str, *_: Any) -> None:
        if not (isinstance(code, str) and re.fullmatch(r"[<>|=]?[?biufcSUO]\d*", code)):
            raise Refused(f"an array of type {code!r}")
        self.value = np.dtype(object) if "O" in code else np.dtype(code)

    def __setstate__(self, state: Any) -> None:
        _, order, subarray, names, fields, *_rest = state
        if (subarray, names, fields) != (None, None, None):
            raise Refused("an array of records")
        self.value = self.value.newbyteorder(order)


class _Array:
    """An array: first made, then told its shape, type and contents."""

    content: Any
    shape: tuple[int, ...]
    dtype: np.dtype
    order: Literal["C", "F"]

    __slots__ = ("content", "dtype", "order", "shape")

    def __setstate__(self, state: Any) -> None:
        _, self.shape, dtype, by_column, self.content = state
        if not isinstance(dtype, _DType):
            raise Refused(f"an array of type {type(dtype).__name__}")
        self.dtype = dtype.value
        self.order = "F" if by_column else "C"


def _scalar(dtype: _DType, content: Any) -> Any:
    if not isinstance(dtype, _DType) or dtype.value.hasobject:
        raise Refused("a scalar of an unknown type")
    return np.frombuffer(_bytes(content), dtype=dtype.value)[0]


def _encode(text: str, encoding: str) -> bytes:
    """How Python 3 writes bytes for readers of Python 2."""
    if encoding != "latin1":
        raise Refused(f"bytes in the encoding {encoding!r}")
    return text.encode("latin1")


def _bytes(content: Any) -> bytes:
    return content.encode("latin1") if isinstance(content, str) else content


_NAMES = {
    ("__builtin__", "bytes"): StandIn(lambda: b""),  # how it writes no bytes at all
    ("_codecs", "encode"): StandIn(_encode),
    ("collections", "OrderedDict"): StandIn(lambda *items: collections.OrderedDict(*items)),
    ("numpy", "dtype"): StandIn(_DType),
    ("numpy", "ndarray"): StandIn(lambda *_: _Array()),
    ("numpy.core.multiarray", "_reconstruct"): StandIn(lambda *_: _Array()),
    ("numpy.core.multiarray", "scalar"): StandIn(_scalar),
}


def _rebuilt(value: Any, done: dict[int, Any]) -> Any:
    """The object that the stand-ins describe.

    Args:
        value: what a pickle left.
        done: id -> rebuilt, so that what is shared is rebuilt once.
    """
    if value is None or isinstance(value, (bool, int, float, complex, str, bytes, np.generic)):
        return value
    if isinstance(value, Ignored):
        return None
    if id(value) in done:
        if done[id(value)] is _UNDER_WAY:
            raise Refused("a collection that contains itself")
        return done[id(value)]
    done[id(value)] = _UNDER_WAY
    if isinstance(value, dict):  # its own methods may have been covered by attributes
        items = dict.items(value)
        result = {_rebuilt(key, done): _rebuilt(item, done) for key, item in items}
    elif isinstance(value, (list, tuple)):
        result = type(value)(_rebuilt(item, done) for item in value)
    elif isinstance(value, _Array):
        result = _rebuilt_array(value, done)
    elif isinstance(value, Made):
        result = value.value
    else:
        raise Refused(f"an object of the type {type(value).__name__}")
    done[id(value)] = result
    return result


_UNDER_WAY = object()


def _rebuilt_array(array: _Array, done: dict[int, Any]) -> np.ndarray:
    if array.dtype.hasobject:
        flat = np.empty(len(array.content), dtype=object)
        for i, item in enumerate(array.content):
            flat[i] = _rebuilt(item, done)
    else:
        flat = np.frombuffer(bytearray(_bytes(array.content)), dtype=array.dtype)
    return np.reshape(flat, array.shape, order=array.order)
