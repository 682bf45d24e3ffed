"""Plans a run on a TPU slice that is not there: does it fit, what does it take, what does it cost?

    python -m train_jax.plan --config=experiments/vit/pretrain.py:H/14,jft300m --topology=v3:16x16
    python -m train_jax.plan --config=FILE.py:ARGS --compare=v3:16x16,v5e:16x16,v6e:16x16
    python -m train_jax.plan --config=FILE.py:ARGS --topology=v5e:16x16 --sweep

Compiles the very training step of the config with the TPU compiler (pip install -e '.[plan]';
minutes of CPU, no TPU, no data) and reads memory, collectives and estimated cycles off the result.
--price=DOLLARS per chip-hour adds a cost. Exit code 1: the step does not fit.
"""

import dataclasses
import itertools
import sys
from collections.abc import Iterator, Sequence

from absl import flags

from train_jax import command_line, config_flag
from train_jax.config_flag import named_config
from train_jax.errors import UserError
from train_jax.forecast import Forecast, forecast
from train_jax.mesh import MeshConfig
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

DOES_NOT_FIT_EXIT_CODE = 1


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
    config = read_config(named_config())
    if _BATCH.value is not None:
        config = replaced(config, "batch_size", _BATCH.value)
    use_compiler()
    if _COMPARE.value:
        forecasts = [_tell(forecast(config, chosen), chosen.name) for chosen in slices]
        _say(compared(forecasts, price=_PRICE.value))
        return 0 if any(one.fits for one in forecasts) else DOES_NOT_FIT_EXIT_CODE
    if _SWEEP.value:
        attempts = sweep(config, slices[0])
        _say(swept([(attempt.flags, attempt.forecast) for attempt in attempts]))
        return 0 if any(a.forecast.fits for a in attempts) else DOES_NOT_FIT_EXIT_CODE
    result = forecast(config, slices[0])
    _say(report(result, price=_PRICE.value))
    if result.fits:
        return 0
    _say(remedy(config, slices[0]))
    return DOES_NOT_FIT_EXIT_CODE


def sweep(config: TrainConfig, chosen: Slice) -> list[Attempt]:
    """Every combination of the package's choices with the meshes worth trying."""
    choices = outline(config).choices
    attempts = []
    for mesh in meshes(config, chosen):
        for values in itertools.product(*choices.values()):
            changes = dict(zip(choices, values, strict=True))
            attempts += _attempts(config, chosen, {**_mesh_keys(mesh), **changes})
    return attempts


def meshes(config: TrainConfig, chosen: Slice) -> list[MeshConfig]:
    """Data parallelism, FSDP over everything, and over parts, where the batch splits."""
    total, found = chosen.num_devices, []
    shards = [1, *(n for n in (4, 16, 64, 256) if total % n == 0 and n < total), total]
    for fsdp in dict.fromkeys(shards):
        if config.batch_size % (total * config.accumulate) == 0:
            found.append(MeshConfig(data=total // fsdp, fsdp=fsdp))
    return found or [config.mesh]


def _mesh_keys(mesh: MeshConfig) -> dict[str, int]:
    return {"mesh.data": mesh.data, "mesh.fsdp": mesh.fsdp, "mesh.tensor": mesh.tensor}


def _attempts(config: TrainConfig, chosen: Slice, changes: dict) -> Iterator[Attempt]:
    """The forecast with some changes; none where they are not allowed."""
    words = " ".join(f"--config.{key}={value}" for key, value in changes.items())
    try:
        result = forecast(_changed(config, changes), chosen)
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
