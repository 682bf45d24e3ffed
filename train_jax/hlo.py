"""What an optimised TPU program says about itself: cycles, products, communication.

The compiler writes its program as text. Every fused operation carries the compiler's own estimate
of its cycles; a loop's body is written once, and its trip count stands in its condition. Sums here
take the trips into account, which the compiler's own summary (``cost_analysis``) does not.
"""

import dataclasses
import itertools
import math
import re
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

_HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = (.*)$")
_ARRAY = re.compile(r"(\w+?)\[([\d,]*)\]")
_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
_CALLED = re.compile(r"(?:calls|body|branch_computations|true_computation|false_computation)=")
_NAME = re.compile(r"%([\w.\-]+)")
_KNOWN_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')

_COLLECTIVES = (
    "all-reduce",
    "all-gather",
    "reduce-scatter",
    "all-to-all",
    "ragged-all-to-all",
    "collective-permute",
    "collective-broadcast",
)
_BITS = {"pred": 8, "bf16": 16, "token": 0}


@dataclasses.dataclass(frozen=True)
class Array:
    """Type of an array: its dtype in the compiler's spelling, and its shape."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Bytes without padding."""
        digits = re.search(r"\d+", self.dtype)
        bits = _BITS.get(self.dtype, int(digits[0]) if digits else 0)
        return math.prod(self.shape) * bits // 8


@dataclasses.dataclass(frozen=True)
class Instruction:
    """A line of the program.

    Attributes:
        name: unique in its computation.
        opcode: what it does, such as "fusion".
        arrays: what it results in; several for a tuple.
        operands: names of its arguments.
        text: what follows the arguments.
    """

    name: str
    opcode: str
    arrays: tuple[Array, ...]
    operands: tuple[str, ...]
    argument: str
    text: str

    @property
    def cycles(self) -> int | None:
        """The compiler's estimate, where it has one."""
        match = _CYCLES.search(self.text)
        return int(match[1]) if match else None


Computation = Mapping[str, Instruction]


@dataclasses.dataclass(frozen=True)
class Collective:
    """One kind of communication of a step, all its occurrences together.

    Attributes:
        kind: such as "all-reduce".
        nbytes: what takes part from each device over a step; of an all-gather what is gathered.
        group: places in the order of the mesh of the devices that exchange it, of one such group.
        count: how often a step does it.
    """

    kind: str
    nbytes: int
    group: tuple[int, ...]
    count: int

    @property
    def link_bytes(self) -> float:
        """What a device has to send at least, by the best algorithm on any network.

        A part of 1/n stays where it is; an all-reduce is a reduce-scatter and an all-gather.
        """
        share = 1 - 1 / max(len(self.group), 1)
        if self.kind == "all-reduce":
            return 2 * share * self.nbytes
        return self.nbytes if self.kind.startswith("collective") else share * self.nbytes


@dataclasses.dataclass(frozen=True)
class Summary:
    """What a step does on one device.

    Attributes:
        cycles: the sum of the compiler's estimates. It knows no overlap, and nothing of
            communication or hand-written kernels.
        flops: of matrix products and convolutions, recomputation included; a multiply-add is two.
        collectives: what is communicated, the most first.
        kernels: hand-written kernels, for which there is no estimate.
        unknown_loops: loops whose trip count depends on data; they count as one trip.
    """

    cycles: int
    flops: float
    collectives: tuple[Collective, ...]
    kernels: int
    unknown_loops: int


def summarise(text: str) -> Summary:
    """Sums over a program as ``jax.stages.Compiled.as_text`` gives it."""
    computations, entry = parse(text)
    cycles, flops, kernels, unknown = 0, 0.0, 0, 0
    found: dict[tuple[str, tuple[int, ...]], tuple[int, int]] = {}
    for computation, instruction, times, fused in _walk(computations, entry):
        if not fused:
            cycles += times * (instruction.cycles or 0)
        if instruction.opcode in ("convolution", "dot"):
            flops += times * product_flops(instruction, computation)
        elif instruction.opcode == "custom-call" and "tpu_custom_call" in instruction.text:
            kernels += 1
        elif instruction.opcode == "while":
            unknown += trip_count(computations, instruction, computation) is None
        kind = instruction.opcode.removesuffix("-start")
        if kind in _COLLECTIVES:
            group = _group(instruction.text)
            nbytes = sum(_operand(o, computation).nbytes for o in instruction.operands)
            nbytes *= len(group) if kind == "all-gather" else 1
            old = found.get((kind, group), (0, 0))
            found[kind, group] = (old[0] + times * nbytes, old[1] + times)
    collectives = [
        Collective(kind, nbytes, group, count)
        for (kind, group), (nbytes, count) in found.items()
        if len(group) > 1
    ]
    collectives.sort(key=lambda collective: -collective.nbytes)
    return Summary(cycles, flops, tuple(collectives), kernels, unknown)


