"""What is minimised with labels, from formulas; the momentum of the batch statistics."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pose_jax.data.views import PoseDataConfig
from pose_jax.models import temporal
from pose_jax.models.config import TemporalConfig
from pose_jax.objective import make_loss, make_momentum
from pose_jax.skeletons import H36M_17
from pose_jax.task import make_init
from pose_jax.train_config import BatchNormConfig, PoseTrainConfig
from train_jax.errors import UserError
from train_jax.optimizers import Adam
from train_jax.schedules import ConstantConfig

MODEL = TemporalConfig(widths=(3, 3), channels=8, dropout=0.0)


def make_config(model=MODEL, **changes):
    defaults = {
        "data": PoseDataConfig(keypoints="labelled"),
        "batch_size": 6,
        "total": "10 epochs",
        "optimizer": Adam(),
        "schedule": ConstantConfig(base=1e-3),
    }
    return PoseTrainConfig(model=model, **(defaults | changes))


def examples(model=MODEL, n=6, chunk=1, seed=0):
    rng = np.random.default_rng(seed)
    frames = model.receptive_field - 1 + chunk
    positions = (
        rng.normal(size=(n, chunk, 17, 3)) + np.array([0, 0, 4.0]) * (np.arange(17) < 1)[:, None]
    )
    return {
        "keypoints": jnp.asarray(rng.normal(size=(n, frames, 17, model.features)), jnp.float32),
        "positions": jnp.asarray(positions, jnp.float32),
    }


def run(config, batch, *, key=0, step=0):
    """Loss, statistics, terms and gradient, of untrained networks."""
    loss = make_loss(config, H36M_17, H36M_17, 60)
    start = make_init(config)(jax.random.key(0))
    function = jax.jit(jax.value_and_grad(loss, has_aux=True))
    (total, (state, metrics)), gradient = function(
        *start, batch, jax.random.key(key), jnp.int32(step)
    )
    return total, state, {name: float(term) for name, (term, _) in metrics.items()}, gradient


def outputs(config, batch, form=temporal.dilated):
    """What both networks of `run` give."""
    params, state = make_init(config)(jax.random.key(0))
    training = temporal.Training(jnp.float32(0.1), jax.random.key(0))
    found = {}
    for name in params:
        network = dataclasses.replace(config.model, joints_out=17 if name == "pose" else 1)
        forward = jax.jit(lambda p, s, x, n=network: form(n, p, s, x, training)[0])
        found[name] = np.asarray(forward(params[name], state[name], batch["keypoints"]))
    return found


@pytest.mark.parametrize(
    ("model", "chunk", "form"),
    [
        (MODEL, 1, temporal.strided),
        (MODEL, 3, temporal.dilated),
        (dataclasses.replace(MODEL, dense=True), 1, temporal.dilated),
    ],
    ids=["single", "chunk", "dense"],
)
def test_the_terms_with_labels(model, chunk, form):
    """The root's target is the origin, and counts; the path's errors are divided by the depth."""
    config = make_config(model, trajectory=True, chunk=chunk)
    batch = examples(model, chunk=chunk)
    found = outputs(config, batch, form)
    target = np.array(batch["positions"])
    root = target[:, :, :1].copy()
    target[:, :, 0] = 0
    pose = np.linalg.norm(found["pose"] - target, axis=-1).mean()
    path = (np.linalg.norm(found["trajectory"] - root, axis=-1) / root[..., 2]).mean()
    total, _, terms, _ = run(config, batch)
    assert terms == pytest.approx({"pose": pose, "trajectory": path}, rel=1e-5)
    assert float(total) == pytest.approx(pose + path, rel=1e-5)


def test_without_a_trajectory_there_is_one_term():
    total, state, terms, gradient = run(make_config(), examples())
    assert terms == {"pose": float(total)}
    assert list(state) == list(gradient) == ["pose"]


def test_a_batch_that_is_filled_up_is_the_smaller_batch():
    config, batch = make_config(trajectory=True), examples()
    filled = {name: x.at[4:].set(9.0) for name, x in batch.items()}
    some = run(config, filled | {"mask": jnp.arange(6) < 4})
    smaller = run(config, {name: x[:4] for name, x in batch.items()})
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), some, smaller)


def test_a_third_number_per_keypoint_is_read_or_not():
    batch = examples(dataclasses.replace(MODEL, features=3))
    both = [
        run(make_config(dataclasses.replace(MODEL, features=features)), batch)[0]
        for features in (2, 3)
    ]
    only = {**batch, "keypoints": batch["keypoints"][..., :2]}
    assert both[0] == run(make_config(), only)[0] != both[1]


def test_dropout_follows_the_key():
    config = make_config(dataclasses.replace(MODEL, dropout=0.25))
    one, same, other = (run(config, examples(), key=key)[0] for key in (0, 0, 1))
    assert one == same != other


def test_bfloat16_gives_the_loss_of_float32_and_float32_gradients():
    exact = run(make_config(trajectory=True), examples())
    config = make_config(dataclasses.replace(MODEL, compute_dtype="bfloat16"), trajectory=True)
    rounded = run(config, examples())
    assert float(rounded[0]) == pytest.approx(float(exact[0]), rel=1e-2)
    assert rounded[0] != exact[0]
    assert {x.dtype for x in jax.tree.leaves((rounded[1], rounded[3]))} == {np.dtype("float32")}
    for a, b in zip(jax.tree.leaves(rounded[3]), jax.tree.leaves(exact[3]), strict=True):
        assert float(jnp.abs(a - b).max()) < 0.1 * float(jnp.abs(b).max()) + 1e-3


@pytest.mark.parametrize(
    ("epochs", "values"),
    [
        (60, {0: 0.1, 1: 0.09261, 15: 0.03162, 30: 0.01, 45: 0.00316}),
        (80, {0: 0.1, 1: 0.0944, 20: 0.0316, 40: 0.01, 60: 0.0032, 79: 0.00106}),
    ],
)
@pytest.mark.parametrize("unit", ["epochs", "steps"])
def test_momentum_falls_geometrically_epoch_by_epoch(epochs, values, unit):
    """60 examples in batches of 6: an epoch is 10 steps."""
    total = f"{epochs} epochs" if unit == "epochs" else f"{10 * epochs} steps"
    momentum = jax.jit(make_momentum(make_config(total=total), 60))
    for epoch, value in values.items():
        begin, end = momentum(jnp.int32(10 * epoch)), momentum(jnp.int32(10 * epoch + 9))
        assert begin == end
        assert float(begin) == pytest.approx(value, abs=5e-5)
    assert momentum(jnp.int32(10)) < momentum(jnp.int32(9)) == np.float32(0.1)
    assert float(momentum(jnp.int32(10 * epochs))) == pytest.approx(0.001, rel=1e-5)


def test_statistics_take_the_share_of_their_epoch():
    """An eighth of a run's epochs: the running mean moves by that share of the way."""
    config = make_config(batch_norm=BatchNormConfig(first=0.5, last=0.005))
    batch = examples()
    (_, early, _, _), (_, late, _, _) = (run(config, batch, step=step) for step in (0, 50))
    means = [state["pose"]["expand"]["bn"]["mean"] for state in (early, late)]
    np.testing.assert_allclose(means[0] / 0.5, means[1] / 0.05, rtol=1e-4)


@pytest.mark.parametrize("total", ["0 epochs", "0 steps"])
def test_a_run_without_steps_is_refused(total):
    with pytest.raises(UserError, match=f"config.total is '{total}'; a run takes at least 1 step"):
        make_momentum(make_config(total=total), 60)


@pytest.mark.parametrize("momentum", [{"first": 0.0}, {"last": -0.1}, {"first": 1.5}])
def test_a_share_is_between_nothing_and_all(momentum):
    with pytest.raises(UserError, match=r"batch_norm\.first and last must lie in \(0, 1\]"):
        BatchNormConfig(**momentum)
