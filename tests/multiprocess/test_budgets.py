"""Two processes with one budget: process 0 decides, and both do the same number of steps."""

import json
import signal

import commands
import pytest
import tiny
from multiprocess.launch import free_port

from train_jax.checkpoint import Checkpoints, read_meta

pytestmark = [pytest.mark.multiprocess, pytest.mark.timeout(800)]


def train(workdir, *words):
    """Both processes of a run, to their end."""
    coordinator = f"--coordinator=localhost:{free_port()}"
    rest = (*words, coordinator, "--num_processes=2", "--config.checkpoint.every=100 percent")
    processes = [
        commands.shared().start(
            "vit_jax.train",
            "--config=tests/tiny.py:100_000",
            f"--workdir={workdir}",
            "--config.evaluate_every=100 percent",
            f"--process_id={process}",
            *rest,
        )
        for process in range(2)
    ]
    try:
        return [process.finish(timeout_s=300) for process in processes]
    finally:
        for process in processes:
            process.send(signal.SIGKILL)


def test_both_stop_after_the_same_step_when_the_budget_is_spent(tmp_path):
    # A few seconds: after the first log lines, if not at the first.
    finished = train(tmp_path, "--config.budget.hours=0.003", "--config.log_every=10 steps")
    assert [process.code for process in finished] == [0, 0], finished[0].stderr
    (step,) = Checkpoints(tmp_path / "checkpoints").steps()
    assert 0 < step < 100_000
    assert step % 10 == 0
    said = f"The budget of 0.003 hours is spent: the run ends after step {step} of 100000"
    assert said in finished[0].stderr
    assert "is spent" not in finished[1].stderr
    assert tiny.records(tmp_path, "test/examples") == {step: tiny.NUM_TEST}


@pytest.mark.slow
def test_both_take_the_length_that_process_0_has_measured(tmp_path):
    finished = train(
        tmp_path,
        "--config.total=budget",
        "--config.budget.hours=0.04",
        "--config.budget.reserve=0.3",
        "--config.log_every=50 steps",
    )
    assert [process.code for process in finished] == [0, 0], finished[0].stderr
    steps = json.loads((tmp_path / "budget.json").read_text())["steps"]
    assert f"affords {steps} steps" in finished[0].stderr
    assert "affords" not in finished[1].stderr
    assert Checkpoints(tmp_path / "checkpoints").steps() == [steps]
    meta = read_meta(tmp_path)
    assert meta["config"]["total"] == f"{steps} steps"
    assert meta["spent"]["seconds"] < 0.04 * 3600
