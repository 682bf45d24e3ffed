"""How long a run is whose length is a budget.

A learning-rate schedule ends with the run, so its length has to be known before the first step. It
is measured: the real program, compiled for a run of any length, takes steps on a state that is
thrown away, with the run's own batches; evaluations are timed too. What that costs is on the
ledger. The number of steps is recorded, and holds for the rest of the run, whatever restarts, other
machines or a raised budget bring.
"""

import bisect
import collections
import contextlib
import dataclasses
import functools
import itertools
import json
import time
from collections.abc import Callable
from typing import Any, TypeVar

import jax
from absl import logging
from etils import epath

from train_jax import hosts
from train_jax.budget import BudgetConfig, Ledger, Limit, SignOfLife, Spent, make_limit
from train_jax.checkpoint import require_writable
from train_jax.config import identity, to_dict
from train_jax.data.placement import to_reside
from train_jax.dispatch import DISPATCHES_IN_FLIGHT, compile_program, start_batches
from train_jax.errors import UserError
from train_jax.evaluation import make_evaluator
from train_jax.ledger_file import LedgerFile, read_sign_of_life, write_atomically
from train_jax.mesh import make_mesh
from train_jax.program import make_program
from train_jax.schedules import BUDGET, steps_of
from train_jax.sharding import replicated
from train_jax.state import initial_state, step_key
from train_jax.stored import as_path, brief, complete_steps
from train_jax.task import Task
from train_jax.train_config import TrainConfig

BUDGET_FILE = "budget.json"

Config = TypeVar("Config", bound=TrainConfig)

# In place of the number of steps of a run that has begun without a record of it.
_NO_RECORD = -1

#: The program is compiled with a length that is none; its constants differ, not its work.
ANY_LENGTH = 2**30

_WARM_UP_DISPATCHES, _FIRST_DISPATCHES, _MOST_DISPATCHES = 3, 10, 1000
# The first dispatches tell how many fit into a longer look: this long, or this share of what is
# left of the budget.
_WINDOW_S, _WINDOW_SHARE = 30.0, 0.01


@dataclasses.dataclass(frozen=True)
class Measured:
    """Seconds, on this machine: of compiling, of a step, and of all evaluations once."""

    compiling: float
    step: float
    evaluation: float


def settle(make_task: Callable[[Config], Task], config: Config, workdir: str) -> Config:
    """The config with a number of steps in place of ``total='budget'``; others as they are.

    Args:
        make_task: the package's; a task may depend on the length of its run.
        config: the run.
        workdir: of the run; has or gets ``budget.json``.

    Raises:
        UserError: there is no budget, it affords no step, or ``workdir`` holds a run whose length
            was no budget.
    """
    if not is_budget(config.total):
        return config
    place, ledger = as_path(workdir), Ledger.of_this_machine()
    limit = required_limit(config.budget, ledger.chip)
    steps = hosts.from_main(_recorded_steps(place, config))
    if steps == _NO_RECORD:
        raise UserError(
            f"{workdir} holds a run whose length is not in {BUDGET_FILE}; set config.total to what "
            "its config.json says, or choose a new workdir."
        )
    if not steps:
        require_writable(place)
        steps = _measure_and_record(make_task, config, place, limit, ledger)
    return dataclasses.replace(config, total=f"{steps} steps")


def is_budget(total: str) -> bool:
    """Whether the length of a run is its budget."""
    return total.strip().lower() == BUDGET


def required_limit(config: BudgetConfig, chip: str) -> Limit:
    """The budget of a run whose length it is.

    Raises:
        UserError: there is none, or it is not right.
    """
    limit = make_limit(config, chip)
    if limit is None:
        raise UserError(
            "config.total is 'budget' and config.budget sets none; set config.budget.core_days or "
            "config.budget.hours."
        )
    return limit


def _recorded_steps(workdir: epath.Path, config: TrainConfig) -> int:
    """Steps that were settled by an earlier start; 0 if that is still to be done, or no record."""
    has_begun = bool(complete_steps(workdir / "checkpoints"))
    path = workdir / BUDGET_FILE
    if not path.exists():
        return _NO_RECORD if has_begun else 0
    try:
        record = json.loads(path.read_text())
        steps, run = int(record["steps"]), record["run"]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path} cannot be read ({brief(error)}); set config.total to what config.json beside "
            "it says."
        ) from error
    # A run that has saved nothing may still become another. One that has may not (fit says so).
    if has_begun or run == _run_of(config):
        if hosts.is_main():
            logging.info("The run takes %d steps, as recorded in %s.", steps, path)
        return steps
    return 0


def _run_of(config: TrainConfig) -> dict[str, Any]:
    """What the number of steps was measured for."""
    run = {"budget": to_dict(config.budget), "config": identity(config)}
    return json.loads(json.dumps(run))


