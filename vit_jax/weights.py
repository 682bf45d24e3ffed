"""Published Vision Transformer weights, read into our names and written from them.

Files differ in four ways, all of which are seen in the names and shapes alone: where the
parameters lie (at the top, under ``opt/target``, ``params``, or in one tower of two), the
counters of a block's parts (pre-Linen: one counter for all, Linen: one per kind), whether layers
are separate or stacked, and whether the position table has a row for the class token. Ours: no
prefix, Linen's counters, stacked layers, and a class row.
"""

import dataclasses
import os
import re
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from train_jax.errors import UserError
from train_jax.sharding import flat_names
from vit_jax.npz import NpzFile, write_npz

POSITION_TABLE = "Transformer/posembed_input/pos_embedding"
_STACK = "Transformer/encoderblock/"

# One row per part of a block: today's name, and the one in the original and AugReg files, where a
# single counter ran over all parts.
_GENERATIONS = {
    "MultiHeadDotProductAttention_0": "MultiHeadDotProductAttention_1",
    "LayerNorm_1": "LayerNorm_2",
    "MlpBlock_0": "MlpBlock_3",
}
_TO_LINEN = {old: new for new, old in _GENERATIONS.items()}

_NORM = r"(scale|bias)"
_DENSE = r"(kernel|bias)"
_ATTENTION = rf"MultiHeadDotProductAttention_0/(query|key|value|out)/{_DENSE}"
_MLP = rf"MlpBlock_0/Dense_[01]/{_DENSE}"
_OURS = re.compile(
    rf"cls|(embedding|pre_logits|head)/{_DENSE}|{POSITION_TABLE}"
    rf"|{_STACK}(LayerNorm_[01]/{_NORM}|{_ATTENTION}|{_MLP})|Transformer/encoder_norm/{_NORM}"
    rf"|MAPHead_0/(probe|LayerNorm_0/{_NORM}|{_ATTENTION}|{_MLP})"
    rf"|conv_root/kernel|gn_root/{_NORM}"
    rf"|block\d+/unit\d+/((conv[123]|conv_proj)/kernel|(gn[123]|gn_proj)/{_NORM})"
)
# The rank of every array (of one layer): the first pattern that matches decides.
_RANKS = (
    (rf"cls|MAPHead_0/probe|{POSITION_TABLE}", 3),
    (r".*/(query|key|value|out)/kernel", 3),
    (r".*/(query|key|value)/bias", 2),
    (r"(embedding|conv_root|block.*)/kernel", 4),
    (r".*/kernel", 2),
    (r".*", 1),
)
_GROUP_NORM = re.compile(r"(.*/)?gn(\d+|_root|_proj)/(scale|bias)")
_LAYER = re.compile(r"Transformer/encoderblock_(\d+)/(.*)")

Layout = Literal["", "opt/target", "params", "params/img"]


@dataclasses.dataclass(frozen=True)
class _Recipe:
    """How one of our arrays is made: from which arrays of the file, in the order of the layers."""

    names: tuple[str, ...]
    shape: tuple[int, ...]
    stacked: bool = False
    class_row: bool = False


@dataclasses.dataclass(frozen=True, eq=False)
class PublishedWeights(Mapping[str, np.ndarray]):
    """A published file under our names: a mapping that reads an array whenever asked for one.

    Attributes:
        path: the file.
        shapes: our flat name -> shape and stored dtype (float32, or bfloat16 in some files).
        ignored: how many arrays of the file are not parameters (optimizer state, counters).
    """

    path: str
    shapes: dict[str, jax.ShapeDtypeStruct]
    ignored: int
    _file: NpzFile
    _recipes: dict[str, _Recipe]

    def __getitem__(self, name: str) -> np.ndarray:
        recipe = self._recipes[name]
        arrays = self._file.read(recipe.names)
        if recipe.stacked:
            shape = self.shapes[name]
            stack = np.empty(shape.shape, shape.dtype)
            for layer, array in enumerate(arrays):
                stack[layer] = array
            return stack
        (array,) = arrays
        if recipe.class_row:
            # Here the class token had no position of its own: it gets one that adds nothing.
            array = np.concatenate([np.zeros_like(array[:, :1]), array], axis=1)
        return array.reshape(recipe.shape)

    def __iter__(self) -> Iterator[str]:
        return iter(self._recipes)

    def __len__(self) -> int:
        return len(self._recipes)


