"""Twenty fine-tuning updates of a tiny model, step by step as the original made them.

SGD with momentum 0.9 and a float32 accumulator, the gradient clipped to norm 1, cosine decay
after 5 steps of warm-up to 0.1, softmax cross-entropy (ViT paper, Table 4 and appendix B.1.1).
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from published import load_published

from train_jax.optimizers import Sgd, make_optimizer
from train_jax.schedules import CosineConfig, make_schedule, steps_of
from train_jax.sharding import flat_names
from vit_jax.init_from import nested
from vit_jax.losses import softmax_cross_entropy
from vit_jax.models import api
from vit_jax.models.config import ViTConfig
from vit_jax.npz import write_npz

STEPS = 20
MODEL = ViTConfig(
    (4, 4), width=24, depth=2, mlp_dim=48, num_heads=3, num_classes=10, representation_size=20
)


@pytest.fixture(scope="module")
def recorded(request):
    path = request.path.parents[1] / "data" / "vit" / "train_trace_f32.npz"
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


@pytest.fixture(scope="module")
def schedule():
    of = functools.partial(steps_of, batch_size=8, examples_per_epoch=8, total_steps=STEPS)
    return make_schedule(CosineConfig(base=0.1, warmup="5 steps"), STEPS, of)


def train(recorded, schedule, start, **optimizer):
    """Losses, the first gradient, and the parameters after every update."""
    params = nested({name: jnp.asarray(array) for name, array in start.items()})
    images, labels = jnp.asarray(recorded["images"]), jnp.asarray(recorded["labels"])
    rule = make_optimizer(Sgd(momentum=0.9, clip_norm=1.0, **optimizer), schedule, params)

    def loss(params):
        logits, *_ = api.apply(MODEL, params, {}, images)
        return softmax_cross_entropy(logits, labels).mean()

    @jax.jit
    def step(params, state):
        value, gradient = jax.value_and_grad(loss)(params)
        updates, state = rule.update(gradient, state, params)
        return optax.apply_updates(params, updates), state, value, gradient

    state, losses, gradients, after = rule.init(params), [], [], []
    with jax.default_matmul_precision("highest"):
        for _ in range(STEPS):
            params, state, value, gradient = step(params, state)
            losses.append(float(value))
            gradients.append(flat_names(gradient))
            after.append(flat_names(params))
    return losses, gradients[0], after


@pytest.fixture(scope="module")
def start(request):
    return load_published(request.path.parents[1] / "data" / "vit" / "tiny_token_rep.npz")


@pytest.fixture(scope="module")
def trained(recorded, schedule, start):
    return train(recorded, schedule, start)


def recorded_tree(recorded, prefix, tmp_path):
    """Arrays that were recorded under published names, under ours."""
    arrays = {n.removeprefix(prefix): a for n, a in recorded.items() if n.startswith(prefix)}
    write_npz(tmp_path / "tree.npz", arrays.items())
    return load_published(tmp_path / "tree.npz")


def assert_close(actual, expected, atol):
    assert actual.keys() == expected.keys()
    for name in expected:
        np.testing.assert_allclose(actual[name], expected[name], rtol=0, atol=atol, err_msg=name)


def test_learning_rates(recorded, schedule):
    rates = [float(schedule(jnp.int32(step))) for step in range(STEPS)]
    np.testing.assert_allclose(rates, recorded["lr"], rtol=1e-6)
    assert rates[0] == 0


def test_every_loss(recorded, trained):
    np.testing.assert_allclose(trained[0], recorded["losses"], rtol=0, atol=2e-6)


def test_the_first_gradient(recorded, trained, tmp_path):
    """Before clipping: its norm is 3.28."""
    expected = recorded_tree(recorded, "grad0/", tmp_path)
    assert_close(trained[1], expected, 2e-6)
    assert float(optax.global_norm(trained[1])) == pytest.approx(3.283488, rel=1e-5)


@pytest.mark.parametrize("step", [1, 10, 20])
def test_the_parameters(recorded, trained, tmp_path, step):
    expected = recorded_tree(recorded, f"params_after{step}/", tmp_path)
    assert_close(trained[2][step - 1], expected, 2e-6)


def test_the_first_update_has_a_rate_of_zero(start, trained):
    assert_close(trained[2][0], start, 0)


def test_a_bfloat16_accumulator_stays_near(recorded, schedule, start, trained):
    """The authors' code stores it so: half the memory, and not the same numbers."""
    losses, _, _ = train(recorded, schedule, start, accumulator_dtype="bfloat16")
    difference = np.abs(np.subtract(losses, trained[0]))
    assert 1e-5 < difference.max() < 1e-3
