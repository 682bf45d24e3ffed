"""What a model looks at in a picture: attention rollout (ViT paper, Figures 6 and 14).

    python -m experiments.figures.attention_rollout --checkpoint=L_16.npz --images=dog.jpg,cat.jpg
    python -m experiments.figures.attention_rollout --checkpoint=DIR --images=pictures --limit=12

Every picture is shown beside itself as the model attends to it: dark is what flows little into the
representation, over all layers (the weights averaged over heads, with the residual connection, and
multiplied; S. Abnar and W. Zuidema, 2020). A picture is resized to the input of the model, whatever
its aspect ratio; its map is brought back by Lanczos interpolation and blurred by half a patch, and
its largest value is 1.

Written are figures/attention_rollout.png, .pdf and .csv, with the shares of the patches.
"""

from collections.abc import Sequence

import cv2
import numpy as np
from absl import flags

from experiments.figures import canvas, vision
from vit_jax.attention_maps import in_batches, rollout
from vit_jax.data.preprocess import Squash
from vit_jax.posemb import Grid

#: Pairs of pictures in a row.
PAIRS = 3
# Enough for print, in a figure this wide.
_LONGEST_SIDE = 480
# Inches for the titles.
_TITLE = 0.25


def maps(
    checkpoint: str | None,
    images: Sequence[str],
    *,
    grid: Grid | None = None,
    position: vision.Position | None = None,
    size: str | None = None,
    batch_size: int = 8,
) -> np.ndarray:
    """The share of each patch in the representation, (images, rows, columns).

    Raises:
        UserError: the checkpoint or an image cannot be used.
    """
    source, found = vision.open_vit(checkpoint, grid=grid, position=position)
    shape = vision.image_shape(found, size)
    pictures = vision.read_pictures(images, Squash(size=shape[:2]))
    params = vision.load_params(source, found.model, shape, grid)
    return in_batches(rollout, found.model, params, pictures, batch_size=batch_size)


def overlay(picture: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """A picture, darkened where little attention falls.

    Args:
        picture: uint8 (h, w, 3).
        shares: (rows, columns) of patches.

    Returns:
        float32 (h, w, 3) in [0, 1].
    """
    height, width = picture.shape[:2]
    mask = cv2.resize(shares.astype(np.float32), (width, height), interpolation=cv2.INTER_LANCZOS4)
    sigmas = (width / shares.shape[1] / 2, height / shares.shape[0] / 2)
    mask = cv2.GaussianBlur(mask, (0, 0), sigmaX=sigmas[0], sigmaY=sigmas[1])
    # Lanczos rings below zero.
    mask = np.clip(mask, 0, None) / max(float(mask.max()), np.finfo(np.float32).tiny)
    return picture / np.float32(255) * mask[..., None].astype(np.float32)


def draw(images: Sequence[str], shares: np.ndarray) -> canvas.Drawing:
    """Pairs of a picture and its map.

    Args:
        images: paths of the pictures.
        shares: (images, rows, columns).
    """
    pictures = [_for_print(vision.open_picture(path).pixels) for path in images]
    pairs = min(PAIRS, len(images))
    column = canvas.WIDTH / PAIRS / 2
    # A line is as high as its highest picture at the width of a column.
    shapes = [picture.shape[0] / picture.shape[1] for picture in pictures]
    heights = [max(shapes[i : i + pairs]) for i in range(0, len(shapes), pairs)]
    figure = canvas.new_figure(2 * pairs * column, column * sum(heights) + _TITLE)
    figure.set_layout_engine("constrained", w_pad=0.01, h_pad=0.01, wspace=0.02, hspace=0.02)
    panels = figure.subplots(len(heights), 2 * pairs, squeeze=False, height_ratios=heights)
    for panel in panels.ravel():
        panel.set_axis_off()
    for i, (picture, share) in enumerate(zip(pictures, shares, strict=True)):
        line, place = divmod(i, pairs)
        panels[line, 2 * place].imshow(picture)
        panels[line, 2 * place + 1].imshow(overlay(picture, share))
    for place in range(pairs):
        panels[0, 2 * place].set_title("Input", pad=3)
        panels[0, 2 * place + 1].set_title("Attention", pad=3)
    rows = [
        {"image": images[i], "row": y + 1, "column": x + 1, "share": f"{value:.8f}"}
        for (i, y, x), value in np.ndenumerate(shares)
    ]
    return canvas.Drawing(figure, rows)


def _for_print(picture: np.ndarray) -> np.ndarray:
    factor = _LONGEST_SIDE / max(picture.shape[:2])
    height, width = (max(round(side * factor), 1) for side in picture.shape[:2])
    # A small picture shows its pixels, under a map that is smooth.
    method = cv2.INTER_AREA if factor < 1 else cv2.INTER_NEAREST
    return cv2.resize(picture, (width, height), interpolation=method)


def _command() -> canvas.Drawing:
    given = flags.FLAGS
    grid = vision.parse_pair(given.grid, flag="grid") if given.grid else None
    images = vision.find_pictures(given.images, limit=given.limit)
    shares = maps(
        given.checkpoint,
        images,
        grid=grid,
        position=given.position,
        size=given.size,
        batch_size=given.batch_size,
    )
    return draw(images, shares)


if __name__ == "__main__":
    vision.define_checkpoint_flags()
    vision.define_picture_flags(limit=12)
    canvas.launch(_command, __doc__ or "", name="attention_rollout", flags_of=(vision.__name__,))
