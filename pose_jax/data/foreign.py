"""Arrays from files of other programs: CDF, HDF5, MATLAB.

The packages that read them are imported when they are needed:
pip install 'vit-pose-jax[pose-data]'.
"""

import importlib
import os
import shutil
import tempfile
from typing import IO, Any

import numpy as np

from pose_jax.data.pickles import PathLike, explained
from train_jax.errors import UserError


def read_cdf(stream: IO[bytes], name: str, *, path: PathLike) -> np.ndarray:
    """A variable of a CDF file (cdf.gsfc.nasa.gov).

    Args:
        stream: of the file, at its beginning.
        name: of the variable.
        path: of the file, for messages.

    Raises:
        UserError: the file is damaged or lacks it.
    """
    cdflib = _package("cdflib", path)
    with explained(path), tempfile.NamedTemporaryFile(suffix=".cdf") as copy:
        # Its package opens files by name only, and this one may lie in an archive.
        shutil.copyfileobj(stream, copy)
        copy.flush()
        return np.asarray(cdflib.CDF(copy.name).varget(name))


def read_hdf5(stream: IO[bytes], name: str, *, path: PathLike) -> np.ndarray:
    """A data set of an HDF5 file.

    Args:
        stream: of the file, seekable.
        name: of the data set.
        path: of the file, for messages.

    Raises:
        UserError: the file is damaged or lacks it.
    """
    h5py = _package("h5py", path)
    with explained(path), h5py.File(stream, "r") as file:
        return np.asarray(file[name])


def read_matlab(stream: IO[bytes], name: str, *, path: PathLike) -> np.ndarray:
    """A variable of a MATLAB file, of version 5 to 7.3; of a cell, what is in its first one.

    Args:
        stream: of the file, seekable, at its beginning.
        name: of the variable.
        path: of the file, for messages.

    Returns:
        The array with its axes as in MATLAB.

    Raises:
        UserError: the file is damaged or lacks it.
    """
    newest = stream.read(19) == b"MATLAB 7.3 MAT-file"  # HDF5 behind a header
    stream.seek(0)
    if newest:
        h5py = _package("h5py", path)
        with explained(path), h5py.File(stream, "r") as file:
            return _of_cell(file, file[name]).T  # it stores the axes in reverse
    scipy_io = _package("scipy.io", path)
    with explained(path):
        value: Any = scipy_io.loadmat(stream, variable_names=[name])[name]
        return np.asarray(value.flat[0] if value.dtype == object else value)


def _of_cell(file: Any, data: Any) -> np.ndarray:
    content = np.asarray(data)
    return np.asarray(file[content.flat[0]]) if content.dtype == object else content


def _package(name: str, path: PathLike) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UserError(
            f"{os.fspath(path)} is read by the package {name.partition('.')[0]}, which is not "
            "installed: pip install 'vit-pose-jax[pose-data]'."
        ) from error
