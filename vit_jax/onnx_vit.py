"""The Vision Transformer as an ONNX graph, hybrids included."""

import math
from typing import Any

import numpy as np

from train_jax.errors import UserError
from train_jax.onnx_graph import Graph
from train_jax.sharding import flat_names
from vit_jax.models.config import ResNetStem, ViTConfig
from vit_jax.models.embeddings import sincos2d
from vit_jax.models.layers import EPSILON as STEM_EPSILON
from vit_jax.models.resnet_stem import GROUPS, STANDARDISE_EPSILON

_BLOCK = "Transformer/encoderblock"
_ATTENTION = "MultiHeadDotProductAttention_0"


def vit_graph(config: ViTConfig, params: Any, image_shape: tuple[int, int, int]) -> Graph:
    """The graph of images (batch, h, w, 3) to logits (batch, classes).

    Args:
        config: the model.
        params: its parameters, nested.
        image_shape: (height, width, 3).

    Raises:
        UserError: the positions are of a kind that is not written, or onnx is not installed.
    """
    if config.position in ("relative", "learned2d") or config.position_at != "stem":
        raise UserError(
            "ONNX is written of models whose positions are learned per token at the stem, "
            "sincos2d or none; export StableHLO of this one."
        )
    return _Writer(config, params, image_shape).write()


