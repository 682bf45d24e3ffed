"""Plans a run on a TPU slice that is not there: does it fit, what does it take, what does it cost?

    python -m train_jax.plan --config=experiments/vit/pretrain.py:H/14,jft300m --topology=v3:16x16
    python -m train_jax.plan --config=FILE.py:ARGS --compare=v3:16x16,v5e:16x16,v6e:16x16
    python -m train_jax.plan --config=FILE.py:ARGS --topology=v5e:16x16 --sweep

Compiles the very training step of the config with the TPU compiler (pip install -e '.[plan]';
minutes of CPU, no TPU, no data) and reads memory, collectives and estimated cycles off the result.
--price=DOLLARS per chip-hour adds a cost. What takes minutes says so; --timeout=MINUTES ends it.
Exit code 1: the step does not fit.
"""

import contextlib
import dataclasses
import itertools
import math
import os
import sys
import threading
import time
from collections.abc import Iterator, Sequence

from absl import flags

from train_jax import command_line, config_flag
from train_jax.config_flag import named_config
from train_jax.errors import UserError
from train_jax.forecast import Forecast, forecast
from train_jax.mesh import MAX_SHARDS, MeshConfig
from train_jax.outline import outline, read_config, replaced
from train_jax.plan_text import compared, report, swept
from train_jax.topology import Slice, slice_named, use_compiler
from train_jax.train_config import TrainConfig

_TOPOLOGY = flags.DEFINE_string(
    "topology", None, "Slice: generation and chips along its axes, as in v3:16x16 or v4:4x8x8."
)
_BATCH = flags.DEFINE_integer("batch", None, "Examples per step, in the place of the config's.")
_COMPARE = flags.DEFINE_list("compare", [], "Several slices, for a table.")
_SWEEP = flags.DEFINE_bool(
    "sweep", False, "Tries what changes memory and time but no result, and recommends one."
)
_PRICE = flags.DEFINE_float("price", None, "Price of a chip-hour, for the cost of the run.")
_TIMEOUT = flags.DEFINE_float(
    "timeout", None, "Minutes that one program may take to compile; the plan ends there."
)

DOES_NOT_FIT_EXIT_CODE = 1
# How often a program that is still being compiled is spoken of.
_WORD_EVERY_S = 120.0


@dataclasses.dataclass(frozen=True)
class Attempt:
    """A change of the config, as flags, and what it leads to."""

    flags: str
    forecast: Forecast


def plan() -> int:
    """The command; returns the exit code."""
    if bool(_TOPOLOGY.value) == bool(_COMPARE.value):
        raise UserError("Give either --topology=SLICE or --compare=SLICE,SLICE (as in v3:16x16).")
    slices = [slice_named(name) for name in _COMPARE.value or [_TOPOLOGY.value or ""]]
    if _SWEEP.value and len(slices) > 1:
        raise UserError("--sweep is for one slice; give --topology=SLICE instead of --compare.")
    if _TIMEOUT.value is not None and _TIMEOUT.value <= 0:
        raise UserError(f"--timeout={_TIMEOUT.value:g} is no time; give minutes above 0.")
    config = read_config(named_config())
    if _BATCH.value is not None:
        config = replaced(config, "batch_size", _BATCH.value)
    use_compiler()
    if _COMPARE.value:
        forecasts = [_tell(_forecast(config, chosen), chosen.name) for chosen in slices]
        _say(compared(forecasts, price=_PRICE.value))
        return 0 if any(one.fits for one in forecasts) else DOES_NOT_FIT_EXIT_CODE
    if _SWEEP.value:
        attempts = sweep(config, slices[0])
        _say(swept([(attempt.flags, attempt.forecast) for attempt in attempts]))
        return 0 if any(a.forecast.fits for a in attempts) else DOES_NOT_FIT_EXIT_CODE
    result = _forecast(config, slices[0])
    _say(report(result, price=_PRICE.value))
    if result.fits:
        return 0
    _say(remedy(config, slices[0]))
    return DOES_NOT_FIT_EXIT_CODE


def sweep(config: TrainConfig, chosen: Slice) -> list[Attempt]:
    """The meshes worth trying, then the package's choices on the fastest of them.

    Meshes are tried with the choices that keep most. What keeps less computes more again, so the
    next are tried on every mesh only where nothing has fitted: of five meshes and three policies
    that is seven programs instead of fifteen, each of them a minute for a large ViT.
    """
    choices = outline(config).choices
    rest = [
        dict(zip(choices, values, strict=True)) for values in itertools.product(*choices.values())
    ]
    attempts: list[Attempt] = []
    fastest: tuple[float, MeshConfig] | None = None
    while rest and fastest is None:
        changes = rest.pop(0)
        for mesh in meshes(config, chosen):
            for attempt in _attempts(config, chosen, {**_mesh_keys(mesh), **changes}):
                attempts.append(attempt)
                seconds = attempt.forecast.step_seconds + attempt.forecast.link_seconds
                if attempt.forecast.fits and (fastest is None or seconds < fastest[0]):
                    fastest = (seconds, mesh)
    if fastest is not None:
        for changes in rest:
            attempts += _attempts(config, chosen, {**_mesh_keys(fastest[1]), **changes})
    return attempts


