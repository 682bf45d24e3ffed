"""PyTorch's names and layouts of a Vision Transformer, as ours: Hugging Face's and timm's.

Both keep a matrix as (outputs, inputs), a convolution as (outputs, inputs, height, width), and a
layer a set of arrays. Hugging Face has ``query``, ``key`` and ``value``; timm one matrix ``qkv`` of
all three.
"""

import dataclasses
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal

import jax
import numpy as np

from train_jax.errors import UserError
from train_jax.sharding import flat_names
from vit_jax.models.config import ViTConfig
from vit_jax.safetensors_file import SafetensorsFile
from vit_jax.weights import POSITION_TABLE

Names = Literal["huggingface", "timm"]

_BLOCK = "Transformer/encoderblock"
_ATTENTION = f"{_BLOCK}/MultiHeadDotProductAttention_0"
_QKV = ("query", "key", "value")

# Our module -> theirs; {} is the number of the layer.
_MODULES: dict[Names, dict[str, str]] = {
    "huggingface": {
        "embedding": "vit.embeddings.patch_embeddings.projection",
        f"{_BLOCK}/LayerNorm_0": "vit.encoder.layer.{}.layernorm_before",
        **{f"{_ATTENTION}/{p}": f"vit.encoder.layer.{{}}.attention.attention.{p}" for p in _QKV},
        f"{_ATTENTION}/out": "vit.encoder.layer.{}.attention.output.dense",
        f"{_BLOCK}/LayerNorm_1": "vit.encoder.layer.{}.layernorm_after",
        f"{_BLOCK}/MlpBlock_0/Dense_0": "vit.encoder.layer.{}.intermediate.dense",
        f"{_BLOCK}/MlpBlock_0/Dense_1": "vit.encoder.layer.{}.output.dense",
        "Transformer/encoder_norm": "vit.layernorm",
        "pre_logits": "vit.pooler.dense",
        "head": "classifier",
    },
    "timm": {
        "embedding": "patch_embed.proj",
        f"{_BLOCK}/LayerNorm_0": "blocks.{}.norm1",
        **{f"{_ATTENTION}/{part}": "blocks.{}.attn.qkv" for part in _QKV},
        f"{_ATTENTION}/out": "blocks.{}.attn.proj",
        f"{_BLOCK}/LayerNorm_1": "blocks.{}.norm2",
        f"{_BLOCK}/MlpBlock_0/Dense_0": "blocks.{}.mlp.fc1",
        f"{_BLOCK}/MlpBlock_0/Dense_1": "blocks.{}.mlp.fc2",
        "Transformer/encoder_norm": "norm",
        "pre_logits": "pre_logits.fc",
        "head": "head",
    },
}
_TOKENS: dict[Names, dict[str, str]] = {
    "huggingface": {
        "cls": "vit.embeddings.cls_token",
        POSITION_TABLE: "vit.embeddings.position_embeddings",
    },
    "timm": {"cls": "cls_token", POSITION_TABLE: "pos_embed"},
}


@dataclasses.dataclass(frozen=True, eq=False)
class TorchWeights(Mapping[str, np.ndarray]):
    """A file of PyTorch's under our names: reads an array, of all layers, whenever asked for one.

    Attributes:
        path: the file.
        shapes: our flat name -> shape and dtype.
    """

    path: str
    shapes: dict[str, jax.ShapeDtypeStruct]
    _names: Names
    _file: SafetensorsFile
    _heads: int
    _depth: int
    _stored: dict[str, str]

    def __getitem__(self, name: str) -> np.ndarray:
        theirs = _their_name(self._names, name)
        if name.startswith(f"{_BLOCK}/"):
            layers = [self._one(name, theirs.format(i)) for i in range(self._depth)]
            return np.stack(layers)
        return self._one(name, theirs)

    def __iter__(self) -> Iterator[str]:
        return iter(self.shapes)

    def __len__(self) -> int:
        return len(self.shapes)

    def _one(self, name: str, theirs: str) -> np.ndarray:
        array = self._file.read(self._stored[theirs])
        return _ours(name, _third(self._names, name, array), self._heads)


