"""The temporal convolutional network (paper, section 3) over whole sequences and single windows.

One set of weights has three forms that give the same poses:

* :func:`dilated` maps a sequence to a pose per frame, sharing the work of neighbouring frames;
* :func:`strided` maps windows of exactly one receptive field to one pose each, and computes only
  what that pose needs: 14.8 times fewer products at 243 frames. Training uses it;
* ``streaming`` (its own module) maps frame after frame, as they arrive.

No convolution pads: the caller provides the frames on both sides.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp

from pose_jax.models.config import TemporalConfig
from train_jax.errors import UserError
from train_jax.sharding import constrain_batch

Params = Any
ModelState = Any

BN_EPSILON = 1e-5


@dataclasses.dataclass(frozen=True)
class Training:
    """What a forward pass in training needs beyond the parameters.

    Attributes:
        momentum: share of the new batch in the running statistics, float32 scalar. A traced value:
            its schedule compiles nothing.
        key: of the dropout.
        mask: bool (n,); False marks examples that only fill up the batch. They count in no
            statistic.
    """

    momentum: jax.Array
    key: jax.Array
    mask: jax.Array | None = None


def init(config: TemporalConfig, key: jax.Array) -> tuple[Params, ModelState]:
    """Parameters as PyTorch initialises them: kernels and bias U(-b, b), b = 1 / sqrt(fan-in).

    Returns:
        Parameters and running statistics, nested dictionaries of float32 arrays. Kernels are
        (width, in, out), those of pointwise layers (in, out).
    """
    keys = iter(jax.random.split(key, 2 * len(config.widths) + 1))
    channels = config.channels

    def uniform(shape: tuple[int, ...], fan_in: int) -> jax.Array:
        bound = 1 / math.sqrt(fan_in)
        return jax.random.uniform(next(keys), shape, jnp.float32, -bound, bound)

    def layer(*shape: int) -> dict[str, Any]:
        kernel = uniform((*shape, channels), math.prod(shape))
        return {"kernel": kernel, "bn": {"scale": jnp.ones(channels), "bias": jnp.zeros(channels)}}

    def statistics() -> dict[str, Any]:
        return {"bn": {"mean": jnp.zeros(channels), "var": jnp.ones(channels)}}

    (first, _), *rest = config.taps
    params: dict[str, Any] = {"expand": layer(first, config.joints_in * config.features)}
    state: dict[str, Any] = {"expand": statistics()}
    for i, (width, _) in enumerate(rest):
        params[f"block_{i}"] = {"conv": layer(width, channels), "pointwise": layer(channels)}
        state[f"block_{i}"] = {"conv": statistics(), "pointwise": statistics()}
    outputs = 3 * config.joints_out
    params["shrink"] = {
        "kernel": uniform((channels, outputs), channels),
        "bias": uniform((outputs,), channels),
    }
    return params, state


def dilated(
    config: TemporalConfig,
    params: Params,
    state: ModelState,
    x: jax.Array,
    training: Training | None = None,
) -> tuple[jax.Array, ModelState]:
    """A pose for every frame that has its whole receptive field.

    Args:
        config: the network.
        params: its parameters.
        state: its running statistics.
        x: keypoints, float32 (n, t, joints_in, features).
        training: given in training: batch statistics, dropout.

    Returns:
        Poses, float32 (n, t - receptive_field + 1, joints_out, 3), and the statistics.

    Raises:
        UserError: the sequence is shorter than the receptive field, or has other joints.
    """
    _check(config, x)
    layers = _Layers(config, state, training)
    _, *rest = config.taps
    x = _flattened(config, x)
    x = layers.normalised("expand", params["expand"], _convolve(x, params["expand"]["kernel"], 1))
    for i, (width, dilation) in enumerate(rest):
        block = params[f"block_{i}"]
        convolve = _convolve if training is not None else _convolve_for_inference
        y = convolve(x, block["conv"]["kernel"], dilation)
        y = layers.normalised(f"block_{i}/conv", block["conv"], y)
        y = layers.normalised(
            f"block_{i}/pointwise", block["pointwise"], _product(y, block["pointwise"]["kernel"])
        )
        # The frame of the receptive field that the output stands for.
        reach = (width - 1) * dilation
        begin = reach if config.causal else reach // 2
        x = x[:, begin : begin + y.shape[1]] + y
    return _poses(config, params, x), layers.state


def strided(
    config: TemporalConfig,
    params: Params,
    state: ModelState,
    x: jax.Array,
    training: Training | None = None,
) -> tuple[jax.Array, ModelState]:
    """One pose per window of exactly one receptive field.

    Windows of a convolution whose stride is its width do not overlap, so it can be a product of
    neighbouring frames side by side with the kernel as one matrix. On a CPU that is faster, on a
    TPU the convolution is, by its compiler's estimate (``benchmarks/pose_strided_forms.py``).

    Args:
        config: the network.
        params: its parameters.
        state: its running statistics.
        x: keypoints, float32 (n, receptive_field, joints_in, features).
        training: given in training. Batch statistics are over the frames that are computed here;
            :func:`dilated` has more of them, so the two differ in training.

    Returns:
        Poses, float32 (n, 1, joints_out, 3), and the statistics.

    Raises:
        UserError: the windows have another length or other joints, or the network is dense.
    """
    _check(config, x)
    if config.dense or x.shape[1] != config.receptive_field:
        raise UserError(
            f"The strided form maps windows of {config.receptive_field} frames of a dilated "
            f"network to single poses, but got {x.shape[1]} frames"
            f"{' and a dense network' if config.dense else ''}; use the dilated form."
        )
    layers = _Layers(config, state, training)
    x = _flattened(config, x)
    x = layers.normalised("expand", params["expand"], _grouped(x, params["expand"]["kernel"]))
    for i, width in enumerate(config.widths[1:]):
        block = params[f"block_{i}"]
        y = layers.normalised(
            f"block_{i}/conv", block["conv"], _grouped(x, block["conv"]["kernel"])
        )
        y = layers.normalised(
            f"block_{i}/pointwise", block["pointwise"], _product(y, block["pointwise"]["kernel"])
        )
        x = x[:, width - 1 if config.causal else width // 2 :: width] + y
    return _poses(config, params, x), layers.state


class _Layers:
    """Batch normalisation, ReLU and dropout of the layers of one pass; collects statistics."""

    def __init__(self, config: TemporalConfig, state: ModelState, training: Training | None):
        self._old, self._training, self._count = state, training, 0
        self._rate, self._dtype = config.dropout, jnp.dtype(config.compute_dtype)
        self.state = state if training is None else {}

    def normalised(self, path: str, layer: Params, x: jax.Array) -> jax.Array:
        """The activation (n, t, c) of a layer from its product."""
        old = self._old
        for name in path.split("/"):
            old = old[name]
        mean, var = old["bn"]["mean"], old["bn"]["var"]
        if self._training is not None:
            mean, var, new = _batch_statistics(x, old["bn"], self._training)
            _insert(self.state, path, {"bn": new})
        scale = layer["bn"]["scale"] * jax.lax.rsqrt(var + BN_EPSILON)
        shift = layer["bn"]["bias"] - mean * scale
        y = x.astype(jnp.float32) * scale[None, None] + shift[None, None]
        y = jax.nn.relu(y).astype(self._dtype)
        if self._training is not None and self._rate:
            key = jax.random.fold_in(self._training.key, self._count)
            y = dropout(y, self._rate, key)
        self._count += 1
        return constrain_batch(y)


def _batch_statistics(
    x: jax.Array, old: ModelState, training: Training
) -> tuple[jax.Array, jax.Array, ModelState]:
    """Mean and variance (c,) over the whole global batch and its frames, and the running ones.

    As PyTorch does it: the biased variance normalises, the unbiased one is remembered.
    """
    x = x.astype(jnp.float32)
    if training.mask is None:
        count = jnp.float32(x.shape[0] * x.shape[1])
    else:
        x = jnp.where(training.mask[:, None, None], x, jnp.float32(0))
        count = training.mask.sum(dtype=jnp.float32) * x.shape[1]
    # One pass over x, so that devices exchange both sums at once.
    mean = x.sum((0, 1)) / count
    var = jnp.maximum(jnp.square(x).sum((0, 1)) / count - jnp.square(mean), 0.0)
    m = training.momentum
    unbiased = var * (count / jnp.maximum(count - 1, 1.0))
    new = {
        "mean": (1 - m) * old["mean"] + m * jax.lax.stop_gradient(mean),
        "var": (1 - m) * old["var"] + m * jax.lax.stop_gradient(unbiased),
    }
    return mean, var, new


def dropout(x: jax.Array, rate: float, key: jax.Array) -> jax.Array:
    """Zeroes a share ``rate`` of x (..., c), and scales the others to keep the mean.

    A byte of randomness per element: the rate is rounded to a multiple of 1/256 (the paper's 0.25
    is one), and a quarter of the generator's work is saved, a tenth of a training step on a CPU.
    """
    drop = round(256 * rate)
    words = -(-x.shape[-1] // 4)
    bits = jax.random.bits(key, (*x.shape[:-1], words), jnp.uint32)
    noise = jax.lax.bitcast_convert_type(bits, jnp.uint8).reshape(*x.shape[:-1], 4 * words)
    keep = noise[..., : x.shape[-1]] >= jnp.uint8(drop)
    return jnp.where(keep, x * jnp.asarray(256 / (256 - drop), x.dtype), jnp.zeros((), x.dtype))


def _convolve(x: jax.Array, kernel: jax.Array, dilation: int) -> jax.Array:
    """Valid convolution over time: (n, t, c) with (w, c, f) gives (n, t - (w - 1) d, f)."""
    return jax.lax.conv_general_dilated(
        x,
        kernel.astype(x.dtype),
        window_strides=(1,),
        padding="VALID",
        rhs_dilation=(dilation,),
        dimension_numbers=("NWC", "WIO", "NWC"),
    )


# Groups of four outputs that a sequence must fill for the detour to pay.
_LEAST_GROUPS = 4


def _convolve_for_inference(x: jax.Array, kernel: jax.Array, dilation: int) -> jax.Array:
    """As :func:`_convolve`, with half the products where a CPU convolves a long sequence.

    CPUs are bound by products. Accelerators have more of them than they can feed.
    """
    outputs = x.shape[1] - (kernel.shape[0] - 1) * dilation
    # A program that is exported for any length does not know its own.
    long = isinstance(outputs, int) and outputs >= 4 * dilation * _LEAST_GROUPS
    if kernel.shape[0] != 3 or x.dtype != jnp.float32 or not long:
        return _convolve(x, kernel, dilation)
    return jax.lax.platform_dependent(
        x,
        kernel,
        cpu=lambda x, kernel: _minimal_filter(x, kernel, dilation),
        default=lambda x, kernel: _convolve(x, kernel, dilation),
    )


def _minimal_filter(x: jax.Array, kernel: jax.Array, d: int) -> jax.Array:
    """Four outputs of three taps from six products instead of twelve, each of all channels.

    The algorithm F(4, 3) of Winograd (Arithmetic Complexity of Computations, 1980) in the form of
    Lavin and Gray (2016), over time. Frames d apart are neighbours.
    """
    n, frames, channels = x.shape
    outputs = frames - 2 * d
    groups = -(-outputs // (4 * d))
    # The last group needs two more frames, those of a group that has no outputs.
    x = jnp.pad(x, ((0, 0), (0, 4 * d * (groups + 1) - frames), (0, 0)))
    x = x.reshape(n, groups + 1, 4, d, channels)
    x0, x1, x2, x3 = (x[:, :-1, i] for i in range(4))
    x4, x5 = x[:, 1:, 0], x[:, 1:, 1]
    k0, k1, k2 = kernel

    def product(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return jnp.einsum("ngdc,cf->ngdf", x, kernel)

    m0 = product(4 * x0 - 5 * x2 + x4, k0 / 4)
    m1 = product(-4 * (x1 + x2) + x3 + x4, (k0 + k1 + k2) / -6)
    m2 = product(4 * (x1 - x2) - x3 + x4, (k0 - k1 + k2) / -6)
    m3 = product(2 * (x3 - x1) - x2 + x4, k0 / 24 + k1 / 12 + k2 / 6)
    m4 = product(2 * (x1 - x3) - x2 + x4, k0 / 24 - k1 / 12 + k2 / 6)
    m5 = product(4 * x1 - 5 * x3 + x5, k2)
    y = jnp.stack(
        [
            m0 + m1 + m2 + m3 + m4,
            m1 - m2 + 2 * (m3 - m4),
            m1 + m2 + 4 * (m3 + m4),
            m1 - m2 + 8 * (m3 - m4) + m5,
        ],
        axis=2,
    )
    return y.reshape(n, 4 * d * groups, -1)[:, :outputs]


def _grouped(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Convolution with a stride of its width w: (n, t, c) with (w, c, f) gives (n, t / w, f)."""
    return _strided(x, kernel.astype(x.dtype))


