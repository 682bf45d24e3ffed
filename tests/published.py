"""The published (pre-Linen) names of ViT weights, and published files as a whole, for tests."""

import os
from collections.abc import Callable

import jax
import numpy as np

from vit_jax.npz import open_npz
from vit_jax.weights import PublishedWeights, split_subtree, understand

_OLD = {
    "MultiHeadDotProductAttention_0": "MultiHeadDotProductAttention_1",
    "LayerNorm_1": "LayerNorm_2",
    "MlpBlock_0": "MlpBlock_3",
}


def old_name(name: str) -> str:
    """The published name of one of our names (of one layer, for a block)."""
    if "encoderblock" not in name:
        return name
    return "/".join(_OLD.get(part, part) for part in name.split("/"))


def fill(shapes, leaf: Callable[[str, tuple[int, ...]], np.ndarray]):
    """Our parameter tree with every array from ``leaf(published name, shape of one layer)``."""

    def value(path, abstract):
        name = "/".join(key.key for key in path)
        if "/encoderblock/" not in name:
            return np.asarray(leaf(name, abstract.shape)).reshape(abstract.shape)
        layers = [
            leaf(old_name(name.replace("encoderblock", f"encoderblock_{i}")), abstract.shape[1:])
            for i in range(abstract.shape[0])
        ]
        return np.stack(layers)

    return jax.tree_util.tree_map_with_path(value, shapes)


def published_shapes(shapes) -> dict[str, list[int]]:
    """Every array of our tree as a published file lists it: name to shape."""
    listed: dict[str, list[int]] = {}

    def record(name: str, shape: tuple[int, ...]) -> np.ndarray:
        listed[name] = list(shape)
        return np.zeros(shape, np.int8)

    fill(shapes, record)
    return listed


def open_published(path: str | os.PathLike[str], *, subtree: str | None = None) -> PublishedWeights:
    """A published file; ``file.npz:img`` names a subtree as well."""
    text, named = split_subtree(path)
    return understand(open_npz(text), subtree=subtree or named)


def load_published(
    path: str | os.PathLike[str], *, subtree: str | None = None
) -> dict[str, np.ndarray]:
    """A published file as a flat dict of our names."""
    return dict(open_published(path, subtree=subtree))
