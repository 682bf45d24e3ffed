"""Resizing a table of position embeddings to another grid of patches.

For fine-tuning at another resolution the patch size is kept, the sequence becomes longer, and the
learned table is interpolated in two dimensions, by location in the image (ViT paper, section
3.2). The published models were made with align-corners bilinear interpolation: the corner patches
keep their entries. Half-pixel resizing as in ``jax.image.resize`` gives visibly other tables.
"""

import math

import numpy as np

from train_jax.errors import UserError

Grid = tuple[int, int]


def resize_posemb(
    table: np.ndarray, *, old_grid: Grid, new_grid: Grid, has_class_row: bool
) -> np.ndarray:
    """Interpolates the rows of a position table, in float64, from one grid to another.

    Args:
        table: (1, N, D), or (1, 1+N, D) with the row of the class token first; N = h·w, row-major.
        old_grid: (h, w) of the table, in patches.
        new_grid: (h', w') wanted.
        has_class_row: whether the first row belongs to the class token; it is kept untouched.

    Returns:
        (1, N', D) or (1, 1+N', D) of the table's dtype.

    Raises:
        UserError: the table has another number of rows than ``old_grid`` says.
    """
    first = int(has_class_row)
    rows, depth = table.shape[1] - first, table.shape[2]
    if rows != math.prod(old_grid):
        raise UserError(
            f"The position table has {rows} rows for patches, not the {math.prod(old_grid)} of a "
            f"{old_grid[0]}x{old_grid[1]} grid; give the grid the checkpoint was trained with."
        )
    if old_grid == new_grid:
        return table
    class_row, patches = table[:, :first], table[0, first:].astype(np.float64)
    down, across = (_interpolation(o, n) for o, n in zip(old_grid, new_grid, strict=True))
    grid = np.einsum("ah,hwd->awd", down, patches.reshape(*old_grid, depth))
    grid = np.einsum("bw,awd->abd", across, grid)
    resized = grid.reshape(1, -1, depth).astype(table.dtype)
    return np.concatenate([class_row, resized], axis=1)


def infer_grid(rows: int, *, where: str) -> Grid:
    """The square grid of ``rows`` patches.

    Raises:
        UserError: ``rows`` is not a square, so the grid must be given.
    """
    side = math.isqrt(rows)
    if rows == 0 or side * side != rows:
        raise UserError(
            f"{where} has position embeddings for {rows} patches, which is not a square grid; "
            "give its grid (height, width) in patches."
        )
    return side, side


def _interpolation(old: int, new: int) -> np.ndarray:
    """The (new, old) matrix of linear interpolation that maps end points to end points."""
    position = np.linspace(0.0, old - 1.0, new) if new > 1 else np.zeros(1)
    low = np.clip(np.floor(position).astype(np.int64), 0, max(old - 2, 0))
    high = np.minimum(low + 1, old - 1)
    share = position - low
    matrix = np.zeros((new, old))
    rows = np.arange(new)
    matrix[rows, low] += 1.0 - share
    matrix[rows, high] += share
    return matrix
