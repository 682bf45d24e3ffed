"""Checkpoints of the original become ours and go back, the same to the bit; nothing is assumed."""

import jax
import jax.numpy as jnp
import legacy_torch
import numpy as np
import pytest
import tiny_poses

from pose_jax.convert import convert
from pose_jax.lifter import load_lifter
from pose_jax.models import temporal
from pose_jax.models.config import TemporalConfig
from pose_jax.weights import read_bin, to_torch, write_bin
from train_jax.checkpoint import read_meta, save_once
from train_jax.config import to_dict
from train_jax.errors import UserError

TOLD = {"causal": False, "keypoint_layout": "h36m17"}


@pytest.fixture
def published(data_dir):
    return data_dir / "pose" / "model_arc333_ch32_sym_pos.bin"


def assert_same(found, wanted):
    assert found.keys() == wanted.keys()
    for name in wanted:
        if not name.endswith("num_batches_tracked"):
            np.testing.assert_array_equal(found[name], wanted[name], err_msg=name)


def write_pair(path, pose, trajectory):
    """A .bin file of generated weights."""
    states = [to_torch(*tiny_poses.weights(model)) for model in (pose, trajectory)]
    write_bin(path, *states)
    return path


@pytest.mark.parametrize("mode", ["sym", "causal"])
def test_what_is_converted_gives_the_originals_poses(data_dir, tmp_path, mode):
    path = data_dir / "pose" / f"model_arc333_ch32_{mode}_pos"
    convert(
        path.with_suffix(".bin"),
        tmp_path / "ours",
        causal=mode == "causal",
        keypoint_layout="h36m17",
    )
    lifter = load_lifter(str(tmp_path / "ours"))
    assert lifter.model.causal == (mode == "causal")
    with np.load(path.with_suffix(".npz")) as arrays:
        weights = lifter.params["pose"], lifter.state["pose"]
        y, _ = temporal.dilated(lifter.model, *weights, arrays["x_seq"])
        np.testing.assert_allclose(y, arrays["y_seq_eval"], atol=1e-5)


def test_there_and_back(data_dir, tmp_path):
    """.bin -> ours -> .bin -> ours -> .bin, with a trajectory network."""
    source = data_dir / "pose" / "semi_init.bin"
    convert(source, tmp_path / "one", **TOLD)
    convert(tmp_path / "one", tmp_path / "one.bin")
    convert(tmp_path / "one.bin", tmp_path / "two", **TOLD)
    convert(tmp_path / "two", tmp_path / "two.bin")
    for name in ("model_pos", "model_traj"):
        assert_same(read_bin(tmp_path / "one.bin")[name], read_bin(source)[name])
    # The archive is named after the file.
    one, two = (tmp_path / f"{name}.bin" for name in ("one", "two"))
    assert one.read_bytes() == two.read_bytes().replace(b"two/", b"one/")
    ours = [load_lifter(str(tmp_path / name)) for name in ("one", "two")]
    trees = [(lifter.params, lifter.state) for lifter in ours]
    jax.tree.map(np.testing.assert_array_equal, *trees)
    assert all(lifter.has_trajectory for lifter in ours)


def test_the_old_layout_of_the_published_files(published, tmp_path):
    content = read_bin(published)
    states = {
        "model_pos": {
            name: array
            for name, array in content["model_pos"].items()
            if not name.endswith("num_batches_tracked")
        },
        "model_traj": None,
    }
    random = np.random.RandomState(0)
    legacy_torch.write(tmp_path / "old.bin", {"epoch": 80, "random_state": random, **states})
    convert(tmp_path / "old.bin", tmp_path / "old", **TOLD)
    convert(tmp_path / "old", tmp_path / "new.bin")
    back = read_bin(tmp_path / "new.bin")
    assert_same(back["model_pos"], content["model_pos"])


def test_a_checkpoint_says_what_it_is(published, tmp_path):
    report = convert(published, tmp_path / "ours", **TOLD)
    assert "symmetric, widths 3,3,3 (27 frames), 32 channels" in report
    assert "h36m17 (2 numbers per keypoint) -> h36m17" in report
    assert "13,459 parameters" in report
    meta = read_meta(tmp_path / "ours")
    assert meta["converted_from"] == str(published)
    assert meta["model"] == to_dict(TemporalConfig(widths=(3, 3, 3), channels=32))
    assert (meta["skeleton"], meta["keypoint_layout"]) == ("h36m17", "h36m17")
    assert meta["longest_side"] is False
    assert meta["trajectory"] is False
    assert meta["fps"] is None
    # So going back needs no words, and words that could contradict it are refused.
    with pytest.raises(UserError, match="tells its causal itself; leave out --causal"):
        convert(tmp_path / "ours", tmp_path / "out.bin", causal=True)