def understand(
    file: SafetensorsFile, stored: Mapping[str, str], names: Names, *, heads: int | None
) -> TorchWeights:
    """Reads a file's arrays as ours.

    Args:
        file: the file.
        stored: the name as in the tables here -> the name in the file.
        names: whose.
        heads: number of attention heads; None: 64 numbers each.

    Raises:
        UserError: the architecture is another, or arrays are missing.
    """
    _refuse_foreign(file.path, stored)
    layer = _their_name(names, f"{_BLOCK}/LayerNorm_0/scale")
    pattern = re.escape(layer).replace(r"\{\}", r"(\d+)")
    found = [int(match[1]) for name in stored if (match := re.fullmatch(pattern, name))]
    patch = _their_name(names, "embedding/kernel")
    if not found or patch not in stored:
        raise UserError(f"{file.path} holds no Vision Transformer under the names of {names}.")
    depth, width = max(found) + 1, file.shapes[stored[patch]].shape[0]
    num_heads = heads or max(width // 64, 1)
    if width % num_heads:
        raise UserError(f"{file.path}: the width {width} is not a multiple of {num_heads} heads.")
    shapes, used = {}, set()
    for name in _all_names(names):
        theirs = _their_name(names, name)
        each = [theirs.format(i) for i in range(depth)] if "{}" in theirs else [theirs]
        absent = [one for one in each if one not in stored]
        if absent:
            optional = not name.startswith(_BLOCK) and name.split("/")[0] in (
                "cls",
                "head",
                "pre_logits",
            )
            if optional:
                continue
            raise UserError(f"{file.path} lacks {absent[0]}; it is incomplete, or another model.")
        used.update(each)
        kept = [file.shapes[stored[one]] for one in each]
        if len({leaf.shape for leaf in kept}) > 1:
            raise UserError(f"{file.path}: {theirs} differs in shape from layer to layer.")
        shape = _ours_shape(names, name, kept[0].shape, num_heads, file.path)
        shape = (depth, *shape) if len(each) > 1 or "{}" in theirs else shape
        shapes[name] = jax.ShapeDtypeStruct(shape, kept[0].dtype)
    foreign = sorted(stored.keys() - used)
    if foreign:
        raise UserError(
            f"{file.path} holds {foreign[0]}, which has no place in our Vision Transformer; this "
            "architecture is not supported."
        )
    return TorchWeights(file.path, shapes, names, file, num_heads, depth, dict(stored))


def to_torch(
    config: ViTConfig, params: Any, names: Names
) -> tuple[dict[str, tuple[int, ...]], Iterator[tuple[str, np.ndarray]]]:
    """Parameters under PyTorch's names: their shapes, and the arrays one after another.

    Raises:
        UserError: the model has parts that have no name there.
    """
    flat = flat_names(params)
    allowed = set(_all_names(names))
    foreign = sorted(set(flat) - allowed)
    if foreign or config.position != "learned":
        what = foreign[0] if foreign else f"position={config.position!r}"
        raise UserError(f"The format {names} has no place for {what}; convert to .npz.")
    made: dict[str, tuple[tuple[str, ...], int | None]] = {}
    for name in flat:
        theirs = _their_name(names, name)
        layers = range(config.depth) if "{}" in theirs else [None]
        for layer in layers:
            parts, _ = made.get(theirs.format(layer), ((), None))
            made[theirs.format(layer)] = ((*parts, name), layer)

    def array(theirs: str) -> np.ndarray:
        parts, layer = made[theirs]
        ordered = sorted(parts, key=lambda name: _part_of(name) or 0)
        pieces = [
            _theirs(name, np.asarray(flat[name] if layer is None else flat[name][layer]))
            for name in ordered
        ]
        return np.concatenate(pieces).astype(np.float32)

    shapes = {theirs: array(theirs).shape for theirs in sorted(made)}
    return shapes, ((theirs, array(theirs)) for theirs in shapes)


def _all_names(names: Names) -> Iterable[str]:
    yield from _TOKENS[names]
    for module in _MODULES[names]:
        last = ("scale", "bias") if "orm" in module.split("/")[-1] else ("kernel", "bias")
        yield from (f"{module}/{part}" for part in last)


def _their_name(names: Names, name: str) -> str:
    if name in _TOKENS[names]:
        return _TOKENS[names][name]
    module, _, part = name.rpartition("/")
    return f"{_MODULES[names][module]}.{'bias' if part == 'bias' else 'weight'}"


def _part_of(name: str) -> int | None:
    part = name.split("/")[-2] if "/" in name else ""
    return _QKV.index(part) if part in _QKV else None


def _ours(name: str, array: np.ndarray, heads: int) -> np.ndarray:
    """Our form of an array of one layer."""
    if _part_of(name) is not None:
        if array.ndim == 1:
            return array.reshape(heads, -1)
        return array.T.reshape(array.shape[1], heads, -1)
    if name == f"{_ATTENTION}/out/kernel":
        return array.T.reshape(heads, -1, array.shape[0])
    if name == "embedding/kernel":
        return array.transpose(2, 3, 1, 0)
    return array.T if name.endswith("/kernel") else array


def _third(names: Names, name: str, array: np.ndarray) -> np.ndarray:
    """Of timm's array of queries, keys and values, the part that is asked for."""
    part = _part_of(name)
    return array if part is None or names != "timm" else np.split(array, 3)[part]


def _ours_shape(
    names: Names, name: str, shape: tuple[int, ...], heads: int, path: str
) -> tuple[int, ...]:
    try:
        array = _third(names, name, np.broadcast_to(np.float32(0), shape))
        return _ours(name, array, heads).shape
    except ValueError as error:
        raise UserError(f"{path}: {name} of shape {shape} is no transformer's.") from error


def _theirs(name: str, array: np.ndarray) -> np.ndarray:
    if _part_of(name) is not None:
        return array.reshape(array.shape[0], -1).T if name.endswith("/kernel") else array.ravel()
    if name == f"{_ATTENTION}/out/kernel":
        return array.reshape(-1, array.shape[-1]).T
    if name == "embedding/kernel":
        return array.transpose(3, 2, 0, 1)
    return array.T if name.endswith("/kernel") else array


def _refuse_foreign(path: str, names: Iterable[str]) -> None:
    kinds = {
        r"(ls[12]\.gamma|layer_scale)": "LayerScale (as DINOv2 has)",
        r"(reg_token|register_tokens)": "register tokens",
        r"attn\.[qk]_norm": "normalised queries and keys",
        r"(w12|weights_in)": "a gated MLP",
        r"dist_token": "a distillation token",
        r"norm_pre": "a LayerNorm before the first block (as CLIP has)",
        r"^patch_embed\.backbone\.|^stages\.": "a ResNet",
        r"^attn_pool\.": "attention pooling",
        r"^fc_norm\.": "a LayerNorm after pooling (fc_norm)",
        r"lora_": "LoRA adapters",
    }
    for pattern, what in kinds.items():
        if any(re.search(pattern, name) for name in names):
            raise UserError(
                f"{path} has {what}, which this reader does not support; published .npz weights of "
                "the papers' models are read whole."
            )
