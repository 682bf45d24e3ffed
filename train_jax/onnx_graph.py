"""Writes ONNX graphs node by node, with named weights.

A translation of JAX's programs would follow JAX's internals from release to release and name
thousands of nodes by number; our models are a few kinds of layers, and their graphs read as the
papers do. The arrays keep their parameters' names.
"""

import importlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from train_jax.errors import UserError

#: Of LayerNormalization (17) and Gelu (20).
OPSET = 20
_IR_VERSION = 9
#: protobuf ends at 2 GiB; beyond this the weights go into a file beside the graph.
EXTERNAL_DATA_BYTES = 1_800_000_000


class Graph:
    """A graph under construction; tensors are their names."""

    def __init__(self, name: str):
        try:
            self._onnx: Any = importlib.import_module("onnx")
        except ImportError as error:
            raise UserError("ONNX files need onnx; run `pip install -e '.[export]'`.") from error
        self._name = name
        self._nodes: list[Any] = []
        self._weights: dict[str, np.ndarray] = {}
        self._values: dict[str, list[Any]] = {"input": [], "output": []}

    def input(self, name: str, shape: Sequence[str | int]) -> str:
        """Declares a float32 input; named sizes are free."""
        return self._declare("input", name, shape)

    def output(self, tensor: str, name: str, shape: Sequence[str | int]) -> None:
        """Declares a tensor to be a float32 output."""
        self._nodes.append(self._onnx.helper.make_node("Identity", [tensor], [name], name=name))
        self._declare("output", name, shape)

    def weight(self, name: str, array: Any) -> str:
        """A constant; the same name is stored once."""
        if name not in self._weights:
            self._weights[name] = np.asarray(array, order="C")
        return name

    def node(self, kind: str, inputs: Sequence[str], name: str, **attributes: Any) -> str:
        """A node with one output, which has its name."""
        made = self._onnx.helper.make_node(kind, list(inputs), [name], name=name, **attributes)
        self._nodes.append(made)
        return name

    def shape(self, name: str, *sizes: int) -> str:
        """A constant list of whole numbers, for Reshape and Slice."""
        return self.weight(name, np.asarray(sizes, np.int64))

    def save(
        self,
        path: str | os.PathLike[str],
        *,
        metadata: Mapping[str, str] | None = None,
        external_bytes: int = EXTERNAL_DATA_BYTES,
    ) -> None:
        """Checks the graph and writes it, large weights to ``PATH.data``.

        Raises:
            UserError: it cannot be written.
        """
        onnx, path = self._onnx, Path(path)
        weights = [
            onnx.numpy_helper.from_array(array, name) for name, array in self._weights.items()
        ]
        graph = onnx.helper.make_graph(
            self._nodes,
            self._name,
            self._values["input"],
            self._values["output"],
            initializer=weights,
        )
        model = onnx.helper.make_model(
            graph,
            opset_imports=[onnx.helper.make_opsetid("", OPSET)],
            producer_name="vit-pose-jax",
            ir_version=_IR_VERSION,
        )
        if metadata:
            onnx.helper.set_model_props(model, dict(metadata))
        large = sum(array.nbytes for array in self._weights.values()) > external_bytes
        options: dict[str, Any] = {}
        if large:
            data = path.with_name(f"{path.name}.data")
            if data.exists():
                raise UserError(f"{data} exists already; nothing is overwritten, remove it first.")
            options = {
                "save_as_external_data": True,
                "location": data.name,
                "size_threshold": 1024,
            }
        else:
            onnx.checker.check_model(model, full_check=True)
        try:
            onnx.save_model(model, os.fspath(path), **options)
        except OSError as error:
            raise UserError(f"{path} cannot be written: {error.strerror}.") from error

    def _declare(self, side: str, name: str, shape: Sequence[str | int]) -> str:
        kind = self._onnx.TensorProto.FLOAT
        made = self._onnx.helper.make_tensor_value_info(name, kind, list(shape))
        self._values[side].append(made)
        return name
