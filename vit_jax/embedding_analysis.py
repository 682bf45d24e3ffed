"""What the embeddings of a Vision Transformer have learnt (ViT paper, section 4.5, Figure 7)."""

import numpy as np

from train_jax.errors import UserError
from vit_jax.posemb import Grid


def position_similarity(table: np.ndarray, grid: Grid, *, has_class_row: bool) -> np.ndarray:
    """Cosine similarity of the position embedding of each patch with those of all patches.

    Args:
        table: (N, D) or (1, N, D); N = rows * columns, and one more with the class token's row.
        grid: (rows, columns) of patches.
        has_class_row: whether the first row belongs to the class token; it is left out.

    Returns:
        float64 (rows, columns, rows, columns), in [-1, 1]; an embedding of zeros is similar to
        none.

    Raises:
        UserError: the table has another number of rows than the grid.
    """
    vectors = table.reshape(-1, table.shape[-1])[int(has_class_row) :].astype(np.float64)
    if len(vectors) != grid[0] * grid[1]:
        raise UserError(
            f"The position table has {len(vectors)} rows for patches, not the {grid[0] * grid[1]} "
            f"of a {grid[0]}x{grid[1]} grid; correct the grid."
        )
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit = np.divide(vectors, lengths, out=np.zeros_like(vectors), where=lengths > 0)
    return np.clip(unit @ unit.T, -1, 1).reshape(*grid, *grid)


def filter_components(kernel: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Principal components of the filters that embed patches of RGB pixels.

    Args:
        kernel: (height, width, 3, D), D filters.
        count: how many components, those with the most variance first.

    Returns:
        Components, float64 (count, height, width, 3), each of length 1 and with its largest value
        positive (the sign means nothing); and each one's share of the variance, (count,).

    Raises:
        UserError: there are not so many.
    """
    filters = kernel.reshape(-1, kernel.shape[-1]).T.astype(np.float64)
    centred = filters - filters.mean(0)
    highest = min(len(filters) - 1, filters.shape[1])
    if not 1 <= count <= highest:
        raise UserError(
            f"{len(filters)} filters of {filters.shape[1]} values have {highest} principal "
            f"components, not {count}; ask for fewer, and for at least one."
        )
    _, lengths, components = np.linalg.svd(centred, full_matrices=False)
    shares = lengths**2 / max((lengths**2).sum(), np.finfo(np.float64).tiny)
    components = components[:count]
    largest = np.take_along_axis(components, np.abs(components).argmax(1)[:, None], axis=1)
    return (components * np.sign(largest)).reshape(count, *kernel.shape[:3]), shares[:count]
