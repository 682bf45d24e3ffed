"""From images to a sequence of tokens that know their place."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from vit_jax.models.config import ViTConfig
from vit_jax.models.initializers import lecun_normal, normal
from vit_jax.models.layers import add_bias, zeros

SINCOS_TEMPERATURE = 10_000.0


class PatchEmbedding(nn.Module):
    """One matrix product over the patches; the kernel has the shape of the equal convolution."""

    width: int
    patch_size: tuple[int, int]
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """Maps (b, h, w, c) to (b, rows * columns, D)."""
        b, h, w, c = images.shape
        ph, pw = self.patch_size
        kernel = self.param("kernel", lecun_normal, (ph, pw, c, self.width))
        bias = self.param("bias", zeros, (self.width,))
        x = images.reshape(b, h // ph, ph, w // pw, pw, c).transpose(0, 1, 3, 2, 4, 5)
        x = x.reshape(b, (h // ph) * (w // pw), ph * pw * c)
        matrix = kernel.astype(self.dtype).reshape(ph * pw * c, self.width)
        return add_bias(jnp.einsum("bnp,pd->bnd", x, matrix), bias)


class PositionEmbedding(nn.Module):
    """Adds a learned vector, or a fixed sine and cosine code, to each token."""

    config: ViTConfig
    grid: tuple[int, int]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps (b, n, D) to (b, n, D)."""
        if self.config.position == "learned":
            init = normal(0.02)
            table = self.param("pos_embedding", init, (1, *x.shape[1:]))
        else:
            code = sincos2d(self.grid, self.config.width)
            if self.config.class_token:
                code = np.concatenate([np.zeros_like(code[:1]), code])
            table = jnp.asarray(code)[None]
        return x + table.astype(x.dtype)


def sincos2d(grid: tuple[int, int], width: int) -> np.ndarray:
    """The fixed position code of MoCo v3, float32 (rows * columns, width).

    A quarter of the width each: sin and cos of the column, sin and cos of the row, at frequencies
    falling geometrically from 1 to 1/10,000.
    """
    quarter = width // 4
    frequencies = SINCOS_TEMPERATURE ** (-np.arange(quarter) / max(quarter - 1, 1))
    rows, columns = np.meshgrid(np.arange(grid[0]), np.arange(grid[1]), indexing="ij")
    angles = [place.reshape(-1, 1) * frequencies for place in (columns, rows)]
    parts = [function(angle) for angle in angles for function in (np.sin, np.cos)]
    return np.concatenate(parts, axis=1).astype(np.float32)
