"""What a run costs: core-seconds, where they went, and how many there may be.

The paper counts cost in TPUv3-core-days: cores times days, whatever the cores were doing. The
ledger counts the same, and says what they were doing. It is part of every checkpoint, so that it
survives restarts; cores of different chips are kept apart, so that it survives a change of machine.
"""

import contextlib
import dataclasses
import math
import time
from collections.abc import Iterator, Mapping
from typing import Any

import jax

from train_jax import chips
from train_jax.errors import UserError

#: What a second of a process can be spent on. "train" is the rest: all that is not one of the
#: others. "compile" is what compiling takes longer than the start, beside which it goes on.
KINDS = ("train", "start", "compile", "input", "evaluate", "checkpoint")

#: What becomes of the time of steps that have to be done again.
LOST = "lost"

# What is done again with a step. What a process spent on its start, or on saves, is not.
_REPEATED = ("train", "input", "evaluate")

SECONDS_PER_DAY = 86_400


@dataclasses.dataclass(frozen=True)
class Spent:
    """What a run has cost so far, all its processes included.

    Attributes:
        seconds: wall-clock time while a process of the run was alive.
        core_seconds: by name of the chip ("v3"), then by kind.
    """

    seconds: float = 0.0
    core_seconds: Mapping[str, Mapping[str, float]] = dataclasses.field(default_factory=dict)

    def by_kind(self) -> dict[str, float]:
        """Core-seconds by kind, over all chips."""
        return {
            kind: sum(spent.get(kind, 0.0) for spent in self.core_seconds.values())
            for kind in (*KINDS, LOST)
        }

    def core_days(self) -> dict[str, float]:
        """By chip, in the unit of the ViT paper's Table 2."""
        return {
            chip: sum(spent.values()) / SECONDS_PER_DAY for chip, spent in self.core_seconds.items()
        }

    def goodput(self) -> float:
        """The share of the core-seconds that went into steps which count."""
        kinds = self.by_kind()
        everything = sum(kinds.values())
        return kinds["train"] / everything if everything else 0.0

    def after_loss(self, step: int, last: "SignOfLife | None") -> "Spent":
        """What had been spent when a run that goes on from here was interrupted.

        Args:
            step: the step of the checkpoint that ``self`` is from.
            last: what the interrupted process noted last.

        Returns:
            All that was spent up to ``last``. Of what came after the checkpoint, the time of steps
            is lost if there were any.
        """
        if last is None or last.spent.seconds <= self.seconds:
            return self
        core_seconds = {chip: dict(kinds) for chip, kinds in last.spent.core_seconds.items()}
        if last.step > step:
            for chip, kinds in core_seconds.items():
                for kind in _REPEATED:
                    now = kinds.get(kind, 0.0)
                    kept = min(self.core_seconds.get(chip, {}).get(kind, 0.0), now)
                    kinds[LOST] = kinds.get(LOST, 0.0) + now - kept
                    kinds[kind] = kept
        return Spent(last.spent.seconds, core_seconds)

    def summary(self) -> str:
        """One line for people."""
        days = self.core_days().items()
        cores = ", ".join(f"{value:.4g} core-days of {chip}" for chip, value in days)
        kinds = self.by_kind()
        everything = sum(kinds.values()) or 1.0
        shares = ", ".join(f"{kind} {kinds[kind] / everything:.0%}" for kind in (*KINDS[1:], LOST))
        return f"{cores or 'nothing'}; goodput {self.goodput():.0%} ({shares})"

    def cost(self) -> dict[str, Any]:
        """What a record of results says of it, as JSON values."""
        return {
            "core_days": self.core_days(),
            "hours": self.seconds / 3600,
            "goodput": self.goodput(),
            "core_seconds": {chip: dict(kinds) for chip, kinds in self.core_seconds.items()},
        }

    def to_json(self) -> dict[str, Any]:
        """For :meth:`from_json`."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Spent":
        """What :meth:`to_json` gave."""
        return cls(float(value["seconds"]), value["core_seconds"])


def spent_of(meta: Mapping[str, Any]) -> Spent:
    """What the run had cost when it saved a checkpoint, from its meta; nothing if that is not said.

    It is not said of weights that were converted.
    """
    return Spent.from_json(meta["spent"]) if "spent" in meta else Spent()


@dataclasses.dataclass(frozen=True)
class SignOfLife:
    """How far a process had come, and what the run had cost by then."""

    step: int
    spent: Spent


class Ledger:
    """Wall-clock seconds of this process by kind, times cores; and what was spent before it."""

    def __init__(self, cores: float, chip: str):
        """Starts the clock.

        Args:
            cores: of all devices of all hosts.
            chip: their name.
        """
        self.cores, self.chip = cores, chip
        self._before = Spent()
        self._seconds: dict[str, float] = dict.fromkeys(KINDS, 0.0)
        self._began = time.perf_counter()

    @classmethod
    def of_this_machine(cls) -> "Ledger":
        """A ledger for the cores that JAX sees."""
        return cls(chips.num_cores(), chip_name())

    def carry(self, spent: Spent) -> None:
        """Continues from what earlier processes have spent."""
        self._before = spent

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
        elapsed = max(time.perf_counter() - self._began, 1e-9)
        seconds = dict(self._seconds)
        seconds["train"] = max(0.0, elapsed - sum(self._seconds.values()))
        return {kind: value / elapsed for kind, value in seconds.items()}

    def spent(self) -> Spent:
        """What the run has cost, earlier processes included."""
        elapsed = time.perf_counter() - self._began
        core_seconds = {chip: dict(kinds) for chip, kinds in self._before.core_seconds.items()}
        ours = core_seconds.setdefault(self.chip, dict.fromkeys((*KINDS, LOST), 0.0))
        for kind, share in self.shares().items():
            ours[kind] = ours.get(kind, 0.0) + share * elapsed * self.cores
        return Spent(self._before.seconds + elapsed, core_seconds)


@dataclasses.dataclass(frozen=True, kw_only=True)
class BudgetConfig:
    """What a run may cost; without ``core_days`` and ``hours``, as much as it takes.

    A run that has spent it is evaluated, saved and ended. With ``config.total='budget'`` the run is
    as long as the budget affords, its schedule included: the first start measures steps and
    evaluations, and the number of steps is recorded in ``workdir/budget.json``. A budget may be
    raised while the run is under way; that changes when it is stopped, not how long it is.

    Attributes:
        core_days: core-days of ``chip``. Those of other chips are converted by the peak bfloat16
            rate of a core. That is a convention: no model is promised the same share of the peak
            on both.
        chip: a generation of TPU ("v3", the ViT paper's; see ``chips``), "cpu", or what JAX calls
            the GPU of the run.
        hours: instead, wall-clock hours. Time in which no process of the run is alive is free.
        reserve: the share of the budget that is kept back for what cannot be measured beforehand:
            saves, restarts, lost work, slow moments. Used where ``config.total='budget'``.
    """

    core_days: float | None = None
    chip: str = "v3"
    hours: float | None = None
    reserve: float = 0.05


@dataclasses.dataclass(frozen=True)
class Limit:
    """A budget that has been checked."""

    config: BudgetConfig

    @property
    def text(self) -> str:
        """The budget in words."""
        if self.config.core_days is None:
            return f"{self.config.hours:g} hours"
        return f"{self.config.core_days:g} core-days of {self.config.chip}"

    def share(self, spent: Spent) -> float:
        """Which share of the budget is spent, 1 for all of it.

        Raises:
            UserError: the run has been on chips that cannot be converted.
        """
        if self.config.core_days is None:
            assert self.config.hours is not None
            return spent.seconds / (self.config.hours * 3600)
        days = sum(
            days * _conversion(chip, self.config.chip) for chip, days in spent.core_days().items()
        )
        return days / self.config.core_days

    def seconds_left(self, spent: Spent, *, cores: float, chip: str) -> float:
        """How long some cores can work for what is left."""
        a_second = Spent(1.0, {chip: {"train": cores}})
        return (1.0 - self.share(spent)) / self.share(a_second)


def make_limit(config: BudgetConfig, chip: str) -> Limit | None:
    """Checks a budget for a run on ``chip``; None where there is no budget.

    Raises:
        UserError: it is of two kinds, not positive, or of a chip that is not known here.
    """
    if config.core_days is not None and config.hours is not None:
        raise UserError(
            "config.budget has core_days and hours; set one of them, and the other to None."
        )
    for name in ("core_days", "hours"):
        value = getattr(config, name)
        if value is not None and not (value > 0 and math.isfinite(value)):
            raise UserError(f"config.budget.{name} is {value:g}; it must be more than 0.")
    if not 0 <= config.reserve < 1:
        raise UserError(
            f"config.budget.reserve is {config.reserve:g}; it is a share, from 0 to below 1."
        )
    if config.core_days is not None:
        _conversion(chip, config.chip)
    if config.core_days is None and config.hours is None:
        return None
    return Limit(config)


def chip_name() -> str:
    """What the devices of this run are, for the ledger."""
    device = jax.devices()[0]
    if device.platform == "cpu":
        return "cpu"
    chip = chips.CHIPS.get(device.device_kind)
    return device.device_kind if chip is None else chip.name


def _conversion(chip: str, unit: str) -> float:
    """How many cores of ``unit`` a core of ``chip`` counts for."""
    if chip == unit:
        return 1.0
    peak = {one.name: one.peak_tflops / one.cores for one in chips.CHIPS.values()}
    if unit not in peak and unit != "cpu":
        known = ", ".join(dict.fromkeys((*peak, "cpu", chip)))
        raise UserError(
            f"config.budget.chip is {unit!r}, which is not known; it must be one of {known}."
        )
    if chip not in peak or unit not in peak:
        raise UserError(
            f"config.budget.chip is {unit!r} and the run has been on {chip!r}: there is no peak "
            f"rate to convert one to the other; give the budget of {chip!r}, or in hours."
        )
    return peak[chip] / peak[unit]
