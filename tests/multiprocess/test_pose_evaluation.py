"""A lifter evaluated by two processes of two devices each, as on two hosts of a pod."""

import json
import signal

import commands
import pytest
import tiny_poses
from multiprocess.launch import free_port

from pose_jax.data import store

pytestmark = [pytest.mark.multiprocess, pytest.mark.timeout(800)]


def test_two_processes_measure_what_one_measures(tmp_path):
    """Sequences are measured once, whichever process has them; one process writes."""
    store.save(tmp_path / "tiny.npz", tiny_poses.poses())
    tiny_poses.save(tiny_poses.lifter(trajectory=True), tmp_path / "run")
    words = (
        "pose_jax.evaluate",
        "--config=tests/tiny_poses.py",
        f"--config.data_dir={tmp_path}",
        f"--checkpoint={tmp_path}/run",
    )
    alone = commands.shared().run(*words, f"--output={tmp_path}/one.json")
    assert alone.code == 0, alone.stderr
    coordinator = f"--coordinator=localhost:{free_port()}"
    processes = [
        commands.shared().start(
            *words,
            f"--output={tmp_path}/two.json",
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
    assert both[0].stdout.endswith(alone.stdout)
    assert "mm" not in both[1].stdout
    one, two = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("one", "two"))
    assert two["results"]["test"] == pytest.approx(one["results"]["test"], rel=1e-5)
