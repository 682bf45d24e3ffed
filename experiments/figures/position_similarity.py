"""How similar the position embeddings are to one another (ViT paper, Figure 7, centre).

    python -m experiments.figures.position_similarity --checkpoint=L_32.npz
    python -m experiments.figures.position_similarity --checkpoint=DIR --output=figures/mine

A tile per patch shows the cosine similarity of its position embedding with those of all patches.
In the paper near patches are the more similar, and rows and columns can be told apart.

Written are figures/position_similarity.png, .pdf and .csv.
"""

from typing import cast

import numpy as np
from absl import flags

from experiments.figures import canvas, vision
from train_jax.errors import UserError
from vit_jax.embedding_analysis import position_similarity
from vit_jax.models.embeddings import sincos2d
from vit_jax.posemb import Grid
from vit_jax.weights import POSITION_TABLE


def similarity(checkpoint: str | None, *, grid: Grid | None = None) -> np.ndarray:
    """Similarities, (rows, columns, rows, columns), of a checkpoint's position embeddings.

    Raises:
        UserError: it has no positions, or is not a Vision Transformer's.
    """
    source, found = vision.open_vit(checkpoint, grid=grid, position="none")
    fixed = source.about.get("model", {}).get("position") == "sincos2d" and source.grid
    if POSITION_TABLE not in source.shapes and not fixed:
        raise UserError(f"{checkpoint} has no position embeddings, which this figure is about.")
    if fixed:
        table = sincos2d(cast(Grid, source.grid), found.model.width)
        return position_similarity(table, cast(Grid, source.grid), has_class_row=False)
    table = vision.read_array(source, POSITION_TABLE)
    where = cast(Grid, found.grid)
    return position_similarity(table, where, has_class_row=found.model.class_token)


def draw(similarities: np.ndarray) -> canvas.Drawing:
    """A tile per patch, in the order of the image.

    Args:
        similarities: (rows, columns, rows, columns).
    """
    rows, columns = similarities.shape[:2]
    figure = canvas.new_figure(3.4, 2.6 * rows / columns + 0.35)
    axes = figure.subplots()
    image = axes.imshow(_mosaic(similarities), cmap="viridis", vmin=-1, vmax=1)
    for axis, name, count in ((axes.xaxis, "column", columns), (axes.yaxis, "row", rows)):
        every = -(-count // 8)
        ticks = range(0, count, every)
        axis.set_ticks([i * (count + 1) + (count - 1) / 2 for i in ticks])
        axis.set_ticklabels([str(i + 1) for i in ticks])
        axis.set_label_text(f"Input patch {name}")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    beside = axes.inset_axes((1.04, 0, 0.05, 1))
    figure.colorbar(image, cax=beside, label="Cosine similarity", ticks=[-1, 0, 1])
    names = ("row", "column", "other_row", "other_column", "cosine_similarity")
    table: list[canvas.Row] = [
        dict(zip(names, (*np.add(place, 1).tolist(), f"{value:.6f}"), strict=True))
        for place, value in np.ndenumerate(similarities)
    ]
    return canvas.Drawing(figure, table)


def _mosaic(tiles: np.ndarray) -> np.ndarray:
    """All tiles (rows, columns, rows, columns) in one picture, a gap between them."""
    rows, columns = tiles.shape[:2]
    padded = np.pad(tiles, ((0, 0), (0, 0), (0, 1), (0, 1)), constant_values=np.nan)
    joined = padded.transpose(0, 2, 1, 3).reshape(rows * (rows + 1), columns * (columns + 1))
    return joined[:-1, :-1]


def _command() -> canvas.Drawing:
    given = flags.FLAGS
    grid = vision.parse_pair(given.grid, flag="grid") if given.grid else None
    return draw(similarity(given.checkpoint, grid=grid))


if __name__ == "__main__":
    vision.define_checkpoint_flags()
    canvas.launch(_command, __doc__ or "", name="position_similarity", flags_of=(vision.__name__,))
