"""A training step compiled for a slice that is not there, and what follows from the program.

What the compiler says is exact: whether the program fits, its memory, its collectives. What it
costs in time is an estimate: the sum of the compiler's static estimates of cycles, over the clock.
"""

import dataclasses
import math
import re
from collections.abc import Sequence
from typing import Any

import jax
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from train_jax import hlo
from train_jax.budget import Limit, Spent
from train_jax.data.placement import resident_shape
from train_jax.mesh import make_mesh
from train_jax.outline import Outline, Published, outline
from train_jax.program import Program, make_program
from train_jax.settle import ANY_LENGTH, is_budget, required_limit
from train_jax.sharding import BATCH_AXES
from train_jax.topology import Slice, devices_of
from train_jax.train_config import TrainConfig

SECONDS_PER_DAY = 86_400
# Operations of training per multiply-add of the forward pass: a multiply-add is two, and the
# backward pass takes twice the forward pass. Recomputation is no useful work and does not count.
TRAINING_OPERATIONS = 6

METHOD = (
    "Estimates: a step takes the sum of the compiler's static estimates of cycles (loop bodies "
    "times trips) over the clock. It knows no overlap, no communication, no waiting for input. "
    "Known error: by the same sum, another code base's steps of L/16 and H/14 on a v3 core come "
    "out at 0.70 and 1.04 times the speed that the ViT paper's core-days imply. Nothing has "
    "been timed."
)


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes on one device.

    Attributes:
        params: the parameters.
        optimizer: the optimiser's state.
        rest: what else is carried: averages, batch statistics, batches, resident data.
        temporaries: activations, gradients and scratch, as the compiler lays them out; None where
            it found no room for them.
        peak: of all of them at the worst moment; less than their sum, because what is replaced
            gives its place away. None likewise.
        usable: what the device has for a program.
        missing: how much too little that is.
    """

    params: int
    optimizer: int
    rest: int
    temporaries: int | None
    peak: int | None
    usable: int
    missing: int

    @property
    def total(self) -> int:
        """What the program takes, or would take."""
        return self.usable + self.missing if self.peak is None else self.peak


@dataclasses.dataclass(frozen=True)
class Exchange:
    """Communication of one kind over axes of the mesh: bytes per device and step, and how often."""

    kind: str
    axes: str
    nbytes: int
    count: int
    link_bytes: float


@dataclasses.dataclass(frozen=True)
class Forecast:
    """What a run would take on a slice.

    Attributes:
        slice: the slice.
        mesh: sizes of its axes.
        batch_size: examples per step.
        total: steps of the run; where its length is a budget, what that affords at the estimated
            speed.
        budget: that budget in words, or None.
        num_params: parameters of all networks.
        memory: on each device.
        multiply_adds: of a forward pass for one example.
        flops: of a step, of all devices, as the compiler's program does them (recomputation
            included); None where it does not fit.
        cycles: of a step; None where it does not fit.
        exchanges: communication of a step.
        kernels: hand-written kernels that the cycles leave out.
        unknown_loops: loops that count as one trip.
        unit: what examples are.
        published: what the same run has cost others.
    """

    slice: Slice
    mesh: dict[str, int]
    batch_size: int
    total: int
    budget: str | None
    num_params: int
    memory: Memory
    multiply_adds: float
    flops: float | None
    cycles: int | None
    exchanges: tuple[Exchange, ...]
    kernels: int
    unknown_loops: int
    unit: str
    published: tuple[Published, ...]

    @property
    def fits(self) -> bool:
        """Whether the program fits the devices."""
        return self.cycles is not None

    @property
    def step_seconds(self) -> float:
        """A step, if communication is hidden behind computation."""
        return math.nan if self.cycles is None else self.cycles / (self.slice.chip.clock_ghz * 1e9)

    @property
    def link_seconds(self) -> float:
        """Communication of a step, at the bandwidth of all links of a chip."""
        per_device = self.slice.chip.link_gb_s * 1e9 / self.slice.chip.devices
        return sum(exchange.link_bytes for exchange in self.exchanges) / per_device

    @property
    def rate(self) -> float:
        """Examples per second and core."""
        return self.batch_size / self.step_seconds / self.slice.num_cores

    @property
    def slowest_rate(self) -> float:
        """The same if no communication is hidden."""
        return self.batch_size / (self.step_seconds + self.link_seconds) / self.slice.num_cores

    @property
    def model_flops(self) -> float:
        """Operations of a step that are no recomputation, counted from the model."""
        return TRAINING_OPERATIONS * self.multiply_adds * self.batch_size

    @property
    def mfu(self) -> float:
        """Share of the matrix peak that those take."""
        peak = self.slice.num_chips * self.slice.chip.peak_tflops * 1e12
        return self.model_flops / self.step_seconds / peak

    @property
    def exaflop(self) -> float:
        """Operations of the run, 1e18."""
        return self.model_flops * self.total / 1e18

    @property
    def days(self) -> float:
        """The run, without compilation, input, evaluation and checkpoints."""
        return self.step_seconds * self.total / SECONDS_PER_DAY

    @property
    def core_days(self) -> float:
        """Core-days of the slice's own cores."""
        return self.days * self.slice.num_cores

    def cost(self, price: float) -> float:
        """What the run costs at a price per chip-hour."""
        return self.days * 24 * self.slice.num_chips * price


