"""What training carries from step to step: plain arrays, all of them fit for a file."""

import dataclasses
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from train_jax.sharding import param_shardings, replicated
from train_jax.task import Task


@flax.struct.dataclass
class TrainState:
    """Everything that an update changes; random keys are not in it, they follow from the seed.

    Attributes:
        step: int32 scalar, the number of steps done, refused updates included.
        params: float32 parameters.
        model_state: what the model carries along, such as batch statistics.
        opt_state: the optimiser's state.
        ema: the moving average of the parameters, or None.
        skipped: int32 scalar, how many updates were refused because something was not finite.
    """

    step: jax.Array
    params: Any
    model_state: Any
    opt_state: Any
    ema: Any
    skipped: jax.Array


def init_key(seed: int) -> jax.Array:
    """The key of the initial parameters."""
    return jax.random.fold_in(jax.random.key(seed), 0)


def step_key(seed: int) -> jax.Array:
    """The key that, folded with the step, decides all randomness of a training step."""
    return jax.random.fold_in(jax.random.key(seed), 1)


def fresh_state(task: Task, optimizer: optax.GradientTransformation, *, ema: bool):
    """A function key -> TrainState: all as it is before the first step."""

    def make(key: jax.Array) -> TrainState:
        params, model_state = task.init(key)
        return with_params(params, model_state, optimizer, ema=ema)

    return make


def with_params(
    params: Any, model_state: Any, optimizer: optax.GradientTransformation, *, ema: bool
) -> TrainState:
    """The state at step 0 for given parameters."""
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        model_state=model_state,
        opt_state=optimizer.init(params),
        ema=jax.tree.map(jnp.copy, params) if ema else None,
        skipped=jnp.zeros((), jnp.int32),
    )


def state_shardings(
    abstract: TrainState, task: Task, optimizer: optax.GradientTransformation, mesh: Mesh
) -> Any:
    """Where every array of the state lives: moments and averages beside their parameters."""
    params = param_shardings(abstract.params, task.param_rules, mesh)
    everywhere = replicated(mesh)
    opt_state = optax.tree_map_params(
        optimizer,
        lambda _, sharding: sharding,
        abstract.opt_state,
        params,
        transform_non_params=lambda _: everywhere,
    )
    return dataclasses.replace(
        abstract,
        step=everywhere,
        params=params,
        model_state=jax.tree.map(lambda _: everywhere, abstract.model_state),
        opt_state=opt_state,
        ema=params if abstract.ema is not None else None,
        skipped=everywhere,
    )


def abstract_state(
    task: Task, optimizer: optax.GradientTransformation, mesh: Mesh, *, ema: bool
) -> TrainState:
    """Shapes, dtypes and shardings of the state, without any array."""
    shapes = jax.eval_shape(fresh_state(task, optimizer, ema=ema), jax.random.key(0))
    shardings = state_shardings(shapes, task, optimizer, mesh)
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        shapes,
        shardings,
    )


def initial_state(
    task: Task, optimizer: optax.GradientTransformation, abstract: TrainState, seed: int
) -> TrainState:
    """The state before the first step, made in place on the mesh, transferred or not."""
    shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract)
    ema = abstract.ema is not None
    make = fresh_state(task, optimizer, ema=ema)
    key = init_key(seed)
    if task.transfer is None:
        return jax.jit(make, out_shardings=shardings)(key)
    fresh = jax.jit(task.init, out_shardings=(shardings.params, shardings.model_state))
    params, model_state = task.transfer(*fresh(key))
    params = jax.device_put(params, shardings.params)
    model_state = jax.device_put(model_state, shardings.model_state)
    build = jax.jit(
        lambda params, model_state: with_params(params, model_state, optimizer, ema=ema),
        out_shardings=shardings,
        donate_argnums=(0, 1),
    )
    return build(params, model_state)