def test_other_joints_than_those_of_human36m(tmp_path):
    """The published HumanEva model reads COCO keypoints."""
    model = TemporalConfig(widths=(3, 3), channels=4, joints_out=15)
    write_bin(tmp_path / "model.bin", to_torch(*tiny_poses.weights(model)))
    told = {"causal": False, "keypoint_layout": "coco17"}
    with pytest.raises(UserError, match=r"h36m17, 17 joints, needs 51; .*\(--skeleton\)"):
        convert(tmp_path / "model.bin", tmp_path / "ours", **told)
    assert not (tmp_path / "ours").exists()
    convert(tmp_path / "model.bin", tmp_path / "ours", **told, skeleton="humaneva15")
    lifter = load_lifter(str(tmp_path / "ours"))
    assert (lifter.keypoint_layout.name, lifter.skeleton.name) == ("coco17", "humaneva15")
    assert lifter.model == model


def test_the_averaged_parameters_of_a_run_are_exported(tmp_path):
    params, statistics = tiny_poses.weights()
    last = jax.tree.map(lambda x: x + 1, params)
    state = {"params": {"pose": last}, "ema": {"pose": params}, "model_state": {"pose": statistics}}
    about = {"keypoint_layout": "h36m17", "skeleton": "h36m17", "trajectory": False}
    meta = {"model": to_dict(tiny_poses.MODEL), **about}
    save_once(tmp_path / "run", jax.tree.map(jnp.asarray, state), meta)
    convert(tmp_path / "run", tmp_path / "averaged.bin")
    found = read_bin(tmp_path / "averaged.bin")["model_pos"]
    np.testing.assert_array_equal(found["shrink.bias"], params["shrink"]["bias"])


def test_a_model_for_upright_video_says_that_the_original_differs(tmp_path):
    params, statistics = tiny_poses.weights()
    state = {"params": {"pose": params}, "model_state": {"pose": statistics}}
    about = {"keypoint_layout": "h36m17", "skeleton": "h36m17", "longest_side": True}
    meta = {"model": to_dict(tiny_poses.MODEL), **about}
    save_once(tmp_path / "run", jax.tree.map(jnp.asarray, state), meta)
    assert "units of the image's longest side" in convert(tmp_path / "run", tmp_path / "out.bin")


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ({"keypoint_layout": "h36m17"}, "does not tell whether it is causal, and would give wrong"),
        ({"causal": False}, "does not tell which keypoints it reads; give --layout, for example"),
        ({**TOLD, "keypoint_layout": "coco"}, "There is no layout 'coco'"),
        ({**TOLD, "keypoint_layout": "mpii16"}, "but mpii16 has 16 keypoints of 2 or 3 numbers"),
        ({**TOLD, "dense": True}, "not those of a dense network; leave out --dense"),
    ],
)
def test_what_a_file_does_not_tell_must_be_given(published, tmp_path, told, message):
    with pytest.raises(UserError, match=message):
        convert(published, tmp_path / "ours", **told)
    assert not (tmp_path / "ours").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"widths": (3, 5)}, r"trajectory\.widths: \[3, 3\] -> \[3, 5\]"),
        ({"channels": 6}, r"trajectory\.channels: 4 -> 6"),
        ({"features": 3}, r"trajectory\.features: 2 -> 3"),
    ],
)
def test_both_networks_must_be_of_one_run(tmp_path, change, message):
    pose = TemporalConfig(widths=(3, 3), channels=4)
    path = TemporalConfig(**{"widths": (3, 3), "channels": 4, "joints_out": 1, **change})
    write_pair(tmp_path / "model.bin", pose, path)
    with pytest.raises(UserError, match=f"of the size of the pose network .{message}.*of one run"):
        convert(tmp_path / "model.bin", tmp_path / "ours", **TOLD)


def test_a_trajectory_alone_is_no_lifter(data_dir, tmp_path):
    source = data_dir / "pose" / "model_arc333_ch32_sym_traj.bin"
    with pytest.raises(UserError, match="gives 3 numbers per frame, but h36m17, 17 joints, needs"):
        convert(source, tmp_path / "ours", **TOLD)


def test_nothing_is_overwritten(published, tmp_path):
    (tmp_path / "empty").mkdir()
    convert(published, tmp_path / "empty", **TOLD)  # an empty directory holds nothing to lose
    with pytest.raises(UserError, match="empty exists already"):
        convert(published, tmp_path / "empty", **TOLD)
    (tmp_path / "out.bin").write_text("mine")
    with pytest.raises(UserError, match=r"out\.bin exists already"):
        convert(tmp_path / "empty", tmp_path / "out.bin")
    assert (tmp_path / "out.bin").read_text() == "mine"


def test_one_of_both_must_be_a_file(published, tmp_path):
    with pytest.raises(UserError, match=r"are both files; one of SOURCE and DESTINATION must end"):
        convert(published, tmp_path / "other.bin", **TOLD)
    with pytest.raises(UserError, match="are both checkpoint directories"):
        convert(tmp_path / "a", tmp_path / "b")


def test_a_checkpoint_of_something_else_is_refused(tmp_path):
    save_once(tmp_path / "vit", {"params": {"head": jnp.zeros(3)}}, {"model": {"patch": 16}})
    with pytest.raises(UserError, match="is not the checkpoint of a pose lifter"):
        convert(tmp_path / "vit", tmp_path / "out.bin")
