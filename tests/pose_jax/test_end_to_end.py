"""A lifter trained on generated motion by the real loop: meshes, dispatches, precision."""

import dataclasses

import jax
import numpy as np
import pytest
import tiny
import tiny_poses

from pose_jax.data import store
from pose_jax.data.views import PoseDataConfig
from pose_jax.task import make_task
from pose_jax.train_config import SemiConfig
from train_jax import loop, sharding
from train_jax.data import placement
from train_jax.loop import fit
from train_jax.mesh import MeshConfig, make_mesh
from train_jax.optimizers import Adam
from train_jax.schedules import ConstantConfig, ExponentialConfig

pytestmark = pytest.mark.timeout(300)

TERMS = ("pose", "trajectory", "projection", "bone_length")
MODEL = dataclasses.replace(tiny_poses.MODEL, channels=16)


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """Labelled motion of S1, and video of S5 of which only the lens is known."""
    directory = tmp_path_factory.mktemp("data")
    store.save(directory / "tiny.npz", tiny_poses.poses())
    wild = tiny_poses.poses({"S5": {"Waving": 50, "Walking": 37}})
    recordings = tuple(dataclasses.replace(each, positions=None) for each in wild.recordings)
    lenses = {
        "S5": {
            name: dataclasses.replace(camera, orientation=None, translation=None)
            for name, camera in wild.cameras["S5"].items()
        }
    }
    wild = dataclasses.replace(wild, recordings=recordings, cameras=lenses, skeleton=None)
    store.save(directory / "wild.npz", wild)
    return directory


def make_config(data_dir, *, semi=True, **changes):
    """A run of all terms, with dropout; unlabelled examples count from the third step on."""
    wild = SemiConfig(data=PoseDataConfig(keypoints="wild.npz"), warmup="2 steps")
    defaults = {
        "model": MODEL,
        "semi": wild if semi else None,
        "data_dir": str(data_dir),
        "evaluations": {},
        "total": "6 steps",
        "optimizer": Adam(amsgrad=True),
        "schedule": ExponentialConfig(base=1e-3, factor=0.9, every="2 steps"),
        "log_every": "1 steps",
    }
    return tiny_poses.make_config(**(defaults | changes))


def train(config, workdir, *, devices=1):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "make_mesh", lambda c: make_mesh(c, jax.devices()[:devices]))
        return fit(make_task(config), config, str(workdir))


@pytest.fixture(scope="module")
def alone(data_dir, tmp_path_factory):
    """The run on one device."""
    workdir = tmp_path_factory.mktemp("alone")
    train(make_config(data_dir), workdir)
    return workdir


def assert_same_run(workdir, alone):
    """Losses, parameters, moments and statistics, to the precision of sums in another order."""
    for term in ("loss", *TERMS):
        losses = tiny.records(workdir, term), tiny.records(alone, term)
        assert list(losses[0]) == list(losses[1]) == list(range(1, 7))
        np.testing.assert_allclose(*[list(each.values()) for each in losses], rtol=1e-4, atol=1e-6)
    found, wanted = tiny.saved_state(workdir), tiny.saved_state(alone)
    assert found.keys() == wanted.keys()
    assert {name.split("/")[0] for name in found} > {"params", "model_state", "opt_state"}
    for name, x in wanted.items():
        # Where a gradient is almost nothing, Adam makes a step of its sign.
        atol = 5e-4 if name.startswith("params/") else 1e-4
        np.testing.assert_allclose(found[name], x, rtol=1e-3, atol=atol, err_msg=name)


@pytest.mark.parametrize(
    "mesh",
    [
        MeshConfig(2, 2, 2),
        pytest.param(MeshConfig(8, 1, 1), marks=pytest.mark.slow),
        pytest.param(MeshConfig(1, 8, 1), marks=pytest.mark.slow),
        pytest.param(MeshConfig(1, 1, 8), marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_eight_devices_give_the_run_of_one(alone, data_dir, tmp_path, monkeypatch, mesh):
    """Batch statistics are those of the whole batch; the data may be split over devices too."""
    # The arrays of a tiny model are split, too, and those of a tiny data set.
    monkeypatch.setattr(sharding, "MIN_FSDP_SIZE", 1)
    monkeypatch.setattr(placement, "REPLICATED_BYTES", 1000)
    train(make_config(data_dir, mesh=mesh), tmp_path, devices=8)
    assert_same_run(tmp_path, alone)


def test_several_steps_per_dispatch_are_the_same_bits(alone, data_dir, tmp_path):
    train(make_config(data_dir, steps_per_dispatch=4, log_every="3 steps"), tmp_path)
    tiny.assert_same_bits(tiny.saved_state(tmp_path), tiny.saved_state(alone))


def means(workdir, term, begin, end):
    """The mean of a term over some steps."""
    values = tiny.records(workdir, term)
    return np.mean([values[step] for step in range(begin, end)])


def test_all_terms_fall_while_labels_and_video_are_learnt(data_dir, tmp_path):
    semi = SemiConfig(data=PoseDataConfig(keypoints="wild.npz"), warmup="20 steps")
    schedule = ConstantConfig(base=5e-3)
    model = dataclasses.replace(MODEL, dropout=0.0)
    config = make_config(data_dir, model=model, schedule=schedule, total="120 steps")
    train(dataclasses.replace(config, semi=semi, steps_per_dispatch=10), tmp_path)
    for term in ("projection", "bone_length"):
        assert means(tmp_path, term, 1, 21) == 0
    for term in TERMS:
        begin = 1 if term in ("pose", "trajectory") else 21
        assert means(tmp_path, term, 111, 121) < 0.6 * means(tmp_path, term, begin, begin + 10)


def test_a_run_that_starts_from_another_begins_where_that_has_learnt(alone, data_dir, tmp_path):
    config = make_config(data_dir, init_from=str(alone))
    train(config, tmp_path)
    first, scratch = (tiny.records(workdir, "loss")[1] for workdir in (tmp_path, alone))
    assert first < 0.99 * scratch


@pytest.mark.slow
def test_bfloat16_trains_float32_parameters(alone, data_dir, tmp_path):
    model = dataclasses.replace(MODEL, compute_dtype="bfloat16")
    train(make_config(data_dir, model=model), tmp_path)
    losses = [list(tiny.records(workdir, "loss").values()) for workdir in (tmp_path, alone)]
    np.testing.assert_allclose(*losses, rtol=2e-2)
    assert losses[0] != losses[1]
    state = tiny.saved_state(tmp_path)
    kinds = {x.dtype for name, x in state.items() if name.startswith(("params/", "model_state/"))}
    assert kinds == {np.dtype("float32")}
