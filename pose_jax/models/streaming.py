"""The temporal network frame by frame, as video arrives.

Every wide convolution keeps the inputs that it will need again in a ring buffer, so a frame costs
what it costs in a long sequence: 33.9 MFLOP at 243 frames, where a window of its own would cost 353
as single output and 5,218 over the whole window. The poses are those of ``temporal.dilated`` over
the sequence with its first frame repeated.

A causal model gives the pose of the frame that has just arrived. A symmetric one works too: its
poses come ``pad_after`` frames late.
"""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

from pose_jax.models.config import TemporalConfig
from pose_jax.models.temporal import BN_EPSILON, ModelState, Params


@flax.struct.dataclass
class Stream:
    """What a stream remembers.

    Attributes:
        time: int32 scalar, frames since the start.
        buffers: the layers' last inputs, (reach, n, channels) each; the input of frame i is in
            slot i modulo the reach.
    """

    time: jax.Array
    buffers: tuple[jax.Array, ...]


def fold(config: TemporalConfig, params: Params, state: ModelState) -> Params:
    """Kernels and biases with the batch normalisation in them, for :func:`start` and :func:`push`.

    Returns:
        ``expand``, ``block_i`` with ``conv`` and ``pointwise``, and ``shrink``: a kernel and a bias
        each, kernels as matrices (out, inputs of all taps) in the model's compute dtype. A product
        with a single frame takes as long as reading them, and a CPU reads rows faster.
    """
    dtype = jnp.dtype(config.compute_dtype)

    def matrix(kernel: jax.Array) -> jax.Array:
        return kernel.reshape(-1, kernel.shape[-1]).T.astype(dtype)

    def layer(params: Params, state: ModelState) -> dict[str, jax.Array]:
        scale = params["bn"]["scale"] * jax.lax.rsqrt(state["bn"]["var"] + BN_EPSILON)
        kernel = params["kernel"]
        shape = (1,) * (kernel.ndim - 1) + scale.shape
        return {
            "kernel": matrix(kernel * scale.reshape(shape)),
            "bias": params["bn"]["bias"] - state["bn"]["mean"] * scale,
        }

    folded: dict[str, Any] = {"expand": layer(params["expand"], state["expand"])}
    for i in range(len(config.widths) - 1):
        name = f"block_{i}"
        folded[name] = {part: layer(params[name][part], state[name][part]) for part in params[name]}
    shrink = params["shrink"]
    folded["shrink"] = {"kernel": matrix(shrink["kernel"]), "bias": shrink["bias"]}
    return folded


def start(config: TemporalConfig, folded: Params, x: jax.Array) -> Stream:
    """A stream before its first frame, as if that had been there for ever.

    Args:
        config: the network.
        folded: its weights from :func:`fold`.
        x: the first frame, float32 (n, joints_in, features): n streams at once.
    """
    x = _channels(config, x)
    buffers = []
    for i, (width, dilation) in enumerate(config.taps):
        reach = (width - 1) * dilation
        buffers.append(jnp.broadcast_to(x[None], (reach, *x.shape)))
        # All taps see the same input.
        layer = folded["expand"] if i == 0 else folded[f"block_{i - 1}"]["conv"]
        y = _activated(jnp.tile(x, (1, width)), layer)
        x = y if i == 0 else x + _activated(y, folded[f"block_{i - 1}"]["pointwise"])
    return Stream(jnp.zeros((), jnp.int32), tuple(buffers))


def push(
    config: TemporalConfig, folded: Params, stream: Stream, x: jax.Array
) -> tuple[Stream, jax.Array]:
    """One more frame.

    Args:
        config: the network.
        folded: its weights from :func:`fold`.
        stream: what came before; donate it where this is jitted.
        x: the frame, float32 (n, joints_in, features).

    Returns:
        The stream, and the pose float32 (n, joints_out, 3) of the frame that arrived ``pad_after``
        frames ago. The first ``pad_after`` poses of a stream belong to frames before its first.
    """
    x, buffers = _channels(config, x), []
    for i, (width, dilation) in enumerate(config.taps):
        buffer, reach = stream.buffers[i], (width - 1) * dilation

        def before(frames: int, x=x, buffer=buffer, reach=reach) -> jax.Array:
            """The input that arrived that many frames ago, at most the reach."""
            if frames == 0:
                return x
            slot = (stream.time - frames) % reach
            return jax.lax.dynamic_index_in_dim(buffer, slot, keepdims=False)

        layer = folded["expand"] if i == 0 else folded[f"block_{i - 1}"]["conv"]
        taps = jnp.concatenate([before(reach - k * dilation) for k in range(width)], axis=-1)
        y = _activated(taps, layer)
        if i > 0:
            shortcut = before(0 if config.causal else reach // 2)
            y = shortcut + _activated(y, folded[f"block_{i - 1}"]["pointwise"])
        if reach:
            slot = stream.time % reach
            buffer = jax.lax.dynamic_update_index_in_dim(buffer, x, slot, axis=0)
        buffers.append(buffer)
        x = y
    y = _product(x, folded["shrink"])
    return Stream(stream.time + 1, tuple(buffers)), y.reshape(-1, config.joints_out, 3)


def _channels(config: TemporalConfig, x: jax.Array) -> jax.Array:
    return x[..., : config.features].reshape(x.shape[0], -1).astype(config.compute_dtype)


def _product(x: jax.Array, layer: Params) -> jax.Array:
    y = jnp.einsum("nc,fc->nf", x, layer["kernel"], preferred_element_type=jnp.float32)
    return y + layer["bias"][None]


def _activated(x: jax.Array, layer: Params) -> jax.Array:
    return jax.nn.relu(_product(x, layer)).astype(x.dtype)
