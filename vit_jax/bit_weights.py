"""Published BiT weights, read into our names and written from them.

Two kinds of names exist: those of the files that the BiT paper published (``resnet/block1/unit01/a/
standardized_conv2d/kernel``), and big_vision's (``block1/unit01/conv1/kernel``), in which distilled
BiTs were published. Ours are stacked: the second and later units of a stage are one array
(``block1/units/conv1/kernel``) with a leading axis.
"""

import dataclasses
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from train_jax.errors import UserError
from train_jax.sharding import flat_names
from vit_jax.npz import NpzFile, write_npz

Names = Literal["original", "linen"]

# The three convolutions of a unit, each with the normalisation that stands before it.
_LETTERS = {"1": "a", "2": "b", "3": "c"}
_NORM_ARRAYS = {"scale": "gamma", "bias": "beta"}

# Our name, without the unit's number where there is one, and the number of its axes.
_OURS = re.compile(
    r"conv_root/kernel|norm_pre_head/(scale|bias)|head/(kernel|bias)"
    r"|block\d+/unit(1|s)/(conv[123]/kernel|gn[123]/(scale|bias))|block\d+/unit1/conv_proj/kernel"
)
_ORIGINAL = re.compile(
    r"resnet/(?:"
    r"root_block/standardized_conv2d(?:_\d+)?/(?P<root>kernel)"
    r"|group_norm/(?P<last>gamma|beta)"
    r"|head/conv2d/(?P<head>kernel|bias)"
    r"|block(?P<block>\d+)/unit(?P<unit>\d+)/"
    r"(?:(?P<norm>[abc])/group_norm/(?P<vector>gamma|beta)"
    # Some files number the variables of a graph: standardized_conv2d_17.
    r"|(?P<conv>[abc])(?P<proj>/proj)?/standardized_conv2d(?:_\d+)?/kernel)"
    r")"
)
_BIG_VISION = re.compile(
    r"root_block/(?P<root>conv_root/kernel)|norm-pre-head/(?P<last>scale|bias)"
    r"|head/(?P<head>kernel|bias)"
    r"|block(?P<block>\d+)/unit(?P<unit>\d+)/(?P<part>(conv[123]|conv_proj)/kernel"
    r"|gn[123]/(scale|bias))"
)
_PREFIXES = ("opt/target/", "params/", "")


@dataclasses.dataclass(frozen=True, eq=False)
class BiTWeights(Mapping[str, np.ndarray]):
    """A published file under our names: a mapping that reads an array whenever asked for one.

    Attributes:
        path: the file.
        shapes: our flat name -> shape and stored dtype.
        ignored: how many arrays of the file are not parameters (optimizer state, counters).
    """

    path: str
    shapes: dict[str, jax.ShapeDtypeStruct]
    ignored: int
    _file: NpzFile
    _stored: dict[str, tuple[str, ...]]

    def __getitem__(self, name: str) -> np.ndarray:
        shape, arrays = self.shapes[name], self._file.read(self._stored[name])
        if not _is_stacked(name):
            (array,) = arrays
            return array.reshape(shape.shape)
        stack = np.empty(shape.shape, shape.dtype)
        for unit, array in enumerate(arrays):
            stack[unit] = array.reshape(shape.shape[1:])
        return stack

    def __iter__(self) -> Iterator[str]:
        return iter(self._stored)

    def __len__(self) -> int:
        return len(self._stored)


def is_bit(names: Iterable[str]) -> bool:
    """Whether the arrays of a file are a BiT's, by the name of the root's convolution."""
    return any(
        name.removeprefix(prefix).startswith(("resnet/root_block/", "root_block/conv_root/"))
        for name in names
        for prefix in _PREFIXES
    )


def open_bit(file: NpzFile) -> BiTWeights:
    """Understands a published file without reading its arrays.

    Raises:
        UserError: the file holds something that is not a BiT's, or lacks some of one.
    """
    prefix = next(p for p in _PREFIXES if any(name.startswith(p) for name in file.shapes))
    inside = {name.removeprefix(prefix): name for name in file.shapes if name.startswith(prefix)}
    # Our name -> the unit (0 where there is no such axis) -> the name in the file.
    found: dict[str, dict[int, str]] = {}
    for name, stored in inside.items():
        ours, unit = _our_name(name, path=file.path)
        units = found.setdefault(ours, {})
        if unit in units:
            raise UserError(
                f"{file.path} holds {ours} under two names ({units[unit]} and {stored}); it mixes "
                "two formats."
            )
        units[unit] = stored
    _require_whole(found, file.path)
    names = {ours: tuple(units[i] for i in sorted(units)) for ours, units in found.items()}
    shapes = {ours: _shape(ours, stored, file) for ours, stored in names.items()}
    return BiTWeights(file.path, shapes, len(file.shapes) - len(inside), file, names)


def save_bit(path: str | os.PathLike[str], params: Any, *, names: Names = "original") -> None:
    """Writes parameters in a published format; reading them back gives the same bits.

    Args:
        path: the .npz file to make; it must not exist.
        params: nested or flat dict of our names, arrays of any float dtype.
        names: ``original`` as in the files of the BiT paper, ``linen`` as big_vision's.

    Raises:
        UserError: the file exists, cannot be written, or a name is not a BiT's.
    """
    flat = flat_names(params)
    foreign = [name for name in flat if not _OURS.fullmatch(name)]
    if foreign:
        raise UserError(f"BiT files have no place for {', '.join(foreign[:5])}; drop it first.")
    write_npz(path, _published(flat, names=names))


