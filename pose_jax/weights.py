"""The original's parameters as ours and back, and which model a set of them belongs to.

PyTorch's names, of B blocks: ``expand_conv``, ``expand_bn``, then ``layers_conv.i`` and
``layers_bn.i``, i = 0 ... 2B - 1, even for the wide convolution of a block and odd for the
pointwise one, and ``shrink``. Its kernels are (out, in, width), ours (width, in, out).

A file holds no configuration. Widths, channels and numbers of joints follow from the shapes.
Whether the model is causal does not, nor which joints its numbers mean: whoever loads it has to say
so.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np

from pose_jax.models.config import TemporalConfig
from pose_jax.skeletons import layout
from pose_jax.torch_read import read_bin
from pose_jax.torch_write import write_bin
from train_jax.errors import UserError

__all__ = ["from_torch", "read_bin", "recognise", "to_torch", "write_bin"]

Tree = dict[str, Any]

#: PyTorch's name of each of the batch normalisation's arrays -> ours.
_BN_PARAMS = {"weight": "scale", "bias": "bias"}
_BN_STATE = {"running_mean": "mean", "running_var": "var"}
_COUNTER = "num_batches_tracked"


def from_torch(state: Mapping[str, np.ndarray]) -> tuple[Tree, Tree]:
    """Parameters and running statistics from PyTorch's.

    Args:
        state: names as the original's -> arrays; the counters ``num_batches_tracked`` may be
            absent and are dropped.

    Returns:
        (params, model_state) of :mod:`pose_jax.models.temporal`, nested dicts of float32 arrays.

    Raises:
        UserError: a name is missing or unknown.
    """
    _check_names(state)
    params: Tree = {}
    model_state: Tree = {}
    for conv, bn, path in _layers(_num_blocks(state)):
        kernel = np.transpose(state[f"{conv}.weight"], (2, 1, 0))
        if path[-1] == "pointwise":
            kernel = kernel[0]
        node, statistics = _at(params, path), _at(model_state, path)
        node["kernel"] = _float32(kernel)
        node["bn"] = {our: _float32(state[f"{bn}.{name}"]) for name, our in _BN_PARAMS.items()}
        statistics["bn"] = {our: _float32(state[f"{bn}.{name}"]) for name, our in _BN_STATE.items()}
    kernel = np.transpose(state["shrink.weight"], (2, 1, 0))[0]
    params["shrink"] = {"kernel": _float32(kernel), "bias": _float32(state["shrink.bias"])}
    return params, model_state


def to_torch(params: Mapping[str, Any], model_state: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The reverse of :func:`from_torch`; counters of batches, which nothing reads, are zero."""
    state: dict[str, np.ndarray] = {}
    for conv, bn, path in _layers(sum(name.startswith("block_") for name in params)):
        node, statistics = _at(params, path), _at(model_state, path)
        kernel = np.asarray(node["kernel"], np.float32)
        kernel = kernel[None] if path[-1] == "pointwise" else kernel
        state[f"{conv}.weight"] = _float32(np.transpose(kernel, (2, 1, 0)))
        for names, arrays in ((_BN_PARAMS, node["bn"]), (_BN_STATE, statistics["bn"])):
            state |= {f"{bn}.{name}": _float32(arrays[our]) for name, our in names.items()}
        state[f"{bn}.{_COUNTER}"] = np.zeros((), np.int64)
    state["shrink.weight"] = _float32(np.asarray(params["shrink"]["kernel"]).T[..., None])
    state["shrink.bias"] = _float32(params["shrink"]["bias"])
    return state


def recognise(
    state: Mapping[str, np.ndarray | jax.ShapeDtypeStruct],
    *,
    causal: bool,
    keypoint_layout: str,
    skeleton: str | None,
    dense: bool | None = None,
) -> TemporalConfig:
    """Which model a set of PyTorch's parameters is of.

    Args:
        state: PyTorch's name -> anything with ``shape``.
        causal: whether it was trained to see no future frames; nothing in a file tells.
        keypoint_layout: name of the layout of the keypoints that it reads.
        skeleton: name of the layout of the poses that it gives; None for a trajectory.
        dense: whether it is the ablation without dilation; None if the shapes shall tell.

    Raises:
        UserError: it is another network, has other joints, or may be dense as well as dilated.
    """
    _check_names(state)
    channels, inputs, first = _shape(state, "expand_conv.weight", 3)
    outputs = _shape(state, "shrink.weight", 3)[0]
    joints_in = layout(keypoint_layout).num_joints
    features = inputs // joints_in
    if inputs != joints_in * features or features not in (2, 3):
        raise UserError(
            f"The network reads {inputs} numbers per frame, but {keypoint_layout} has {joints_in} "
            "keypoints of 2 or 3 numbers; give the layout that it was trained on (--layout)."
        )
    joints_out = 1 if skeleton is None else layout(skeleton).num_joints
    if outputs != 3 * joints_out:
        what = "a trajectory" if skeleton is None else f"{skeleton}, {joints_out} joints,"
        raise UserError(
            f"The network gives {outputs} numbers per frame, but {what} needs {3 * joints_out}; "
            "give the skeleton that it was trained on (--skeleton)."
        )
    taps = [_shape(state, f"layers_conv.{2 * i}.weight", 3)[2] for i in range(_num_blocks(state))]
    widths, dense = _widths((first, *taps), dense)
    config = TemporalConfig(
        joints_in=joints_in,
        features=features,
        joints_out=joints_out,
        widths=widths,
        channels=channels,
        causal=causal,
        dense=dense,
    )
    _check_shapes(state, config)
    return config