def understand(file: NpzFile, *, subtree: str | None = None) -> PublishedWeights:
    """Understands a published file without reading its arrays.

    Args:
        file: its names and shapes.
        subtree: the tower to take from a file with two. ``img`` is taken by itself.

    Raises:
        UserError: the file is not a Vision Transformer's, or lacks some of one.
    """
    prefix = _find_prefix(list(file.shapes), subtree=subtree, path=file.path)
    inside = {name.removeprefix(prefix): name for name in file.shapes if name.startswith(prefix)}
    recipes = _recipes(inside, file)
    shapes = {
        name: jax.ShapeDtypeStruct(recipe.shape, file.shapes[recipe.names[0]].dtype)
        for name, recipe in recipes.items()
    }
    for name, shape in shapes.items():
        if shape.ndim != _rank(name):
            raise UserError(f"{file.path}: {name} of shape {shape.shape} is no transformer's.")
    return PublishedWeights(file.path, shapes, len(file.shapes) - len(inside), file, recipes)


def save_published(
    path: str | os.PathLike[str],
    params: Any,
    *,
    names: Literal["original", "linen"] = "original",
    layers: Literal["separate", "stacked"] = "separate",
    layout: Layout = "",
) -> None:
    """Writes parameters in a published format; reading them back gives the same bits.

    Args:
        path: the .npz file to make; it must not exist.
        params: nested or flat dict of our names, arrays of any float dtype.
        names: ``original`` as in the files of the ViT paper and AugReg, which every reader knows
            (GroupNorm arrays have rank 4 there), or today's ``linen``.
        layers: one array per layer, or with a leading axis of layers.
        layout: where the parameters lie in the file.

    Raises:
        UserError: the file exists, cannot be written, or a name is not a Vision Transformer's.
    """
    flat = flat_names(params)
    foreign = [name for name in flat if not _OURS.fullmatch(name)]
    if foreign:
        raise UserError(f"Published files have no place for {_some(foreign)}; drop it first.")
    write_npz(path, _published(flat, names=names, layers=layers, layout=layout))


def _published(
    flat: Mapping[str, Any], *, names: str, layers: str, layout: str
) -> Iterator[tuple[str, np.ndarray]]:
    prefix = f"{layout}/" if layout else ""
    for name, leaf in flat.items():
        array = np.asarray(leaf)
        part = name.removeprefix(_STACK)
        if names == "original":
            if _GROUP_NORM.fullmatch(name):
                array = array.reshape(1, 1, 1, -1)
            if part != name:
                part = _rename(part, _GENERATIONS)
        if part == name:
            yield prefix + name, array
        elif layers == "stacked":
            yield prefix + _STACK + part, array
        else:
            for layer, weights in enumerate(array):
                yield f"{prefix}Transformer/encoderblock_{layer}/{part}", weights


def _rank(name: str) -> int:
    rank = next(rank for pattern, rank in _RANKS if re.fullmatch(pattern, name))
    return rank + name.startswith(_STACK)


def split_subtree(path: str | os.PathLike[str]) -> tuple[str, str | None]:
    """The file and the subtree of ``file.npz:img``; None where no subtree is named."""
    path = os.fspath(path)
    match = re.fullmatch(r"(.+\.npz):([\w/]+)", path)
    return (match[1], match[2]) if match else (path, None)


def _find_prefix(names: list[str], *, subtree: str | None, path: str) -> str:
    def has(prefix: str) -> bool:
        return any(name.startswith(prefix) for name in names)

    prefix = next((p for p in ("opt/target/", "params/") if has(p)), "")
    if subtree is not None:
        inner = f"{prefix}{subtree.strip('/')}/"
        if not has(inner):
            groups = sorted({name.removeprefix(prefix).split("/")[0] for name in names})
            raise UserError(f"{path} has no subtree {subtree!r}; it has {', '.join(groups)}.")
        return inner
    return f"{prefix}img/" if has(f"{prefix}img/") else prefix


