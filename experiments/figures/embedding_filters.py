"""The filters that embed patches of RGB pixels (ViT paper, Figure 7, left).

    python -m experiments.figures.embedding_filters --checkpoint=L_32.npz

Shown are the first 28 principal components of the kernel of the patch embedding, each stretched
over the whole range of colours. In the paper they resemble a basis for the fine structure of a
patch.

Written are figures/embedding_filters.png, .pdf and .csv.
"""

import numpy as np
from absl import flags

from experiments.figures import canvas, vision
from train_jax.errors import UserError
from vit_jax.embedding_analysis import filter_components

KERNEL = "embedding/kernel"
COLUMNS = 7


def components(checkpoint: str | None, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Components (count, height, width, 3) of a checkpoint's filters, and shares of variance.

    Raises:
        UserError: it has not so many, or its patches are not of pixels.
    """
    source, found = vision.open_vit(checkpoint, position="none")
    if found.model.stem is not None:
        raise UserError(
            f"{checkpoint} is a hybrid, whose patches are of features and not of RGB pixels; name "
            "a model without a convolutional front."
        )
    return filter_components(vision.read_array(source, KERNEL), count)


def draw(filters: np.ndarray, shares: np.ndarray) -> canvas.Drawing:
    """A picture per component, seven in a row.

    Args:
        filters: (count, height, width, 3).
        shares: of the variance, (count,).
    """
    rows = -(-len(filters) // COLUMNS)
    height, width = filters.shape[1:3]
    side = canvas.HALF / COLUMNS
    figure = canvas.new_figure(canvas.HALF, rows * side * height / width)
    figure.set_layout_engine("constrained", w_pad=0.01, h_pad=0.01, wspace=0.04, hspace=0.04)
    panels = figure.subplots(rows, COLUMNS, squeeze=False).ravel()
    for panel in panels:
        panel.set_axis_off()
    for panel, component in zip(panels, filters, strict=False):
        low, high = component.min(), component.max()
        panel.imshow((component - low) / max(high - low, np.finfo(float).tiny))
    names = ("component", "row", "column", "channel", "value", "share_of_variance")
    table: list[canvas.Row] = [
        dict(
            zip(
                names,
                (i + 1, y + 1, x + 1, "RGB"[c], f"{value:.6f}", f"{shares[i]:.6f}"),
                strict=True,
            )
        )
        for (i, y, x, c), value in np.ndenumerate(filters)
    ]
    return canvas.Drawing(figure, table)


def _command() -> canvas.Drawing:
    return draw(*components(flags.FLAGS.checkpoint, flags.FLAGS.count))


if __name__ == "__main__":
    vision.define_checkpoint_flags()
    flags.DEFINE_integer("count", 28, "How many components, from the strongest on.")
    canvas.launch(_command, __doc__ or "", name="embedding_filters", flags_of=(vision.__name__,))
