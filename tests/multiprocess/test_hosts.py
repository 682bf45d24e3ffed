"""Two real processes: they agree, stop together, and share checkpoints with one or several."""

import signal

import numpy as np
import pytest
from multiprocess import launch

from train_jax import hosts

pytestmark = [pytest.mark.multiprocess, pytest.mark.timeout(500)]


def test_two_processes_are_one_run(tmp_path):
    first, second = launch.run("who_am_i", into=tmp_path / "out")
    assert (first["process"], second["process"]) == (0, 1)
    assert (first["main"], second["main"]) == (True, False)
    for each in (first, second):
        assert each["processes"] == 2
        assert each["devices"] == 4
        assert each["all agree"] is True
        assert each["all agree in a run"] is True
        assert each["one does not"] is False


def test_a_notice_to_one_process_stops_all_at_the_same_step(tmp_path):
    with launch.start("step_until_told", 200, into=tmp_path / "out") as group:
        group.wait_for("stepping")
        group.send(1, signal.SIGTERM)
        finished = group.finish()
    assert [process.code for process in finished] == [0, 0], finished
    steps = {process.result["stopped"] for process in finished}
    assert len(steps) == 1
    assert steps.pop() is not None


def test_preempted_processes_save_one_step_that_a_single_process_resumes(tmp_path):
    directory = str(tmp_path / "checkpoints")
    with launch.start("save_when_told", directory, into=tmp_path / "out") as group:
        group.wait_for("stepping")
        group.send(0, signal.SIGTERM)
        finished = group.finish()
    assert [process.code for process in finished] == [hosts.PREEMPTED_EXIT_CODE] * 2, finished
    saved = finished[0].result["saved"]
    assert finished[1].result["saved"] == saved
    (alone,) = launch.run(
        "restore", directory, into=tmp_path / "restore", num_processes=1, devices=1
    )
    assert alone == {"step": saved, "ours": True, "now": [saved, saved + 5]}


def test_a_checkpoint_of_one_process_is_restored_by_two(tmp_path):
    directory = str(tmp_path / "checkpoints")
    launch.run("save", directory, [1, 2], into=tmp_path / "save", num_processes=1)
    results = launch.run("restore", directory, into=tmp_path / "restore")
    assert results == [{"step": 2, "ours": True, "now": [1, 2, 7]}] * 2


def test_two_processes_pass_over_the_same_damaged_checkpoint(tmp_path):
    directory = tmp_path / "checkpoints"
    launch.run("save", str(directory), [1, 2], into=tmp_path / "save", num_processes=1)
    (directory / "2" / "meta" / "metadata").write_bytes(b"")
    results = launch.run("restore", str(directory), into=tmp_path / "restore")
    assert results == [{"step": 1, "ours": True, "now": [1, 6]}] * 2
    assert len(list(directory.glob("2.damaged-*"))) == 1


def test_a_fault_that_one_process_meets_is_a_fault_for_all(tmp_path):
    directory = str(tmp_path / "checkpoints")
    launch.run("save", directory, [1], into=tmp_path / "save", num_processes=1)
    results = launch.run("restore_what_one_cannot_read", directory, into=tmp_path / "restore")
    assert "another process could not read its part" in results[0]["error"]
    assert "seen by one process only" in results[1]["error"]


def test_the_next_start_finds_the_programs_of_this_one(tmp_path):
    """Those of process 0, which alone writes; on CPUs the keys of the others are their own."""
    environ = {"XDG_CACHE_HOME": str(tmp_path), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    first, again = (
        launch.run(
            "compile_something",
            into=tmp_path / name,
            environ=environ,
            without=["JAX_COMPILATION_CACHE_DIR"],
        )
        for name in ("first", "again")
    )
    assert first[0]["asked"] > first[0]["found"]
    assert again[0]["asked"] == again[0]["found"] > 0
    assert list((tmp_path / "vit-pose-jax" / "xla").glob("*-cache"))


def test_a_global_batch_is_made_of_the_rows_each_process_loads(tmp_path):
    first, second = launch.run("place_a_batch", 8, into=tmp_path / "out")
    assert sorted(first["rows"] + second["rows"]) == list(range(8))
    wanted = np.arange(8)[:, None] * 10 + np.arange(2)
    for each in (first, second):
        assert each["whole"] == wanted.tolist()
        assert each["total"] == wanted.sum()


def test_one_process_killed_ends_the_others(tmp_path):
    """Rather than waiting for ever; the launch script then starts all of them again."""
    out, impatient = tmp_path / "out", {"HEARTBEAT_S": "15"}
    with launch.start("die_or_wait", 300, into=out, environ=impatient) as group:
        group.wait_for("alive")
        group.send(1, signal.SIGKILL)
        finished = group.finish()
    assert finished[1].code == -signal.SIGKILL
    assert finished[0].code != 0
    assert "heartbeat" in finished[0].output.lower()