def _layers(num_blocks: int) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """PyTorch's names of a convolution and its normalisation, and the path of ours."""
    yield "expand_conv", "expand_bn", ("expand",)
    for i in range(num_blocks):
        for j, ours in ((2 * i, "conv"), (2 * i + 1, "pointwise")):
            yield f"layers_conv.{j}", f"layers_bn.{j}", (f"block_{i}", ours)


def _num_blocks(state: Mapping[str, Any]) -> int:
    return math.ceil(sum(name.startswith("layers_conv.") for name in state) / 2)


def _at(tree: Any, path: tuple[str, ...]) -> Any:
    """The node at a path, made where it is absent."""
    for name in path:
        tree = tree[name] if name in tree else tree.setdefault(name, {})
    return tree


def _float32(array: Any) -> np.ndarray:
    return np.ascontiguousarray(array, np.float32)


def _expected_names(num_blocks: int) -> set[str]:
    names = {"shrink.weight", "shrink.bias"}
    for conv, bn, _ in _layers(num_blocks):
        names |= {f"{conv}.weight", *(f"{bn}.{name}" for name in (*_BN_PARAMS, *_BN_STATE))}
    return names


def _check_names(state: Mapping[str, Any]) -> None:
    found = {name for name in state if not name.endswith(f".{_COUNTER}")}
    expected = _expected_names(_num_blocks(state))
    for names, fault in ((expected - found, "lacks"), (found - expected, "has an unknown")):
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise UserError(
                f"These weights are of another architecture: the file {fault} {min(names)}{more}; "
                "only the temporal model of VideoPose3D can be read."
            )


def _shape(state: Mapping[str, Any], name: str, rank: int) -> tuple[int, ...]:
    shape = tuple(state[name].shape)
    if len(shape) != rank:
        raise UserError(
            f"These weights are of another architecture: {name} has the shape {shape}, where "
            f"{rank} axes belong."
        )
    return shape


def _widths(kernels: tuple[int, ...], dense: bool | None) -> tuple[tuple[int, ...], bool]:
    """Numbers of frames that the layers merge, and whether kernels do so without dilation.

    A dilated network has kernels of these numbers; a dense one (width - 1) * dilation + 1 taps.
    """
    merged: list[int] = []
    for i, kernel in enumerate(kernels):
        dilation = math.prod(merged)
        if i > 0 and (kernel - 1) % dilation:
            merged.clear()
            break
        merged.append((kernel - 1) // dilation + 1)
    if dense is None and merged and tuple(merged) != kernels:
        text = ",".join(map(str, kernels))
        raise UserError(
            f"Kernels of {text} frames may belong to a dilated network of widths {text}, or to a "
            f"dense one of widths {','.join(map(str, merged))}; give --nodense or --dense."
        )
    if not dense:
        return kernels, False
    if not merged:
        raise UserError(
            f"Kernels of {','.join(map(str, kernels))} frames are not those of a dense network; "
            "leave out --dense."
        )
    return tuple(merged), True


def _check_shapes(state: Mapping[str, Any], config: TemporalConfig) -> None:
    channels, (first, *rest) = config.channels, config.taps
    expected = {
        "expand_conv.weight": (channels, config.joints_in * config.features, first[0]),
        "shrink.weight": (3 * config.joints_out, channels, 1),
        "shrink.bias": (3 * config.joints_out,),
    }
    for i, (kernel, _) in enumerate(rest):
        expected[f"layers_conv.{2 * i}.weight"] = (channels, channels, kernel)
        expected[f"layers_conv.{2 * i + 1}.weight"] = (channels, channels, 1)
    for name in _expected_names(len(rest)):
        shape = tuple(state[name].shape)
        if shape != expected.get(name, (channels,)):
            raise UserError(
                f"These weights are of another architecture: {name} has the shape {shape}, where "
                f"{expected.get(name, (channels,))} belongs."
            )
