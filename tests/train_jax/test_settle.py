"""Runs that are as long as their budget, by a clock that every batch moves."""

import dataclasses
import json
import logging
import time

import chex
import jax
import numpy as np
import pytest
import toy

from train_jax import chips
from train_jax.budget import BudgetConfig, spent_of
from train_jax.checkpoint import read_meta, restore_params
from train_jax.data import placement
from train_jax.errors import UserError
from train_jax.loop import fit
from train_jax.settle import settle
from train_jax.train_config import CheckpointConfig

# Of training and evaluation alike. An evaluation of the toy's 100 points takes 7 batches of 16.
BATCH_S = 0.1


class Clock:
    """Stands still but for batches, ``batch_s`` seconds each."""

    def __init__(self):
        self.now, self.batch_s = 0.0, BATCH_S


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    take = placement.Prefetch.__next__

    def slow(self):
        clock.now += clock.batch_s
        return take(self)

    monkeypatch.setattr(placement.Prefetch, "__next__", slow)
    monkeypatch.setattr(time, "perf_counter", lambda: clock.now)
    return clock


def make_task(config):
    return toy.make_task(config.batch_size)


def run(config, workdir, task=None):
    config = settle(make_task, config, str(workdir))
    return fit(task or make_task(config), config, str(workdir))


def records(workdir, key):
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return {r["step"]: r[key] for r in map(json.loads, lines) if key in r}


def final_params(workdir):
    shapes, _ = jax.eval_shape(toy.make_task().init, jax.random.key(0))
    return jax.tree.map(np.asarray, restore_params(workdir, shapes))


class Killed(BaseException):
    """As sudden as a signal, within the test's process."""


def task_killed_at(step):
    task = toy.make_task()
    start = task.train_data.start

    def dies(first, rows):
        for at, batch in enumerate(start(first, rows), start=first):
            if at == step:
                raise Killed
            yield batch

    return dataclasses.replace(task, train_data=dataclasses.replace(task.train_data, start=dies))


def budgeted(seconds, **changes):
    budget = BudgetConfig(hours=seconds / 3600, reserve=0.1)
    often = {"log_every": "15 steps", "evaluate_every": "60 steps"}
    save = CheckpointConfig(every="30 steps")
    defaults = {"total": "budget", "budget": budget, "checkpoint": save, **often}
    return toy.make_config(**(defaults | changes))


@pytest.mark.parametrize("steps_per_dispatch", [1, 3])
def test_a_run_is_as_long_as_its_budget_and_so_is_its_schedule(tmp_path, clock, steps_per_dispatch):
    config = budgeted(60.0, steps_per_dispatch=steps_per_dispatch)
    result = run(config, tmp_path)
    record = json.loads((tmp_path / "budget.json").read_text())
    assert result.step == record["steps"]
    assert record["measured_seconds"]["step"] == pytest.approx(BATCH_S / steps_per_dispatch)
    # 7 batches, and the look for an eighth.
    assert record["measured_seconds"]["evaluation"] == pytest.approx(8 * BATCH_S)
    assert not result.over_budget
    # All of it but the reserve is used: by evaluations as estimated, and steps.
    assert 0.85 * 60 < result.spent.seconds <= 60
    assert read_meta(tmp_path)["config"]["total"] == f"{result.step} steps"
    # The cosine falls to 0 at the end.
    rates = records(tmp_path, "learning_rate")
    assert rates[result.step] < 1e-3 * max(rates.values())
    assert list(records(tmp_path, "val/accuracy"))[-1] == result.step


def test_core_days_are_of_all_cores(tmp_path, clock):
    cores = chips.num_cores()
    budget = BudgetConfig(core_days=60.0 * cores / 86_400, chip="cpu", reserve=0.1)
    result = run(budgeted(60.0, budget=budget), tmp_path)
    assert 0.85 * 60 * cores < sum(result.core_seconds.values()) <= 60 * cores


def test_a_killed_run_takes_the_recorded_steps_and_ends_in_the_same_bits(tmp_path, clock):
    config = budgeted(40.0)
    whole = run(config, tmp_path / "whole")
    with pytest.raises(Killed):
        run(config, tmp_path / "killed", task_killed_at(100))
    clock.batch_s = 0.05  # faster by then: measured again, there would be more steps
    again = run(config, tmp_path / "killed")
    assert again.step == whole.step > 100
    assert again.core_seconds["lost"] > 0
    chex.assert_trees_all_equal(*(final_params(tmp_path / name) for name in ("whole", "killed")))
    # It is the run of that many steps.
    plain = toy.make_config(total=f"{whole.step} steps")
    fit(toy.make_task(), plain, str(tmp_path / "plain"))
    chex.assert_trees_all_equal(*(final_params(tmp_path / name) for name in ("whole", "plain")))


def test_lost_steps_are_on_the_ledger_and_the_time_between_is_not(tmp_path, clock):
    config = toy.make_config(
        total="40 steps",
        log_every="1 steps",
        evaluate_every="100 percent",
        checkpoint=CheckpointConfig(every="10 steps"),
    )
    with pytest.raises(Killed):
        fit(task_killed_at(27), config, str(tmp_path))
    saved = read_meta(tmp_path)
    assert saved["step"] == 20
    died = json.loads((tmp_path / "ledger.json").read_text())
    clock.now += 1e6
    result = fit(toy.make_task(), config, str(tmp_path))
    spent = result.core_seconds
    cores = chips.num_cores()
    lost = (died["seconds"] - spent_of(saved).seconds) * cores
    assert 6 * BATCH_S * cores < lost < 8.01 * BATCH_S * cores
    assert spent["lost"] == pytest.approx(lost)
    # 40 steps and an evaluation count; first batches are the start of a process.
    counted = spent["train"] + spent["input"] + spent["evaluate"] + spent["start"]
    assert counted == pytest.approx((40 + 8) * BATCH_S * cores, abs=2.01 * BATCH_S * cores)
    assert result.spent.seconds < 100
    assert read_meta(tmp_path)["spent"]["core_seconds"]["cpu"]["lost"] == pytest.approx(lost)
    assert records(tmp_path, "goodput")[40] == pytest.approx(result.spent.goodput(), abs=0.2)


