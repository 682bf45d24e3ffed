"""A task small enough to train in a test: classify points by a linear model with dropout."""

import jax
import jax.numpy as jnp
import numpy as np

from train_jax.data.dataset import EvalData, TrainData, eval_positions
from train_jax.data.order import GlobalOrder
from train_jax.metrics import mean_of
from train_jax.optimizers import Sgd
from train_jax.schedules import CosineConfig
from train_jax.task import Evaluation, Task
from train_jax.train_config import CheckpointConfig, TrainConfig

NUM_EXAMPLES, DIM, CLASSES = 100, 16, 4


def points():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(NUM_EXAMPLES, DIM)).astype(np.float32)
    y = np.argmax(x @ rng.normal(size=(DIM, CLASSES)), axis=1).astype(np.int32)
    return x, y


def train_data(batch_size, *, seed=0, poison_step=None):
    """The points in global order; from ``poison_step`` on, for one step, they are infinite."""
    x, y = points()
    order = GlobalOrder(NUM_EXAMPLES, seed)

    def start(step, rows):
        while True:
            index = order.at(step * batch_size + rows)
            scale = np.float32(np.inf if step == poison_step else 1)
            yield {"x": x[index] * scale, "y": y[index]}
            step += 1

    shapes = {
        "x": jax.ShapeDtypeStruct((batch_size, DIM), np.float32),
        "y": jax.ShapeDtypeStruct((batch_size,), np.int32),
    }
    return TrainData(batch_size, NUM_EXAMPLES, order.fingerprint, start, shapes)


def resident_data(batch_size):
    """The same points in the same order, of which only the indices travel."""
    x, y = points()
    order = GlobalOrder(NUM_EXAMPLES, 0)

    def start(step, rows):
        while True:
            yield {"index": order.at(step * batch_size + rows).astype(np.int32)}
            step += 1

    def expand(resident, batch):
        return {name: resident[name][batch["index"]] for name in ("x", "y")}

    return TrainData(
        batch_size,
        NUM_EXAMPLES,
        order.fingerprint,
        start,
        {"index": jax.ShapeDtypeStruct((batch_size,), np.int32)},
        resident={"x": x, "y": y},
        expand=expand,
    )


def eval_data(batch_size):
    x, y = points()

    def start(rows):
        for step in range(-(-NUM_EXAMPLES // batch_size)):
            index = eval_positions(step, rows, batch_size=batch_size)
            mask = index < NUM_EXAMPLES
            index = np.where(mask, index, 0)
            yield {"x": x[index], "y": y[index], "mask": mask}

    return EvalData(batch_size, NUM_EXAMPLES, start)


def make_task(batch_size=16, *, seed=0, poison_step=None, dropout=0.1):
    def init(key):
        params = {
            "dense": {
                "kernel": 0.1 * jax.random.normal(key, (DIM, CLASSES)),
                "bias": jnp.zeros((CLASSES,)),
            }
        }
        return params, {"seen": jnp.zeros((), jnp.int32)}

    def logits(params, x):
        return x @ params["dense"]["kernel"] + params["dense"]["bias"][None]

    def losses(params, x, y):
        log_p = jax.nn.log_softmax(logits(params, x))
        return -jnp.take_along_axis(log_p, y[:, None], axis=1)[:, 0]

    def loss(params, model_state, batch, key, step):
        del step
        keep = jax.random.bernoulli(key, 1 - dropout, batch["x"].shape) if dropout else True
        x = jnp.where(keep, batch["x"], 0)
        each = losses(params, x, batch["y"])
        seen = {"seen": model_state["seen"] + len(each)}
        return each.mean(), (seen, {"largest": mean_of(each)})

    def metrics(params, model_state, batch):
        del model_state
        right = jnp.argmax(logits(params, batch["x"]), axis=1) == batch["y"]
        return {
            "accuracy": mean_of(right, batch["mask"]),
            "loss": mean_of(losses(params, batch["x"], batch["y"]), batch["mask"]),
        }

    return Task(
        init=init,
        loss=loss,
        train_data=train_data(batch_size, seed=seed, poison_step=poison_step),
        evaluations={"val": Evaluation(eval_data(batch_size), metrics)},
        param_rules=((".*/kernel", (None, "tensor")), (".*/bias", (None,))),
        unit="points",
        multiply_adds=DIM * CLASSES,
    )


def make_config(**changes):
    defaults = {
        "batch_size": 16,
        "total": "20 steps",
        "optimizer": Sgd(momentum=0.9),
        "schedule": CosineConfig(base=0.1, warmup="2 steps"),
        "checkpoint": CheckpointConfig(every="4 steps"),
        "log_every": "4 steps",
        "evaluate_every": "10 steps",
    }
    return TrainConfig(**(defaults | changes))
