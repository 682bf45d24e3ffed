"""Where measurements go: JSON lines (the source of truth), TensorBoard, a line for people.

Only the main process writes.
"""

import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from absl import logging
from etils import epath

METRICS_FILE = "metrics.jsonl"


class JsonLines:
    """One JSON object a line, appended and flushed, in ``workdir/metrics.jsonl``."""

    def __init__(self, workdir: epath.Path, *, resumed_at: int):
        """Opens the file, dropping lines of steps that the resumed run will do again."""
        self._path = workdir / METRICS_FILE
        lines = self._path.read_text().splitlines() if self._path.exists() else []
        # A line torn by a kill is dropped with them.
        self._lines = [line for line in lines if _step_of(line) <= resumed_at]
        # Object stores cannot append: the file is small, and is written anew where it must be.
        self._local = Path(self._path) if "://" not in str(self._path) else None
        self._write_all()

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """Adds one record."""
        record = {"step": step, "time": round(time.time(), 3), **values}
        self._lines.append(json.dumps(record))
        if self._local is None:
            self._write_all()
        else:
            with self._local.open("a") as file:
                file.write(self._lines[-1] + "\n")

    def _write_all(self) -> None:
        self._path.write_text("".join(line + "\n" for line in self._lines))


def _step_of(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):
        return float("inf")


class TensorBoard:
    """Scalars for TensorBoard, in ``workdir/tensorboard``."""

    def __init__(self, workdir: epath.Path, *, resumed_at: int):
        """Opens an event file that hides what an earlier process wrote after ``resumed_at``."""
        from tensorboardX import SummaryWriter  # half a second that a process without logs saves

        self._writer = SummaryWriter(str(workdir / "tensorboard"), purge_step=resumed_at + 1)

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """Adds the numbers among ``values``."""
        for name, value in values.items():
            if isinstance(value, (int, float)):
                self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Writes what is pending."""
        self._writer.close()


class Writers:
    """All destinations; does nothing where ``active`` is false (every process but the main one)."""

    def __init__(self, workdir: epath.Path, *, resumed_at: int, active: bool):
        self._json = JsonLines(workdir, resumed_at=resumed_at) if active else None
        self._board = TensorBoard(workdir, resumed_at=resumed_at) if active else None

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """Adds one record everywhere."""
        if self._json and self._board:
            self._json.write(step, values)
            self._board.write(step, values)

    def close(self) -> None:
        """Writes what is pending."""
        if self._board:
            self._board.close()


class Progress:
    """What a person watching wants to know: how far, how fast, how long, and what is in the way."""

    def __init__(self, *, total: int, unit: str, active: bool):
        self._total, self._unit, self._active = total, unit, active
        self._bar = active and sys.stderr.isatty()

    def show(self, step: int, values: Mapping[str, float], shares: Mapping[str, float]) -> None:
        """A bar on a terminal, a line in a log file.

        Args:
            step: steps done.
            values: the last record: ``loss``, ``{unit}_per_second``,
                ``{unit}_per_second_per_core``, ``goodput``.
            shares: of the time of this process, by kind (see ``budget``).
        """
        if not self._active:
            return
        rate = values.get(f"{self._unit}_per_second_per_core", 0.0)
        lost = "  ".join(
            f"{kind} {shares[kind]:.0%}" for kind in ("input", "checkpoint", "evaluate")
        )
        text = (
            f"step {step}/{self._total}  loss {values.get('loss', float('nan')):.4f}  "
            f"{rate:.4g} {self._unit}/s/core  "
            f"ETA {duration(values.get('eta_seconds', 0.0))}  {lost}  "
            f"goodput {values.get('goodput', 0.0):.0%}"
        )
        if self._bar:
            filled = round(20 * step / self._total)
            sys.stderr.write(f"\r\x1b[K[{'#' * filled}{'.' * (20 - filled)}] {text}")
            if step == self._total:
                sys.stderr.write("\n")
            sys.stderr.flush()
        else:
            logging.info(text)


def duration(seconds: float) -> str:
    """Seconds as people say them: ``1d02h``, ``3h05m``, ``4m10s``, ``12s``."""
    seconds = round(seconds)
    for size, unit, small, small_unit in (
        (86400, "d", 3600, "h"),
        (3600, "h", 60, "m"),
        (60, "m", 1, "s"),
    ):
        if seconds >= size:
            return f"{seconds // size}{unit}{seconds % size // small:02d}{small_unit}"
    return f"{seconds}s"
