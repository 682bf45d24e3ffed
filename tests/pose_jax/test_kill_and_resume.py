"""Semi-supervised runs that are killed or told to stop end in the bits of one that was not."""

import random
import signal
import time

import commands
import pytest
import tiny
import tiny_poses

from pose_jax.data import store
from train_jax.checkpoint import Checkpoints, read_meta
from train_jax.hosts import PREEMPTED_EXIT_CODE

pytestmark = pytest.mark.timeout(300)

STEPS = 40


@pytest.fixture(scope="module")
def command(tmp_path_factory):
    """The command without its working directory."""
    place = tmp_path_factory.mktemp("experiment")
    store.save(place / "tiny.npz", tiny_poses.poses())
    return "pose_jax.train", f"--config=tests/semi_poses.py:{STEPS}", f"--config.data_dir={place}"


def num_lines(workdir):
    path = workdir / "metrics.jsonl"
    return path.read_text().count("\n") if path.exists() else 0


def last_step(workdir):
    return Checkpoints(workdir / "checkpoints").latest_step() or 0


@pytest.fixture(scope="module")
def whole(command, tmp_path_factory):
    """A run that nobody disturbed."""
    workdir = tmp_path_factory.mktemp("whole")
    finished = commands.shared().run(*command, f"--workdir={workdir}")
    assert finished.code == 0, finished.stderr
    return workdir


def assert_same_run(workdir, whole):
    state = tiny.saved_state(workdir)
    assert {name.split("/")[0] for name in state} == {
        *("step", "params", "model_state", "opt_state", "skipped")
    }
    assert state["step"] == STEPS
    tiny.assert_same_bits(state, tiny.saved_state(whole))
    for metric in ("loss", "projection", "test/mpjpe", "test/mpjve"):
        assert tiny.records(workdir, metric) == tiny.records(whole, metric)
    assert list(tiny.records(workdir, "loss")) == list(range(1, STEPS + 1))


def finish(command, workdir):
    finished = commands.shared().run(*command, f"--workdir={workdir}")
    assert finished.code == 0, finished.stderr
    return finished


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_killed_at_any_moment(command, tmp_path, whole, seed):
    """Twice: after some steps, or in the middle of a save."""
    rng = random.Random(seed)
    killed_at = []
    for _ in range(2):
        running = commands.shared().start(*command, f"--workdir={tmp_path}")
        lines = num_lines(tmp_path)
        running.wait_until(lambda at=lines: num_lines(tmp_path) not in (0, at))
        time.sleep(rng.uniform(0, 0.1))
        running.send(signal.SIGKILL)
        code = running.finish().code
        killed_at.append(last_step(tmp_path))
        if code == 0:
            break
        assert code == -signal.SIGKILL
    assert killed_at[0] < STEPS, "the first kill came too late"
    finish(command, tmp_path)
    assert_same_run(tmp_path, whole)


def test_told_to_stop_it_saves_says_so_and_is_continued(command, tmp_path, whole):
    running = commands.shared().start(*command, f"--workdir={tmp_path}")
    running.wait_until(lambda: num_lines(tmp_path) >= 3)
    running.send(signal.SIGTERM)
    finished = running.finish()
    assert finished.code == PREEMPTED_EXIT_CODE, finished.stderr
    step = last_step(tmp_path)
    assert 3 <= step < STEPS
    assert f"Stopping as asked after step {step}, which is saved." in finished.stderr
    meta = read_meta(tmp_path)
    assert (meta["step"], meta["trajectory"], meta["skeleton"]) == (step, True, "h36m17")
    # Several steps per dispatch from here on: it is carried out in another way, and the same run.
    again = finish((*command, "--config.steps_per_dispatch=4", "--config.log_every=1"), tmp_path)
    assert f"Continuing after step {step}" in again.stderr
    assert_same_run(tmp_path, whole)
