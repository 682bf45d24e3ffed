"""Few-shot evaluation and neighbours by two processes of two devices, as on two hosts of a pod."""

import json
import signal

import commands
import pytest
from multiprocess.launch import free_port

pytestmark = [pytest.mark.multiprocess, pytest.mark.slow, pytest.mark.timeout(800)]


@pytest.mark.parametrize("command", ["fewshot", "knn"])
def test_two_processes_measure_what_one_measures(tmp_path, command, run_of_ours):
    words = (
        f"vit_jax.{command}",
        f"--config=tests/tiny_probes.py:{command}",
        f"--checkpoint={run_of_ours}",
    )
    alone = commands.shared().run(*words, f"--record={tmp_path}/one")
    assert alone.code == 0, alone.stderr
    coordinator = f"--coordinator=localhost:{free_port()}"
    processes = [
        commands.shared().start(
            *words,
            f"--record={tmp_path}/two",
            coordinator,
            "--num_processes=2",
            f"--process_id={process}",
            devices=2,
        )
        for process in range(2)
    ]
    try:
        both = [process.finish() for process in processes]
    finally:
        for process in processes:
            process.send(signal.SIGKILL)
    assert [each.code for each in both] == [0, 0], both[0].stderr
    assert "digits" not in both[1].stdout
    found = []
    for directory in ("one", "two"):
        (file,) = (tmp_path / directory).iterdir()
        found.append(json.loads(file.read_text())["splits"]["digits"])
    assert found[0]["examples"] == found[1]["examples"] == 360
    # One image more or less may be on the other side of a boundary.
    assert found[1]["metrics"] == pytest.approx(found[0]["metrics"], abs=1.1 / 360)


@pytest.fixture(scope="module")
def run_of_ours(tmp_path_factory):
    """A finished run of the tiny config."""
    workdir = tmp_path_factory.mktemp("run") / "ours"
    finished = commands.shared().run(
        "vit_jax.train", "--config=tests/tiny.py:6", f"--workdir={workdir}"
    )
    assert finished.code == 0, finished.stderr
    return workdir
