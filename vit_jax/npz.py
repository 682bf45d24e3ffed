"""The container of published weights: an .npz file, a zip archive of arrays named by paths.

Only headers are read at first, then single arrays on demand, so the optimizer's moments that some
files carry cost nothing. Nothing is ever unpickled. Arrays are written uncompressed, one by one,
under a temporary name, so a file that exists is whole; equal arrays give equal bytes.
"""

import contextlib
import dataclasses
import os
import struct
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from typing import IO

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from train_jax.errors import UserError

#: numpy cannot name bfloat16; files hold it as two bytes of no particular type.
_BFLOAT16_ON_DISK = np.dtype("V2")
_BFLOAT16 = np.dtype(jnp.bfloat16)


@dataclasses.dataclass(frozen=True)
class NpzFile:
    """Names, shapes and dtypes of an .npz file; ``read`` gets one array."""

    path: str
    shapes: dict[str, jax.ShapeDtypeStruct]

    def read(self, names: Iterable[str]) -> Iterator[np.ndarray]:
        """Reads single arrays, in the order asked for.

        Raises:
            UserError: the bytes of an array are damaged or cut short.
        """
        with _opened(self.path) as archive:
            for name in names:
                with _explained(self.path), archive.open(f"{name}.npy") as stream:
                    array = np.lib.format.read_array(stream, allow_pickle=False)
                is_bfloat16 = array.dtype == _BFLOAT16_ON_DISK
                yield array.view(_BFLOAT16) if is_bfloat16 else array


def open_npz(path: str | os.PathLike[str]) -> NpzFile:
    """Reads the headers of an .npz file, local or remote (gs://).

    Raises:
        UserError: the file does not exist, is truncated, is not an .npz file, or holds anything but
            arrays of numbers.
    """
    path = os.fspath(path)
    with _opened(path) as archive:
        shapes = {}
        for member in archive.namelist():
            if not member.endswith(".npy"):
                raise UserError(f"{path} is a zip archive but not of arrays: it holds {member}.")
            with _explained(path), archive.open(member) as stream:
                name = member.removesuffix(".npy")
                shapes[name] = _checked(*_header(stream), name=name, path=path)
    return NpzFile(path, shapes)


def write_npz(path: str | os.PathLike[str], arrays: Iterable[tuple[str, np.ndarray]]) -> None:
    """Writes named arrays, one at a time, in the order given.

    Raises:
        UserError: the file exists already, or cannot be written.
    """
    refuse_existing(path)
    path = epath.Path(path)
    temporary = path.parent / f".{path.name}.{os.getpid()}.partial"
    try:
        with temporary.open("wb") as stream, zipfile.ZipFile(stream, "w") as archive:
            for name, array in arrays:
                _write_member(archive, name, array)
        temporary.rename(path)
    except (OSError, ImportError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{path} cannot be written: {reason}.") from error
    finally:
        with contextlib.suppress(OSError, ImportError):
            temporary.unlink(missing_ok=True)


def refuse_existing(path: str | os.PathLike[str]) -> None:
    """Raises a UserError if anything but an empty directory is at ``path``, or nobody can tell."""
    there = epath.Path(path)
    try:
        taken = there.exists() and not (there.is_dir() and not any(there.iterdir()))
    except (OSError, ImportError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{os.fspath(path)} cannot be reached: {reason}.") from error
    if taken:
        raise UserError(
            f"{os.fspath(path)} exists already; nothing is overwritten, remove it first."
        )


def _write_member(archive: zipfile.ZipFile, name: str, array: np.ndarray) -> None:
    if array.dtype == _BFLOAT16:
        array = array.view(_BFLOAT16_ON_DISK)
    # A ZipInfo of our own carries a fixed date instead of the time of day.
    with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as stream:
        np.lib.format.write_array(stream, np.asarray(array, order="C"), allow_pickle=False)


@contextlib.contextmanager
def _opened(path: str) -> Iterator[zipfile.ZipFile]:
    try:
        stream = epath.Path(path).open("rb")
    except (OSError, ImportError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{path} cannot be opened: {reason}.") from error
    with stream:
        start = stream.read(8)
        stream.seek(0)
        try:
            archive = zipfile.ZipFile(stream)
        except zipfile.BadZipFile as error:
            raise UserError(_not_npz(path, start)) from error
        with archive:
            yield archive


def _not_npz(path: str, start: bytes) -> str:
    if start.startswith(b"PK\x03\x04"):
        return f"{path} is truncated: the index at its end is missing; fetch it again."
    if start.startswith(b"\x93NUMPY"):
        return f"{path} is a single array (.npy), not a file of named weights (.npz)."
    if not start:
        return f"{path} is empty; fetch it again."
    return f"{path} is not an .npz file; give published weights (.npz) or a checkpoint directory."


@contextlib.contextmanager
def _explained(path: str) -> Iterator[None]:
    try:
        yield
    except (zipfile.BadZipFile, zlib.error, struct.error, EOFError, OSError, ValueError) as error:
        raise UserError(f"{path} is damaged ({error}); fetch it again.") from error


def _header(stream: IO[bytes]) -> tuple[tuple[int, ...], np.dtype]:
    version = np.lib.format.read_magic(stream)
    if version == (1, 0):
        shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
    elif version == (2, 0):
        shape, _, dtype = np.lib.format.read_array_header_2_0(stream)
    else:
        raise ValueError(f"array format {version} is not used for plain arrays")
    return shape, dtype


def _checked(
    shape: tuple[int, ...], dtype: np.dtype, *, name: str, path: str
) -> jax.ShapeDtypeStruct:
    if dtype.hasobject:
        raise UserError(f"{path} holds a pickled object ({name}), which may run code: not loaded.")
    if dtype == _BFLOAT16_ON_DISK:
        dtype = _BFLOAT16
    return jax.ShapeDtypeStruct(shape, dtype)
