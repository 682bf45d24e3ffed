"""A lifter trained by two processes of two devices each, as on two hosts of a pod."""

import signal

import commands
import numpy as np
import pytest
import tiny
import tiny_poses
from multiprocess.launch import free_port

from pose_jax.data import store

pytestmark = [pytest.mark.multiprocess, pytest.mark.timeout(800)]

# Examples are split over the processes, channels within one.
MESH = ("--config.mesh.data=2", "--config.mesh.tensor=2")


def test_two_processes_give_the_losses_of_one_device(tmp_path):
    """Batch statistics are over the examples of both, labelled and not; dropout is on."""
    store.save(tmp_path / "tiny.npz", tiny_poses.poses())
    run = ("pose_jax.train", "--config=tests/semi_poses.py:8", f"--config.data_dir={tmp_path}")
    together = [
        commands.shared().start(
            *run,
            f"--workdir={tmp_path / 'two'}",
            *MESH,
            f"--coordinator=localhost:{port}",
            "--num_processes=2",
            f"--process_id={process}",
            devices=2,
        )
        for port in [free_port()]
        for process in range(2)
    ]
    try:
        finished = [process.finish(timeout_s=250) for process in together]
    finally:
        for process in together:
            process.send(signal.SIGKILL)
    assert [process.code for process in finished] == [0, 0], finished[0].stderr
    alone = commands.shared().run(*run, f"--workdir={tmp_path / 'one'}")
    assert alone.code == 0, alone.stderr
    for key in ("loss", "pose", "trajectory", "projection", "bone_length", "test/mpjpe"):
        two, one = (tiny.records(tmp_path / name, key) for name in ("two", "one"))
        assert list(two) == list(one)
        np.testing.assert_allclose(list(two.values()), list(one.values()), rtol=1e-4, err_msg=key)
    two, one = (tiny.saved_state(tmp_path / name) for name in ("two", "one"))
    for name, x in one.items():
        if name.startswith("model_state/"):
            np.testing.assert_allclose(two[name], x, rtol=1e-3, atol=1e-4, err_msg=name)
