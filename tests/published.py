"""Published files as a whole, in memory."""

import os

import numpy as np

from vit_jax.weights import open_published


def load_published(
    path: str | os.PathLike[str], *, subtree: str | None = None
) -> dict[str, np.ndarray]:
    """A published file as a flat dict of our names."""
    return dict(open_published(path, subtree=subtree))
