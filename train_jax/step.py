"""The training step: one program, the same on one device and on a pod."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from train_jax import metrics as metrics_lib
from train_jax.metrics import Window
from train_jax.optimizers import ema_update
from train_jax.sharding import constrain_batch, replicated
from train_jax.state import TrainState
from train_jax.task import Batch, Task

TrainStep = Callable[
    [TrainState, Window, jax.Array, Batch, Batch], tuple[TrainState, Window, jax.Array]
]


def make_train_step(
    task: Task,
    optimizer: optax.GradientTransformation,
    *,
    accumulate: int = 1,
    ema_decay: float | None = None,
) -> TrainStep:
    """One update of the whole global batch.

    The step maps (state, window, key, resident data, batch) to (state, window, loss).

    The update is refused, and the state stays as it was but for its step, where the loss, the
    gradient or any metric is not finite. The window names the metric; what follows is the loop's
    decision.

    Args:
        task: the model.
        optimizer: transforms the averaged gradient.
        accumulate: micro-batches per update; divides the share of the batch that a device holds.
        ema_decay: Polyak averaging factor of the parameters, or None.
    """

    def train_step(
        state: TrainState, window: Window, key: jax.Array, resident: Batch, batch: Batch
    ):
        # The seed comes in as data: another one is not another program.
        key = jax.random.fold_in(key, state.step)
        gradient_fn = jax.value_and_grad(task.loss, has_aux=True)

        def one(model_state, micro_batch: Batch, micro_key: jax.Array):
            micro_batch = task.train_data.expand(resident, micro_batch)
            (loss, (model_state, metrics)), gradient = gradient_fn(
                state.params, model_state, micro_batch, micro_key, state.step
            )
            return gradient, model_state, {"loss": (loss, jnp.float32(1)), **metrics}

        if accumulate == 1:
            gradient, model_state, metrics = one(state.model_state, batch, key)
        else:
            gradient, model_state, metrics = _accumulated(
                one, state.model_state, batch, key, accumulate
            )
        norm = optax.global_norm(gradient)
        metrics = {**metrics, "gradient_norm": (norm, jnp.float32(1))}
        updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        ema = None if ema_decay is None else ema_update(state.ema, params, ema_decay)

        finite = jnp.stack([jnp.isfinite(total) for total, _ in metrics.values()]).all()

        def keep(new: jax.Array, old: jax.Array) -> jax.Array:
            return jnp.where(finite, new, old)

        new_state = TrainState(
            step=state.step + 1,
            params=jax.tree.map(keep, params, state.params),
            model_state=jax.tree.map(keep, model_state, state.model_state),
            opt_state=jax.tree.map(keep, opt_state, state.opt_state),
            ema=jax.tree.map(keep, ema, state.ema),
            skipped=state.skipped + (~finite).astype(jnp.int32),
        )
        window = window.after_step(metrics, step=new_state.step, refused=~finite)
        total, count = metrics["loss"]
        return new_state, window, total / count

    return train_step


def _accumulated(one, model_state, batch: Batch, key: jax.Array, accumulate: int):
    """Gradient and metrics of the batch from ``accumulate`` micro-batches, one after the other."""

    def split(x: jax.Array) -> jax.Array:
        # Micro-batch i takes every accumulate-th row from i on, so that each device keeps its own
        # rows.
        rows = constrain_batch(x.reshape(x.shape[0] // accumulate, accumulate, *x.shape[1:]))
        return jnp.moveaxis(rows, 1, 0)

    micro_batches = {name: split(x) for name, x in batch.items()}
    keys = jax.random.split(key, accumulate)

    def body(carry, inputs):
        gradient, model_state, metrics = carry
        micro_batch, micro_key = inputs
        new_gradient, model_state, new_metrics = one(model_state, micro_batch, micro_key)
        gradient = jax.tree.map(jnp.add, gradient, new_gradient)
        return (gradient, model_state, metrics_lib.add(metrics, new_metrics)), None

    first = jax.tree.map(lambda x: x[0], (micro_batches, keys))
    shapes = jax.eval_shape(one, model_state, *first)
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), (shapes[0], shapes[2]))
    start = (zeros[0], model_state, zeros[1])
    (gradient, model_state, metrics), _ = jax.lax.scan(body, start, (micro_batches, keys))
    gradient = jax.tree.map(lambda g: g * jnp.asarray(1 / accumulate, g.dtype), gradient)
    return gradient, model_state, metrics


def jit_train_step(step: TrainStep, abstract: TrainState, mesh: Mesh, *, several: bool = False):
    """Steps as one program over the mesh: state and window are donated, layouts are fixed.

    Args:
        step: one step.
        abstract: shapes and layouts of the state.
        mesh: the devices.
        several: whether the batch holds several batches along a first axis, and a number follows
            it: how many of them to take. The number is data, so one program serves them all.
    """

    def steps(
        state: TrainState,
        window: Window,
        key: jax.Array,
        resident: Batch,
        batches: Batch,
        count: jax.Array,
    ):
        def body(i: jax.Array, carry: tuple[TrainState, Window, jax.Array]):
            batch = {name: x[i] for name, x in batches.items()}
            return step(carry[0], carry[1], key, resident, batch)

        return jax.lax.fori_loop(0, count, body, (state, window, jnp.float32(0)))

    shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract)
    everywhere = replicated(mesh)
    return jax.jit(
        steps if several else step,
        donate_argnums=(0, 1),
        out_shardings=(shardings, everywhere, everywhere),
    )
