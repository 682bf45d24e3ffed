"""Devices to a named mesh. Every array of the framework is laid out over the same three axes.

``data`` splits the batch, ``fsdp`` splits the batch and the parameters, ``tensor`` splits heads and
hidden units. One device is the mesh 1x1x1: there is no other code path for it.
"""

import dataclasses
import math
import os
from collections.abc import Sequence
from typing import Any

import jax
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh

from train_jax.chips import cpu_cores
from train_jax.errors import UserError

AXES = ("data", "fsdp", "tensor")


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """Sizes of the mesh axes; one of them may be -1, which means all remaining devices.

    Where ``data`` and ``fsdp`` both are, ``fsdp`` takes as many as divide ``MAX_SHARDS``, and
    ``data`` the rest: the same config is right for one device and for a pod.
    """

    data: int = -1
    fsdp: int = 1
    tensor: int = 1


# Of ViT-H/14 on v3:16x16, 128 shards take 0.4 % fewer cycles than 64 and exchange a third more, 16
# take 1 % more and exchange half as much again; on v5e:16x16, 64 take the fewest. Of L/16, 128 take
# 0.7 % less on v5e and exchange a third less (benchmarks/plan_table.py options, estimated).
MAX_SHARDS = 64

# On a CPU; more would multiply the memory of the parameters for little.
MAX_CPU_DEVICES = 4


def use_a_device_per_core() -> None:
    """Makes the CPU backend present a device per core, so that data parallelism uses them all.

    XLA runs many small operations of a step, attention's products among them, on one thread. Split
    over two devices, ViT-Ti/16 trains 1.1 to 1.2 times faster on two cores. The number is a power
    of two, which divides batches, and at most ``MAX_CPU_DEVICES``. ``JAX_NUM_CPU_DEVICES`` or the
    flag of ``XLA_FLAGS`` decide instead where they are set. Without effect on accelerators; call it
    before the first use of a device.
    """
    forced = "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", "")
    if "JAX_NUM_CPU_DEVICES" not in os.environ and not forced:
        power = 1 << (cpu_cores().bit_length() - 1)
        jax.config.update("jax_num_cpu_devices", min(power, MAX_CPU_DEVICES))


def make_mesh(config: MeshConfig, devices: Sequence[Any] | None = None) -> Mesh:
    """The mesh of all devices of all hosts, neighbours in it being neighbours on the network.

    Raises:
        UserError: the sizes do not multiply to the number of devices.
    """
    devices = list(jax.devices() if devices is None else devices)
    num_slices = len({getattr(device, "slice_index", 0) for device in devices})
    shape = _fill(config, len(devices), num_slices)
    if num_slices > 1:
        if shape[0] % num_slices:
            raise UserError(
                f"mesh.data is {shape[0]}, which the {num_slices} slices do not divide: only the "
                "data axis may cross slices: FSDP and tensor parallelism need the fast links."
            )
        within = (shape[0] // num_slices, *shape[1:])
        array = mesh_utils.create_hybrid_device_mesh(within, (num_slices, 1, 1), devices)
    else:
        # A physical axis may have to be split (8 devices as 2x4 on a 8x1 torus); generations on
        # which that is impossible say so themselves.
        array = mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)
    return Mesh(array, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def _fill(config: MeshConfig, num_devices: int, num_slices: int) -> tuple[int, int, int]:
    sizes = [config.data, config.fsdp, config.tensor]
    text = f"mesh data={config.data}, fsdp={config.fsdp}, tensor={config.tensor}"
    if config.data == config.fsdp == -1 and config.tensor > 0:
        sizes[1] = math.gcd(num_devices // num_slices // config.tensor, MAX_SHARDS)
    if any(size == 0 or size < -1 for size in sizes) or sizes.count(-1) > 1:
        raise UserError(
            f"{text}: sizes are positive, and one is -1 (all that remain), or data and fsdp are."
        )
    known = 1
    for size in sizes:
        known *= size if size > 0 else 1
    if num_devices % known or (-1 not in sizes and known != num_devices):
        raise UserError(
            f"{text} does not fit {num_devices} devices; choose sizes with that product."
        )
    data, fsdp, tensor = (size if size > 0 else num_devices // known for size in sizes)
    return data, fsdp, tensor