def _measure_and_record(
    make_task: Callable[[Config], Task],
    config: Config,
    workdir: epath.Path,
    limit: Limit,
    ledger: Ledger,
) -> int:
    last = read_sign_of_life(workdir) or SignOfLife(0, Spent())
    ledger.carry(last.spent)
    long = dataclasses.replace(config, total=f"{ANY_LENGTH} steps")
    with ledger.on("start"):
        task = make_task(long)
    window = _WINDOW_SHARE * _usable_seconds(limit, ledger)
    measured = _measure(task, long, ledger, window=window)
    # Less than before: measuring has taken its part.
    available = _usable_seconds(limit, ledger)
    count = functools.partial(
        steps_of,
        batch_size=config.batch_size,
        examples_per_epoch=task.train_data.examples_per_epoch,
    )

    def cost(steps: int) -> float:
        every = count(config.evaluate_every, total_steps=steps)
        evaluations = -(-steps // every) if every else 1
        return measured.compiling + steps * measured.step + evaluations * measured.evaluation

    steps = bisect.bisect_right(range(1, ANY_LENGTH), available, key=cost)
    steps = hosts.from_main(steps)
    if not steps:
        raise UserError(
            f"The budget of {limit.text} affords no step: {max(available, 0):.3g} s are left for "
            f"compiling ({measured.compiling:.3g} s), steps of {measured.step:.3g} s and "
            f"evaluations of {measured.evaluation:.3g} s; raise config.budget."
        )
    if hosts.is_main():
        record = {
            "steps": steps,
            "measured_seconds": dataclasses.asdict(measured),
            "cores": ledger.cores,
            "chip": ledger.chip,
            "run": _run_of(config),
        }
        write_atomically(workdir / BUDGET_FILE, json.dumps(record, indent=2) + "\n")
        logging.info(
            "The budget of %s affords %d steps of %.3g s with evaluations of %.3g s, as measured; "
            "recorded in %s.",
            limit.text,
            steps,
            measured.step,
            measured.evaluation,
            workdir / BUDGET_FILE,
        )
    LedgerFile(workdir, ledger).note(last.step)
    return steps


def _usable_seconds(limit: Limit, ledger: Ledger) -> float:
    """What is left of the budget but for its reserve, in seconds of this machine."""
    left = limit.seconds_left(ledger.spent(), cores=ledger.cores, chip=ledger.chip)
    return left * (1 - limit.config.reserve)


def _measure(task: Task, config: TrainConfig, ledger: Ledger, *, window: float) -> Measured:
    """Times what a run does again and again; its state is thrown away."""
    mesh = make_mesh(config.mesh)
    with contextlib.ExitStack() as stack:
        stack.enter_context(jax.set_mesh(mesh))
        stack.enter_context(ledger.on("start"))
        program = make_program(task, config, mesh)
        evaluators = [make_evaluator(each, mesh) for each in task.evaluations.values()]
        # Other parameters take the same time.
        task = dataclasses.replace(task, transfer=None)
        state = initial_state(task, program.optimizer, program.abstract, config.seed)
        counts = itertools.repeat(config.steps_per_dispatch)
        batches = stack.enter_context(start_batches(program, 0, counts))
        resident = to_reside(task.train_data.resident, mesh)
        key = jax.device_put(step_key(config.seed), replicated(mesh))
        batch = next(batches)
        began = time.perf_counter()
        train_step, new_window = compile_program(program, resident, batch)
        compiling = time.perf_counter() - began
        metrics = new_window()

        def timed(dispatches: int) -> float:
            """Seconds per dispatch."""
            nonlocal state, metrics
            began, in_flight = time.perf_counter(), collections.deque[jax.Array]()
            for _ in range(dispatches):
                state, metrics, loss = train_step(
                    state, metrics, key, resident, next(batches), config.steps_per_dispatch
                )
                in_flight.append(loss)
                if len(in_flight) >= DISPATCHES_IN_FLIGHT:
                    jax.block_until_ready(in_flight.popleft())
            jax.block_until_ready(metrics)
            return (time.perf_counter() - began) / dispatches

        timed(_WARM_UP_DISPATCHES)
        dispatch = timed(_FIRST_DISPATCHES)
        more = int(min(window, _WINDOW_S) / max(dispatch, 1e-9))
        more = hosts.from_main(min(more, _MOST_DISPATCHES))
        if more > _FIRST_DISPATCHES:
            dispatch = timed(more)

        def evaluate() -> float:
            began = time.perf_counter()
            for each in evaluators:
                each(state.params, state.model_state)
            return time.perf_counter() - began

        first, again = evaluate(), evaluate()
    return Measured(
        compiling=compiling + max(first - again, 0.0),
        step=dispatch / config.steps_per_dispatch,
        evaluation=again,
    )
