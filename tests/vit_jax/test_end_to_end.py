"""The ViT trained from real images by the real loop: meshes, transfer, precision, recompilation."""

import contextlib
import dataclasses
import logging
import math

import jax
import numpy as np
import pytest
import tiny

from train_jax import loop, sharding
from train_jax.loop import fit
from train_jax.mesh import MeshConfig, make_mesh
from train_jax.optimizers import Sgd, make_optimizer
from train_jax.sharding import flat_names
from train_jax.state import abstract_state, initial_state
from train_jax.train_config import CheckpointConfig, ProfileConfig
from vit_jax import evaluate as evaluate_command
from vit_jax.convert import convert
from vit_jax.evaluate import evaluate
from vit_jax.init_from import open_source
from vit_jax.task import make_task
from vit_jax.weights import POSITION_TABLE

pytestmark = pytest.mark.timeout(300)

STEPS = 12

# Nothing random on the device; it also compiles in half the time.
PLAIN = {"mixup": 0.0, "flip": False, "model": {"dropout": 0.0, "stochastic_depth": 0.0}}


@contextlib.contextmanager
def on_devices(number):
    """Commands use all devices there are; in here, only some of the eight of the tests."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (loop, evaluate_command):
            patch.setattr(module, "make_mesh", lambda c: make_mesh(c, jax.devices()[:number]))
        yield


def train(config, workdir, *, devices=1):
    with on_devices(devices):
        return fit(make_task(config), config, str(workdir))


def assert_same_losses(a, b, *, rtol=1e-5):
    losses = tiny.records(a, "loss"), tiny.records(b, "loss")
    assert list(losses[0]) == list(losses[1])
    np.testing.assert_allclose(*[list(each.values()) for each in losses], rtol=rtol)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The run on one device, with dropout, stochastic depth, flips and mixup."""
    workdir = tmp_path_factory.mktemp("alone")
    train(tiny.make_config(total=f"{STEPS} steps", ema_decay=0.9), workdir)
    return workdir


