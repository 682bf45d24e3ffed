"""Evaluation: every example of a split once, whatever the number of devices and hosts."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from train_jax.data.placement import local_rows, prefetch, to_reside
from train_jax.errors import UserError
from train_jax.sharding import batch_sharding, batch_shards, replicated
from train_jax.task import Batch, Evaluation

#: (params, model_state) -> the averages, and "examples": how many were counted.
Evaluator = Callable[[Any, Any], dict[str, float]]


def make_evaluator(evaluation: Evaluation, mesh: Mesh) -> Evaluator:
    """A function that measures parameters on one split. It compiles once, at its first call.

    Raises:
        UserError: the evaluation batch does not split evenly over the mesh.
    """
    data, shards = evaluation.data, batch_shards(mesh)
    if data.batch_size % shards:
        raise UserError(
            f"The evaluation batch of {data.batch_size} does not split over {shards} devices; "
            f"choose a multiple of {shards}."
        )
    sharding = batch_sharding(mesh)
    resident = to_reside(data.resident, mesh)

    @functools.partial(jax.jit, out_shardings=replicated(mesh))
    def measure(params: Any, model_state: Any, resident: Batch, batch: Batch) -> Any:
        batch = data.expand(resident, batch)
        metrics = evaluation.metrics(params, model_state, batch)
        return metrics, batch["mask"].sum(dtype=jnp.int32)

    @jax.jit
    def add(so_far: Any, new: Any) -> Any:
        return jax.tree.map(jnp.add, so_far, new)

    def evaluate(params: Any, model_state: Any) -> dict[str, float]:
        rows = local_rows(sharding, data.batch_size)
        so_far = None
        with prefetch(data.start(rows), sharding, data.batch_size) as batches:
            for batch in batches:
                new = measure(params, model_state, resident, batch)
                so_far = new if so_far is None else add(so_far, new)
        if so_far is None:
            raise UserError("An evaluation split has no examples; name a split that has some.")
        metrics, examples = so_far
        return {**evaluation.summary(metrics), "examples": float(jax.device_get(examples))}

    return evaluate
