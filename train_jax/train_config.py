"""The keys that every run has, whatever it trains."""

import dataclasses
from typing import Literal

from train_jax.budget import BudgetConfig
from train_jax.config import FREE
from train_jax.mesh import MeshConfig
from train_jax.optimizers import OptimizerConfig
from train_jax.schedules import ScheduleConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """When to save, and what to keep.

    Attributes:
        every: the interval, a duration.
        keep_last: how many of the newest stay.
        keep_every: multiples of this duration stay for good.
    """

    every: str = "1000 steps"
    keep_last: int = 2
    keep_every: str | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProfileConfig:
    """A window of steps recorded with the JAX profiler, written to ``workdir/profile``.

    Attributes:
        start: the first step of the window.
        steps: its length; 0 records nothing.
    """

    start: int = 10
    steps: int = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """What every run has, whatever it trains. Packages extend it with their model and data.

    Attributes:
        batch_size: examples per update, over all devices of all hosts.
        total: the length of the run, a duration ("90 epochs"); or "budget": what ``budget``
            affords.
        optimizer: see ``optimizers``.
        schedule: the learning rate, see ``schedules``.
        seed: decides initial parameters, data order and dropout.
        accumulate: micro-batches per update.
        ema_decay: Polyak averaging of the parameters (0.9999 in the ViT paper's Table 2); None:
            off.
        nonfinite: what a loss or gradient that is not finite leads to: the update is refused, and
            the run goes on ("skip") or ends ("stop").
        check_replicas: an interval at which, and before every save, the copies of the state on
            different devices are compared; one that differs, by a fault of the hardware, ends the
            run. None: never.
        init_from: a checkpoint to start from: a run of ours, or a published file.
        steps_per_dispatch: updates per program that the host starts. More than one hides the
            host where a step takes a millisecond; results do not change. Programs end early
            where something is logged, evaluated or saved.
        mesh: how devices are used.
        checkpoint: when to save.
        log_every: interval of log lines.
        evaluate_every: interval of evaluations; the end of a run is always evaluated.
        profile: a window to profile.
        budget: what the run may cost.
    """

    batch_size: int
    total: str
    optimizer: OptimizerConfig
    schedule: ScheduleConfig
    seed: int = 0
    accumulate: int = 1
    ema_decay: float | None = None
    nonfinite: Literal["skip", "stop"] = "stop"
    init_from: str | None = None
    steps_per_dispatch: int = dataclasses.field(default=1, metadata=FREE)
    mesh: MeshConfig = dataclasses.field(default=MeshConfig(), metadata=FREE)
    checkpoint: CheckpointConfig = dataclasses.field(default=CheckpointConfig(), metadata=FREE)
    log_every: str = dataclasses.field(default="50 steps", metadata=FREE)
    evaluate_every: str = dataclasses.field(default="10 percent", metadata=FREE)
    check_replicas: str | None = dataclasses.field(default=None, metadata=FREE)
    profile: ProfileConfig = dataclasses.field(default=ProfileConfig(), metadata=FREE)
    budget: BudgetConfig = dataclasses.field(default=BudgetConfig(), metadata=FREE)