def _recipes(inside: Mapping[str, str], file: NpzFile) -> dict[str, _Recipe]:
    """Our names -> recipes, from the names below the prefix -> the names in the file."""
    # The layer is None for what belongs to no layer or holds all of them.
    found: dict[str, dict[int | None, str]] = {}
    foreign = []
    for name, stored in inside.items():
        ours, layer = _our_name(name)
        if not _OURS.fullmatch(ours) or not jnp.issubdtype(file.shapes[stored].dtype, jnp.floating):
            foreign.append(name)
            continue
        layers = found.setdefault(ours, {})
        if layer in layers or None in layers or (layer is None and layers):
            raise UserError(f"{file.path} holds {ours} under two names; it mixes two formats.")
        layers[layer] = stored
    _refuse_foreign(file.path, foreign, known=list(found))
    depth = 1 + max((i for layers in found.values() for i in layers if i is not None), default=-1)
    fold = "pos_embedding" in inside and "cls" in inside
    return {
        name: _single(name, layers[None], file, class_row=fold and name == POSITION_TABLE)
        if None in layers
        else _stack(name, layers, depth, file)
        for name, layers in found.items()
    }


def _single(name: str, stored: str, file: NpzFile, *, class_row: bool) -> _Recipe:
    shape = file.shapes[stored].shape
    if _GROUP_NORM.fullmatch(name):
        shape = shape[-1:] if all(size == 1 for size in shape[:-1]) else shape
    if class_row and len(shape) == 3:
        shape = (shape[0], shape[1] + 1, *shape[2:])
    return _Recipe((stored,), shape, class_row=class_row)


def _stack(name: str, stored: Mapping[int | None, str], depth: int, file: NpzFile) -> _Recipe:
    part = name.removeprefix(_STACK)
    if len(stored) != depth:
        absent = next(layer for layer in range(depth) if layer not in stored)
        raise UserError(
            f"{file.path} has {depth} layers but lacks {part} of layer {absent}; "
            "it is incomplete, fetch it again."
        )
    kinds = {(file.shapes[stored[i]].shape, file.shapes[stored[i]].dtype) for i in range(depth)}
    if len(kinds) > 1:
        raise UserError(f"{file.path}: the layers' {part} differ in shape or dtype; cannot stack.")
    shape = file.shapes[stored[0]].shape
    return _Recipe(tuple(stored[i] for i in range(depth)), (depth, *shape), stacked=True)


def _our_name(name: str) -> tuple[str, int | None]:
    """Our name, and the layer if the array belongs to a single one."""
    if match := _LAYER.fullmatch(name):
        return _STACK + _rename(match[2], _TO_LINEN), int(match[1])
    if name.startswith(_STACK):
        return _STACK + _rename(name.removeprefix(_STACK), _TO_LINEN), None
    return (POSITION_TABLE if name == "pos_embedding" else name), None


def _rename(part: str, table: Mapping[str, str]) -> str:
    head, slash, rest = part.partition("/")
    return table.get(head, head) + slash + rest


def _refuse_foreign(path: str, foreign: list[str], *, known: list[str]) -> None:
    if any(name.startswith("MixerBlock_") for name in foreign):
        raise UserError(f"{path} holds an MLP-Mixer; only Vision Transformers are read.")
    if foreign:
        raise UserError(f"{path} is not a Vision Transformer's weights: it holds {_some(foreign)}.")
    if "embedding/kernel" not in known or not any(name.startswith(_STACK) for name in known):
        raise UserError(f"{path} is not a Vision Transformer's weights: no embedding or no layers.")


def _some(names: list[str]) -> str:
    listed = ", ".join(names[:5])
    return listed if len(names) <= 5 else f"{listed} and {len(names) - 5} more"
