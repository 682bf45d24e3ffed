"""From images to a sequence of tokens that know their place."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from vit_jax.models.config import ViTConfig
from vit_jax.models.initializers import lecun_normal, normal
from vit_jax.models.layers import add_bias, zeros

SINCOS_TEMPERATURE = 10_000.0
#: Of every learned position vector (ViT paper's code; "from BERT").
POSITION_STD = 0.02


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
    """Adds to each token a vector of its place: learned, or a fixed sine and cosine code.

    The learned ones are those of the ViT paper's Appendix D.4. One of two dimensions is, for a
    patch, the vector of its row beside that of its column, and, for the class token, one of its
    own, of which the paper says nothing.
    """

    config: ViTConfig
    grid: tuple[int, int]

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps (b, n, D) to (b, n, D)."""
        return x + self.table().astype(x.dtype)

    @nn.compact
    def table(self) -> jax.Array:
        """A vector per token, float32 (1, n, D)."""
        if self.config.position == "sincos2d":
            code = sincos2d(self.grid, self.config.width)
            if self.config.class_token:
                code = np.concatenate([np.zeros_like(code[:1]), code])
            return jnp.asarray(code)[None]
        shapes = learned_shapes(self.config, self.grid)
        vectors = {
            name: self.param(name, normal(POSITION_STD), shape) for name, shape in shapes.items()
        }
        if self.config.position == "learned":
            return vectors["pos_embedding"]
        (rows, columns), half = self.grid, self.config.width // 2
        row = jnp.broadcast_to(vectors["row_embedding"][:, None], (rows, columns, half))
        column = jnp.broadcast_to(vectors["column_embedding"][None], (rows, columns, half))
        table = jnp.concatenate([row, column], axis=-1).reshape(1, rows * columns, 2 * half)
        if self.config.class_token:
            table = jnp.concatenate([vectors["cls_embedding"], table], axis=1)
        return table


def learned_shapes(config: ViTConfig, grid: tuple[int, int]) -> dict[str, tuple[int, ...]]:
    """The parameters of one learned position embedding, by name."""
    rows, columns = grid
    if config.position == "learned":
        return {"pos_embedding": (1, rows * columns + config.class_token, config.width)}
    shapes: dict[str, tuple[int, ...]] = {
        "row_embedding": (rows, config.width // 2),
        "column_embedding": (columns, config.width // 2),
    }
    return shapes | ({"cls_embedding": (1, 1, config.width)} if config.class_token else {})


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
