"""Accelerators and their facts, in one table.

Sources. Peak, memory, TensorCores and their bandwidths per chip: the Cloud TPU documentation's
system-architecture pages. The interconnect of v2 and v3 (four links of 496 and 656 Gbit/s):
Jouppi et al., "A domain-specific supercomputer for training deep neural networks", 2020; of v4 (six
links of 50 GB/s): Jouppi et al., "TPU v4", 2023. Clocks of v2, v3 and v4: the same two papers; of
the others, which do not state it, the clock at which the compiler's cost model (libtpu 0.0.42),
whose matrix units do 2^17, 2^18, 2^19 and 2^20 operations per cycle and chip, has the published
peak. Memory left for a program: what the same compiler says when one does not fit. A "TPUv3-core",
the unit of cost of the ViT paper (Table 2), is one of the two TensorCores of a v3 chip.
"""

import dataclasses
import os
from typing import Any

import jax


@dataclasses.dataclass(frozen=True)
class Chip:
    """One accelerator chip.

    Attributes:
        name: the generation.
        cores: TensorCores per chip.
        devices: JAX devices per chip (v4 and v5p join their two cores into one device).
        peak_tflops: bfloat16 matrix peak of the chip, in 1e12 operations per second.
        memory_gib: device memory of the chip.
        usable_gib: what the compiler leaves to a program of one device.
        clock_ghz: of the TensorCores, in 1e9 cycles per second.
        memory_gb_s: bandwidth of the chip's memory, in 1e9 bytes per second.
        link_gb_s: bandwidth of all links of the chip to its neighbours, one direction, likewise.
        axes: dimensions of the network: 2 or 3.
        pod: chips of the largest slice.
    """

    name: str
    cores: int
    devices: int
    peak_tflops: float
    memory_gib: float
    usable_gib: float
    clock_ghz: float
    memory_gb_s: float
    link_gb_s: float
    axes: int
    pod: int


#: By the name that JAX gives the device (``device_kind``).
CHIPS = {
    #                   name   cores devices peak  GiB  usable  clock  memory  links  axes  pod
    "TPU v2":      Chip("v2",  2,    2,      45,   16,  7.48,   0.70,  700,    248,   2,    256),
    "TPU v3":      Chip("v3",  2,    2,      123,  32,  15.48,  0.94,  900,    328,   2,    1024),
    "TPU v4":      Chip("v4",  2,    1,      275,  32,  30.75,  1.05,  1200,   300,   3,    4096),
    "TPU v5 lite": Chip("v5e", 1,    1,      197,  16,  15.75,  1.50,  819,    200,   2,    256),
    "TPU v5":      Chip("v5p", 2,    1,      459,  95,  95.74,  1.75,  2765,   600,   3,    6144),
    "TPU v6 lite": Chip("v6e", 1,    1,      918,  32,  31.25,  1.75,  1638,   400,   2,    256),
    "TPU7x":       Chip("v7",  2,    2,      2307, 192, 94.75,  2.20,  7380,   600,   3,    9216),
}  # fmt: skip


def cores_per_device(device: Any) -> float:
    """How many cores one JAX device stands for.

    A TPU core is a TensorCore. A GPU counts as one core. On the CPU backend the cores are this
    process's CPU cores, shared by however many devices JAX simulates on them.
    """
    if device.platform == "cpu":
        return cpu_cores() / jax.local_device_count()
    chip = CHIPS.get(device.device_kind)
    return 1.0 if chip is None else chip.cores / chip.devices


def cpu_cores() -> int:
    """CPU cores that this process may use."""
    # macOS has no affinity.
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def num_cores() -> float:
    """Cores of all devices of all hosts."""
    return sum(cores_per_device(device) for device in jax.devices())
