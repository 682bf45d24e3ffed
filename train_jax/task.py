"""What the core asks of a model package: a handful of functions and two kinds of data."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from jax.sharding import Mesh

from train_jax.data.dataset import EvalData, TrainData
from train_jax.metrics import Metrics, to_floats
from train_jax.sharding import ParamRule

Params = Any
ModelState = Any
Batch = Mapping[str, jax.Array]

#: (params, model_state, batch, key, step) -> (loss, (model_state, metrics)). The loss is the mean
#: over the batch; the batch is a micro-batch of the global batch, split over the mesh.
LossFn = Callable[
    [Params, ModelState, Batch, jax.Array, jax.Array],
    tuple[jax.Array, tuple[ModelState, Metrics]],
]


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Metrics over every example of a split, once.

    Attributes:
        data: the split.
        metrics: (params, model_state, batch with ``mask``) -> pairs (sum, count). They may be
            arrays, with an entry for each of several groups of examples.
        summary: the sums of those pairs over the split -> what is reported.
    """

    data: EvalData
    metrics: Callable[[Params, ModelState, Batch], Metrics]
    summary: Callable[[Metrics], dict[str, float]] = to_floats


@dataclasses.dataclass(frozen=True)
class Probe:
    """A measurement that is no sum over the examples of one split, as few-shot classification.

    Attributes:
        make: mesh -> ((params, model_state) -> what is reported). The function is called on all
            processes, and compiles at its first call only.
        data: the config of the data that it is made on, for result records.
    """

    make: Callable[[Mesh], Callable[[Params, ModelState], dict[str, float]]]
    data: Any = None


@dataclasses.dataclass(frozen=True)
class Task:
    """A model with its data, as :func:`train_jax.loop.fit` needs it.

    Attributes:
        init: key -> (float32 parameters, state that training carries along; ``{}`` if there is
            none).
        loss: what is minimised.
        train_data: the training examples and their order.
        evaluations: what is measured, by name.
        param_rules: how parameters are placed on the mesh.
        transfer: fresh (parameters, model state) -> those that start from somebody's checkpoint;
            None from scratch.
        unit: what the examples are, for progress lines.
        multiply_adds: of the products of a forward pass over one example; None: not known.
        about: JSON values that describe the model beside the arrays of each checkpoint.
    """

    init: Callable[[jax.Array], tuple[Params, ModelState]]
    loss: LossFn
    train_data: TrainData
    evaluations: Mapping[str, Evaluation | Probe]
    param_rules: Sequence[ParamRule]
    transfer: Callable[[Params, ModelState], tuple[Params, ModelState]] | None = None
    unit: str = "images"
    multiply_adds: float | None = None
    about: Mapping[str, Any] = dataclasses.field(default_factory=dict)
