"""The ViT trained by two processes of four devices each, as on two hosts of a pod."""

import signal
import time

import commands
import numpy as np
import pytest
import tiny
from multiprocess.launch import free_port

from train_jax.checkpoint import read_meta
from train_jax.hosts import PREEMPTED_EXIT_CODE

pytestmark = [pytest.mark.multiprocess, pytest.mark.timeout(800)]

# All axes of the mesh are in use; tensor parallelism stays within a process.
MESH = ("--config.mesh.data=2", "--config.mesh.fsdp=2", "--config.mesh.tensor=2")


def start(workdir, *words, steps=12, devices=4):
    """Both processes of a run."""
    coordinator = f"--coordinator=localhost:{free_port()}"
    return [
        commands.shared().start(
            "vit_jax.train",
            f"--config=tests/tiny.py:{steps}",
            f"--workdir={workdir}",
            *words,
            coordinator,
            "--num_processes=2",
            f"--process_id={process}",
            devices=devices,
        )
        for process in range(2)
    ]


def finish(processes):
    """Waits for both, and kills what is left if one hangs."""
    try:
        return [process.finish() for process in processes]
    finally:
        for process in processes:
            process.send(signal.SIGKILL)


def alone(workdir, steps):
    words = [f"--config=tests/tiny.py:{steps}", f"--workdir={workdir}"]
    finished = commands.shared().run("vit_jax.train", *words)
    assert finished.code == 0, finished.stderr


def assert_same_losses(a, b):
    losses = tiny.records(a, "loss"), tiny.records(b, "loss")
    assert list(losses[0]) == list(losses[1])
    np.testing.assert_allclose(*[list(each.values()) for each in losses], rtol=1e-5)
    test = [tiny.records(workdir, "test/loss") for workdir in (a, b)]
    np.testing.assert_allclose(*[list(each.values()) for each in test], rtol=1e-5)
    for workdir in (a, b):
        assert set(tiny.records(workdir, "test/examples").values()) == {tiny.NUM_TEST}


def test_two_processes_give_the_losses_of_one_device(tmp_path):
    """With dropout, stochastic depth, flips and mixup; every test image counts once."""
    finished = finish(start(tmp_path / "two", *MESH))
    assert [process.code for process in finished] == [0, 0], finished[0].stderr
    # Process 1 has nothing to add to the log.
    assert "step 12/12" in finished[0].stderr
    assert "step 12/12" not in finished[1].stderr
    alone(tmp_path / "one", 12)
    assert_same_losses(tmp_path / "one", tmp_path / "two")


@pytest.mark.slow
def test_two_processes_that_are_told_to_stop_are_continued_by_one(tmp_path):
    steps = 60
    processes = start(tmp_path / "moved", *MESH, steps=steps)
    log = tmp_path / "moved" / "metrics.jsonl"
    processes[0].wait_until(lambda: log.exists() and log.read_text().count("\n") > 4)
    processes[1].send(signal.SIGTERM)
    finished = finish(processes)
    assert [process.code for process in finished] == [PREEMPTED_EXIT_CODE] * 2, finished[0].stderr
    assert 4 < read_meta(tmp_path / "moved")["step"] < steps
    alone(tmp_path / "moved", steps)
    alone(tmp_path / "one", steps)
    losses = [tiny.records(tmp_path / name, "loss") for name in ("one", "moved")]
    assert list(losses[0]) == list(losses[1]) == list(range(1, steps + 1))
    np.testing.assert_allclose(*[list(each.values()) for each in losses], rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("victim", [1, 0])
def test_who_loses_a_process_says_so_and_ends_at_once(tmp_path, victim):
    processes = start(tmp_path / "run", steps=2000, devices=1)
    log = tmp_path / "run" / "metrics.jsonl"
    processes[0].wait_until(lambda: log.exists() and log.read_text().count("\n") > 4)
    processes[victim].send(signal.SIGKILL)
    killed = time.monotonic()
    survivor = finish(processes)[1 - victim]
    # At once rather than after 100 s without a heartbeat.
    assert time.monotonic() - killed < 60
    if victim == 0 and survivor.code == -signal.SIGABRT:
        # The coordinator is gone, and JAX's own thread may be the first to notice.
        assert "another task died" in survivor.stderr
    else:
        assert survivor.code == PREEMPTED_EXIT_CODE, survivor.stderr
        # The threads of JAX may have something to say before and after it.
        errors = [line for line in survivor.stderr.splitlines() if line.startswith("Error: ")]
        assert len(errors) == 1
        assert "another process of this run is gone" in errors[0]
        assert "Traceback" not in survivor.stderr


def test_a_mistake_is_said_by_both_processes_which_then_end(tmp_path):
    finished = finish(start(tmp_path / "run", "--config.batch_size=3", devices=1))
    assert [process.code for process in finished] == [2, 2], finished[0].stderr
    for process in finished:
        assert "Error: batch_size 3 does not split over 2 devices" in process.stderr
