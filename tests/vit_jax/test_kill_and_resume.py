"""Runs that are killed or told to stop end in the same bits as one that was not."""

import os
import random
import signal
import subprocess
import sys
import time

import commands
import numpy as np
import pytest
import tiny

from train_jax.checkpoint import Checkpoints, read_meta
from train_jax.hosts import PREEMPTED_EXIT_CODE

pytestmark = pytest.mark.timeout(300)

STEPS = 40
COMMAND = (
    "vit_jax.train",
    f"--config=tests/tiny.py:{STEPS}",
    "--config.checkpoint.every=2 steps",
    "--config.evaluate_every=10 steps",
)


def num_lines(workdir):
    path = workdir / "metrics.jsonl"
    return path.read_text().count("\n") if path.exists() else 0


def last_step(workdir):
    return Checkpoints(workdir / "checkpoints").latest_step() or 0


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that nobody disturbed."""
    workdir = tmp_path_factory.mktemp("whole")
    finished = commands.shared().run(*COMMAND, f"--workdir={workdir}")
    assert finished.code == 0, finished.stderr
    assert last_step(workdir) == STEPS
    return workdir


def assert_same_run(workdir, whole):
    state = tiny.saved_state(workdir)
    assert {name.split("/")[0] for name in state} == {
        *("step", "params", "opt_state", "ema", "skipped")
    }
    tiny.assert_same_bits(state, tiny.saved_state(whole))
    for metric in ("loss", "test/loss", "test/accuracy"):
        assert tiny.records(workdir, metric) == tiny.records(whole, metric)
    assert list(tiny.records(workdir, "loss")) == list(range(1, STEPS + 1))


def environment(path):
    """That of a user, with 1 device and a `tensorflow` that leaves a trace when it is imported."""
    (path / "tensorflow").mkdir()
    trace = path / "imported"
    (path / "tensorflow" / "__init__.py").write_text(
        f"open({str(trace)!r}, 'w').close()\nraise ImportError('no TensorFlow at run time')\n"
    )
    search = os.pathsep.join([str(path), str(commands.ROOT / "tests")])
    return {**os.environ, "JAX_NUM_CPU_DEVICES": "1", "PYTHONPATH": search}, trace


def test_a_killed_command_is_continued_bit_by_bit_and_without_tensorflow(tmp_path, whole):
    """The command as users type it, killed with SIGKILL while it runs."""
    environ, trace = environment(tmp_path)
    workdir = tmp_path / "run"
    words = [sys.executable, "-m", *COMMAND, f"--workdir={workdir}"]
    options = {"cwd": commands.ROOT, "env": environ, "stderr": subprocess.PIPE}
    with subprocess.Popen(words, **options) as process:
        while num_lines(workdir) < 7:
            assert process.poll() is None, process.stderr.read().decode()
            time.sleep(0.002)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    assert last_step(workdir) < STEPS
    again = subprocess.run(words, **options, check=False)
    assert again.returncode == 0, again.stderr.decode()
    assert_same_run(workdir, whole)
    assert not trace.exists(), "something imports TensorFlow"


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_killed_several_times_at_any_moment(tmp_path, whole, seed):
    """After some steps, or in the middle of a save; between two and four times."""
    rng = random.Random(seed)
    killed_at = []
    for _ in range(rng.randint(2, 4)):
        command = commands.shared().start(*COMMAND, f"--workdir={tmp_path}")
        lines = num_lines(tmp_path)
        if rng.random() < 0.5:
            saving = tmp_path / "checkpoints"
            command.wait_until(lambda at=saving: any(at.glob("*tmp*")))
        else:
            command.wait_until(lambda at=lines: num_lines(tmp_path) not in (0, at))
        time.sleep(rng.uniform(0, 0.3))
        command.send(signal.SIGKILL)
        code = command.finish().code
        killed_at.append(last_step(tmp_path))
        if code == 0:
            break
        assert code == -signal.SIGKILL
    assert killed_at[0] < STEPS, "the first kill came too late"
    finished = commands.shared().run(*COMMAND, f"--workdir={tmp_path}")
    assert finished.code == 0, finished.stderr
    assert_same_run(tmp_path, whole)


def stop_in_the_middle(workdir, *words, devices=1):
    """A run that gets a SIGTERM after some steps."""
    command = commands.shared().start(*COMMAND, *words, f"--workdir={workdir}", devices=devices)
    command.wait_until(lambda: num_lines(workdir) >= 5)
    command.send(signal.SIGTERM)
    return command.finish()


def test_a_run_that_is_told_to_stop_saves_and_says_so(tmp_path, whole):
    finished = stop_in_the_middle(tmp_path)
    assert finished.code == PREEMPTED_EXIT_CODE
    step = last_step(tmp_path)
    assert 5 <= step < STEPS
    assert f"Stopping as asked after step {step}, which is saved." in finished.stderr
    assert read_meta(tmp_path)["step"] == step
    finished = commands.shared().run(*COMMAND, f"--workdir={tmp_path}")
    assert finished.code == 0, finished.stderr
    assert f"Continuing after step {step}" in finished.stderr
    assert_same_run(tmp_path, whole)


@pytest.mark.slow
def test_a_run_goes_on_with_parameters_split_over_two_devices(tmp_path):
    # Large enough that FSDP splits the MLPs.
    words = ["--config.model.width=128", "--config.model.mlp_dim=512"]
    run = commands.shared().run
    alone = run(*COMMAND, *words, f"--workdir={tmp_path / 'alone'}")
    assert alone.code == 0, alone.stderr
    moved = tmp_path / "moved"
    assert stop_in_the_middle(moved, *words).code == PREEMPTED_EXIT_CODE
    finished = run(*COMMAND, *words, "--config.mesh.fsdp=2", f"--workdir={moved}", devices=2)
    assert finished.code == 0, finished.stderr
    assert "'fsdp'" in finished.stderr
    losses = [tiny.records(tmp_path / name, "loss") for name in ("alone", "moved")]
    assert list(losses[0]) == list(losses[1]) == list(range(1, STEPS + 1))
    # The same examples in the same order: a single other one would change the third digit.
    np.testing.assert_allclose(*[list(each.values()) for each in losses], rtol=1e-4)
    assert tiny.records(moved, "test/examples")[STEPS] == tiny.NUM_TEST
