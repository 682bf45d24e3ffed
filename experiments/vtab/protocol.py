"""The runs of VTAB-1k: one setting for all tasks, chosen on 200 examples each, and the table."""

import itertools
import statistics
from collections.abc import Mapping, Sequence

from experiments.sweep.runs import Experiment, percent, run
from train_jax import hosts
from train_jax.errors import UserError
from vit_jax.data.pipeline import data_source
from vit_jax.vtab import GROUPS, TASKS, means, task_named

#: What stands behind the colon of the experiment file besides the task: `lr`, `steps`, or nothing.
Setting = tuple[tuple[str, float], ...]
#: Test accuracy by task, then by run.
Scores = Mapping[str, Sequence[float]]


def vtab(
    experiment: Experiment,
    workdir: str,
    *,
    settings: Sequence[Setting],
    seeds: Sequence[int],
    tasks: Sequence[str],
) -> str:
    """Makes all runs and returns the table of results.

    Raises:
        PreemptedError: a stop was asked for.
        UserError: settings that the experiment does not take, data that are not there, or a run
            that cannot be made.
    """
    for setting in settings:  # which the experiment file may not take
        experiment.config(task=tasks[0], **dict(setting))
    _require_data(experiment, tasks, selects=len(settings) > 1)
    lines = []
    best = settings[0]
    if len(settings) > 1:
        held_out = {s: _select(experiment, workdir, s, tasks) for s in settings}
        best = choose(held_out)
        lines.append(f"mean accuracy on the 200 held-out examples of {len(tasks)} tasks, in %")
        for setting, accuracy in held_out.items():
            shown = "not finite" if accuracy is None else percent([accuracy])
            lines.append(f"  {_name(setting)}: {shown}{'   chosen' if setting == best else ''}")
    scores: dict[str, list[float]] = {task: [] for task in tasks}
    for task, seed in itertools.product(tasks, seeds):
        name = f"{_name(best)}/{task}/seed={seed}"
        config = experiment.config(task=task, **dict(best), seed=seed, final=True)
        found = run(config, f"{workdir}/final/{name}", f"final {name}")
        if found is None:
            raise UserError(
                f"The run in {workdir}/final/{name} did not stay finite; choose a lower rate."
            )
        scores[task].append(found.get("test/accuracy", 0.0))
    lines.append(f"test accuracy in %, {_name(best)}, runs a task: {len(seeds)}")
    return "\n".join(["", *lines, table(scores)]) + "\n"


def settings_of(rates: Sequence[float], steps: Sequence[int]) -> list[Setting]:
    """Every rate with every length; what is not given is left to the recipe."""
    lrs = [(("lr", rate),) for rate in rates] or [()]
    lengths = [(("steps", length),) for length in steps] or [()]
    return [(*lr, *length) for lr, length in itertools.product(lrs, lengths)]


def _name(setting: Setting) -> str:
    """What its directory is called."""
    return ",".join(f"{key}={value:g}" for key, value in setting) or "recipe"


def _select(
    experiment: Experiment, workdir: str, setting: Setting, tasks: Sequence[str]
) -> float | None:
    """Mean held-out accuracy of a setting; None where a run did not stay finite."""
    accuracies = []
    for task in tasks:
        name = f"{_name(setting)}/{task}"
        config = experiment.config(task=task, **dict(setting), final=False)
        found = run(config, f"{workdir}/select/{name}", f"select {name}")
        if found is None:
            return None
        accuracies.append(found.get("held_out/accuracy", 0.0))
    return statistics.fmean(accuracies)


def choose(held_out: Mapping[Setting, float | None]) -> Setting:
    """The setting with the best mean (of equals, the first), the same on all processes.

    Raises:
        UserError: none stayed finite.
    """
    finite = {setting: mean for setting, mean in held_out.items() if mean is not None}
    if not finite:
        raise UserError("The loss stays finite with none of the settings; give lower --rates.")
    settings = list(held_out)
    best = max(finite, key=lambda setting: finite[setting])
    return settings[hosts.from_main(settings.index(best))]


def table(scores: Scores) -> str:
    """A task a line, with the means of the groups that are complete, and Table 9's row."""
    runs = [dict(zip(scores, values, strict=True)) for values in zip(*scores.values(), strict=True)]
    by_run = [means(values) for values in runs]
    lines = []
    for group in GROUPS:
        of_group = [name for name in scores if TASKS[name].group == group]
        for name in of_group:
            lines.append(f"  {group:<13}{TASKS[name].title:<14}{percent(scores[name]):>14}")
        if group in by_run[0]:
            lines.append(f"  {group:<13}{'mean':<14}{percent([m[group] for m in by_run]):>14}")
    if "mean" in by_run[0]:
        lines.append(f"  {'all':<13}{'mean':<14}{percent([m['mean'] for m in by_run]):>14}")
        cells = [
            " ".join(
                percent([statistics.fmean(scores[name])], 1)
                for name in scores
                if TASKS[name].group == group
            )
            for group in GROUPS
        ]
        mean = percent([statistics.fmean(m["mean"] for m in by_run)], 1)
        lines.append(f"as Table 9: {' | '.join([*cells, mean])}")
    return "\n".join(lines)


def _require_data(experiment: Experiment, tasks: Sequence[str], *, selects: bool) -> None:
    """Refuses before the first run what would stop a later one."""
    faults = []
    for task in tasks:
        config = experiment.config(task=task)
        wanted = [config.data, *config.evaluations.values()]
        if selects:
            chosen = experiment.config(task=task, final=False)
            wanted += [chosen.data, *chosen.evaluations.values()]
        try:
            for data in wanted:
                data_source(data)
        except UserError as error:
            faults.append(str(error))
    if faults:
        raise UserError("\n".join(dict.fromkeys(faults)))


def tasks_of(text: str | None) -> tuple[str, ...]:
    """The tasks that a flag names, in the order of Table 9."""
    if text is None:
        return tuple(TASKS)
    named = text.split(",")
    for name in named:
        task_named(name)
    return tuple(name for name in TASKS if name in named)