def parse(text: str) -> tuple[Mapping[str, Computation], str]:
    """The computations of a program by name, and which of them it starts with."""
    computations: dict[str, dict[str, Instruction]] = {}
    entry, current = "", {}
    for line in text.splitlines():
        header = _HEADER.match(line)
        if header:
            current = computations.setdefault(header[2], {})
            entry = header[2] if header[1] else entry
            continue
        match = _INSTRUCTION.match(line)
        if match:
            current[match[2]] = _instruction(match[2], match[3])
    return computations, entry


def _instruction(name: str, rest: str) -> Instruction:
    end = _closing(rest, 0) + 1 if rest.startswith("(") else rest.index(" ")
    kind, rest = rest[:end], rest[end:].lstrip()
    opcode, _, _ = rest.partition("(")
    close = _closing(rest, len(opcode))
    argument = rest[len(opcode) + 1 : close]
    arrays = tuple(
        Array(dtype, tuple(map(int, shape.split(","))) if shape else ())
        for dtype, shape in _ARRAY.findall(kind)
    )
    return Instruction(
        name, opcode, arrays, tuple(_NAME.findall(argument)), argument, rest[close + 1 :]
    )


def _closing(text: str, start: int) -> int:
    """Where the parenthesis at ``start`` is closed."""
    depth = 0
    for i in range(start, len(text)):
        depth += (text[i] == "(") - (text[i] == ")")
        if depth == 0:
            return i
    raise ValueError(f"An unclosed parenthesis: {text[start : start + 80]}")


def _walk(
    computations: Mapping[str, Computation], name: str, times: int = 1, fused: bool = False
) -> Iterator[tuple[Computation, Instruction, int, bool]]:
    """Every instruction that a step runs, with how often, and whether it is part of a fusion."""
    computation = computations[name]
    for instruction in computation.values():
        yield computation, instruction, times, fused
        trips, inside = times, fused or instruction.opcode == "fusion"
        if instruction.opcode == "while":
            trips *= trip_count(computations, instruction, computation) or 1
        for called in _called(instruction):
            if called in computations:
                yield from _walk(computations, called, trips, inside)


def _called(instruction: Instruction) -> list[str]:
    names: list[str] = []
    for match in _CALLED.finditer(instruction.text):
        rest = instruction.text[match.end() :]
        text = rest[: rest.index("}")] if rest.startswith("{") else rest.split(",")[0]
        names += _NAME.findall(text)
    return names


def trip_count(
    computations: Mapping[str, Computation], loop: Instruction, where: Computation
) -> int | None:
    """How often a loop runs.

    It is what the compiler notes, as that for CPUs does, or else the constant that the condition
    compares a counter from 0 with. None where the bound depends on data.
    """
    known = _KNOWN_TRIPS.search(loop.text)
    if known:
        return int(known[1])
    match = re.search(r"condition=%?([\w.\-]+)", loop.text)
    condition = computations.get(match[1], {}) if match else {}
    for compare in condition.values():
        if compare.opcode != "compare" or "direction=LT" not in compare.text:
            continue
        bounds = [_constant(condition.get(name)) for name in compare.operands]
        bounds += [
            _constant(_carried(condition.get(name), loop, where)) for name in compare.operands[1:]
        ]
        known = [bound for bound in bounds if bound is not None]
        if known:
            return known[0]
    return None


def _constant(instruction: Instruction | None) -> int | None:
    """The value of a scalar of type s32, if that is what an instruction is."""
    if instruction is None or instruction.opcode != "constant":
        return None
    is_scalar = instruction.arrays == (Array("s32", ()),)
    return int(instruction.argument) if is_scalar else None


def _carried(
    element: Instruction | None, loop: Instruction, where: Computation
) -> Instruction | None:
    """What a loop carries in from outside under an element of its tuple."""
    if element is None or element.opcode != "get-tuple-element":
        return None
    index = re.search(r"index=(\d+)", element.text)
    start = where.get(loop.operands[0])
    if index is None or start is None or start.opcode != "tuple":
        return None
    return where.get(start.operands[int(index[1])])


def _operand(name: str, computation: Computation) -> Array:
    return computation[name].arrays[0]


