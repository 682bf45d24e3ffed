"""What to launch for the figures that nobody has measured yet, and what it is planned to cost."""

import dataclasses
from collections.abc import Iterable
from typing import Any

from experiments.tables.match import Cell
from experiments.tables.recipe import Cost, config_of, cost_of, is_all_of_vtab, path_of
from experiments.tables.target import Target
from train_jax.config import identity
from train_jax.record import hash_of
from vit_jax.vtab import TASKS

#: Runs of VTAB by one command: a final run of every task, three times.
_VTAB_SEEDS = 3


@dataclasses.dataclass(frozen=True)
class Launch:
    """Runs by one command.

    Attributes:
        command: to be typed; in capitals what depends on the user.
        figures: how many of the missing ones it gives; 0 for a run that others start from.
        runs: how many the figures are of (seeds, for VTAB times tasks).
        cost: of one run.
    """

    command: str
    figures: int
    runs: int
    cost: Cost


def launches(cells: Iterable[Cell]) -> list[Launch]:
    """The commands for all cells that are not run, those that others start from first.

    Figures of one run stand together, those that need an evaluation of their own too.
    """
    missing = [c.target for c in cells if c.verdict == "not run" and c.target.config]
    starts = [t.start for t in missing if t.start and not t.start.startswith("published:")]
    starts += [t.config for t in missing if t.metric == "@v3_core_days"]
    names = {start: f"PRETRAINED_{i}" for i, start in enumerate(dict.fromkeys(starts), 1)}
    result = []
    for start, workdir in names.items():
        figures = sum(t.config == start for t in missing)
        result.append(Launch(_train(start, workdir=workdir), figures, 1, cost_of(start)))
    groups: dict[Any, list[Target]] = {}
    for target in missing:
        if target.config not in names:
            key = (hash_of(identity(config_of(target.config))), target.start)
            groups.setdefault(key, []).append(target)
    for targets in groups.values():
        # The config that measures most.
        config = max((t.config for t in targets), key=_evaluations)
        start = names.get(targets[0].start, "PUBLISHED.npz" if targets[0].start else "")
        result.append(
            Launch(
                _command(config, targets, start),
                len(targets),
                max(_runs(target) for target in targets),
                cost_of(config),
            )
        )
    return result


def _evaluations(command: str) -> int:
    return len(config_of(command).evaluations)


def _runs(target: Target) -> int:
    if is_all_of_vtab(target.config):
        return _VTAB_SEEDS * len(TASKS)
    return target.runs or 1


def _command(config: str, targets: Iterable[Target], start: str) -> str:
    if is_all_of_vtab(config):
        begins = f" --config.init_from={start}"
        return f"python -m experiments.vtab --config={config}{begins} --workdir=RUNS"
    words = [_train(config, start=start)]
    measure = getattr(config_of(config), "measure", None)
    for target in targets:
        evaluated = target.evaluate or target.config
        # What a run does not measure by itself: other data, another protocol, and all details.
        other = getattr(config_of(evaluated), "measure", None) != measure
        if target.evaluate or other or "/" in target.metric:
            command = f"python -m {_package(evaluated)}.evaluate --config={evaluated}"
            words.append(f"{command} --checkpoint=RUN")
    return " && ".join(dict.fromkeys(words))


def _train(command: str, *, start: str = "", workdir: str = "RUN") -> str:
    begins = f" --config.init_from={start}" if start else ""
    overrides = command.removeprefix(path_of(command))
    train = f"python -m {_package(command)}.train --config={path_of(command)}"
    return f"{train}{overrides}{begins} --workdir={workdir}"


def _package(command: str) -> str:
    return config_of(command).package