def _published(flat: Mapping[str, Any], *, names: Names) -> Iterator[tuple[str, np.ndarray]]:
    rename = _original_name if names == "original" else _big_vision_name
    for name, leaf in flat.items():
        array = np.asarray(leaf)
        for i, unit in enumerate(array if _is_stacked(name) else array[None]):
            if names == "original" and name == "head/kernel":
                unit = unit[None, None]
            elif names == "linen" and _is_norm(name):
                unit = unit[None, None, None]
            yield rename(name, i + 2 if _is_stacked(name) else 1), unit


def _original_name(name: str, unit: int) -> str:
    *parents, array = name.split("/")
    match parents:
        case ["conv_root"]:
            return "resnet/root_block/standardized_conv2d/kernel"
        case ["norm_pre_head"]:
            return f"resnet/group_norm/{_NORM_ARRAYS[array]}"
        case ["head"]:
            return f"resnet/head/conv2d/{array}"
        case [block, _, "conv_proj"]:
            return f"resnet/{block}/unit{unit:02d}/a/proj/standardized_conv2d/kernel"
        case [block, _, part]:
            kind, letter = part[:-1], _LETTERS[part[-1]]
            inner = "standardized_conv2d/kernel"
            if kind == "gn":
                inner = f"group_norm/{_NORM_ARRAYS[array]}"
            return f"resnet/{block}/unit{unit:02d}/{letter}/{inner}"
    raise AssertionError(name)


def _big_vision_name(name: str, unit: int) -> str:
    if name.startswith("conv_root/"):
        return f"root_block/{name}"
    name = name.replace("norm_pre_head", "norm-pre-head")
    return re.sub(r"/unit(1|s)/", f"/unit{unit:02d}/", name)


def _our_name(name: str, *, path: str) -> tuple[str, int]:
    """Our name, and the unit among those that are stacked in it."""
    vectors = {old: new for new, old in _NORM_ARRAYS.items()}
    digits = {letter: digit for digit, letter in _LETTERS.items()}
    match = _ORIGINAL.fullmatch(name) or _BIG_VISION.fullmatch(name)
    if match is None:
        raise UserError(f"{path} is not a BiT's weights: it holds {name}.")
    groups = match.groupdict()
    if groups["root"]:
        return "conv_root/kernel", 0
    if groups["last"]:
        return f"norm_pre_head/{vectors.get(groups['last'], groups['last'])}", 0
    if groups["head"]:
        return f"head/{groups['head']}", 0
    if "part" in groups:
        part = groups["part"]
    elif groups["norm"]:
        part = f"gn{digits[groups['norm']]}/{vectors[groups['vector']]}"
    elif groups["proj"]:
        part = "conv_proj/kernel"
    else:
        part = f"conv{digits[groups['conv']]}/kernel"
    unit = int(groups["unit"])
    return f"block{groups['block']}/unit{'1' if unit == 1 else 's'}/{part}", max(unit - 2, 0)


def _require_whole(found: Mapping[str, Mapping[int, str]], path: str) -> None:
    """Refuses a file in which a unit or one of a unit's arrays is missing."""
    lacking = [name for name in ("conv_root/kernel", "norm_pre_head/scale") if name not in found]
    blocks = [int(match[1]) for name in found if (match := re.match(r"block(\d+)/", name))]
    for block in range(1, max(blocks, default=1) + 1):
        kinds = [f"conv{i}/kernel" for i in "123"]
        kinds += [f"gn{i}/{array}" for i in "123" for array in _NORM_ARRAYS]
        first, rest = f"block{block}/unit1", f"block{block}/units"
        lacking += [f"{first}/{kind}" for kind in kinds if f"{first}/{kind}" not in found]
        counts = {kind: found.get(f"{rest}/{kind}", {}) for kind in kinds}
        units = 1 + max((i for units in counts.values() for i in units), default=-1)
        lacking += [
            f"block{block}/unit{i + 2}/{kind}"
            for kind, present in counts.items()
            for i in range(units)
            if i not in present
        ]
    if lacking:
        raise UserError(f"{path} lacks {lacking[0]} of a BiT; it is incomplete, fetch it again.")


def _shape(ours: str, stored: tuple[str, ...], file: NpzFile) -> jax.ShapeDtypeStruct:
    shapes = {(file.shapes[name].shape, file.shapes[name].dtype) for name in stored}
    if len(shapes) > 1:
        raise UserError(f"{file.path}: the units' {ours} differ in shape or dtype; cannot stack.")
    ((shape, dtype),) = shapes
    rank = 4 if "conv" in ours else 2 if ours == "head/kernel" else 1
    lead, shape = shape[:-rank], shape[-rank:]
    if len(shape) != rank or math.prod(lead) != 1 or not jnp.issubdtype(dtype, jnp.floating):
        raise UserError(f"{file.path}: {stored[0]} of shape {(*lead, *shape)} is no BiT's.")
    return jax.ShapeDtypeStruct((len(stored), *shape) if _is_stacked(ours) else shape, dtype)


def _is_stacked(ours: str) -> bool:
    return "/units/" in ours


def _is_norm(ours: str) -> bool:
    return ours.startswith("norm_pre_head/") or re.search(r"/gn\d/", ours) is not None