def product_flops(instruction: Instruction, computation: Computation) -> float:
    """Operations of a ``convolution`` or ``dot``; products with padding do not count.

    TPU programs write most matrix products as convolutions, with the batch and heads as spatial
    axes whose window slides over zeros: what counts is the pairs that meet.
    """
    left, right = (_operand(name, computation) for name in instruction.operands[:2])
    out = instruction.arrays[0]
    if instruction.opcode == "dot":
        axes = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", instruction.text)
        contracted = [left.shape[int(axis)] for axis in axes[1].split(",") if axis] if axes else []
        return 2.0 * math.prod(out.shape) * math.prod(contracted)
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", instruction.text)
    assert labels is not None
    window = _window(instruction.text)
    pairs = 1
    for axis in sorted(filter(str.isdigit, labels[1])):
        sizes = (
            left.shape[labels[1].index(axis)],
            right.shape[labels[2].index(axis)],
            out.shape[labels[3].index(axis)],
        )
        pairs *= _meeting(*sizes, **{k: v[int(axis)] for k, v in window.items()})
    groups = re.search(r"batch_group_count=(\d+)", instruction.text)
    batch = left.shape[labels[1].index("b")] // (int(groups[1]) if groups else 1)
    features_in = right.shape[labels[2].index("i")]
    features_out = right.shape[labels[2].index("o")]
    return 2.0 * pairs * batch * features_in * features_out


def _window(text: str) -> dict[str, list[int]]:
    """Stride, low padding and dilations of a convolution, per spatial axis."""
    match = re.search(r"window=\{([^}]*)\}", text)
    fields = dict(field.split("=") for field in match[1].split()) if match else {}
    axes = len(fields["size"].split("x")) if "size" in fields else 0

    def read(name: str, default: int) -> list[int]:
        if name not in fields:
            return [default] * axes
        return [int(part.split("_")[0]) for part in fields[name].split("x")]

    return {
        "stride": read("stride", 1),
        "pad": read("pad", 0),
        "lhs_dilate": read("lhs_dilate", 1),
        "rhs_dilate": read("rhs_dilate", 1),
    }


def _meeting(
    size: int, kernel: int, out: int, *, stride: int, pad: int, lhs_dilate: int, rhs_dilate: int
) -> int:
    """Pairs of an output and a kernel position that meet an input, along one axis."""
    # Output o and tap k meet the input where o * stride + shift is a multiple of the dilation
    # within the input: for each tap, outputs between two bounds, every so many of them.
    shift = np.arange(kernel) * rhs_dilate - pad
    common = math.gcd(stride, lhs_dilate)
    period = lhs_dilate // common
    lowest = np.maximum(-(shift // stride), 0)
    highest = np.minimum(((size - 1) * lhs_dilate - shift) // stride, out - 1)
    inverse = pow(stride // common, -1, period) if period > 1 else 0
    first = lowest + (-shift // common * inverse - lowest) % period
    met = np.where(shift % common == 0, (highest - first) // period + 1, 0)
    return int(np.maximum(met, 0).sum())


def _group(text: str) -> tuple[int, ...]:
    """One of the groups of devices that communicate, as places in the order of the mesh."""
    pairs = re.search(r"source_target_pairs=\{((?:\{\d+,\d+\},?)*)\}", text)
    if pairs:
        return next(
            (
                (int(a), int(b))
                for a, b in re.findall(r"\{(\d+),(\d+)\}", pairs[1])
                if a != b  # a device that keeps what it has
            ),
            (),
        )
    listed = re.search(r"replica_groups=\{\{([\d,]+)\}", text)
    if listed:
        return tuple(map(int, listed[1].split(",")))
    iota = re.search(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", text)
    if iota:
        groups, sizes, order = (
            [int(n) for n in g.split(",")] if g else None for g in iota.groups()
        )
        ids = np.arange(math.prod(sizes or ())).reshape(sizes or ()).transpose(order)
        return tuple(int(i) for i in ids.reshape(groups or ())[0])
    mesh = re.search(r"replica_groups=mesh\[([^\]]*)\]\s*\{([^}]*)\}", text)
    if mesh:
        return _mesh_group(mesh[1], mesh[2])
    return ()


def _mesh_group(axes: str, chosen: str) -> tuple[int, ...]:
    """A group written as axes of a mesh: ``'a'=4,'b'=2`` and ``'a'``; ``'a':(2)2`` is a part."""
    sizes = {name: int(size) for name, size in re.findall(r"'([^']+)'=(\d+)", axes)}
    ids = np.arange(math.prod(sizes.values())).reshape(tuple(sizes.values()))
    wanted = {
        name: (int(before or 1), int(size or 0))
        for name, before, size in re.findall(r"'([^']+)'(?::\((\d+)\)(\d+))?", chosen)
    }
    index: list[Sequence[int]] = []
    for name, size in sizes.items():
        before, part = wanted.get(name, (1, 1))
        part = part or size // before
        step = size // (before * part)
        index.append([i * step for i in range(part)])
    return tuple(int(ids[place]) for place in itertools.product(*index))


def group_axes(group: Sequence[int], mesh: Mapping[str, int]) -> str:
    """The axes of a mesh that a group of places extends over, as ``data+fsdp``."""
    places = np.array(np.unravel_index(list(group), tuple(mesh.values())))
    varying = (places != places[:, :1]).any(axis=1)
    return "+".join(name for name, varies in zip(mesh, varying, strict=True) if varies)
