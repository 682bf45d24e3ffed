"""A run as the core sees it: what fits together, where parameters live, where they start."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_poses

from pose_jax import convert
from pose_jax.data import store
from pose_jax.data.views import PoseDataConfig, View, Views
from pose_jax.init_from import transfer_lifter
from pose_jax.models.config import TemporalConfig
from pose_jax.skeletons import COCO_17, H36M_17, HUMANEVA_15
from pose_jax.task import PARAM_RULES, make_init, make_task, task_of
from pose_jax.train_config import SemiConfig
from train_jax import sharding
from train_jax.checkpoint import save_once
from train_jax.errors import UserError
from train_jax.mesh import MeshConfig, make_mesh
from train_jax.sharding import flat_names, param_shardings

SEMI = SemiConfig(data=PoseDataConfig(keypoints="wild.npz"), warmup="1 steps")


def views(layout=H36M_17, *, skeleton=H36M_17, fps=50.0, channels=2, depth=4.0):
    keypoints = np.zeros((9, layout.num_joints, channels), np.float32)
    positions = np.zeros((9, skeleton.num_joints, 3), np.float32)
    positions[:, 0, 2] = depth
    intrinsics = np.array([2, 2, 0, 0, 0, 0, 0, 0, 0], np.float32)
    view = View("S1", "Walking", "C1", keypoints, positions, intrinsics)
    return Views((view,), layout, skeleton, fps)


def unlabelled(*args, **options):
    found = views(*args, **options)
    bare = tuple(dataclasses.replace(view, positions=None) for view in found.views)
    return dataclasses.replace(found, views=bare, skeleton=None)


def config(**changes):
    return tiny_poses.make_config(**changes)


def model(**changes):
    return dataclasses.replace(tiny_poses.MODEL, **changes)


@pytest.mark.parametrize(
    ("changes", "labelled", "fault"),
    [
        (
            {"model": model(joints_in=16)},
            views(),
            r"17 keypoints .*config\.model\.joints_in=17",
        ),
        ({"model": model(features=3)}, views(), r"set .* and config\.model\.features=2\."),
        ({"model": model(joints_out=15)}, views(), r"17 joints.*set config\.model\.joints_out=17"),
        ({"accumulate": 2}, views(), "accumulate must be 1 for poses: batch statistics"),
        ({"chunk": 0}, views(), "chunk must be at least 1 frame, got 0"),
        ({"trajectory": True}, views(depth=-4), "S1 'Walking' is not always in front of camera C1"),
        ({"total": "0 epochs"}, views(), "a run takes at least 1 step"),
    ],
)
def test_a_run_that_cannot_work_is_refused(changes, labelled, fault):
    with pytest.raises(UserError, match=fault):
        task_of(config(**changes), labelled)


@pytest.mark.parametrize(
    ("semi", "others", "fault"),
    [
        ({}, unlabelled(COCO_17), r"config\.data are h36m17, those of config\.semi\.data coco17"),
        ({}, unlabelled(fps=25), r"50 frames per second, config\.semi\.data 25;.*downsample"),
        ({"confidence": True}, unlabelled(), r"wild\.npz has no confidences; set semi\.confid"),
        ({"warmup": "4 steps"}, unlabelled(), r"semi\.warmup of 4 steps is 4 steps, and the run"),
    ],
)
def test_unlabelled_data_of_another_kind_are_refused(semi, others, fault):
    with pytest.raises(UserError, match=fault):
        task_of(config(semi=dataclasses.replace(SEMI, **semi)), views(), others)


def test_video_of_nearly_the_same_rate_and_single_frames_of_any_will_do():
    task_of(config(semi=SEMI), views(fps=30), unlabelled(fps=29.97))
    task_of(config(semi=SEMI, model=model(widths=(1, 1))), views(), unlabelled(fps=10))
    # Detections may have a confidence where the ground truth has none.
    task_of(config(semi=SEMI), views(), unlabelled(channels=3))
    # Keypoints of both may have another layout than the poses.
    task_of(config(semi=SEMI), views(COCO_17), unlabelled(COCO_17))


@pytest.mark.parametrize(
    ("others", "fault"),
    [
        (views(COCO_17), r"those of config\.evaluations\.test coco17"),
        (views(skeleton=HUMANEVA_15), r"config\.evaluations\.test have other joints"),
        (views(fps=10), r"config\.evaluations\.test 10; motion would look slower or faster"),
    ],
)
def test_what_is_measured_must_be_of_the_kind_that_is_learnt(others, fault):
    with pytest.raises(UserError, match=fault):
        task_of(config(), views(), None, {"test": others})


def test_a_task_is_made_of_files(tmp_path):
    store.save(tmp_path / "tiny.npz", tiny_poses.poses())
    wild = tiny_poses.poses({"S5": {"Waving": 30}}, confidence=True)
    recordings = tuple(dataclasses.replace(each, positions=None) for each in wild.recordings)
    lenses = {
        "S5": {
            name: dataclasses.replace(camera, orientation=None, translation=None)
            for name, camera in wild.cameras["S5"].items()
        }
    }
    wild = dataclasses.replace(wild, recordings=recordings, cameras=lenses, skeleton=None)
    store.save(tmp_path / "wild.npz", wild)
    task = make_task(config(data_dir=str(tmp_path), semi=SEMI))
    # Two views of 63 frames, all of them mirrored too.
    assert task.train_data.examples_per_epoch == 252
    assert list(task.evaluations) == ["test"]
    assert task.about == {
        "model": {**task.about["model"], "widths": [3, 3], "causal": False},
        "trajectory": True,
        "skeleton": "h36m17",
        "keypoint_layout": "h36m17",
        "longest_side": False,
        "fps": 50.0,
    }
    batch = next(task.train_data.start(0, np.arange(16)))
    resident = {name: jnp.asarray(x) for name, x in task.train_data.resident.items()}
    examples = jax.jit(task.train_data.expand)(resident, batch)
    assert {name: x.shape for name, x in examples.items()} == {
        "keypoints": (16, 9, 17, 2),
        "positions": (16, 1, 17, 3),
        "intrinsics": (16, 9),
        "unlabelled_keypoints": (16, 9, 17, 3),
        "unlabelled_intrinsics": (16, 9),
    }
    other = make_task(config(data_dir=str(tmp_path))).train_data
    assert other.fingerprint != task.train_data.fingerprint


@pytest.mark.parametrize("widths", [(3, 3, 3), (1,)])
def test_channels_are_split_over_tensor_parallel_devices(widths, monkeypatch):
    monkeypatch.setattr(sharding, "MIN_FSDP_SIZE", 1)
    chosen = model(widths=widths, channels=8)
    params, _ = jax.eval_shape(make_init(config(model=chosen)), jax.random.key(0))
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    specs = {
        name: tuple(each.spec)
        for name, each in flat_names(param_shardings(params, PARAM_RULES, mesh)).items()
    }
    assert specs["pose/expand/kernel"] == (None, "fsdp", "tensor")
    assert specs["pose/shrink/kernel"] == ("tensor",)
    if len(widths) > 1:
        assert specs["pose/block_1/conv/kernel"] == (None, "fsdp", "tensor")
        assert specs["pose/block_1/pointwise/kernel"] == ("tensor", "fsdp")


def saved(path, chosen=tiny_poses.MODEL, *, ema=False, networks=("pose",), **about):
    """A checkpoint with statistics that no fresh network has."""
    params, state = {}, {}
    for seed, name in enumerate(networks):
        network = chosen if name == "pose" else dataclasses.replace(chosen, joints_out=1)
        params[name], state[name] = jax.tree.map(jnp.asarray, tiny_poses.weights(network, seed))
    trees = {"params": params, "model_state": state}
    if ema:
        trees["ema"] = jax.tree.map(lambda x: x + 1, params)
    description = task_of(config(model=chosen), views()).about
    save_once(path, trees, {**description, **about})
    return trees


def started(path, run):
    """What a run starts from, and the fresh values it would have had."""
    task = task_of(dataclasses.replace(run, init_from=str(path)), views())
    fresh = task.init(jax.random.key(0))
    assert task.transfer is not None
    return task.transfer(*fresh), fresh


def assert_same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.mark.parametrize("ema", [False, True])
def test_a_run_starts_from_parameters_and_statistics(tmp_path, ema):
    found = saved(tmp_path / "run", ema=ema)
    free = model(dropout=0.5, compute_dtype="bfloat16")
    (params, state), _ = started(tmp_path / "run", config(model=free))
    assert_same(params, found["ema" if ema else "params"])
    assert_same(state, found["model_state"])


def test_a_trajectory_network_comes_along_stays_fresh_or_is_left_out(tmp_path):
    without = saved(tmp_path / "without")
    both = saved(tmp_path / "both", networks=("pose", "trajectory"))
    run = config(trajectory=True)
    (params, state), fresh = started(tmp_path / "without", run)
    assert_same(params["pose"], without["params"]["pose"])
    for found, own in zip((params, state), fresh, strict=True):
        assert_same(found["trajectory"], own["trajectory"])
    (params, state), _ = started(tmp_path / "both", run)
    assert_same((params, state), (both["params"], both["model_state"]))
    (params, state), _ = started(tmp_path / "both", config())
    assert list(params) == list(state) == ["pose"]


def test_a_run_starts_from_a_converted_checkpoint(tmp_path, data_dir):
    path = data_dir / "pose" / "model_arc333_ch32_sym_pos.bin"
    convert.convert(path, tmp_path / "converted", causal=False, keypoint_layout="h36m17")
    run = config(model=TemporalConfig(widths=(3, 3, 3), channels=32))
    (params, state), fresh = started(tmp_path / "converted", run)
    assert params["pose"]["shrink"]["kernel"].shape == (32, 51)
    differ = jax.tree.map(lambda a, b: bool((a != b).any()), (params, state), fresh)
    assert all(jax.tree.leaves(differ))


@pytest.mark.parametrize(
    ("changes", "about", "fault"),
    [
        (
            {"causal": True},
            {},
            r"another network than config: .*causal: True -> False\.$",
        ),
        ({"channels": 16}, {}, r"config: config\.model\.channels: 16 -> 8\.$"),
        ({"widths": (3, 5)}, {}, r"config: config\.model\.widths"),
        ({}, {"keypoint_layout": "coco17"}, r"keypoint_layout: 'coco17' -> 'h36m17'\.$"),
    ],
)
def test_a_checkpoint_of_another_network_is_refused(tmp_path, changes, about, fault):
    saved(tmp_path / "run", model(**changes), **about)
    with pytest.raises(UserError, match=fault):
        started(tmp_path / "run", config())


def test_what_is_no_lifter_is_refused(tmp_path, data_dir):
    save_once(tmp_path / "other", {"params": {"kernel": jnp.zeros(3)}}, {"model": {}})
    fresh = make_init(config())(jax.random.key(0))
    for path, fault in (
        (tmp_path / "other", "is not a checkpoint of a pose lifter"),
        (tmp_path / "nothing", "nothing does not exist; give a run's working directory"),
        (data_dir / "pose" / "semi_init.bin", r"must be converted .*python -m pose_jax\.convert"),
    ):
        with pytest.raises(UserError, match=fault):
            transfer_lifter(str(path), {}, *fresh)
