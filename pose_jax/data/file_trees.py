"""Files that lie under subjects, in a directory or an archive of one."""

import io
import os
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple

from pose_jax.data.pickles import explained
from train_jax.errors import UserError


class Entry(NamedTuple):
    """A file.

    Attributes:
        subject: the first directory of the pattern that it fits, such as S1.
        name: without its directories.
        path: where it is, for messages; in a directory that of the file.
        stream: to be read before the next one is asked for.
    """

    subject: str
    name: str
    path: str
    stream: IO[bytes]


def walk(path: str | os.PathLike[str], pattern: str) -> Iterator[Entry]:
    """The files of a directory, a .zip or a .tar(.gz) whose last names fit.

    Args:
        path: local; what the pattern begins with may lie one directory deeper.
        pattern: such as S*/StackedHourglass/*.h5.

    Yields:
        What fits, sorted by name in a directory, in its own order in an archive.

    Raises:
        UserError: it is neither, or is damaged.
    """
    path = Path(path)
    depth = len(PurePosixPath(pattern).parts)
    if path.is_dir():
        for file in sorted({*path.glob(pattern), *path.glob(f"*/{pattern}")}):
            if not file.name.startswith("."):
                with file.open("rb") as stream:
                    yield Entry(file.parts[-depth], file.name, str(file), stream)
        return
    with explained(path), path.open("rb") as stream:
        for name, member in _members(path, stream, pattern):
            yield Entry(name.parts[-depth], name.name, f"{path}/{name}", member)


def _members(
    path: Path, stream: IO[bytes], pattern: str
) -> Iterator[tuple[PurePosixPath, IO[bytes]]]:
    def fits(name: str) -> bool:  # names with a dot in front are notes of a file manager
        return PurePosixPath(name).match(pattern) and not PurePosixPath(name).name.startswith(".")

    if zipfile.is_zipfile(stream):
        with zipfile.ZipFile(stream) as archive:
            for name in filter(fits, archive.namelist()):
                yield PurePosixPath(name), io.BytesIO(archive.read(name))
    elif tarfile.is_tarfile(path):
        stream.seek(0)
        with tarfile.open(fileobj=stream) as archive:
            for member in archive:
                content = archive.extractfile(member) if fits(member.name) else None
                if content is not None:
                    yield PurePosixPath(member.name), io.BytesIO(content.read())
    else:
        raise UserError(f"{path} is neither a directory nor a .zip or .tar.gz; name one of these.")
