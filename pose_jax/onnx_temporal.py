"""The temporal network over whole sequences as an ONNX graph, its batch normalisation folded in."""

from typing import Any

import numpy as np

from pose_jax.models.config import TemporalConfig
from pose_jax.models.temporal import BN_EPSILON
from train_jax.onnx_graph import Graph


def temporal_graph(config: TemporalConfig, params: Any, state: Any) -> Graph:
    """The graph of keypoints (batch, frames, joints, features) to poses (batch, poses, joints, 3).

    Args:
        config: the network.
        params: its parameters.
        state: its running statistics.

    Raises:
        UserError: onnx is not installed.
    """
    graph = Graph("temporal_network")
    shape = ("batch", "frames", config.joints_in, config.features)
    x = graph.input("keypoints", shape)
    flat = graph.shape("shape/flat", 0, 0, config.joints_in * config.features)
    x = graph.node("Reshape", [x, flat], "flattened")
    x = graph.node("Transpose", [x], "channels_first", perm=[0, 2, 1])
    (_, first), *rest = config.taps
    x = _layer(graph, x, "expand", params["expand"], state["expand"], first)
    for i, (width, dilation) in enumerate(rest):
        name = f"block_{i}"
        block, statistics = params[name], state[name]
        y = _layer(graph, x, f"{name}/conv", block["conv"], statistics["conv"], dilation)
        y = _layer(graph, y, f"{name}/pointwise", block["pointwise"], statistics["pointwise"], 1)
        # The frame of the receptive field that the output stands for.
        reach = (width - 1) * dilation
        begin = reach if config.causal else reach // 2
        end = begin - reach or np.iinfo(np.int64).max
        bounds = [
            graph.shape(f"{name}/begin", begin),
            graph.shape(f"{name}/end", end),
            graph.shape("axes/frames", 2),
        ]
        x = graph.node("Slice", [x, *bounds], f"{name}/shortcut")
        x = graph.node("Add", [x, y], f"{name}/output")
    kernel = np.asarray(params["shrink"]["kernel"], np.float32).T[..., None]
    weights = [
        graph.weight("shrink/kernel", kernel),
        graph.weight("shrink/bias", np.asarray(params["shrink"]["bias"], np.float32)),
    ]
    x = graph.node("Conv", [x, *weights], "shrink")
    x = graph.node("Transpose", [x], "frames_first", perm=[0, 2, 1])
    x = graph.node(
        "Reshape", [x, graph.shape("shape/joints", 0, 0, config.joints_out, 3)], "joints"
    )
    graph.output(x, "poses", ("batch", "poses", config.joints_out, 3))
    return graph


def _layer(graph: Graph, x: str, path: str, params: Any, state: Any, dilation: int) -> str:
    kernel = np.asarray(params["kernel"], np.float64)
    kernel = kernel[None] if kernel.ndim == 2 else kernel
    norm, statistics = params["bn"], state["bn"]
    scale = np.asarray(norm["scale"], np.float64) / np.sqrt(
        np.asarray(statistics["var"], np.float64) + BN_EPSILON
    )
    bias = np.asarray(norm["bias"], np.float64) - np.asarray(statistics["mean"], np.float64) * scale
    weights = [
        graph.weight(f"{path}/kernel", (kernel * scale).transpose(2, 1, 0).astype(np.float32)),
        graph.weight(f"{path}/bias", bias.astype(np.float32)),
    ]
    y = graph.node("Conv", [x, *weights], f"{path}/product", dilations=[dilation])
    return graph.node("Relu", [y], f"{path}/relu")
