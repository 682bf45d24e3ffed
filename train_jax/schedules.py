"""Learning-rate schedules, and durations in the units people think in.

A schedule is a float32 function of an int32 step that can be traced by `jax.jit`. All follow the
code of the ViT paper: a decay over the steps after the warm-up, multiplied by a linear warm-up.
Steps count from zero, so **with warm-up the first update has a learning rate of exactly 0**, and
the last one is evaluated at `total_steps - 1`.
"""

import dataclasses
import re
from collections.abc import Callable
from fractions import Fraction
from typing import Literal

import jax
import jax.numpy as jnp

from train_jax.errors import UserError

Schedule = Callable[[jax.typing.ArrayLike], jax.Array]
"""step, an int32 scalar counted from 0 -> learning rate, a float32 scalar."""

BUDGET = "budget"
"""In place of a duration: as long as ``config.budget`` affords (see ``settle``)."""

_DURATION = re.compile(
    r"\s*(?P<number>\d[\d_]*(\.\d+)?(e\+?\d{1,2})?)\s*"
    r"(?P<unit>|steps?|epochs?|examples?|percent|%)\s*",
    re.IGNORECASE,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LinearConfig:
    """Straight line from `base` to `end` (ViT paper, Table 3; the end is the authors' code)."""

    name: Literal["linear"] = "linear"
    base: float
    end: float = 1e-5
    warmup: str = "0 steps"


@dataclasses.dataclass(frozen=True, kw_only=True)
class CosineConfig:
    """Half a cosine from `base` to 0 (ViT paper, Tables 3 and 4)."""

    name: Literal["cosine"] = "cosine"
    base: float
    warmup: str = "0 steps"


@dataclasses.dataclass(frozen=True, kw_only=True)
class RsqrtConfig:
    """Inverse square root of the steps since the warm-up, then a linear cool-down to 0.

    `base / sqrt(1 + (step - warmup) / timescale)`. Unlike the others it does not depend on the
    length of the run before its cool-down, so one long run yields many shorter ones (Zhai et al.,
    "Scaling Vision Transformers", section 3.5).
    """

    name: Literal["rsqrt"] = "rsqrt"
    base: float
    timescale: str = "10_000 steps"
    warmup: str = "10_000 steps"
    cooldown: str = "50_000 steps"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConstantConfig:
    """The same learning rate at every step after the warm-up."""

    name: Literal["constant"] = "constant"
    base: float
    warmup: str = "0 steps"


@dataclasses.dataclass(frozen=True, kw_only=True)
class StepsConfig:
    """Multiplied by `factor` from every boundary on.

    BiT paper, section 3.3: boundaries 30, 60 and 90 percent for transfer; epochs 10, 23, 30 and
    37 of 40 for JFT-300M.
    """

    name: Literal["steps"] = "steps"
    base: float
    boundaries: tuple[str, ...] = ("30 percent", "60 percent", "90 percent")
    factor: float = 0.1
    warmup: str = "0 steps"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExponentialConfig:
    """Multiplied by `factor` after every interval (VideoPose3D, section 4: 0.95 per epoch)."""

    name: Literal["exponential"] = "exponential"
    base: float
    factor: float = 0.95
    every: str = "1 epoch"
    warmup: str = "0 steps"


ScheduleConfig = (
    LinearConfig | CosineConfig | RsqrtConfig | ConstantConfig | StepsConfig | ExponentialConfig
)


def steps_of(
    duration: str | int,
    *,
    batch_size: int | None = None,
    examples_per_epoch: int | None = None,
    total_steps: int | None = None,
) -> int:
    """Turns a duration into a number of training steps.

    Args:
        duration: "10_000 steps", "90 epochs", "1e9 examples", "5 percent" (of `total_steps`); a
          plain number means steps.
        batch_size: examples per step, over all devices.
        examples_per_epoch: number of training examples.
        total_steps: length of the run; None where the duration is itself that length.

    Returns:
        The nearest whole number of steps, at least 1 unless the duration is zero.

    Raises:
        UserError: the text is not a duration, or what its unit refers to is not known here.
    """
    if str(duration).strip().lower() == BUDGET:
        raise UserError(
            "The length of a run that is 'budget' is measured when vit_jax.train or pose_jax.train "
            "starts it; give config.total in steps or epochs here."
        )
    match = _DURATION.fullmatch(str(duration))
    if match is None:
        raise UserError(
            f"{duration!r} is not a duration; write '10_000 steps', '90 epochs', '1e9 examples', "
            "'5 percent', or a plain number of steps."
        )
    number = Fraction(match["number"].replace("_", ""))
    unit = match["unit"].lower().rstrip("s") or "step"
    if unit == "step":
        if number.denominator != 1:
            raise UserError(f"{duration!r} is not a whole number of steps; drop the fraction.")
        return int(number)
    if unit in ("percent", "%"):
        if number > 100:
            raise UserError(f"{duration!r} is more than the whole run; give at most 100 percent.")
        steps = number * _known(total_steps, duration, "the length of the run") / 100
    else:
        examples = number
        if unit == "epoch":
            examples *= _known(examples_per_epoch, duration, "the number of examples per epoch")
        steps = examples / _known(batch_size, duration, "the batch size")
    return max(round(steps), 1) if number else 0


def make_schedule(
    config: ScheduleConfig, total_steps: int, steps_of: Callable[[str], int]
) -> Schedule:
    """Builds the learning rate as a function of the step.

    Args:
        config: which schedule, and its numbers.
        total_steps: number of updates of the run.
        steps_of: turns one of the config's durations into steps; `steps_of` of this module with
          its keywords bound.

    Returns:
        A traceable function from an int32 step to a float32 learning rate, 0 at step 0 if there
        is a warm-up. Defined for any step; past `total_steps` it stays at its end.

    Raises:
        UserError: the warm-up (or with it the cool-down) leaves no step of the run, or boundaries
          do not increase.
    """
    warmup = steps_of(config.warmup)
    if warmup and warmup >= total_steps:
        raise UserError(
            f"The warm-up of {warmup} steps ({config.warmup!r}) is not shorter than the run of "
            f"{total_steps} steps; shorten it or train longer."
        )
    decay = _make_decay(config, total_steps=total_steps, warmup=warmup, steps_of=steps_of)

    def schedule(step: jax.typing.ArrayLike) -> jax.Array:
        step = jnp.asarray(step, jnp.int32)
        rate = decay(step)
        if warmup:
            rate = rate * jnp.minimum(1.0, step.astype(jnp.float32) / warmup)
        return rate

    return schedule


def _make_decay(
    config: ScheduleConfig, *, total_steps: int, warmup: int, steps_of: Callable[[str], int]
) -> Callable[[jax.Array], jax.Array]:
    """The schedule without its warm-up factor, of an int32 step."""

    def progress(step: jax.Array) -> jax.Array:
        # The integer difference first: float32 is exact only up to 2**24 steps.
        done = (step - warmup).astype(jnp.float32) / max(total_steps - warmup, 1)
        return jnp.clip(done, 0.0, 1.0)

    match config:
        case LinearConfig():
            return lambda step: config.end + (config.base - config.end) * (1.0 - progress(step))
        case CosineConfig():
            return lambda step: config.base * 0.5 * (1.0 + jnp.cos(jnp.pi * progress(step)))
        case ConstantConfig():
            return lambda step: jnp.full(step.shape, config.base, jnp.float32)
        case RsqrtConfig():
            return _make_rsqrt(config, total_steps=total_steps, warmup=warmup, steps_of=steps_of)
        case StepsConfig():
            return _make_steps(config, steps_of=steps_of)
        case ExponentialConfig():
            return _make_exponential(config, steps_of=steps_of)


def _make_exponential(
    config: ExponentialConfig, *, steps_of: Callable[[str], int]
) -> Callable[[jax.Array], jax.Array]:
    every = steps_of(config.every)
    if not every:
        raise UserError(f"The interval {config.every!r} must be at least one step.")

    def decay(step: jax.Array) -> jax.Array:
        return config.base * jnp.float32(config.factor) ** (step // every).astype(jnp.float32)

    return decay


def _make_rsqrt(
    config: RsqrtConfig, *, total_steps: int, warmup: int, steps_of: Callable[[str], int]
) -> Callable[[jax.Array], jax.Array]:
    timescale, cooldown = steps_of(config.timescale), steps_of(config.cooldown)
    if not timescale:
        raise UserError(f"The time scale {config.timescale!r} must be at least one step.")
    if warmup + cooldown > total_steps:
        raise UserError(
            f"Warm-up ({warmup} steps) and cool-down ({cooldown} steps) do not fit into the run "
            f"of {total_steps} steps; shorten them or train longer."
        )

    def decay(step: jax.Array) -> jax.Array:
        since = jnp.maximum(step - warmup, 0).astype(jnp.float32)
        rate = config.base * jax.lax.rsqrt(1.0 + since / timescale)
        if cooldown:
            left = jnp.maximum(total_steps - step, 0).astype(jnp.float32)
            rate = rate * jnp.minimum(1.0, left / cooldown)
        return rate

    return decay


def _make_steps(
    config: StepsConfig, *, steps_of: Callable[[str], int]
) -> Callable[[jax.Array], jax.Array]:
    boundaries = tuple(steps_of(boundary) for boundary in config.boundaries)
    if list(boundaries) != sorted(set(boundaries)):
        raise UserError(
            f"The boundaries {config.boundaries} are steps {boundaries} of this run; they must "
            "increase."
        )
    # Products in the host's float64, so that three factors of 0.1 are 1e-3 to the last bit.
    rates = [config.base * config.factor**i for i in range(len(boundaries) + 1)]

    def decay(step: jax.Array) -> jax.Array:
        passed = sum(
            ((step >= boundary).astype(jnp.int32) for boundary in boundaries),
            start=jnp.zeros(step.shape, jnp.int32),
        )
        return jnp.asarray(rates, jnp.float32)[passed]

    return decay


def _known(value: int | None, duration: str | int, what: str) -> int:
    if value is None:
        raise UserError(
            f"{duration!r} cannot be turned into steps, because {what} is not known here; "
            "give it in steps."
        )
    return value
