"""The program that trains, before it is compiled: the same for a run and for a plan of one."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax
from jax.sharding import Mesh

from train_jax.errors import UserError
from train_jax.metrics import empty_window
from train_jax.optimizers import make_optimizer
from train_jax.schedules import Schedule, make_schedule, steps_of
from train_jax.sharding import batch_shards, replicated
from train_jax.state import TrainState, abstract_state, step_key
from train_jax.step import jit_train_step, make_train_step
from train_jax.task import Batch, Task
from train_jax.train_config import TrainConfig


@dataclasses.dataclass(frozen=True)
class Program:
    """What a dispatch does, and what follows from the config for it.

    Attributes:
        task: the model and its data.
        config: the run.
        mesh: the devices.
        total: steps of the run.
        steps_of: a duration -> steps of this run.
        schedule: the learning rate.
        optimizer: transforms the averaged gradient.
        abstract: shapes and layouts of the state.
        jitted: (state, window, key, resident data, batch) -> (state, window, loss). With several
            steps a dispatch, the batch holds several and their number follows.
    """

    task: Task
    config: TrainConfig
    mesh: Mesh
    total: int
    steps_of: Callable[[str], int]
    schedule: Schedule
    optimizer: optax.GradientTransformation
    abstract: TrainState
    jitted: Any

    @property
    def several(self) -> bool:
        """Whether a dispatch takes the number of its steps."""
        return self.config.steps_per_dispatch > 1

    def metric_names(self, resident: Batch, batch: Batch) -> list[str]:
        """What a step measures; arrays may be abstract, the batch is as the program takes it."""

        def loss(state: TrainState, key: jax.Array, resident: Batch, batch: Batch):
            one = {name: x[0] for name, x in batch.items()} if self.several else batch
            one = self.task.train_data.expand(resident, one)
            return self.task.loss(state.params, state.model_state, one, key, state.step)

        _, (_, metrics) = jax.eval_shape(loss, self.abstract, abstract_key(), resident, batch)
        return ["loss", "gradient_norm", *(name for name in metrics if name != "loss")]

    def lower(self, resident: Any, batch: Any) -> tuple[jax.stages.Lowered, Callable[[], Any]]:
        """The program for such data, ready to compile, and a maker of empty windows for it.

        Args:
            resident: arrays that stay on the devices, or their shapes with shardings.
            batch: what travels for every dispatch, likewise.
        """
        names, everywhere = self.metric_names(resident, batch), replicated(self.mesh)
        window = jax.eval_shape(lambda: empty_window(names))
        args = (self.abstract, laid_out(window, everywhere), abstract_key(everywhere))
        counts = (np.int32(1),) if self.several else ()
        lowered = self.jitted.lower(*args, resident, batch, *counts)
        return lowered, jax.jit(lambda: empty_window(names), out_shardings=everywhere)


def make_program(task: Task, config: TrainConfig, mesh: Mesh) -> Program:
    """Derives the step of a run from its config; its devices need not be there.

    Raises:
        UserError: what cannot work.
    """
    data = task.train_data
    of = functools.partial(
        steps_of, batch_size=config.batch_size, examples_per_epoch=data.examples_per_epoch
    )
    total = of(config.total)
    of = functools.partial(of, total_steps=total)
    share = batch_shards(mesh) * config.accumulate
    if config.batch_size % share:
        raise UserError(
            f"batch_size {config.batch_size} does not split over {batch_shards(mesh)} devices "
            f"times {config.accumulate} micro-batches; choose a multiple of {share}."
        )
    if config.steps_per_dispatch < 1:
        raise UserError(
            f"steps_per_dispatch is {config.steps_per_dispatch}; a dispatch takes at least 1 step."
        )
    schedule = make_schedule(config.schedule, total, of)
    params, _ = jax.eval_shape(task.init, jax.random.key(0))
    optimizer = make_optimizer(config.optimizer, schedule, params)
    abstract = abstract_state(task, optimizer, mesh, ema=config.ema_decay is not None)
    step = make_train_step(
        task, optimizer, accumulate=config.accumulate, ema_decay=config.ema_decay
    )
    several = config.steps_per_dispatch > 1
    return Program(
        task=task,
        config=config,
        mesh=mesh,
        total=total,
        steps_of=of,
        schedule=schedule,
        optimizer=optimizer,
        abstract=abstract,
        jitted=jit_train_step(step, abstract, mesh, several=several),
    )


def abstract_key(sharding: jax.sharding.Sharding | None = None) -> Any:
    """The shape of the key of a run's steps."""
    key = jax.eval_shape(lambda: step_key(0))
    return jax.ShapeDtypeStruct(key.shape, key.dtype, sharding=sharding)


def laid_out(tree: Any, sharding: jax.sharding.Sharding) -> Any:
    """Shapes with one sharding for all."""
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), tree
    )