def forecast(config: TrainConfig, chosen: Slice) -> Forecast:
    """Compiles the training step of a config for a slice; a minute of CPU for a large ViT.

    Raises:
        UserError: the config cannot run there, or its length is a budget and it has none.
    """
    limit = None
    if is_budget(config.total):
        limit = required_limit(config.budget, chosen.chip.name)
        config = dataclasses.replace(config, total=f"{ANY_LENGTH} steps")
    run = outline(config)
    mesh = make_mesh(config.mesh, devices_of(chosen))
    program = make_program(run.task, config, mesh)
    resident = {name: resident_shape(x, mesh) for name, x in run.resident.items()}
    lead = (config.steps_per_dispatch,) if program.several else ()
    rows = NamedSharding(mesh, P(*(None for _ in lead), BATCH_AXES))
    batch = {
        name: jax.ShapeDtypeStruct((*lead, *x.shape), x.dtype, sharding=rows)
        for name, x in run.batch.items()
    }
    with jax.set_mesh(mesh):
        lowered, _ = program.lower(resident, batch)
        try:
            compiled = lowered.compile()
        except Exception as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            missing = missing_bytes(str(error))
            one = _forecast(run, program, chosen, (resident, batch), missing, None)
        else:
            one = _forecast(run, program, chosen, (resident, batch), 0, compiled)
    return one if limit is None else afforded(one, limit)


def afforded(one: Forecast, limit: Limit) -> Forecast:
    """The forecast of a run that is as long as a budget affords, but for its reserve.

    Compilation and evaluations, which a run takes off its budget before it settles on a length, are
    not estimated. The length of a run that does not fit is 0.
    """
    cores, chip = one.slice.num_cores, one.slice.chip.name
    seconds = limit.seconds_left(Spent(), cores=cores, chip=chip) * (1 - limit.config.reserve)
    steps = int(seconds / one.step_seconds) if one.fits else 0
    return dataclasses.replace(one, total=steps, budget=limit.text)


def _forecast(
    run: Outline, program: Program, chosen: Slice, data: Any, missing: int, compiled: Any
) -> Forecast:
    state, config = program.abstract, program.config
    params, optimizer = per_device(state.params), per_device(state.opt_state)
    rest = per_device((state.model_state, state.ema, *data))
    temporaries, peak, flops, cycles, summary = None, None, None, None, None
    if compiled is not None:
        stats = compiled.memory_analysis()
        temporaries, peak = stats.temp_size_in_bytes, stats.peak_memory_in_bytes
        summary = hlo.summarise(compiled.as_text())
        flops, cycles = summary.flops * chosen.num_devices, summary.cycles
    mesh = {name: int(size) for name, size in program.mesh.shape.items()}
    return Forecast(
        slice=chosen,
        mesh=mesh,
        batch_size=config.batch_size,
        total=program.total,
        budget=None,
        num_params=sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(state.params)),
        memory=Memory(
            params,
            optimizer,
            rest,
            temporaries,
            peak,
            round(chosen.chip.usable_gib * 2**30),
            missing,
        ),
        multiply_adds=run.multiply_adds,
        flops=flops,
        cycles=cycles,
        exchanges=_exchanges(summary.collectives, mesh) if summary else (),
        kernels=summary.kernels if summary else 0,
        unknown_loops=summary.unknown_loops if summary else 0,
        unit=run.task.unit,
        published=tuple(run.published),
    )


def per_device(tree: Any) -> int:
    """Bytes of abstract arrays on one device, without the compiler's padding."""
    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(tree)
    )


def _exchanges(collectives: Sequence[hlo.Collective], mesh: dict[str, int]) -> tuple[Exchange, ...]:
    found: dict[tuple[str, str], Exchange] = {}
    for one in collectives:
        key = (one.kind, hlo.group_axes(one.group, mesh))
        old = found.get(key, Exchange(*key, 0, 0, 0.0))
        found[key] = Exchange(
            *key, old.nbytes + one.nbytes, old.count + one.count, old.link_bytes + one.link_bytes
        )
    return tuple(sorted(found.values(), key=lambda exchange: -exchange.link_bytes))


_SIZE = r"([\d.]+)([KMGT]?)i?B?"


def missing_bytes(message: str) -> int:
    """By how much a program does not fit, from the compiler's complaint; 0 if it does not say."""

    def size(number: str, unit: str) -> float:
        return float(number) * 1024 ** " KMGT".index(unit or " ")

    over = re.search(rf"[Ee]xceeded \w+ capacity by {_SIZE}", message)
    if over:
        return round(size(*over.groups()))
    both = re.search(rf"\({_SIZE}\) exceeds available \w+ \({_SIZE}\)", message)
    if both:
        return round(size(both[1], both[2]) - size(both[3], both[4]))
    return 0
