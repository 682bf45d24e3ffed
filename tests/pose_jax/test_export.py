"""Exported lifters give the poses of the network, for sequences of any number and length."""

import dataclasses
import json

import commands
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_poses

from pose_jax.export import write
from pose_jax.lifter import networks
from pose_jax.models import temporal
from train_jax.errors import UserError
from train_jax.export import read_stablehlo


def lifter(*, causal, dense=False):
    model = dataclasses.replace(tiny_poses.MODEL, causal=causal, dense=dense)
    return tiny_poses.lifter(model, trajectory=True)


def keypoints(frames, count=2):
    shape = (count, frames, 17, 2)
    return np.random.default_rng(frames).normal(size=shape).astype(np.float32)


def expected(lifter, x, network="pose"):
    config = networks(lifter.model, trajectory=True)[network]
    params, state = lifter.params[network], lifter.state[network]
    return np.asarray(temporal.dilated(config, params, state, jnp.asarray(x))[0])


def test_stablehlo_takes_any_length(tmp_path):
    made = lifter(causal=False)
    write(made, tmp_path / "lifter", "stablehlo")
    program = read_stablehlo(tmp_path / "lifter")
    for frames, count in ((9, 1), (40, 3)):
        x = keypoints(frames, count)
        np.testing.assert_allclose(program(jnp.asarray(x)), expected(made, x), atol=1e-5)
    about = json.loads((tmp_path / "lifter.json").read_text())
    assert about["input"]["shape"] == ["batch", "frames", 17, 2]
    assert about["constraints"] == ["frames >= 9"]
    assert about["preprocessing"]["repeat_first_frame"] == 4
    assert len(about["pose_joints"]) == 17


@pytest.mark.parametrize(
    ("options", "network"),
    [
        ({"causal": False}, "pose"),
        ({"causal": True}, "trajectory"),
        ({"causal": False, "dense": True}, "pose"),
    ],
)
def test_onnx_gives_the_poses_of_the_network(tmp_path, options, network):
    onnxruntime = pytest.importorskip("onnxruntime", reason="runs what was exported")
    pytest.importorskip("onnx", reason="writes the file")
    made = lifter(**options)
    write(made, tmp_path / "lifter.onnx", "onnx", network=network)
    session = onnxruntime.InferenceSession(
        str(tmp_path / "lifter.onnx"), providers=["CPUExecutionProvider"]
    )
    for frames, count in ((9, 1), (40, 3)):
        x = keypoints(frames, count)
        (got,) = session.run(None, {"keypoints": x})
        np.testing.assert_allclose(got, expected(made, x, network), atol=1e-4)


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("stablehlo", {"frames": 8}, "sees 9 frames; --frames=8 is too few"),
        ("tflite", {}, "fix it with --frames"),
        ("onnx", {"frames": 20}, "leave --frames out"),
        ("stablehlo", {"network": "trajectory"}, "no trajectory network"),
    ],
)
def test_what_cannot_be_exported_is_told(tmp_path, kind, options, message):
    with pytest.raises(UserError, match=message):
        write(tiny_poses.lifter(), tmp_path / "lifter", kind, **options)
    assert not list(tmp_path.iterdir())


def test_the_command_exports_a_checkpoint(tmp_path):
    made = lifter(causal=True)
    tiny_poses.save(made, tmp_path / "run")
    arguments = [f"--checkpoint={tmp_path / 'run'}", f"--output={tmp_path / 'lifter'}"]
    finished = commands.shared().run("pose_jax.export", *arguments, "--format=stablehlo")
    assert finished.code == 0, finished.stderr
    x = keypoints(12)
    got = read_stablehlo(tmp_path / "lifter")(jnp.asarray(x))
    np.testing.assert_allclose(got, expected(made, x), atol=1e-5)
    again = commands.shared().run("pose_jax.export", *arguments, "--format=onnx")
    assert again.code == 2
    assert "exists already" in again.stderr
