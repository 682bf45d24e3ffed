"""Where the runs of a quick start go."""

import shutil
from pathlib import Path

from train_jax.errors import UserError

_MARK = ".quickstart"


def make_anew(workdir: Path) -> None:
    """Makes the directory, and empties it if an earlier quick start made it.

    Raises:
        UserError: it holds something else.
    """
    exists = workdir.exists()
    in_use = exists and (not workdir.is_dir() or any(workdir.iterdir()))
    if in_use and not (workdir / _MARK).exists():
        raise UserError(
            f"--workdir={workdir} is not of an earlier quick start, and would be deleted; name a "
            "directory that is empty or does not exist."
        )
    if exists:
        shutil.rmtree(workdir)
    workdir.mkdir(parents=True)
    (workdir / _MARK).touch()
