"""A BiT fine-tuned from a published file by the real loop: trained, resumed, evaluated."""

import dataclasses
import math
import shutil

import jax
import numpy as np
import published_bit
import pytest
import tiny

from train_jax import loop
from train_jax.loop import fit
from train_jax.mesh import make_mesh
from train_jax.optimizers import Sgd
from train_jax.schedules import StepsConfig
from train_jax.train_config import CheckpointConfig
from vit_jax import evaluate as evaluate_command
from vit_jax.bit_weights import save_bit
from vit_jax.evaluate import evaluate
from vit_jax.models import api
from vit_jax.models.bit import BiTConfig
from vit_jax.task import make_task

STEPS = 8
MODEL = BiTConfig(stages=(2,), width=32, num_classes=10)


def finetuning(published):
    """HyperRule in small: SGD, steps down, MixUp; the digits instead of photographs."""
    config = tiny.make_config(
        size=16,
        total=f"{STEPS} steps",
        init_from=str(published),
        optimizer=Sgd(momentum=0.9),
        schedule=StepsConfig(base=0.03, boundaries=("50 percent",), warmup="1 steps"),
        checkpoint=CheckpointConfig(every="4 steps", keep_last=3),
        flip=False,
    )
    return dataclasses.replace(config, model=MODEL)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The config, its directory and its result; the file had a head of 21 other classes."""
    root = tmp_path_factory.mktemp("bit")
    upstream = dataclasses.replace(MODEL, num_classes=21)
    shapes = jax.eval_shape(lambda key: api.init(upstream, key, (16, 16, 3))[0], jax.random.key(0))
    save_bit(root / "BiT-M-tiny.npz", published_bit.drawn(shapes))
    with pytest.MonkeyPatch.context() as patch:
        for module in (loop, evaluate_command):
            patch.setattr(module, "make_mesh", lambda c: make_mesh(c, jax.devices()[:1]))
        config = finetuning(root / "BiT-M-tiny.npz")
        yield config, root / "run", fit(make_task(config), config, str(root / "run"))


def test_it_starts_with_a_head_of_zeros_that_is_trained(run):
    _, workdir, result = run
    losses = tiny.records(workdir, "loss")
    # The rate is 0 at the first update, so two batches are seen with a head of zeros.
    assert losses[1] == pytest.approx(math.log(10), rel=1e-6)
    assert losses[2] == pytest.approx(math.log(10), rel=1e-6)
    assert len({losses[step] for step in range(2, STEPS + 1)}) == STEPS - 1
    assert np.any(tiny.saved_state(workdir)["params/head/kernel"])
    assert (result.step, result.metrics["test/examples"]) == (STEPS, tiny.NUM_TEST)


def test_the_files_weights_are_what_it_starts_from(run):
    config, workdir, _ = run
    first = np.load(config.init_from)
    state = tiny.saved_state(workdir)
    name = "params/block1/units/conv2/kernel"
    stored = first["resnet/block1/unit02/b/standardized_conv2d/kernel"]
    # A few small updates later.
    assert 0 < np.abs(state[name][0] - stored).max() < 0.1 * np.abs(stored).max()


def test_a_resumed_run_ends_in_the_same_bits(run, tmp_path):
    config, workdir, _ = run
    shutil.copytree(workdir, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / str(STEPS))
    resumed = fit(make_task(config), config, str(tmp_path / "run"))
    assert resumed.step == STEPS
    tiny.assert_same_bits(tiny.saved_state(tmp_path / "run"), tiny.saved_state(workdir))


def test_the_evaluate_command_gives_the_runs_numbers(run):
    config, workdir, result = run
    again = evaluate(config, str(workdir))["test"]
    for name in ("loss", "accuracy", "top5"):
        np.testing.assert_allclose(again[name], result.metrics[f"test/{name}"], rtol=1e-5)
