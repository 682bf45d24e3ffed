"""The ledger of a run: core-seconds, and where they went.

The paper counts cost in TPUv3-core-days: cores times days, whatever the cores were doing. The
ledger counts the same, and says what they were doing. It is part of every checkpoint, so that it
survives restarts.
"""

import contextlib
import time
from collections.abc import Iterator, Mapping

#: What a second can be spent on. "train" is the rest: all that is not one of the others.
KINDS = ("train", "start", "compile", "input", "evaluate", "checkpoint")

SECONDS_PER_DAY = 86_400


class Ledger:
    """Wall-clock seconds by kind, times cores."""

    def __init__(self, cores: float):
        """Starts the clock."""
        self.cores = cores
        self._before: dict[str, float] = dict.fromkeys(KINDS, 0.0)
        self._seconds: dict[str, float] = dict.fromkeys(KINDS, 0.0)
        self._began = time.perf_counter()

    def carry(self, spent: Mapping[str, float]) -> None:
        """Continues from core-seconds by kind, as an earlier process saved them."""
        self._before |= dict(spent)

    @contextlib.contextmanager
    def on(self, kind: str) -> Iterator[None]:
        """Counts the time inside as ``kind``."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.add(kind, time.perf_counter() - began)

    def add(self, kind: str, seconds: float) -> None:
        """Counts ``seconds`` as ``kind``."""
        self._seconds[kind] += seconds

    def stepping_seconds(self) -> float:
        """Seconds of training steps so far in this process, waits for their input included."""
        elapsed = time.perf_counter() - self._began
        other = sum(self._seconds.values()) - self._seconds["input"]
        return max(0.0, elapsed - other)

    def shares(self) -> dict[str, float]:
        """Which share of this process's time went to each kind."""
        elapsed = time.perf_counter() - self._began
        seconds = dict(self._seconds)
        seconds["train"] = max(0.0, elapsed - sum(self._seconds.values()))
        return {kind: value / elapsed for kind, value in seconds.items()}

    def core_seconds(self) -> dict[str, float]:
        """Core-seconds by kind, earlier processes of the run included."""
        elapsed = time.perf_counter() - self._began
        return {
            kind: self._before[kind] + share * elapsed * self.cores
            for kind, share in self.shares().items()
        }

    def core_days(self) -> float:
        """The unit of the ViT paper's Table 2."""
        return sum(self.core_seconds().values()) / SECONDS_PER_DAY
