"""One run on any number of devices and processes, changed in the middle: the same loss curve."""

import json
import shutil
import signal

import numpy as np
import pytest
from multiprocess import launch

from train_jax.checkpoint import Checkpoints
from train_jax.hosts import PREEMPTED_EXIT_CODE

pytestmark = [pytest.mark.multiprocess, pytest.mark.timeout(1000)]

STEPS = list(range(1, 21))


def train(workdir, *, devices, fsdp=1, num_processes=1):
    """Trains to the end; what each process returned."""
    into = workdir.parent / f"{workdir.name}-{num_processes}x{devices}-{fsdp}"
    options = {"num_processes": num_processes, "devices": devices, "timeout_s": 300}
    return launch.run("train_toy", str(workdir), fsdp, into=into, **options)


def curve(workdir, key="loss"):
    """The metric of every step; each is logged once, by one process."""
    lines = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    found = [(line["step"], line[key]) for line in lines if key in line]
    assert len(dict(found)) == len(found)
    return dict(found)


def assert_same_curve(workdir, wanted):
    assert list(curve(workdir)) == list(curve(wanted)) == STEPS
    for key in ("loss", "gradient_norm", "val/loss"):
        found = [list(curve(path, key).values()) for path in (workdir, wanted)]
        # Another example in one batch, or another mask of dropout, changes the first digits.
        np.testing.assert_allclose(*found, rtol=1e-5)


def left_at(step, whole, workdir):
    """A copy of a run as it would be had it been stopped then."""
    shutil.copytree(whole, workdir)
    for later in Checkpoints(workdir / "checkpoints").steps():
        if later > step:
            shutil.rmtree(workdir / "checkpoints" / str(later))
    return workdir


@pytest.fixture(scope="module")
def on_eight(tmp_path_factory):
    """Runs on 8 devices of one process that nobody disturbed: with whole and with split arrays."""
    home = tmp_path_factory.mktemp("eight")
    for fsdp in (1, 8):
        [result] = train(home / f"fsdp{fsdp}", devices=8, fsdp=fsdp)
        assert result == {"step": 20, "spec": ["fsdp"] if fsdp > 1 else []}
    assert_same_curve(home / "fsdp8", home / "fsdp1")
    return home


slow = pytest.mark.slow


@pytest.mark.parametrize(
    ("saved", "devices", "resumed"),
    [
        (8, 4, 1),
        (1, 16, 16),
        pytest.param(1, 4, 4, marks=slow),
        pytest.param(8, 4, 2, marks=slow),
        pytest.param(8, 16, 1, marks=slow),
        pytest.param(8, 16, 4, marks=slow),
        pytest.param(1, 1, 1, marks=slow),
    ],
)
def test_a_run_on_8_devices_goes_on_on_others(on_eight, tmp_path, saved, devices, resumed):
    """With FSDP over `saved` devices before, and over `resumed` after."""
    workdir = left_at(8, on_eight / f"fsdp{saved}", tmp_path / "moved")
    [result] = train(workdir, devices=devices, fsdp=resumed)
    assert result == {"step": 20, "spec": ["fsdp"] if resumed > 1 else []}
    assert_same_curve(workdir, on_eight / "fsdp1")


@pytest.mark.parametrize(("num_processes", "fsdp"), [(4, 2), pytest.param(2, 8, marks=slow)])
def test_several_processes_give_the_losses_of_one(on_eight, tmp_path, num_processes, fsdp):
    """With FSDP within a process, and across all of them."""
    results = train(
        tmp_path / "several", devices=8 // num_processes, fsdp=fsdp, num_processes=num_processes
    )
    assert results == [{"step": 20, "spec": ["fsdp"]}] * num_processes
    assert_same_curve(tmp_path / "several", on_eight / "fsdp1")


@pytest.mark.slow
def test_four_processes_are_preempted_then_lose_one_and_go_on_to_the_same_losses(
    on_eight, tmp_path
):
    """A notice to one of them; then one is killed; then nothing happens to them."""
    workdir = tmp_path / "run"
    slowly = (str(workdir), 2, 0.5)
    options = {"num_processes": 4, "devices": 2, "timeout_s": 300}
    options["environ"] = {"HEARTBEAT_S": "30"}
    with launch.start("train_toy", *slowly, into=tmp_path / "told", **options) as group:
        group.wait_for("stepping")
        group.send(3, signal.SIGTERM)
        told = group.finish()
    assert [process.code for process in told] == [PREEMPTED_EXIT_CODE] * 4, told[0].output
    [saved] = {process.result["step"] for process in told}
    assert 3 < saved < 20
    assert Checkpoints(workdir / "checkpoints").latest_step() == saved
    with launch.start("train_toy", *slowly, into=tmp_path / "lost", **options) as group:
        group.wait_for("stepping")
        group.send(2, signal.SIGKILL)
        lost = group.finish()
    assert Checkpoints(workdir / "checkpoints").latest_step() >= saved
    for process in (lost[0], lost[1], lost[3]):
        # Who waits for a save to be complete learns it from JAX, which aborts.
        assert process.code in (PREEMPTED_EXIT_CODE, -signal.SIGABRT), process.output
        ours = process.code == PREEMPTED_EXIT_CODE
        said = "another process of this run is gone" if ours else "another task died"
        assert said in process.output
    assert lost[2].code == -signal.SIGKILL
    results = train(workdir, devices=2, fsdp=2, num_processes=4)
    assert [result["step"] for result in results] == [20] * 4
    assert_same_curve(workdir, on_eight / "fsdp1")