def test_a_run_that_is_told_nothing_of_its_death_loses_nothing(tmp_path, clock):
    config = toy.make_config()
    fit(toy.make_task(), config, str(tmp_path))
    saved = spent_of(read_meta(tmp_path))
    again = fit(toy.make_task(), config, str(tmp_path))
    assert again.core_seconds["lost"] == 0
    assert again.spent.seconds == pytest.approx(saved.seconds + 8 * BATCH_S)


def test_a_spent_budget_ends_the_run_and_a_raised_one_continues_it(tmp_path, clock, caplog):
    caplog.set_level(logging.INFO)
    often = {"log_every": "4 steps", "evaluate_every": "100 percent"}
    config = budgeted(6, total="100 steps", **often)
    result = fit(toy.make_task(), config, str(tmp_path / "parts"))
    assert result.over_budget
    assert not result.preempted
    # A log line comes every 4 steps.
    assert result.step % 4 == 0
    assert 6 <= result.spent.seconds < 6 + 4 * BATCH_S + 8 * BATCH_S
    assert read_meta(tmp_path / "parts")["step"] == result.step
    assert result.metrics["val/examples"] == toy.NUM_EXAMPLES
    said = f"The budget of 0.00166667 hours is spent: the run ends after step {result.step} of 100"
    assert said in caplog.text
    assert "Spent by step" in caplog.text
    # Started again, it does no step.
    again = fit(toy.make_task(), config, str(tmp_path / "parts"))
    assert (again.step, again.over_budget) == (result.step, True)
    # Without the budget it goes on, in the same bits.
    free = dataclasses.replace(config, budget=BudgetConfig())
    assert fit(toy.make_task(), free, str(tmp_path / "parts")).step == 100
    fit(toy.make_task(), free, str(tmp_path / "whole"))
    chex.assert_trees_all_equal(*(final_params(tmp_path / name) for name in ("whole", "parts")))


def test_a_budget_that_was_measured_too_well_is_still_kept(tmp_path, clock):
    config = budgeted(40.0)
    settled = settle(make_task, config, str(tmp_path))
    steps = int(settled.total.split()[0])
    clock.batch_s = 0.13
    result = fit(toy.make_task(), settled, str(tmp_path))
    assert result.over_budget
    assert result.step < steps
    assert result.spent.seconds < 40 + 16 * clock.batch_s
    # A higher budget does not change the length of the run, only that it gets there.
    more = dataclasses.replace(config, budget=BudgetConfig(hours=1.0))
    assert run(more, tmp_path).step == steps


def test_a_run_that_saved_nothing_may_become_another(tmp_path, clock):
    first = settle(make_task, budgeted(40.0), str(tmp_path))
    assert settle(make_task, budgeted(40.0), str(tmp_path)) == first
    other = settle(make_task, budgeted(80.0), str(tmp_path))
    assert int(other.total.split()[0]) > 1.5 * int(first.total.split()[0])


def test_a_record_that_cannot_be_read_is_named(tmp_path, clock):
    settle(make_task, budgeted(40.0), str(tmp_path))
    (tmp_path / "budget.json").write_text('{"steps": ')
    with pytest.raises(UserError, match=r"budget\.json cannot be read .*; set config\.total"):
        settle(make_task, budgeted(40.0), str(tmp_path))


def test_measuring_does_not_read_the_checkpoint_that_a_run_starts_from(tmp_path, clock):
    def fine_tuning(config):
        def fails(*_):
            raise AssertionError("transferred to throw it away")

        return dataclasses.replace(make_task(config), transfer=fails)

    assert settle(fine_tuning, budgeted(40.0), str(tmp_path)).total.endswith(" steps")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"budget": BudgetConfig()},
            "'budget' and config.budget sets none; set config.budget.core",
        ),
        ({"budget": BudgetConfig(core_days=1.0)}, "the run has been on 'cpu'"),
        ({"budget": BudgetConfig(hours=0.1 / 3600)}, "affords no step: 0 s are left"),
        ({"budget": BudgetConfig(hours=4.15 / 3600)}, "warm-up of 2 steps .* is not shorter"),
        ({"batch_size": 12}, "batch_size 12 does not split over 8 devices"),
    ],
)
def test_what_cannot_work_is_one_sentence(tmp_path, clock, change, message):
    with pytest.raises(UserError, match=message):
        run(budgeted(40.0, **change), tmp_path)
    assert not (tmp_path / "checkpoints").exists()


def test_a_run_of_fixed_length_cannot_become_one_of_a_budget(tmp_path, clock):
    fit(toy.make_task(), toy.make_config(total="8 steps"), str(tmp_path))
    with pytest.raises(UserError, match=r"length is not in budget\.json; set config\.total"):
        run(budgeted(40.0), tmp_path)


def test_the_length_is_no_duration_without_a_run(tmp_path):
    with pytest.raises(UserError, match=r"'budget' is measured when vit_jax\.train"):
        fit(toy.make_task(), budgeted(40.0), str(tmp_path))
