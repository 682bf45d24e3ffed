"""Evaluation: every example of a split once, whatever the number of devices and hosts."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from train_jax.data.dataset import EvalData
from train_jax.data.placement import local_rows, prefetch, to_reside
from train_jax.errors import UserError
from train_jax.sharding import batch_sharding, batch_shards, replicated
from train_jax.task import Batch, Evaluation, ModelState, Params, Probe

#: (params, model_state) -> the averages, and "examples": how many were counted.
Evaluator = Callable[[Any, Any], dict[str, float]]

#: (params, model_state) -> arrays (n, ...) over the n examples that count, on every process.
Collector = Callable[[Any, Any], dict[str, np.ndarray]]


def make_evaluator(evaluation: Evaluation | Probe, mesh: Mesh) -> Evaluator:
    """A function that measures parameters on one split. It compiles once, at its first call.

    Raises:
        UserError: the evaluation batch does not split evenly over the mesh.
    """
    if isinstance(evaluation, Probe):
        return evaluation.make(mesh)
    data = evaluation.data
    _require_divisible(data, mesh)
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


def make_collector(
    data: EvalData,
    function: Callable[[Params, ModelState, Batch], Mapping[str, jax.Array]],
    mesh: Mesh,
) -> Collector:
    """A function that returns what a model makes of every example of a split.

    Args:
        data: the split. Examples that its mask leaves out are left out.
        function: (params, model_state, batch) -> arrays whose first axis is that of the batch; they
            are computed by all devices and gathered on each.
        mesh: the devices.

    Returns:
        A function whose arrays are in the order of the data set, whatever the mesh. It compiles
        once, at its first call.

    Raises:
        UserError: the batch does not split evenly over the mesh; or, at a call, the split has no
            examples.
    """
    _require_divisible(data, mesh)
    sharding = batch_sharding(mesh)
    resident = to_reside(data.resident, mesh)

    @functools.partial(jax.jit, out_shardings=replicated(mesh))
    def compute(params: Any, model_state: Any, resident: Batch, batch: Batch) -> Any:
        batch = data.expand(resident, batch)
        return dict(function(params, model_state, batch)), batch["mask"]

    def collect(params: Any, model_state: Any) -> dict[str, np.ndarray]:
        rows = local_rows(sharding, data.batch_size)
        parts, ahead = [], None

        def keep(computed: Any) -> None:
            arrays, mask = jax.device_get(computed)
            parts.append({name: array[mask] for name, array in arrays.items()})

        with prefetch(data.start(rows), sharding, data.batch_size) as batches:
            for batch in batches:
                # A batch is fetched while the device works on the next one.
                previous, ahead = ahead, compute(params, model_state, resident, batch)
                if previous is not None:
                    keep(previous)
        if ahead is None:
            raise UserError("An evaluation split has no examples; name a split that has some.")
        keep(ahead)
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    return collect


def _require_divisible(data: EvalData, mesh: Mesh) -> None:
    shards = batch_shards(mesh)
    if data.batch_size % shards:
        raise UserError(
            f"The evaluation batch of {data.batch_size} does not split over {shards} devices; "
            f"choose a multiple of {shards}."
        )
