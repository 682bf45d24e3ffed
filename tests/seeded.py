"""Weights and images that are rebuilt from a name, a shape and a seed.

The parity fixtures were made with these values, so large weights need no file: any program that
draws ``PCG64([crc32(name), seed])`` has the same ones.
"""

import math
import zlib

import numpy as np

# Standard deviations about the mean, by the last part of the name.
_SPREAD = {"scale": 0.1, "gamma": 0.1, "bias": 0.05, "beta": 0.05}
_SPREAD_OF_TABLES = 0.2


def draw(name: str, shape: tuple[int, ...], seed: int) -> np.ndarray:
    """The value of a parameter, float32, under its published flat name ("a/b/kernel")."""
    generator = np.random.Generator(np.random.PCG64([zlib.crc32(name.encode()), seed]))
    noise = generator.standard_normal(shape, dtype=np.float32)
    leaf = name.split("/")[-1]
    if leaf == "kernel":
        return noise * np.float32(1.0 / np.sqrt(_fan_in(name, shape)))
    if leaf in ("scale", "gamma"):
        return np.float32(1.0) + np.float32(_SPREAD[leaf]) * noise
    return np.float32(_SPREAD.get(leaf, _SPREAD_OF_TABLES)) * noise


def images(count: int, size: int, seed: int, *, channels: int = 3) -> np.ndarray:
    """Blobs under noise, float32 (count, size, size, channels) in [-1, 1]."""
    generator = np.random.Generator(np.random.PCG64([size, seed]))
    blobs = generator.uniform(-1, 1, (count, 8, 8, channels)).astype(np.float32)
    nearest = (np.arange(size) * 8) // size
    blobs = blobs[:, nearest][:, :, nearest]
    noise = generator.uniform(-1, 1, blobs.shape).astype(np.float32)
    return np.clip(0.7 * blobs + 0.3 * noise, -1, 1).astype(np.float32)


def _fan_in(name: str, shape: tuple[int, ...]) -> int:
    """Inputs per output; the kernels of attention have their heads on axes of their own."""
    layer = name.split("/")[-2:][0]
    if len(shape) == 3 and layer == "out":
        return shape[0] * shape[1]
    if len(shape) == 3 and layer in ("query", "key", "value"):
        return shape[0]
    return math.prod(shape[:-1]) or 1