def meshes(config: TrainConfig, chosen: Slice) -> list[MeshConfig]:
    """FSDP over everything, over parts, and none, where the batch splits; the likeliest first."""
    total = chosen.num_devices
    if config.batch_size % (total * config.accumulate):
        return [config.mesh]
    shards = {1, *(n for n in (4, 16, 64, 256) if total % n == 0 and n < total), total}
    ranked = sorted(shards, key=lambda fsdp: abs(math.log2(fsdp / MAX_SHARDS)))
    return [MeshConfig(data=total // fsdp, fsdp=fsdp) for fsdp in ranked]


def _mesh_keys(mesh: MeshConfig) -> dict[str, int]:
    return {"mesh.data": mesh.data, "mesh.fsdp": mesh.fsdp, "mesh.tensor": mesh.tensor}


def _attempts(config: TrainConfig, chosen: Slice, changes: dict) -> Iterator[Attempt]:
    """The forecast with some changes; none where they are not allowed."""
    words = " ".join(f"--config.{key}={value}" for key, value in changes.items())
    try:
        result = _forecast(_changed(config, changes), chosen)
    except UserError:
        return
    yield Attempt(words, _tell(result, words))


def _changed(config: TrainConfig, changes: dict) -> TrainConfig:
    for key, value in changes.items():
        config = replaced(config, key, value)
    return config


def remedy(config: TrainConfig, chosen: Slice) -> str:
    """The first change that makes a step fit, tried one after the other."""
    least = {key: values[-1] for key, values in outline(config).choices.items()}
    whole = _mesh_keys(MeshConfig(data=-1, fsdp=-1)) if chosen.num_devices > 1 else {}
    every = {**least, **whole}
    tries = [least, whole, every]
    tries += [{**every, "accumulate": config.accumulate * n} for n in (2, 4, 8)]
    tried = [config]
    for changes in tries:
        try:
            changed = _changed(config, changes)
        except UserError:  # which the config does not allow
            continue
        if changed in tried:
            continue
        tried.append(changed)
        for attempt in _attempts(config, chosen, changes):
            if attempt.forecast.fits:
                seconds = attempt.forecast.step_seconds
                return f"It fits with {attempt.flags} (estimated step: {seconds:.3g} s)."
    return "No remat policy, FSDP or up to 8 micro-batches makes it fit; take a larger slice."


def _forecast(config: TrainConfig, chosen: Slice) -> Forecast:
    """The forecast; says on stderr what is taking long, and ends the process at ``--timeout``.

    The compiler cannot be interrupted, so whoever waits for it is a thread, which ends the process.
    """
    limit = None if _TIMEOUT.value is None else 60 * _TIMEOUT.value
    with _patience(f"the training step for {chosen.name}", limit):
        return forecast(config, chosen)


@contextlib.contextmanager
def _patience(what: str, limit_s: float | None) -> Iterator[None]:
    began, done = time.monotonic(), threading.Event()

    def wait() -> None:
        while True:
            left = math.inf if limit_s is None else began + limit_s - time.monotonic()
            if done.wait(max(min(left, _WORD_EVERY_S), 0)):
                return
            minutes = (time.monotonic() - began) / 60
            if limit_s is not None and time.monotonic() >= began + limit_s:
                sys.stderr.write(
                    f"Error: The compiler has not finished {what} within --timeout={limit_s / 60:g}"
                    " minutes; raise it, or plan with model.execution='scan' or a smaller batch.\n"
                )
                sys.stderr.flush()
                os._exit(command_line.USER_ERROR_EXIT_CODE)
            sys.stderr.write(f"Still compiling {what}, for {minutes:.0f} minutes.\n")

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _tell(result: Forecast, what: str) -> Forecast:
    """A word on stderr about each program, because each takes a minute."""
    outcome = f"{result.cycles / 1e6:,.4g} Mcycles" if result.cycles else "does not fit"
    sys.stderr.write(f"{what}: {outcome}\n")
    return result


def _say(text: str) -> None:
    sys.stdout.write(text.rstrip("\n") + "\n")
    sys.stdout.flush()


def main(argv: Sequence[str]) -> int:
    """Parses the command line and plans."""

    def command() -> int:
        command_line.parse(argv, __doc__ or "", config_flag.__name__)
        return plan()

    return command_line.exit_code(command)


if __name__ == "__main__":
    sys.exit(main(sys.argv))
