"""The last sign of life of a run: what it had spent, in ``workdir/ledger.json``.

A checkpoint holds the ledger of its own step. A process that is killed has done steps since; the
file tells the next process how many, and what they cost. The time from the last sign to the kill,
at most an interval of log lines, is on no ledger.
"""

import json
import time

from absl import logging
from etils import epath

from train_jax import hosts
from train_jax.budget import Ledger, SignOfLife, Spent
from train_jax.stored import brief

LEDGER_FILE = "ledger.json"

# Buckets take one write of an object a second.
_SECONDS_BETWEEN = 1.0


class LedgerFile:
    """Where the main process notes what has been spent; the others do nothing."""

    def __init__(self, workdir: epath.Path, ledger: Ledger):
        self._path, self._ledger = workdir / LEDGER_FILE, ledger
        self._noted = -float("inf")

    def note(self, step: int, *, at_once: bool = False) -> None:
        """Writes what has been spent by ``step``; to a bucket not always, but ``at_once``.

        A file that cannot be written is no reason to end a run: what is missing is the cost of
        steps that may be lost.
        """
        now = time.perf_counter()
        waits = is_remote(self._path) and not at_once and now < self._noted + _SECONDS_BETWEEN
        if waits or not hosts.is_main():
            return
        self._noted = now
        try:
            write_atomically(
                self._path, json.dumps({"step": step, **self._ledger.spent().to_json()})
            )
        except OSError as error:
            logging.warning("%s cannot be written (%s).", self._path, brief(error))


def read_sign_of_life(workdir: epath.Path) -> SignOfLife | None:
    """What the last process noted; None if there was none."""
    path = workdir / LEDGER_FILE
    if not path.exists():
        return None
    try:
        value = json.loads(path.read_text())
        return SignOfLife(int(value["step"]), Spent.from_json(value))
    except (OSError, ValueError, KeyError, TypeError) as error:
        logging.warning(
            "%s cannot be read (%s); work that was lost is not counted.", path, brief(error)
        )
        return None


def is_remote(path: epath.Path) -> bool:
    """Whether a path is in a bucket."""
    return "://" in str(path)


def write_atomically(path: epath.Path, text: str) -> None:
    """Whoever reads the file finds the old text or the new one."""
    if is_remote(path):
        path.write_text(text)  # as buckets do by themselves
        return
    draft = path.parent / f".{path.name}.new"
    draft.write_text(text)
    draft.replace(path)
