"""When programs are compiled in a run: while it starts, and once each."""

import contextlib
import dataclasses
import threading
from collections import Counter

import jax
import pytest
import toy

from train_jax.checkpoint import Checkpoints
from train_jax.errors import UserError
from train_jax.loop import fit

pytestmark = pytest.mark.timeout(300)


@contextlib.contextmanager
def compilations(told=lambda name: None):
    """Counts by name the programs that are compiled inside, also those found in the cache."""
    found = Counter()

    def listen(event, seconds, *, fun_name="", **_):
        if event.endswith("backend_compile_duration"):
            found[fun_name] += 1
            told(fun_name)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield found
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


def run(workdir, **changes):
    with compilations() as found:
        fit(toy.make_task(), toy.make_config(**changes), str(workdir))
    return found


@pytest.mark.parametrize(
    ("steps_per_dispatch", "name"), [(1, "jit(train_step)"), (7, "jit(steps)")]
)
def test_step_and_evaluation_are_compiled_once(tmp_path, steps_per_dispatch, name):
    """7 divides no interval of logs, evaluations and saves: dispatches have rests."""
    first = run(tmp_path, steps_per_dispatch=steps_per_dispatch)
    assert (first[name], first["jit(measure)"]) == (1, 1)
    # As after a kill: the run goes on from step 16.
    (tmp_path / "checkpoints" / "20").rename(tmp_path / "gone")
    again = run(tmp_path, steps_per_dispatch=steps_per_dispatch)
    assert (again[name], again["jit(measure)"]) == (1, 1)


def test_nothing_is_compiled_for_more_steps(tmp_path):
    short = run(tmp_path / "short", ema_decay=0.9, check_replicas="4 steps")
    long = run(tmp_path / "long", ema_decay=0.9, check_replicas="4 steps", total="60 steps")
    assert short == long


@pytest.fixture
def step_is_compiled():
    """An event: the training step has been compiled."""
    event = threading.Event()

    def told(name):
        if name == "jit(train_step)":
            event.set()

    with compilations(told):
        yield event


def test_the_step_is_compiled_before_there_is_a_batch(tmp_path, step_is_compiled):
    task = toy.make_task()

    def start(first, rows):
        assert step_is_compiled.wait(60)
        yield from task.train_data.start(first, rows)

    data = dataclasses.replace(task.train_data, start=start)
    result = fit(dataclasses.replace(task, train_data=data), toy.make_config(), str(tmp_path))
    # What went on beside something else is not counted twice.
    assert 0 < result.core_seconds["compile"] < result.core_seconds["start"]


def test_the_step_is_compiled_while_a_checkpoint_is_restored(
    tmp_path, step_is_compiled, monkeypatch
):
    fit(toy.make_task(), toy.make_config(), str(tmp_path))
    (tmp_path / "checkpoints" / "20").rename(tmp_path / "gone")
    step_is_compiled.clear()
    restore = Checkpoints.restore

    def waits(*args):
        assert step_is_compiled.wait(60)
        return restore(*args)

    monkeypatch.setattr(Checkpoints, "restore", waits)
    assert fit(toy.make_task(), toy.make_config(), str(tmp_path)).step == 20


def test_a_step_that_cannot_be_compiled_says_why(tmp_path):
    def loss(*_):
        raise UserError("The model does not like these points; choose others.")

    task = dataclasses.replace(toy.make_task(), loss=loss)
    with pytest.raises(UserError, match="does not like these points"):
        fit(task, toy.make_config(), str(tmp_path))
    assert not (tmp_path / "checkpoints").exists()


def test_a_finished_run_compiles_no_step(tmp_path):
    run(tmp_path)
    again = run(tmp_path)
    assert (again["jit(train_step)"], again["jit(measure)"]) == (0, 1)


def test_a_finished_run_whose_end_is_damaged_goes_on(tmp_path):
    run(tmp_path)
    (tmp_path / "checkpoints" / "20" / "meta" / "metadata").write_bytes(b"")
    again = run(tmp_path)
    assert again["jit(train_step)"] == 1
    assert Checkpoints(tmp_path / "checkpoints").latest_step() == 20
