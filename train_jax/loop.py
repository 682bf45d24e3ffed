"""The story of a run, from top to bottom.

Restore or begin, while the step is compiled; then, for every step: next batch -> update -> log? ->
budget spent? -> evaluate? -> check the copies? -> save? -> stop?
That order is an invariant. A step is done when its update is; everything that follows refers to the
updated state, so that a run that was stopped after any step continues as if it had not been. A
dispatch is a program of one or several steps; it ends wherever something follows.
"""

import collections
import contextlib
import dataclasses
import json
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from typing import Any

import jax
from absl import logging
from etils import epath
from jax.sharding import Mesh

from train_jax import hosts, record
from train_jax.budget import Ledger, Limit, Spent, make_limit, spent_of
from train_jax.checkpoint import Checkpoints, DamagedCheckpoint, read_meta, require_writable
from train_jax.config import differences, identity, to_dict
from train_jax.data.placement import to_reside
from train_jax.dispatch import DISPATCHES_IN_FLIGHT, Steps, start_batches, start_compiling
from train_jax.errors import UserError
from train_jax.evaluation import Evaluator, make_evaluator
from train_jax.journal import Journal
from train_jax.ledger_file import read_sign_of_life
from train_jax.mesh import make_mesh
from train_jax.program import Program, make_program
from train_jax.replicas import make_replica_check
from train_jax.sharding import replicated, sharding_table
from train_jax.state import TrainState, initial_state, step_key
from train_jax.stored import as_path
from train_jax.task import Probe, Task
from train_jax.train_config import TrainConfig


@dataclasses.dataclass(frozen=True)
class Result:
    """How a run ended.

    Attributes:
        step: steps done.
        metrics: the last evaluation, as ``split/metric``.
        examples_per_second: over the steps of this process, evaluations and saves excluded.
        spent: what it cost, earlier processes of the run included: core-seconds by chip and kind,
            core-days, goodput (see ``budget``).
        preempted: True where a stop was asked for; the run continues when started again.
        over_budget: True where ``config.budget`` was spent before the last step. The state is
            saved, the schedule is not at its end; with a higher budget the run continues.
    """

    step: int
    metrics: dict[str, float]
    examples_per_second: float
    spent: Spent
    preempted: bool = False
    over_budget: bool = False

    @property
    def core_seconds(self) -> dict[str, float]:
        """By kind, over all chips."""
        return self.spent.by_kind()


