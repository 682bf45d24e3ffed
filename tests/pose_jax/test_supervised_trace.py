"""Three epochs of training, step by step as the original made them, by the steps of a real run.

AMSGrad with a rate of 1e-3 that falls by 0.95 per epoch, momentum of the batch statistics from 0.1
to 0.001, batches of 64 in the original's order, every example a second time mirrored, no dropout.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pose_jax.data.views import PoseDataConfig, View, Views
from pose_jax.measure import MeasureConfig
from pose_jax.models.config import TemporalConfig
from pose_jax.objective import make_momentum
from pose_jax.skeletons import H36M_17
from pose_jax.task import task_of
from pose_jax.torch_read import read_bin
from pose_jax.train_config import PoseTrainConfig
from pose_jax.weights import from_torch
from train_jax.evaluation import make_evaluator
from train_jax.mesh import make_mesh
from train_jax.metrics import empty_window
from train_jax.optimizers import Adam, make_optimizer
from train_jax.schedules import ExponentialConfig, make_schedule, steps_of
from train_jax.sharding import flat_names, replicated
from train_jax.state import with_params
from train_jax.step import make_train_step

CONFIG = PoseTrainConfig(
    model=TemporalConfig(channels=32, dropout=0.0),
    data=PoseDataConfig(keypoints="recorded"),
    batch_size=64,
    total="3 epochs",
    optimizer=Adam(amsgrad=True),
    schedule=ExponentialConfig(base=1e-3, factor=0.95),
    order="original",
    measure=MeasureConfig(flip=False),
)


@pytest.fixture(scope="module")
def recorded(request):
    path = request.path.parents[1] / "data" / "pose" / "trace_supervised.npz"
    with np.load(path) as file:
        return {name: file[name] for name in file.files}


@pytest.fixture(scope="module")
def task(recorded):
    views = tuple(
        View("S1", f"Walking {i}", "c", *(recorded[f"{part}/{i}"] for part in ("p2", "p3", "cam")))
        for i in range(4)
    )
    data = Views(views, H36M_17, H36M_17, 50.0)
    return task_of(CONFIG, data, evaluations={"training": data})


@pytest.fixture(scope="module")
def schedule(task):
    of = functools.partial(
        steps_of, batch_size=64, examples_per_epoch=task.train_data.examples_per_epoch
    )
    return make_schedule(CONFIG.schedule, of(CONFIG.total), of)


@pytest.fixture(scope="module")
def trained(request, recorded, task, schedule):
    """Loss of every step, and the state after some of them."""
    path = request.path.parents[1] / "data" / "pose" / "trace_supervised_init.bin"
    params, statistics = from_torch(read_bin(path)["model_pos"])
    params, statistics = jax.tree.map(jnp.asarray, ({"pose": params}, {"pose": statistics}))
    optimizer = make_optimizer(CONFIG.optimizer, schedule, params)
    state = with_params(params, statistics, optimizer, ema=False)
    step = jax.jit(make_train_step(task, optimizer))
    resident = {name: jnp.asarray(x) for name, x in task.train_data.resident.items()}
    losses, states = [], {}
    batches = task.train_data.start(0, np.arange(64))
    for i, batch in enumerate(itertools.islice(batches, len(recorded["loss_steps"])), start=1):
        window = empty_window(["loss", "gradient_norm", "pose"])
        state, _, loss = step(state, window, jax.random.key(0), resident, batch)
        losses.append(float(loss))
        if i in (1, 10, 13, 26, 39):
            states[i] = state
    # Neither another momentum nor another rate is another program.
    assert step._cache_size() == 1  # pyright: ignore[reportAttributeAccessIssue]
    return losses, states


def test_an_epoch_has_the_steps_of_the_original(recorded, task):
    assert task.train_data.examples_per_epoch / 64 == len(recorded["loss_steps"]) / 3 == 13


def test_momentum_and_rate_of_every_step(recorded, task, schedule):
    steps = jnp.arange(len(recorded["loss_steps"]), dtype=jnp.int32)
    momentum = make_momentum(CONFIG, task.train_data.examples_per_epoch)
    np.testing.assert_allclose(jax.vmap(momentum)(steps), recorded["momentum_steps"], rtol=1e-6)
    np.testing.assert_allclose(schedule(steps), recorded["lr_steps"], rtol=1e-6)


def test_losses(recorded, trained):
    np.testing.assert_allclose(trained[0], recorded["loss_steps"], rtol=2e-5)


@pytest.mark.parametrize(
    ("step", "when"), [(1, "after_step1"), (10, "after_step10"), (39, "final")]
)
def test_parameters_and_statistics(recorded, trained, step, when):
    wanted = {
        name.removeprefix(f"{when}/"): x
        for name, x in recorded.items()
        if name.startswith(f"{when}/")
    }
    params, statistics = from_torch(wanted)
    state = trained[1][step]
    for ours, theirs in ((state.params, params), (state.model_state, statistics)):
        ours, theirs = flat_names(ours["pose"]), flat_names(theirs)
        assert ours.keys() == theirs.keys()
        for name, x in theirs.items():
            np.testing.assert_allclose(ours[name], x, rtol=1e-4, atol=2e-5, err_msg=name)


def test_errors_after_every_epoch(recorded, task, trained):
    """Whole sequences by the dilated form, with the statistics of training, frame by frame."""
    mesh = make_mesh(CONFIG.mesh)
    with jax.set_mesh(mesh):
        evaluate = make_evaluator(task.evaluations["training"], mesh)
        errors = [
            evaluate(*jax.device_put((state.params, state.model_state), replicated(mesh)))["mpjpe"]
            for state in (trained[1][step] for step in (13, 26, 39))
        ]
    np.testing.assert_allclose(errors, 1000 * recorded["eval_epochs"], rtol=2e-5)