@pytest.mark.parametrize(
    "mesh",
    [
        MeshConfig(2, 2, 2),
        pytest.param(MeshConfig(8, 1, 1), marks=pytest.mark.slow),
        pytest.param(MeshConfig(1, 8, 1), marks=pytest.mark.slow),
        pytest.param(MeshConfig(2, 1, 4), marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_eight_devices_give_the_losses_of_one(alone, tmp_path, monkeypatch, mesh):
    # The arrays of a tiny model are split, too.
    monkeypatch.setattr(sharding, "MIN_FSDP_SIZE", 1)
    config = tiny.make_config(total=f"{STEPS} steps", ema_decay=0.9, mesh=mesh)
    result = train(config, tmp_path, devices=8)
    assert_same_losses(alone, tmp_path)
    (expected,) = tiny.records(alone, "test/loss").values()
    assert result.metrics["test/loss"] == pytest.approx(expected, rel=1e-5)
    assert result.metrics["test/examples"] == tiny.NUM_TEST
    assert tiny.records(alone, "test/examples") == {STEPS: tiny.NUM_TEST}


def test_accumulation_gives_the_same_losses(tmp_path):
    # Micro-batches draw their own random numbers, so there must be none; crops are the host's.
    for accumulate in (1, 2):
        train(
            tiny.make_config(total="6 steps", accumulate=accumulate, **PLAIN),
            tmp_path / str(accumulate),
        )
    assert_same_losses(tmp_path / "1", tmp_path / "2")


@pytest.mark.slow
def test_bfloat16_trains_float32_parameters(alone, tmp_path):
    config = tiny.make_config(total=f"{STEPS} steps", model={"compute_dtype": "bfloat16"})
    train(config, tmp_path)
    losses = tiny.records(tmp_path, "loss")
    assert losses != tiny.records(alone, "loss")
    assert_same_losses(alone, tmp_path, rtol=2e-2)
    dtypes = {
        name.split("/")[0]: array.dtype
        for name, array in tiny.saved_state(tmp_path).items()
        if name.startswith("params")
    }
    assert dtypes == {"params": np.float32}


def test_the_averaged_parameters_follow_the_trained_ones(tmp_path):
    decay = 0.75
    keep = CheckpointConfig(every="1 steps", keep_last=6)
    train(tiny.make_config(total="6 steps", ema_decay=decay, checkpoint=keep, **PLAIN), tmp_path)
    states = [tiny.saved_state(tmp_path / "checkpoints" / str(step)) for step in range(1, 7)]
    for name in states[0]:
        if not name.startswith("params/"):
            continue
        ema = name.replace("params/", "ema/", 1)
        expected = states[0][ema]
        for state in states[1:]:
            expected = decay * expected + (1 - decay) * state[name]
            np.testing.assert_allclose(state[ema], expected, rtol=1e-5, atol=1e-7)


@pytest.mark.slow
def test_a_window_of_steps_is_profiled(tmp_path):
    profile = ProfileConfig(start=2, steps=2)
    train(tiny.make_config(total="5 steps", profile=profile, evaluations={}), tmp_path)
    assert len(list((tmp_path / "profile").rglob("*.xplane.pb"))) == 1


# ---- transfer ----


def finetuning(start, **changes):
    """At a higher resolution, on five of the classes; softmax and SGD as in the paper's Table 4."""
    config = tiny.make_config(
        size=24,
        model={"num_classes": 5},
        init_from=str(start),
        mixup=0.0,
        optimizer=Sgd(momentum=0.9, clip_norm=1.0),
        **changes,
    )
    only = {"classes": (5, 6, 7, 8, 9)}
    return dataclasses.replace(
        config,
        data=dataclasses.replace(config.data, **only),
        evaluations={"test": dataclasses.replace(config.evaluations["test"], **only)},
    )


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    """A short run with a hidden layer before the head, sigmoid loss and averaged parameters."""
    workdir = tmp_path_factory.mktemp("pretrain")
    model = {"representation_size": 32, "head_bias": -10.0}
    config = tiny.make_config(total="8 steps", model=model, loss="sigmoid", ema_decay=0.5)
    return config, workdir, train(config, workdir)


@pytest.fixture(scope="module")
def published(pretrained, tmp_path_factory):
    """The same weights as a published file."""
    path = tmp_path_factory.mktemp("npz") / "weights.npz"
    report = convert(pretrained[1], path)
    assert "2 layers" in report
    return path


def state_before_the_first_step(config):
    task, mesh = make_task(config), make_mesh(config.mesh)
    with jax.set_mesh(mesh):
        optimizer = make_optimizer(config.optimizer, lambda step: 0.0 * step, {})
        abstract = abstract_state(task, optimizer, mesh, ema=False)
        return initial_state(task, optimizer, abstract, config.seed)


def test_pretraining_starts_from_the_bias_of_the_head(pretrained):
    config, workdir, _ = pretrained
    # Sigmoid cross-entropy of a single positive among K classes at logits of about -10.
    expected = 10 + config.model.num_classes * math.log1p(math.exp(-10))
    assert tiny.records(workdir, "loss")[1] == pytest.approx(expected, abs=0.1)


def test_a_run_and_its_published_file_start_the_same_fine_tuning(pretrained, published):
    states = [
        jax.tree.map(np.asarray, state_before_the_first_step(finetuning(start)))
        for start in (pretrained[1], published)
    ]
    jax.tree.map(np.testing.assert_array_equal, *states)
    params = flat_names(states[0].params)
    source = open_source(pretrained[1])
    assert not params["head/kernel"].any()
    assert not params["head/bias"].any()
    assert "pre_logits/kernel" not in params
    assert "pre_logits/kernel" in source.shapes
    assert source.shapes[POSITION_TABLE].shape[1] == 1 + 4 * 4
    assert params[POSITION_TABLE].shape[1] == 1 + 6 * 6
    # The averaged parameters, not the last ones.
    saved = tiny.saved_state(pretrained[1])
    np.testing.assert_array_equal(params["cls"], saved["ema/cls"])
    assert (params["cls"] != saved["params/cls"]).any()


def test_fine_tuning_from_either_is_the_same_run(pretrained, published, tmp_path, caplog):
    with caplog.at_level(logging.INFO, logger="absl"):
        for name, start in (("run", pretrained[1]), ("file", published)):
            train(finetuning(start, total="5 steps"), tmp_path / name)
    report = next(r.getMessage() for r in caplog.records if "Starting from" in r.getMessage())
    for status in ("loaded", "resized", "zero", "dropped"):
        assert status in report
    losses = tiny.records(tmp_path / "run", "loss")
    # All classes are equally probable, whatever the image.
    assert losses[1] == pytest.approx(math.log(5), rel=1e-6)
    assert losses[5] != losses[1]
    assert losses == tiny.records(tmp_path / "file", "loss")
    runs = [tiny.saved_state(tmp_path / name) for name in ("run", "file")]
    tiny.assert_same_bits(*runs)


def test_evaluate_reproduces_the_last_evaluation_of_a_run(pretrained, published):
    config, workdir, result = pretrained
    for checkpoint in (workdir, published):
        with on_devices(1):
            again = evaluate(config, str(checkpoint))
        assert {f"test/{name}": value for name, value in again["test"].items()} == result.metrics
    assert result.metrics["test/examples"] == tiny.NUM_TEST
