"""The error of pose lifters by action (VideoPose3D paper, Table 1).

    python -m experiments.figures.pose_actions --results=runs/h36m-243
    python -m experiments.figures.pose_actions --results=ours=results.json --error=p_mpjpe

Drawn are results of `python -m pose_jax.evaluate` (its result records, or files of its --output),
by action and averaged over actions; beside those of Human3.6M, and without any --results, the
paper's values. --error: mpjpe (protocol 1), p_mpjpe (2), n_mpjpe (3) or mpjve.

Written are figures/pose_actions.png, .pdf and .csv.
"""

import statistics
from collections.abc import Mapping, Sequence

from absl import flags

from experiments.figures import canvas, measured
from experiments.figures.measured import Measured
from experiments.figures.published import published
from pose_jax import h36m
from train_jax.errors import UserError

#: What the axis says.
ERRORS = {
    "mpjpe": "MPJPE (mm)",
    "p_mpjpe": "P-MPJPE (mm)",
    "n_mpjpe": "N-MPJPE (mm)",
    "mpjve": "MPJVE (mm per frame)",
}
AVERAGE = "average"

System = Mapping[str, float]


def of_paper(error: str) -> dict[str, System]:
    """The paper's systems whose error is published for every action: action -> mm."""
    if error == "mpjve":
        rows = published("pose_table2")
    else:
        prefix = {"mpjpe": "MPJPE: ", "p_mpjpe": "P-MPJPE: "}.get(error, "none")
        rows = {
            row.removeprefix(prefix): values
            for row, values in published("pose_table1").items()
            if row.startswith(prefix)
        }
    return {
        f"{row} (paper)": {action: values[action] for action in h36m.ACTIONS}
        | {AVERAGE: values[AVERAGE]}
        for row, values in rows.items()
        if all(action in values for action in h36m.ACTIONS)
    }


def of_results(results: Sequence[Measured], error: str) -> dict[str, System]:
    """Measured systems, a mean over those of one name.

    Raises:
        UserError: none has this error by action.
    """
    prefix = f"{error}/action/"
    systems: dict[str, list[System]] = {}
    for one in measured.newest(results):
        for split, metrics in one.splits.items():
            found = {
                name.removeprefix(prefix): value
                for name, value in metrics.items()
                if name.startswith(prefix)
            }
            if found:
                name = one.name if len(one.splits) == 1 else f"{one.name}, {split}"
                systems.setdefault(name, []).append(found | {AVERAGE: metrics[error]})
    if results and not systems:
        raise UserError(
            f"{results[0].path} holds no {error} by action; name results of pose_jax.evaluate."
        )
    return {name: _mean(found) for name, found in systems.items()}


def _mean(systems: Sequence[System]) -> System:
    return {
        action: statistics.mean(system[action] for system in systems)
        for action in systems[0]
        if all(action in system for system in systems)
    }


def compared(results: Sequence[Measured], error: str) -> dict[str, System]:
    """The measured systems, and the paper's where the actions are those of Human3.6M.

    Raises:
        UserError: there is nothing to draw.
    """
    ours = of_results(results, error)
    known = {*h36m.ACTIONS, AVERAGE}
    paper = of_paper(error) if all(known >= system.keys() for system in ours.values()) else {}
    if not ours and not paper:
        raise UserError(f"The paper has no {error} by action; name results with --results.")
    return paper | ours


def draw(systems: Mapping[str, System], error: str) -> canvas.Drawing:
    """A mark per system and action: hollow for the paper's, full for ours.

    Args:
        systems: name -> action -> error.
        error: one of `ERRORS`.
    """
    actions = list(dict.fromkeys(action for system in systems.values() for action in system))
    actions = [*(action for action in actions if action != AVERAGE), AVERAGE]
    figure = canvas.new_figure(canvas.WIDTH, 2.6)
    axes = figure.subplots()
    width = 0.7 / len(systems)
    for i, (name, system) in enumerate(systems.items()):
        colour, mark = canvas.COLOURS[i % 7], canvas.MARKS[i % 7]
        places = [j for j, action in enumerate(actions) if action in system]
        axes.plot(
            [j + (i - (len(systems) - 1) / 2) * width for j in places],
            [system[actions[j]] for j in places],
            mark,
            color=colour,
            markerfacecolor="white" if name.endswith("(paper)") else colour,
            label=name,
        )
    axes.axvline(len(actions) - 1.5, color=canvas.GREY, linewidth=0.5)
    for j in range(0, len(actions), 2):
        axes.axvspan(j - 0.5, j + 0.5, color="#F3F3F3", zorder=0, linewidth=0)
    axes.set_xticks(range(len(actions)), actions, rotation=40, ha="right", rotation_mode="anchor")
    axes.set_xlim(-0.5, len(actions) - 0.5)
    axes.set_ylim(bottom=0)
    axes.tick_params(axis="x", length=0)
    axes.set_ylabel(ERRORS[error])
    axes.grid(axis="y")
    figure.legend(loc="outside upper center", ncols=min(len(systems), 3))
    unit = "mm_per_frame" if error == "mpjve" else "mm"
    rows = [
        {"system": name, "action": action, f"{error}_{unit}": f"{system[action]:.4f}"}
        for name, system in systems.items()
        for action in actions
        if action in system
    ]
    return canvas.Drawing(figure, rows)


def _command() -> canvas.Drawing:
    error = flags.FLAGS.error
    return draw(compared(measured.read_results(flags.FLAGS.results), error), error)


if __name__ == "__main__":
    measured.define_flags()
    flags.DEFINE_enum("error", "mpjpe", list(ERRORS), "Which error.")
    canvas.launch(_command, __doc__ or "", name="pose_actions", flags_of=(measured.__name__,))