def _product(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return _grouped(x, kernel[None])


@jax.custom_vjp
def _strided(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return jax.lax.platform_dependent(x, kernel, cpu=_as_product, default=_as_convolution)


def _strided_forward(
    x: jax.Array, kernel: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _strided(x, kernel), (x, kernel)


def _strided_backward(
    saved: tuple[jax.Array, jax.Array], gradient: jax.Array
) -> tuple[jax.Array, jax.Array]:
    return jax.lax.platform_dependent(
        *saved,
        gradient,
        cpu=_as_product_backward,
        default=lambda x, kernel, gradient: jax.vjp(_as_convolution, x, kernel)[1](gradient),
    )


_strided.defvjp(_strided_forward, _strided_backward)


def _as_convolution(x: jax.Array, kernel: jax.Array) -> jax.Array:
    if len(kernel) == 1:
        return jnp.einsum("ntc,cf->ntf", x, kernel[0])
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(len(kernel),),
        padding="VALID",
        dimension_numbers=("NWC", "WIO", "NWC"),
    )


def _as_product(x: jax.Array, kernel: jax.Array) -> jax.Array:
    x, kernel = _side_by_side(x, kernel)
    return jax.lax.dot_general(x, kernel, (((2,), (0,)), ((), ())))


def _as_product_backward(
    x: jax.Array, kernel: jax.Array, gradient: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """As JAX differentiates it, but for the order of the factors.

    JAX multiplies the transposed gradient by x and transposes the result. XLA then writes the
    gradient through all of batch normalisation transposed, which costs a third of a step.
    """
    groups, matrix = _side_by_side(x, kernel)
    # Once, not again in each of the two products.
    gradient = jax.lax.optimization_barrier(gradient)
    to_x = jax.lax.dot_general(gradient, matrix, (((2,), (1,)), ((), ())))
    rows, columns = (each.reshape(-1, each.shape[-1]) for each in (groups, gradient))
    to_kernel = jax.lax.dot_general(rows, columns, (((0,), (0,)), ((), ())))
    return to_x.reshape(x.shape), to_kernel.reshape(kernel.shape)


def _side_by_side(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The frames of each group side by side (n, t / w, w c), the kernel as one matrix (w c, f)."""
    width, channels, features = kernel.shape
    groups = x.reshape(x.shape[0], x.shape[1] // width, width * channels)
    return groups, kernel.reshape(width * channels, features)


def _poses(config: TemporalConfig, params: Params, x: jax.Array) -> jax.Array:
    shrink = params["shrink"]
    y = _product(x, shrink["kernel"]).astype(jnp.float32) + shrink["bias"][None, None]
    return y.reshape(*y.shape[:2], config.joints_out, 3)


def _flattened(config: TemporalConfig, x: jax.Array) -> jax.Array:
    """Joint after joint, as channels: (n, t, j, f) to (n, t, j f)."""
    return x.reshape(*x.shape[:2], -1).astype(config.compute_dtype)


def _check(config: TemporalConfig, x: jax.Array) -> None:
    expected = (config.joints_in, config.features)
    if x.ndim != 4 or x.shape[2:] != expected:
        raise UserError(
            f"The model reads keypoints of shape (sequences, frames, {expected[0]}, "
            f"{expected[1]}), but got {x.shape}; check the joints of the data and of the model."
        )
    if x.shape[1] < config.receptive_field:
        raise UserError(
            f"The model sees {config.receptive_field} frames, but got {x.shape[1]}; pad the "
            "sequence by repeating its first and last frame."
        )


def _insert(tree: dict[str, Any], path: str, value: Any) -> None:
    *parents, last = path.split("/")
    for name in parents:
        tree = tree.setdefault(name, {})
    tree[last] = value
