"""Several runs by one command: made one after the other, resumed, and skipped where they are done.

An experiment file is read with other arguments behind the colon for each run, and with the same
`--config.key=value`. A run is done when its directory has a result record (train_jax/record.py) of
this very config at its last step; one that was interrupted goes on from its checkpoint.
"""

import dataclasses
import importlib.util
import json
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags
from ml_collections.config_flags import config_path

from train_jax import hosts, record
from train_jax.config import from_config, identity
from train_jax.config_flag import named_config
from train_jax.errors import NotFiniteError, UserError
from train_jax.loop import fit
from train_jax.stored import as_path
from vit_jax.task import ViTTrainConfig, make_task

#: Below it a learning rate is a mistake.
LEAST_RATE = 1e-8
#: Metrics of a run, as ``split/metric``.
Metrics = dict[str, float]


class PreemptedError(Exception):
    """The run in progress was asked to stop; the same command goes on with it."""


@dataclasses.dataclass(frozen=True)
class Experiment:
    """An experiment file as the command line names it.

    Attributes:
        module: the file, loaded.
        arg: what stands behind the colon.
        overrides: values of ``--config.key=value`` by key.
    """

    module: ModuleType
    arg: str
    overrides: Mapping[str, Any]

    def config(self, **arguments: Any) -> ViTTrainConfig:
        """The run with these arguments behind the colon besides, or in the place of, the user's.

        Where data sets are prepared (``data.data_dir``) is said once, for evaluations too.

        Raises:
            UserError: the file has no such argument, or its config no such key.
        """
        added = ",".join(f"{name}={_text(value)}" for name, value in arguments.items())
        config: ConfigDict = self.module.get_config(",".join(filter(None, (self.arg, added))))
        for key, value in self.overrides.items():
            config_path.set_value(key, config, value)
        if "data.data_dir" in self.overrides:
            evaluations: Any = config.evaluations
            for evaluation in evaluations.values():
                evaluation.data_dir = self.overrides["data.data_dir"]
        return from_config(ViTTrainConfig, config.to_dict())


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def named_experiment() -> Experiment:
    """The experiment of ``--config``.

    Raises:
        UserError: none is named, or it is of something else than a run of ``vit_jax.train``; or
            evaluations are overridden, which differ between the runs.
    """
    named_config()
    flag = flags.FLAGS["config"]
    overrides = config_flags.get_override_values(flag)
    for key in overrides:
        if key.startswith("evaluations"):
            raise UserError(
                f"--config.{key}: what is evaluated differs between the runs of this command; "
                "change the experiment file, or what stands behind its colon."
            )
    file, _, arg = str(config_flags.get_config_filename(flag)).partition(":")
    spec = importlib.util.spec_from_file_location(f"experiment_{Path(file).stem}", file)
    assert spec is not None
    assert spec.loader is not None  # the flag has loaded it before
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    experiment = Experiment(module, arg, overrides)
    experiment.config()
    return experiment


def print_table(make: Callable[[], str]) -> int:
    """Makes runs, prints what they gave, and returns the exit code of the command."""
    try:
        text = make()
    except PreemptedError:
        return hosts.PREEMPTED_EXIT_CODE
    _say(text)
    return 0


def run(config: ViTTrainConfig, workdir: str, what: str) -> Metrics | None:
    """Makes one run, unless it is done.

    Args:
        config: the run.
        workdir: its directory.
        what: what to call it in what is printed.

    Returns:
        Its last evaluation; None where the loss did not stay finite. On processes other than the
        first, whatever they know.

    Raises:
        PreemptedError: a stop was asked for.
        UserError: the run cannot be made, or has spent its budget.
    """
    found = finished(config, workdir)
    if hosts.from_main(int(found is not None)):
        _say(f"{what}: done before, {_brief(found or {})}\n")
        return found or {}
    _say(f"{what}: in {workdir}\n")
    try:
        result = fit(make_task(config), config, workdir)
    except NotFiniteError as error:
        _say(f"{what}: {error}\n")
        return None
    if result.preempted:
        raise PreemptedError
    if result.over_budget:
        raise UserError(
            f"The run in {workdir} has spent config.budget after {result.step} steps, before its "
            "end; raise it and start again to go on."
        )
    _say(f"{what}: {_brief(result.metrics)}\n")
    return result.metrics


def finished(config: ViTTrainConfig, workdir: str) -> Metrics | None:
    """The result of a run of this very config that is at its end; None where there is none.

    Raises:
        UserError: a result record is damaged.
    """
    directory = as_path(workdir) / record.DIRECTORY
    if not hosts.is_main() or not directory.is_dir():
        return None
    wanted = record.hash_of(identity(config))
    splits = {name: _plain(identity(data)) for name, data in config.evaluations.items()}
    for _, made in reversed(record.read_records([str(directory)])):
        same = made.finished and made.step is not None and made.config_hash == wanted
        if same and all(_measured(made, name, data) for name, data in splits.items()):
            return {
                f"{split}/{metric}": value
                for split in splits
                for metric, value in made.splits[split]["metrics"].items()
            }
    return None


def _measured(made: record.Record, split: str, data: Mapping[str, Any]) -> bool:
    found = (made.splits.get(split) or {}).get("data")
    return isinstance(found, Mapping) and all(found.get(key) == data[key] for key in data)


def _plain(values: Any) -> Any:
    """As JSON gives them back."""
    return json.loads(json.dumps(values))


def _brief(metrics: Metrics) -> str:
    shown = [f"{name} {100 * x:.2f}" for name, x in metrics.items() if name.endswith("/accuracy")]
    return ", ".join(shown)


def _say(text: str) -> None:
    if hosts.is_main():
        sys.stdout.write(text)
        sys.stdout.flush()


def percent(values: Sequence[float], digits: int = 2) -> str:
    """Mean and, of several runs, sample standard deviation of shares, in %."""
    values = [100 * value for value in values]
    spread = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.{digits}f}{spread}"


def numbers(text: str, kind: type, flag: str, *, least: float = 0) -> tuple[Any, ...]:
    """The numbers of a flag such as ``--seeds=0,1,2``.

    Args:
        text: the flag's value.
        kind: int or float.
        flag: its name.
        least: none may be below.

    Raises:
        UserError: something else, none, or one of them twice.
    """
    try:
        found = tuple(kind(part) for part in text.split(","))
    except ValueError as error:
        raise UserError(
            f"--{flag}={text!r} must be numbers with commas between them ({kind.__name__})."
        ) from error
    if len(set(found)) < len(found) or not min(found) >= least:
        raise UserError(f"--{flag}={text!r} must be different numbers, none below {least:g}.")
    return found
