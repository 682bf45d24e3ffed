"""Sequences are lifted in pieces, on all devices: the poses are those of the whole sequence."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_poses

from pose_jax import cameras
from pose_jax.data.views import View
from pose_jax.lifter import lift, load_lifter
from pose_jax.models import streaming, temporal
from pose_jax.models.config import TemporalConfig
from train_jax.checkpoint import save_once
from train_jax.config import to_dict
from train_jax.errors import UserError

LENGTHS = (1, 2, 8, 9, 70, 33)


def views(lengths=LENGTHS, channels=2):
    rng = np.random.default_rng(1)
    return [
        View("S9", f"Walking {i}", "a", rng.normal(size=(n, 17, channels)).astype("f4"), None, None)
        for i, n in enumerate(lengths)
    ]


def alone(lifter, name, x):
    """A network over one whole sequence, its first and last frame repeated."""
    model = lifter.model
    network = model if name == "pose" else dataclasses.replace(model, joints_out=1)
    padded = np.pad(x, [(model.pad_before, model.pad_after), (0, 0), (0, 0)], mode="edge")
    y, _ = temporal.dilated(
        network, lifter.params[name], lifter.state[name], jnp.asarray(padded[None])
    )
    return np.asarray(y[0])


def both_ways(lifter, name, x):
    """The mean of a sequence's poses and of those of its mirror image, mirrored back."""
    mirror = lifter.skeleton.mirror if name == "pose" else (0,)
    flipped = alone(lifter, name, np.asarray(cameras.flip_pose(x, lifter.keypoint_layout.mirror)))
    return (alone(lifter, name, x) + np.asarray(cameras.flip_pose(flipped, mirror))) / 2


@pytest.mark.parametrize("causal", [False, True])
def test_every_frame_of_every_length(causal):
    lifter = tiny_poses.lifter(dataclasses.replace(tiny_poses.MODEL, causal=causal))
    some = views()
    found = lift(lifter, some, flip=False)
    for view, poses in zip(some, found, strict=True):
        assert poses.shape == (len(view.keypoints), 17, 3)
        np.testing.assert_allclose(poses, alone(lifter, "pose", view.keypoints), atol=1e-5)


def test_mirror_images_are_averaged():
    lifter, some = tiny_poses.lifter(), views((12, 40))
    for view, poses in zip(some, lift(lifter, some), strict=True):
        np.testing.assert_allclose(poses, both_ways(lifter, "pose", view.keypoints), atol=1e-5)
        assert np.abs(poses - alone(lifter, "pose", view.keypoints)).max() > 0.01


def test_a_trajectory_moves_the_pose():
    lifter, some = tiny_poses.lifter(trajectory=True), views((12, 40))
    for view, poses in zip(some, lift(lifter, some), strict=True):
        pose, path = (both_ways(lifter, name, view.keypoints) for name in ("pose", "trajectory"))
        np.testing.assert_allclose(poses, pose + path, atol=1e-5)


def test_as_a_stream_gives_them():
    """A causal model needs no future: the same poses, as the frames arrive."""
    lifter = tiny_poses.lifter(dataclasses.replace(tiny_poses.MODEL, causal=True))
    (view,) = views((30,))
    (poses,) = lift(lifter, [view], flip=False)
    folded = streaming.fold(lifter.model, lifter.params["pose"], lifter.state["pose"])
    stream = streaming.start(lifter.model, folded, jnp.asarray(view.keypoints[:1]))
    for t in range(30):
        stream, pose = streaming.push(
            lifter.model, folded, stream, jnp.asarray(view.keypoints[t][None])
        )
        np.testing.assert_allclose(pose[0], poses[t], atol=1e-5)


def test_confidences_that_the_model_does_not_read_are_left_out():
    lifter, some = tiny_poses.lifter(), views((20,), channels=3)
    (found,) = lift(lifter, some)
    (wanted,) = lift(lifter, [dataclasses.replace(some[0], keypoints=some[0].keypoints[..., :2])])
    np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("trajectory", [False, True])
def test_a_checkpoint_gives_the_lifter_back(tmp_path, trajectory):
    lifter = tiny_poses.lifter(trajectory=trajectory)
    found = load_lifter(tiny_poses.save(lifter, tmp_path / "run"))
    assert found.model == lifter.model
    assert found.has_trajectory == trajectory
    assert (found.skeleton, found.keypoint_layout) == (lifter.skeleton, lifter.keypoint_layout)
    assert (found.longest_side, found.fps) == (False, 50.0)
    found, wanted = ((one.params, one.state) for one in (found, lifter))
    jax.tree.map(np.testing.assert_array_equal, found, wanted)


def faulty(kind, path):
    """A path to something that is no lifter's checkpoint."""
    if kind == "missing":
        return path / "nowhere"
    if kind == "file":
        (path / "file").write_text("")
        return path / "file"
    if kind == "empty":
        return path
    if kind == "vit":
        save_once(path / "run", {"params": {"head": jnp.zeros(3)}}, {})
    elif kind == "other layout":
        tiny_poses.save(tiny_poses.lifter(), path / "run", keypoint_layout="h36m18")
    elif kind == "newer":
        tiny_poses.save(
            tiny_poses.lifter(), path / "run", model={**to_dict(tiny_poses.MODEL), "attention": 4}
        )
    elif kind == "other weights":
        wide = TemporalConfig(widths=(3, 3), channels=16)
        tiny_poses.save(tiny_poses.lifter(), path / "run", model=to_dict(wide))
    return path / "run"


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("missing", "nowhere does not exist; give a run's working directory"),
        ("file", "is a file, not a checkpoint directory"),
        ("empty", "holds no complete checkpoint"),
        ("vit", "is not the checkpoint of a pose lifter .its meta has no 'model'.; name one of"),
        ("other layout", "not the checkpoint of a pose lifter .There is no layout 'h36m18'"),
        ("newer", "not the checkpoint of a pose lifter .*attention"),
        (
            "other weights",
            r"does not fit this model: params/pose/.* float32\[8\] there and float32\[16\]",
        ),
    ],
)
def test_what_is_no_lifter_is_refused(tmp_path, kind, message):
    with pytest.raises(UserError, match=message):
        load_lifter(str(faulty(kind, tmp_path)))
