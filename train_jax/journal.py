"""The log of a run: what the steps measured, how fast they went, and what was not finite.

Windows of metrics are read one log interval late, when the device has long finished them: no step
waits for a log line.
"""

from typing import Any

import jax
from absl import logging
from etils import epath

from train_jax import hosts
from train_jax.budget import Ledger
from train_jax.errors import NotFiniteError
from train_jax.ledger_file import LedgerFile
from train_jax.metrics import NEVER, Window, to_floats
from train_jax.schedules import Schedule
from train_jax.writers import Progress, Writers


class Journal:
    """Log lines of a run; a context that closes its files."""

    def __init__(
        self,
        workdir: epath.Path,
        ledger: Ledger,
        *,
        start: int,
        total: int,
        unit: str,
        batch_size: int,
        learning_rate: Schedule,
        stop_on_nonfinite: bool,
    ):
        """Opens the files, forgetting what an earlier process wrote about steps after ``start``."""
        active = hosts.is_main()
        self._writers = Writers(workdir, resumed_at=start, active=active)
        self._progress = Progress(total=total, unit=unit, active=active)
        self._signs = LedgerFile(workdir, ledger)
        self._ledger, self._unit, self._batch_size = ledger, unit, batch_size
        self._start, self._total, self._step = start, total, start
        self._learning_rate, self._stop = learning_rate, stop_on_nonfinite
        self._pending: tuple[int, Window, dict[str, float]] | None = None
        self._began = self._mark = (start, 0.0)

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, *_: object) -> None:
        self._writers.close()
        self._signs.note(self._step, at_once=True)

    def begin(self) -> None:
        """Starts the clock of the rates: everything is compiled."""
        self._began = self._mark = (self._start, self._ledger.stepping_seconds())
        self._signs.note(self._start)

    def reached(self, step: int) -> None:
        """Takes note that a step is done."""
        self._step = step

    def log(self, step: int, window: Window, *, unreadable: int = 0) -> None:
        """Takes the window that ends at ``step``, and writes the one before.

        Args:
            step: steps done.
            window: what they measured, still on the device.
            unreadable: training examples that this process could not read so far.
        """
        self._write_pending()
        self._signs.note(step)
        done, seconds = self._mark
        self._mark = (step, self._ledger.stepping_seconds())
        per_second = (step - done) * self._batch_size / max(self._mark[1] - seconds, 1e-9)
        values = {
            f"{self._unit}_per_second": per_second,
            f"{self._unit}_per_second_per_core": per_second / self._ledger.cores,
            "eta_seconds": (self._total - step) * self._batch_size / max(per_second, 1e-9),
            "goodput": (spent := self._ledger.spent()).goodput(),
            **{f"core_days/{chip}": days for chip, days in spent.core_days().items()},
        }
        if unreadable:
            values["unreadable_examples"] = unreadable
        self._pending = (step, window, values)

    def record(self, step: int, metrics: dict[str, float]) -> None:
        """Writes the results of an evaluation."""
        self._write_pending()
        self._signs.note(step)
        self._writers.write(step, metrics)
        results = "  ".join(f"{name} {value:.5g}" for name, value in metrics.items())
        logging.info("After step %d: %s", step, results)

    def finish(self) -> None:
        """Writes the last window."""
        self._write_pending()

    def rate(self, step: int) -> float:
        """Examples per second from the first step of this process to ``step``."""
        done, seconds = self._began
        return (
            (step - done) * self._batch_size / max(self._ledger.stepping_seconds() - seconds, 1e-9)
        )

    def before_save(self, skipped: jax.Array, step: int, window: Window) -> None:
        """Writes what is pending, as a resumed run will not; and ends a run that must not be saved.

        Where a run shall stop at the first value that is not finite, the refused update has left
        the state as it was, but that state is missing a batch: it is not one the run should have.

        Raises:
            UserError: naming the metric and the step.
        """
        self._write_pending()
        if self._stop and int(skipped):
            self._report_nonfinite(step, jax.device_get(window))

    def _write_pending(self) -> None:
        if self._pending is None:
            return
        (step, window, values), self._pending = self._pending, None
        host: Any = jax.device_get(window)
        values = {
            **to_floats(host.sums),
            "learning_rate": float(self._learning_rate(step - 1)),
            **values,
        }
        if int(host.skipped):
            values["skipped_updates"] = int(host.skipped)
        shares = self._ledger.shares()
        self._writers.write(step, {**values, **{f"share_{k}": v for k, v in shares.items()}})
        self._progress.show(step, values, shares)
        self._report_nonfinite(step, host)

    def _report_nonfinite(self, step: int, host: Any) -> None:
        bad = {name: int(first) for name, first in host.first_bad.items() if first < NEVER}
        if not bad:
            return
        first = min(bad.values())
        # The metric that failed first is the one to look at; others may follow from it.
        names = ", ".join(name for name, at in bad.items() if at == first)
        text = (
            f"{names} not finite at step {first}; "
            f"{int(host.skipped)} updates were refused by step {step}"
        )
        if self._stop:
            raise NotFiniteError(
                f"{text}. The run stops and its last checkpoint is from before; lower the learning "
                "rate, clip the gradient, or set config.nonfinite='skip'."
            )
        logging.warning("%s, and the run goes on.", text)
