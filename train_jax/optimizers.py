"""Optimisers of the papers, from config: SGD, Adam and RMSProp, as chains of optax pieces.

One update is: clip the (already averaged) gradient by its global norm, turn it into a direction
(momentum or Adam), add the decoupled weight decay, multiply by minus the learning rate. Weight
decay is therefore multiplied by the learning rate, as in AdamW and in "How to train your ViT?",
section 3.3; it touches only parameters whose path matches a pattern, by default the kernels.
RMSProp follows TensorFlow in another order, see there.
"""

import dataclasses
import re
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from train_jax.errors import UserError
from train_jax.schedules import Schedule

Storage = Literal["float32", "bfloat16"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sgd:
    """SGD with momentum (fine-tuning: ViT paper, Table 4, with momentum 0.9 and clip 1).

    Attributes:
        momentum: `trace = gradient + momentum * trace`, without damping.
        nesterov: looks one step ahead.
        accumulator_dtype: how the trace is stored; the arithmetic is float32 either way. The
          authors' code stores bfloat16.
        clip_norm: largest global norm of the gradient; None to leave it alone.
        weight_decay: decoupled, multiplied by the learning rate.
        decay_pattern: regular expression that must match all of "a/b/kernel" for its decay.
    """

    name: Literal["sgd"] = "sgd"
    momentum: float = 0.9
    nesterov: bool = False
    accumulator_dtype: Storage = "float32"
    clip_norm: float | None = None
    weight_decay: float = 0.0
    decay_pattern: str = ".*/kernel"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Adam:
    """Adam, with `weight_decay` AdamW (pre-training: ViT paper, Table 3 and section 4.1).

    With `amsgrad` it is that of VideoPose3D, section 4: the second moment never shrinks.

    Attributes:
        b1: decay of the first moment.
        b2: decay of the second moment.
        eps: added to the root of the second moment.
        amsgrad: divides by the largest second moment so far, as PyTorch does it.
        first_moment_dtype: how the first moment is stored; the arithmetic is float32 either way.
          The second moment is always float32: bfloat16 cannot hold a change of one thousandth.
        clip_norm: largest global norm of the gradient; None to leave it alone.
        weight_decay: decoupled, multiplied by the learning rate.
        decay_pattern: regular expression that must match all of "a/b/kernel" for its decay.
    """

    name: Literal["adam"] = "adam"
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8
    amsgrad: bool = False
    first_moment_dtype: Storage = "float32"
    clip_norm: float | None = None
    weight_decay: float = 0.0
    decay_pattern: str = ".*/kernel"


@dataclasses.dataclass(frozen=True, kw_only=True)
class RmsProp:
    """RMSProp as TensorFlow computes it (EfficientNet; Noisy Student, section 3.1).

    `square = decay * square + (1 - decay) * gradient^2`, from 1 on; `trace = momentum * trace +
    rate * gradient / sqrt(square + eps)`; the parameters lose the trace. So epsilon is inside the
    root (PyTorch adds it to the root), and a change of the learning rate reaches the trace only
    with what is added from then on.

    Attributes:
        decay: of the mean square.
        momentum: of the trace.
        eps: added to the mean square.
        clip_norm: largest global norm of the gradient; None to leave it alone.
        weight_decay: a penalty in the loss, half of it times the sum of squares: its gradient is
          added before all else, and divided by the root like the rest.
        decay_pattern: regular expression that must match all of "a/b/kernel" for its decay.
    """

    name: Literal["rmsprop"] = "rmsprop"
    decay: float = 0.9
    momentum: float = 0.9
    eps: float = 1e-3
    clip_norm: float | None = None
    weight_decay: float = 0.0
    decay_pattern: str = ".*/kernel"


OptimizerConfig = Sgd | Adam | RmsProp


def make_optimizer(
    config: OptimizerConfig, schedule: Schedule, params: Any
) -> optax.GradientTransformation:
    """Builds the update rule.

    Args:
        config: which optimiser, and its numbers.
        schedule: learning rate at an int32 number of updates done so far.
        params: the parameters or their `jax.ShapeDtypeStruct`s; only the tree's paths are read.

    Returns:
        An optax transformation whose updates, added to float32 parameters, give float32
        parameters, whatever the storage of its accumulators.

    Raises:
        UserError: weight decay is on and its pattern is no regular expression or matches nothing.
    """
    clip, decay = [], []
    if config.clip_norm is not None:
        clip.append(optax.clip_by_global_norm(config.clip_norm))
    if config.weight_decay:
        mask = decayed(params, config.decay_pattern)
        decay.append(optax.add_decayed_weights(config.weight_decay, mask))
    rate = optax.scale_by_learning_rate(schedule)
    if isinstance(config, RmsProp):
        root = optax.scale_by_rms(decay=config.decay, eps=config.eps, initial_scale=1.0)
        return optax.chain(*decay, *clip, root, rate, optax.trace(decay=config.momentum))
    return optax.chain(*clip, _direction(config), *decay, rate)


def decayed(params: Any, pattern: str) -> Any:
    """Tells which parameters `pattern` selects for weight decay.

    Args:
        params: a tree of anything.
        pattern: regular expression; it must match the whole path, such as "a/b/kernel".

    Returns:
        A tree of the same structure with bool leaves.

    Raises:
        UserError: the pattern is no regular expression or matches nothing.
    """
    try:
        regex = re.compile(pattern)
    except re.error as error:
        raise UserError(
            f"The decay_pattern {pattern!r} is not a regular expression: {error}."
        ) from error

    def matches(path: tuple[Any, ...], _: Any) -> bool:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        return regex.fullmatch(name) is not None

    mask = jax.tree_util.tree_map_with_path(matches, params)
    if not any(jax.tree.leaves(mask)):
        raise UserError(
            f"The decay_pattern {pattern!r} matches no parameter, so weight decay would do "
            "nothing; correct the pattern or set weight_decay to 0."
        )
    return mask


def ema_update(ema: Any, params: Any, decay: float) -> Any:
    """One step of the exponential moving average of the parameters (Polyak averaging).

    The ViT paper averages with 0.9999 for its Table 2 (section 4.1).

    Args:
        ema: float32 tree, at the start a copy of the parameters.
        params: the parameters after the update, of the same structure.
        decay: share of the old average that stays, in [0, 1].

    Returns:
        `decay * ema + (1 - decay) * params`, written so that equal inputs stay bitwise equal.
    """
    return jax.tree.map(lambda e, p: e + (1.0 - decay) * (p.astype(e.dtype) - e), ema, params)


def _direction(config: Sgd | Adam) -> optax.GradientTransformation:
    match config:
        case Sgd():
            trace = optax.trace(decay=config.momentum, nesterov=config.nesterov)
            return _stored_as(trace, "trace", config.accumulator_dtype)
        case Adam():
            make = scale_by_amsgrad if config.amsgrad else optax.scale_by_adam
            adam = make(b1=config.b1, b2=config.b2, eps=config.eps)
            return _stored_as(_with_promotion(adam), "mu", config.first_moment_dtype)


class AmsgradState(NamedTuple):
    """Updates so far, both moments and the largest second moment, without bias correction."""

    step: jax.Array
    mu: optax.Updates
    nu: optax.Updates
    nu_max: optax.Updates


def scale_by_amsgrad(b1: float, b2: float, eps: float) -> optax.GradientTransformation:
    """AMSGrad (Reddi et al. 2018) as PyTorch computes it.

    The maximum is over second moments before bias correction, and the correction is that of the
    present step. `optax.scale_by_amsgrad` takes the maximum of corrected moments instead: a few
    large gradients at the start of a run then hold the step size down for good (by 10 for five
    gradients that are 10 times larger than the rest).
    """

    def init(params: optax.Params) -> AmsgradState:
        def zeros() -> Any:
            return jax.tree.map(jnp.zeros_like, params)

        return AmsgradState(jnp.zeros((), jnp.int32), zeros(), zeros(), zeros())

    def update(
        updates: optax.Updates, state: AmsgradState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, AmsgradState]:
        del params
        step = state.step + 1
        mu = jax.tree.map(lambda m, g: b1 * m + (1 - b1) * g, state.mu, updates)
        nu = jax.tree.map(lambda v, g: b2 * v + (1 - b2) * g * g, state.nu, updates)
        nu_max = jax.tree.map(jnp.maximum, state.nu_max, nu)
        correct_mu = 1 / (1 - b1**step)
        correct_root = jax.lax.rsqrt(1 - b2**step)
        direction = jax.tree.map(
            lambda m, v: correct_mu * m / (correct_root * jnp.sqrt(v) + eps), mu, nu_max
        )
        return direction, AmsgradState(step, mu, nu, nu_max)

    return optax.GradientTransformation(init, update)  # pyright: ignore[reportArgumentType]


def _with_promotion(inner: optax.GradientTransformation) -> optax.GradientTransformation:
    """Lets `inner` raise a float to an int32 count where the program promotes strictly."""

    def update(
        updates: optax.Updates, state: optax.OptState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, optax.OptState]:
        with jax.numpy_dtype_promotion("standard"):
            return inner.update(updates, state, params)

    return optax.GradientTransformation(inner.init, update)


def _stored_as(
    inner: optax.GradientTransformation, field: str, dtype: Storage
) -> optax.GradientTransformation:
    """Keeps one field of `inner`'s state in `dtype` between updates.

    Optax can store accumulators in another dtype itself, but then multiplies the decay in that
    dtype and relies on implicit promotion, which rounds twice and which strict promotion refuses.
    """
    if dtype == "float32":
        return inner

    def cast(state: Any, to: Any) -> Any:
        values = jax.tree.map(lambda x: x.astype(to), getattr(state, field))
        return state._replace(**{field: values})

    def init(params: optax.Params) -> optax.OptState:
        return cast(inner.init(params), jnp.dtype(dtype))

    def update(
        updates: optax.Updates, state: optax.OptState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, optax.OptState]:
        updates, state = inner.update(updates, cast(state, jnp.float32), params)
        return updates, cast(state, jnp.dtype(dtype))

    return optax.GradientTransformation(init, update)
