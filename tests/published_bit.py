"""A BiT file under its published names, drawn from the seed of the parity fixture: no loader.

The fixture's values were drawn under big_vision's names.
"""

import json
import re
from pathlib import Path
from typing import Any

import jax
import numpy as np
import seeded

DATA = Path(__file__).parent / "data" / "bit"
SEED = 23

_OTHERS = {
    "resnet/root_block/standardized_conv2d/kernel": "root_block/conv_root/kernel",
    "resnet/group_norm/gamma": "norm-pre-head/scale",
    "resnet/group_norm/beta": "norm-pre-head/bias",
    "resnet/head/conv2d/kernel": "head/kernel",
    "resnet/head/conv2d/bias": "head/bias",
}


def big_vision_name(name: str) -> str:
    """big_vision's name of an array of the original files."""
    if name in _OTHERS:
        return _OTHERS[name]
    name = name.removeprefix("resnet/").replace("a/proj/standardized_conv2d", "conv_proj")
    for letter, digit in zip("abc", "123", strict=True):
        name = name.replace(f"/{letter}/standardized_conv2d", f"/conv{digit}")
        name = name.replace(f"/{letter}/group_norm", f"/gn{digit}")
    return re.sub("gamma$", "scale", re.sub("beta$", "bias", name))


def shapes() -> dict[str, tuple[int, ...]]:
    """Name and shape of every array of the fixture's file."""
    stored = json.loads((DATA / "bit_paper_tiny.shapes.json").read_text())
    return {name: tuple(shape) for name, shape in stored.items()}


def arrays() -> dict[str, np.ndarray]:
    """The arrays of the fixture's file, under the names of the original files."""
    return {
        name: seeded.draw(big_vision_name(name), shape, SEED) for name, shape in shapes().items()
    }


def as_big_vision(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The same arrays as big_vision stores them: vectors of GroupNorm of rank 4, a dense head."""
    result = {}
    for name, array in arrays.items():
        name = big_vision_name(name)
        if "/gn" in name or name.startswith("norm-pre-head/"):
            array = array[None, None, None]
        result[name] = array[0, 0] if name == "head/kernel" else array
    return result


def drawn(tree: Any) -> Any:
    """Parameters of our names for the shapes of any BiT; units that are stacked all differ."""

    def value(path: tuple[Any, ...], leaf: Any) -> np.ndarray:
        name = "/".join(key.key for key in path)
        if "/units/" not in name:
            return seeded.draw(name, leaf.shape, SEED)
        return np.stack(
            [seeded.draw(name, leaf.shape[1:], SEED + unit) for unit in range(leaf.shape[0])]
        )

    return jax.tree_util.tree_map_with_path(value, tree)
