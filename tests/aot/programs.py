"""The training steps of tiny models, compiled for 8 simulated CPU devices, and what they say.

The partitioner that decides what devices exchange is the same for CPUs and TPUs, and needs no TPU
compiler; machine code, which nobody runs here, is made without optimisation.
"""

import dataclasses
import functools
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

import jax
import semi_poses
import tiny
import tiny_poses

from pose_jax.train_config import PoseTrainConfig
from train_jax import hlo, sharding
from train_jax.config import from_config
from train_jax.data.placement import resident_shape
from train_jax.dispatch import abstract_batch
from train_jax.mesh import MeshConfig, make_mesh
from train_jax.outline import outline
from train_jax.program import Program, make_program
from train_jax.train_config import TrainConfig
from vit_jax.models.bit import BiTConfig
from vit_jax.models.config import ResNetStem

#: What is compiled; a new model is a line here, and a new snapshot (see test_programs.py). Between
#: them they have dropout, mixup, micro-batches, several steps a dispatch, data on the devices.
CONFIGS: dict[str, TrainConfig] = {
    "ViT": tiny.make_config(),
    "hybrid": tiny.make_config(
        size=32,
        model={"stem": ResNetStem((1,), 32), "patch_size": (2, 2), "depth": 1, "dropout": 0.0},
        mixup=0.0,
        accumulate=2,
        ema_decay=0.9,
    ),
    "BiT": dataclasses.replace(
        tiny.make_config(mixup=0.0), model=BiTConfig(stages=(2,), width=32, num_classes=10)
    ),
    "pose": tiny_poses.make_config(steps_per_dispatch=4, total="8 steps"),
    "semi-supervised pose": from_config(PoseTrainConfig, semi_poses.get_config()),
}

MESHES = {
    "data=8": MeshConfig(data=8),
    "fsdp=8": MeshConfig(data=1, fsdp=8),
    "data=2, fsdp=2, tensor=2": MeshConfig(data=2, fsdp=2, tensor=2),
}


@dataclasses.dataclass(frozen=True)
class Compiled:
    """A training step for a mesh, and its text."""

    program: Program
    compiled: jax.stages.Compiled
    window: Any
    text: str


@functools.cache
def compiled(model: str, mesh_name: str) -> Compiled:
    """The very program of a run, with FSDP for arrays of any size."""
    config = dataclasses.replace(CONFIGS[model], mesh=MESHES[mesh_name])
    what, mesh = outline(config), make_mesh(config.mesh)
    fsdp_from, sharding.MIN_FSDP_SIZE = sharding.MIN_FSDP_SIZE, 1
    try:
        program = make_program(what.task, config, mesh)
    finally:
        sharding.MIN_FSDP_SIZE = fsdp_from
    resident = {name: resident_shape(array, mesh) for name, array in what.resident.items()}
    with jax.set_mesh(mesh):
        lowered, new_window = program.lower(resident, abstract_batch(program))
        made = lowered.compile(compiler_options={"xla_backend_optimization_level": "0"})
        window = jax.eval_shape(new_window)
    return Compiled(program, made, window, made.as_text() or "")


def exchanges(one: Compiled) -> Iterator[tuple[hlo.Instruction, str]]:
    """Every collective of a program, as it is written, and the axes it extends over."""
    computations, _ = hlo.parse(one.text)
    for computation in computations.values():
        for instruction in filter(is_exchange, computation.values()):
            group = hlo._group(instruction.text)
            if len(group) > 1:
                yield instruction, hlo.group_axes(group, one.program.mesh.shape)


def is_exchange(instruction: hlo.Instruction) -> bool:
    return instruction.opcode.removesuffix("-start") in hlo._COLLECTIVES


def loop_conditions(text: str) -> dict[str, list[hlo.Instruction]]:
    """What the conditions of a program's loops do, computations that they call included."""
    computations, _ = hlo.parse(text)

    def of(name: str) -> Iterator[hlo.Instruction]:
        for instruction in computations[name].values():
            yield instruction
            for called in re.findall(r"(?:calls|to_apply|body)=%?([\w.\-]+)", instruction.text):
                yield from of(called)

    names = {
        name
        for computation in computations.values()
        for instruction in computation.values()
        for name in re.findall(r"condition=%?([\w.\-]+)", instruction.text)
    }
    return {name: list(of(name)) for name in names}


def summary(one: Compiled) -> dict[str, int]:
    """What a step exchanges: kind and axes -> how often; and how its state is laid out."""
    found: Counter[str] = Counter()
    for exchange in hlo.summarise(one.text).collectives:
        axes = hlo.group_axes(exchange.group, one.program.mesh.shape)
        found[f"{exchange.kind} over {axes}"] += exchange.count
    return dict(sorted(found.items()))
