"""Accelerators and their facts, in one table.

Sources: the Cloud TPU documentation's system-architecture pages (peak bfloat16 rate, memory and
TensorCores per chip). A "TPUv3-core", the unit of cost of the ViT paper (Table 2), is one of the
two TensorCores of a v3 chip.
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
    """

    name: str
    cores: int
    devices: int
    peak_tflops: float
    memory_gib: float


#: By the name that JAX gives the device (``device_kind``).
CHIPS = {
    "TPU v2": Chip("v2", 2, 2, 45, 16),
    "TPU v3": Chip("v3", 2, 2, 123, 32),
    "TPU v4": Chip("v4", 2, 1, 275, 32),
    "TPU v5 lite": Chip("v5e", 1, 1, 197, 16),
    "TPU v5": Chip("v5p", 2, 1, 459, 95),
    "TPU v6 lite": Chip("v6e", 1, 1, 918, 32),
    "TPU7x": Chip("v7", 2, 2, 2307, 192),
}


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