class _Writer:
    def __init__(self, config: ViTConfig, params: Any, image_shape: tuple[int, int, int]):
        self._config = config
        self._flat = {name: np.asarray(leaf) for name, leaf in flat_names(params).items()}
        self._image_shape = image_shape
        self._grid = config.grid(image_shape)
        self._graph = Graph("vision_transformer")

    def write(self) -> Graph:
        config, graph = self._config, self._graph
        images = graph.input("images", ("batch", *self._image_shape))
        x = graph.node("Transpose", [images], "channels_first", perm=[0, 3, 1, 2])
        if config.stem is not None:
            x = self._stem(config.stem, x)
        x = self._tokens(x)
        for layer in range(config.depth):
            x = self._block(x, layer)
        x = self._norm(x, "Transformer/encoder_norm")
        x = self._pooled(x)
        if config.representation_size is not None:
            x = graph.node("Tanh", [self._dense(x, "pre_logits")], "pre_logits/tanh")
        width = config.representation_size or config.width
        name = "representation"
        if config.num_classes:
            x, width, name = self._dense(x, "head"), config.num_classes, "logits"
        graph.output(x, name, ("batch", width))
        return graph

    def _tokens(self, x: str) -> str:
        config, graph = self._config, self._graph
        kernel = self._weight("embedding/kernel", lambda w: w.transpose(3, 2, 0, 1))
        x = graph.node(
            "Conv",
            [x, kernel, self._weight("embedding/bias")],
            "embedding",
            strides=list(config.patch_size),
        )
        patches = math.prod(self._grid)
        shape = graph.shape("shape/patches", 0, config.width, patches)
        x = graph.node("Reshape", [x, shape], "patches")
        x = graph.node("Transpose", [x], "tokens", perm=[0, 2, 1])
        if config.class_token:
            sizes = graph.node("Shape", [x], "batch_size", start=0, end=1)
            rest = graph.shape("shape/class", 1, config.width)
            sizes = graph.node("Concat", [sizes, rest], "class_shape", axis=0)
            token = graph.node("Expand", [self._weight("cls"), sizes], "class_token")
            x = graph.node("Concat", [token, x], "tokens_with_class", axis=1)
        table = self._positions()
        return x if table is None else graph.node("Add", [x, table], "positions")

    def _positions(self) -> str | None:
        config = self._config
        if config.position == "none":
            return None
        if config.position == "learned":
            return self._weight("Transformer/posembed_input/pos_embedding")
        code = sincos2d(self._grid, config.width)
        if config.class_token:
            code = np.concatenate([np.zeros_like(code[:1]), code])
        return self._graph.weight("sincos2d", code[None])

    def _block(self, x: str, layer: int) -> str:
        graph, ours = self._graph, f"{_BLOCK}_{layer}"
        y = self._norm(x, f"{ours}/LayerNorm_0")
        y = self._attention(y, y, f"{ours}/{_ATTENTION}")
        x = graph.node("Add", [x, y], f"{ours}/attended")
        y = self._mlp(self._norm(x, f"{ours}/LayerNorm_1"), f"{ours}/MlpBlock_0")
        return graph.node("Add", [x, y], f"{ours}/output")

    def _attention(self, queries: str, tokens: str, path: str) -> str:
        config, graph = self._config, self._graph
        heads, size = config.num_heads, config.head_dim
        split = graph.shape("shape/heads", 0, 0, heads, size)
        parts = {}
        for part, x in (("query", queries), ("key", tokens), ("value", tokens)):
            name = f"{path}/{part}"
            y = self._dense(x, name, lambda w: w.reshape(config.width, -1), np.ravel)
            y = graph.node("Reshape", [y, split], f"{name}/heads")
            perm = [0, 2, 3, 1] if part == "key" else [0, 2, 1, 3]
            parts[part] = graph.node("Transpose", [y], f"{name}/transposed", perm=perm)
        scale = graph.weight("attention_scale", np.float32(size**-0.5))
        q = graph.node("Mul", [parts["query"], scale], f"{path}/scaled")
        logits = graph.node("MatMul", [q, parts["key"]], f"{path}/logits")
        weights = graph.node("Softmax", [logits], f"{path}/weights", axis=-1)
        y = graph.node("MatMul", [weights, parts["value"]], f"{path}/mixed")
        y = graph.node("Transpose", [y], f"{path}/mixed_transposed", perm=[0, 2, 1, 3])
        y = graph.node("Reshape", [y, graph.shape("shape/joined", 0, 0, config.width)], f"{path}/j")
        return self._dense(y, f"{path}/out", lambda w: w.reshape(-1, config.width))

    def _mlp(self, x: str, path: str) -> str:
        x = self._dense(x, f"{path}/Dense_0")
        form = "tanh" if self._config.gelu == "tanh" else "none"
        x = self._graph.node("Gelu", [x], f"{path}/gelu", approximate=form)
        return self._dense(x, f"{path}/Dense_1")

    def _pooled(self, x: str) -> str:
        config, graph = self._config, self._graph
        if config.pool == "gap":
            axes = graph.shape("axes/tokens", 1)
            return graph.node("ReduceMean", [x, axes], "mean_token", keepdims=0)
        first = graph.weight("first", np.int64(0))
        if config.pool == "token":
            return graph.node("Gather", [x, first], "class_output", axis=1)
        sizes = graph.node("Shape", [x], "probe_batch", start=0, end=1)
        rest = graph.shape("shape/probe", 1, config.width)
        sizes = graph.node("Concat", [sizes, rest], "probe_shape", axis=0)
        probe = graph.node("Expand", [self._weight("MAPHead_0/probe"), sizes], "probe")
        x = self._attention(probe, x, f"MAPHead_0/{_ATTENTION}")
        y = self._mlp(self._norm(x, "MAPHead_0/LayerNorm_0"), "MAPHead_0/MlpBlock_0")
        x = graph.node("Add", [x, y], "MAPHead_0/output")
        return graph.node("Gather", [x, first], "pooled", axis=1)

    def _dense(self, x: str, path: str, kernel=None, bias=None) -> str:
        y = self._graph.node(
            "MatMul", [x, self._weight(f"{path}/kernel", kernel)], f"{path}/product"
        )
        return self._graph.node("Add", [y, self._weight(f"{path}/bias", bias)], f"{path}/sum")

    def _norm(self, x: str, path: str) -> str:
        inputs = [x, self._weight(f"{path}/scale"), self._weight(f"{path}/bias")]
        return self._graph.node(
            "LayerNormalization",
            inputs,
            f"{path}/normalised",
            axis=-1,
            epsilon=self._config.norm_epsilon,
        )

    def _stem(self, stem: ResNetStem, x: str) -> str:
        x = self._std_conv(x, "conv_root", 2)
        x = self._graph.node("Relu", [self._group_norm(x, "gn_root")], "root/relu")
        x = self._graph.node(
            "MaxPool", [x], "root/pool", kernel_shape=[3, 3], strides=[2, 2], auto_pad="SAME_UPPER"
        )
        for i, units in enumerate(stem.stages):
            for unit in range(units):
                stride = 2 if i > 0 and unit == 0 else 1
                x = self._unit(x, f"block{i + 1}/unit{unit + 1}", stride)
        return x

    def _unit(self, x: str, path: str, stride: int) -> str:
        graph, y = self._graph, x
        for i, step in ((1, 1), (2, stride), (3, 1)):
            y = self._group_norm(self._std_conv(y, f"{path}/conv{i}", step), f"{path}/gn{i}")
            y = graph.node("Relu", [y], f"{path}/relu{i}") if i < 3 else y
        if f"{path}/conv_proj/kernel" in self._flat:
            x = self._std_conv(x, f"{path}/conv_proj", stride)
            x = self._group_norm(x, f"{path}/gn_proj")
        return graph.node("Relu", [graph.node("Add", [x, y], f"{path}/sum")], f"{path}/output")

    def _std_conv(self, x: str, path: str, stride: int) -> str:
        def standardised(kernel: np.ndarray) -> np.ndarray:
            kernel = kernel - kernel.mean((0, 1, 2), keepdims=True)
            deviation = np.sqrt(np.square(kernel).mean((0, 1, 2), keepdims=True))
            kernel = kernel / (deviation + np.float32(STANDARDISE_EPSILON))
            return kernel.transpose(3, 2, 0, 1)

        kernel = self._weight(f"{path}/kernel", standardised)
        return self._graph.node(
            "Conv", [x, kernel], path, strides=[stride, stride], auto_pad="SAME_UPPER"
        )

    def _group_norm(self, x: str, path: str) -> str:
        """Groups are made examples of one instance each, which every opset normalises."""
        graph = self._graph
        sizes = graph.node("Shape", [x], f"{path}/shape")
        groups = graph.shape("shape/groups", 0, GROUPS, -1)
        y = graph.node("Reshape", [x, groups], f"{path}/groups")
        one = graph.weight("groups/scale", np.ones(GROUPS, np.float32))
        zero = graph.weight("groups/bias", np.zeros(GROUPS, np.float32))
        y = graph.node(
            "InstanceNormalization", [y, one, zero], f"{path}/normalised", epsilon=STEM_EPSILON
        )
        y = graph.node("Reshape", [y, sizes], f"{path}/map")
        scale = self._weight(f"{path}/scale", lambda w: w.reshape(1, -1, 1, 1))
        bias = self._weight(f"{path}/bias", lambda w: w.reshape(1, -1, 1, 1))
        y = graph.node("Mul", [y, scale], f"{path}/scaled")
        return graph.node("Add", [y, bias], f"{path}/shifted")

    def _weight(self, name: str, transform=None) -> str:
        """A parameter by its path; ``encoderblock_3/...`` is row 3 of the stack."""
        stack, _, rest = name.removeprefix(f"{_BLOCK}_").partition("/")
        if name.startswith(f"{_BLOCK}_"):
            array = self._flat[f"{_BLOCK}/{rest}"][int(stack)]
        else:
            array = self._flat[name]
        array = np.asarray(array, np.float32)
        return self._graph.weight(name, array if transform is None else transform(array))