@dataclasses.dataclass(frozen=True)
class _Run:
    """What stays the same throughout a run."""

    task: Task
    config: TrainConfig
    workdir: epath.Path
    mesh: Mesh
    program: Program
    total: int
    log_every: int
    evaluate_every: int
    save_every: int
    check_every: int
    keep_every: int | None
    evaluators: Mapping[str, Evaluator]
    limit: Limit | None

    def due(self, every: int, step: int) -> bool:
        """Whether something with this interval (0: never but at the end) happens after ``step``."""
        return step == self.total or (every > 0 and step % every == 0)

    def dispatches(self, start: int) -> Iterator[int]:
        """Steps of each dispatch from ``start`` on; something happens only between them."""
        profile, step = self.config.profile, start
        every = [self.log_every, self.evaluate_every, self.save_every, self.check_every]
        every = [n for n in every if n]
        # A profile begins before its first step and ends after its last.
        end = min(profile.start + profile.steps, self.total)
        stops = [profile.start - 1, end - 1] if profile.steps else []
        while step < self.total:
            ends = [step + self.config.steps_per_dispatch, self.total]
            ends += [n * (step // n + 1) for n in every]
            ends += [stop for stop in stops if stop > step]
            yield min(ends) - step
            step = min(ends)


def fit(task: Task, config: TrainConfig, workdir: str) -> Result:
    """Trains to the end of the run, continuing where an earlier process stopped.

    Args:
        task: the model and its data.
        config: the run; its resolved form is saved as ``workdir/config.json``.
        workdir: local or ``gs://`` directory for checkpoints, metrics and logs.

    Raises:
        UserError: anything that cannot work, before time is spent on it; a loss that is not
            finite; or copies of an array that differ, where the config has them compared.
    """
    ledger = Ledger.of_this_machine()
    mesh = make_mesh(config.mesh)
    with jax.set_mesh(mesh), hosts.StopNotice() as notice:
        run = _prepare(task, config, as_path(workdir), mesh, ledger)
        with _checkpoints(run) as checkpoints:
            with ledger.on("start"):
                newest = _newest_step(run, checkpoints)
            compiling = None if newest == run.total else start_compiling(run.program)
            state = _restore_or_begin(run, checkpoints, ledger)
            result = _train(run, state, compiling, checkpoints, notice, ledger)
    if hosts.is_main():
        if result.metrics and not result.preempted:
            _note_result(run, result, ledger)
        logging.info("Spent by step %d: %s.", result.step, result.spent.summary())
    return result


def _train(
    run: _Run,
    state: TrainState,
    compiling: Future[Steps] | None,
    checkpoints: Checkpoints,
    notice: hosts.StopNotice,
    ledger: Ledger,
) -> Result:
    start = int(state.step)
    journal = Journal(
        run.workdir,
        ledger,
        start=start,
        total=run.total,
        unit=run.task.unit,
        batch_size=run.config.batch_size,
        learning_rate=run.program.schedule,
        stop_on_nonfinite=run.config.nonfinite == "stop",
    )
    metrics, step, preempted = {}, start, False
    over = start < run.total and _is_over_budget(run, start, ledger)
    if start == run.total or over:
        with ledger.on("evaluate"):
            metrics = _evaluate(run.evaluators, state)
        return Result(start, metrics, 0.0, ledger.spent(), over_budget=over)
    with journal, start_batches(run.program, start, run.dispatches(start)) as batches:
        # Nobody compiles where the last step was saved and could not be read.
        compiling = compiling or start_compiling(run.program)
        with ledger.on("start"):
            resident = to_reside(run.task.train_data.resident, run.mesh)
            batch = next(batches)
        with ledger.on("compile"):  # as far as it takes longer than the start
            train_step, new_window = compiling.result()
            window, key = new_window(), _key(run)
            check_replicas = None
            if run.check_every:
                check_replicas = make_replica_check(run.program.abstract, run.mesh)
        journal.begin()
        in_flight: collections.deque[jax.Array] = collections.deque()
        for dispatch, count in enumerate(run.dispatches(start), start=1):
            _profile(run, step)
            state, window, loss = train_step(state, window, key, resident, batch, count)
            step += count
            journal.reached(step)
            in_flight.append(loss)
            if len(in_flight) >= DISPATCHES_IN_FLIGHT:
                jax.block_until_ready(in_flight.popleft())

            if run.due(run.log_every, step):
                unreadable = len(run.task.train_data.skipped())
                journal.log(step, window, unreadable=unreadable)
                window = new_window()
                over = step < run.total and _is_over_budget(run, step, ledger)
            if over or run.due(run.evaluate_every, step):
                with ledger.on("evaluate"):
                    metrics = _evaluate(run.evaluators, state)
                journal.record(step, metrics)
            # Processes agree on a dispatch to stop after: not every step ends one.
            preempted = notice.should_stop(dispatch) and step < run.total and not over
            saves = preempted or over or run.due(run.save_every, step)
            if check_replicas and (saves or run.due(run.check_every, step)):
                check_replicas(state, step)
            if saves:
                with ledger.on("checkpoint"):
                    journal.before_save(state.skipped, step, window)
                    checkpoints.save(step, state, _meta(run, step, ledger))
            if preempted:
                logging.info("Stopping as asked after step %d, which is saved.", step)
            if preempted or over:
                break
            if step < run.total:
                batch = _next_batch(batches, loss, ledger)
        journal.finish()
        with ledger.on("checkpoint"):
            checkpoints.wait()
    return Result(step, metrics, journal.rate(step), ledger.spent(), preempted, over)


def _is_over_budget(run: _Run, step: int, ledger: Ledger) -> bool:
    """Whether the budget is spent before the last step: the same answer on all processes.

    That they have to agree makes them wait for each other, so it is asked when a line is logged.
    """
    if run.limit is None or not hosts.from_main(int(run.limit.share(ledger.spent()) >= 1)):
        return False
    if hosts.is_main():
        logging.warning(
            "The budget of %s is spent: the run ends after step %d of %d, before the end of its "
            "schedule. Raise config.budget and start again to go on.",
            run.limit.text,
            step,
            run.total,
        )
    return True


def _prepare(
    task: Task, config: TrainConfig, workdir: epath.Path, mesh: Mesh, ledger: Ledger
) -> _Run:
    """Derives what the run needs from its config, and refuses what cannot work."""
    program = make_program(task, config, mesh)
    of, keep_every = program.steps_of, config.checkpoint.keep_every
    evaluators = {
        name: make_evaluator(evaluation, mesh) for name, evaluation in task.evaluations.items()
    }
    run = _Run(
        task=task,
        config=config,
        workdir=workdir,
        mesh=mesh,
        program=program,
        total=program.total,
        log_every=of(config.log_every),
        evaluate_every=of(config.evaluate_every),
        save_every=of(config.checkpoint.every),
        check_every=0 if config.check_replicas is None else of(config.check_replicas),
        keep_every=None if keep_every is None else of(keep_every),
        evaluators=evaluators,
        limit=make_limit(config.budget, ledger.chip),
    )
    require_writable(workdir)
    return run


def _checkpoints(run: _Run) -> Checkpoints:
    return Checkpoints(
        run.workdir / "checkpoints",
        keep_last=run.config.checkpoint.keep_last,
        keep_every=run.keep_every,
    )


def _newest_step(run: _Run, checkpoints: Checkpoints) -> int | None:
    """The step that was saved last, by this run; None if there is none."""
    newest = checkpoints.latest_step()
    if newest is not None:
        # Before the arrays: what differs is said of keys, not of shapes.
        with contextlib.suppress(DamagedCheckpoint):
            _refuse_other_run(run, read_meta(run.workdir))
    return newest


def _restore_or_begin(run: _Run, checkpoints: Checkpoints, ledger: Ledger) -> TrainState:
    """The newest saved state, or a fresh one."""
    program = run.program
    abstract = program.abstract
    last = read_sign_of_life(run.workdir)
    with ledger.on("start"):
        found = checkpoints.restore_latest(abstract)
        if found is None:
            if run.task.transfer is None:
                logging.info("Starting from random parameters: config.init_from is not set.")
            state = initial_state(run.task, program.optimizer, abstract, run.config.seed)
            ledger.carry(Spent().after_loss(0, last))
        else:
            state, meta = found
            _refuse_other_run(run, meta)
            ledger.carry(spent_of(meta).after_loss(meta["step"], last))
            logging.info("Continuing after step %d of %s.", meta["step"], run.workdir)
    if hosts.is_main():
        text = json.dumps(to_dict(run.config), indent=2)
        (run.workdir / "config.json").write_text(text + "\n")
        logging.info("Config:\n%s", text)
        shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract.params)
        logging.info("Parameters:\n%s", sharding_table(abstract.params, shardings))
    return state


def _refuse_other_run(run: _Run, meta: dict[str, Any]) -> None:
    ours = {"config": identity(run.config), "data": run.task.train_data.fingerprint}
    changed = differences(meta["identity"]["config"], json.loads(json.dumps(ours["config"])))
    if changed:
        raise UserError(
            f"{run.workdir} holds a run with another config ({'; '.join(changed[:5])}); "
            "choose a new workdir, or undo the change."
        )
    if meta["identity"]["data"] != ours["data"]:
        raise UserError(
            f"The training data differ from those of the run in {run.workdir}; choose a new "
            "workdir, or give it the data it was started with."
        )


def _meta(run: _Run, step: int, ledger: Ledger) -> dict[str, Any]:
    """What a checkpoint says about itself, beside its arrays."""
    return {
        "step": step,
        "total_steps": run.total,
        "seed": run.config.seed,
        "config": to_dict(run.config),
        "identity": {
            "config": identity(run.config),
            "data": run.task.train_data.fingerprint,
        },
        "spent": ledger.spent().to_json(),
        **run.task.about,
    }


def _note_result(run: _Run, result: Result, ledger: Ledger) -> None:
    """Records the evaluation at the end of the run."""
    splits: dict[str, dict[str, float]] = {}
    for name, value in result.metrics.items():
        split, _, metric = name.partition("/")
        splits.setdefault(split, {})[metric] = value
    made = record.make_record(
        "train_jax.loop",
        run.config,
        splits,
        meta=_meta(run, result.step, ledger),
        checkpoint=str(run.workdir / "checkpoints" / str(result.step)),
        multiply_adds=run.task.multiply_adds,
        data={
            name: evaluation.data
            for name, evaluation in run.task.evaluations.items()
            if isinstance(evaluation, Probe)
        },
    )
    record.note(made, run.workdir / record.DIRECTORY)


def _next_batch(batches: Iterator[Any], last_loss: jax.Array, ledger: Ledger) -> Any:
    """The next batch. Waiting counts as lost only where the device ran out of work meanwhile."""
    began = time.perf_counter()
    batch = next(batches)
    if last_loss.is_ready():  # pyright: ignore[reportAttributeAccessIssue]
        ledger.add("input", time.perf_counter() - began)
    return batch


def _key(run: _Run) -> jax.Array:
    return jax.device_put(step_key(run.config.seed), replicated(run.mesh))


def _evaluate(evaluators: Mapping[str, Evaluator], state: TrainState) -> dict[str, float]:
    """All evaluations, with the averaged parameters where the run averages them."""
    params = state.params if state.ema is None else state.ema
    return {
        f"{split}/{name}": value
        for split, evaluate in evaluators.items()
        for name, value in evaluate(params, state.model_state).items()
    }


def _profile(run: _Run, done: int) -> None:
    """Starts or stops the profiler before the step that follows ``done`` steps."""
    profile = run.config.profile
    if profile.steps == 0:
        return
    if done + 1 == profile.start:
        jax.profiler.start_trace(str(run.workdir / "profile"))
    if done + 1 == min(profile.start + profile.steps, run.total):
        jax.profiler.stop_trace()
