"""How far each head looks, by depth (ViT paper, Figure 7, right, and Figure 11).

    python -m experiments.figures.attention_distance --checkpoint=L_16.npz --images=imagenet/val
    python -m experiments.figures.attention_distance --checkpoint=R50_L_16.npz,L_16.npz --images=DIR

A dot is the mean attention distance of a head: the distance between the patch that asks and those
that answer, weighted by the attention, in pixels of the input image; averaged over 128 images, as
in the paper. The line is the mean of the heads of a layer. Several checkpoints stand side by side,
as a hybrid and a plain model in the paper, where some heads look far in the lowest layers already,
and fewer of a hybrid's look near.

The paper used images of ImageNet. Of each the shorter side is resized to 8/7 of the input, then
the centre is cut out. Written are figures/attention_distance.png, .pdf and .csv.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from absl import flags

from experiments.figures import canvas, vision
from train_jax.errors import UserError
from vit_jax.attention_maps import in_batches, mean_distances
from vit_jax.data.preprocess import ResizeSmallCrop
from vit_jax.posemb import Grid


def distances(
    checkpoint: str,
    images: Sequence[str],
    *,
    grid: Grid | None = None,
    position: vision.Position | None = None,
    size: str | None = None,
    batch_size: int = 8,
) -> tuple[str, np.ndarray]:
    """The model's name, and its mean attention distances in pixels, (depth, heads).

    Raises:
        UserError: the checkpoint or an image cannot be used.
    """
    source, found = vision.open_vit(checkpoint, grid=grid, position=position)
    shape = vision.image_shape(found, size)
    larger = -(-8 * max(shape[:2]) // 7)
    crop = ResizeSmallCrop(resize=larger, size=shape[:2])
    pictures = vision.read_pictures(images, crop)
    params = vision.load_params(source, found.model, shape, grid)
    values = in_batches(
        mean_distances, found.model, params, pictures, batch_size=batch_size, axis=1
    )
    return found.variant or Path(checkpoint).name, values.mean(1)


def draw(models: Mapping[str, np.ndarray]) -> canvas.Drawing:
    """A panel per model.

    Args:
        models: name -> pixels (depth, heads).
    """
    figure = canvas.new_figure(canvas.HALF * max(len(models), 1.2), 2.3)
    panels = figure.subplots(1, len(models), sharey=True, squeeze=False)[0]
    rows: list[canvas.Row] = []
    for panel, (name, pixels) in zip(panels, models.items(), strict=True):
        depth, heads = pixels.shape
        layers = np.arange(1, depth + 1)
        panel.plot(
            np.repeat(layers, heads),
            pixels.ravel(),
            canvas.MARKS[0],
            color=canvas.COLOURS[0],
            alpha=0.6,
            markeredgewidth=0,
            label="one head",
        )
        panel.plot(layers, pixels.mean(1), color=canvas.COLOURS[1], label="mean of the heads")
        panel.set_title(name)
        panel.set_xlabel("Network depth (layer)")
        panel.set_xticks(layers[:: -(-depth // 8)])
        panel.set_xlim(0.5, depth + 0.5)
        panel.grid(axis="y")
        rows += [
            {"model": name, "layer": i + 1, "head": j + 1, "mean_distance_px": f"{value:.4f}"}
            for (i, j), value in np.ndenumerate(pixels)
        ]
    panels[0].set_ylim(0, 1.08 * max(float(pixels.max()) for pixels in models.values()))
    panels[0].set_ylabel("Mean attention distance (pixels)")
    panels[-1].legend(loc="lower right")
    return canvas.Drawing(figure, rows)


def _command() -> canvas.Drawing:
    given = flags.FLAGS
    grid = vision.parse_pair(given.grid, flag="grid") if given.grid else None
    images = vision.find_pictures(given.images, limit=given.limit)
    checkpoints = (given.checkpoint or "").split(",")
    for checkpoint in checkpoints:
        if checkpoints.count(checkpoint) > 1:
            raise UserError(f"--checkpoint names {checkpoint} twice; leave one out.")
    models: dict[str, np.ndarray] = {}
    for checkpoint in checkpoints:
        name, pixels = distances(
            checkpoint,
            images,
            grid=grid,
            position=given.position,
            size=given.size,
            batch_size=given.batch_size,
        )
        models[checkpoint if name in models else name] = pixels
    return draw(models)


if __name__ == "__main__":
    vision.define_checkpoint_flags()
    vision.define_picture_flags(limit=128)
    canvas.launch(_command, __doc__ or "", name="attention_distance", flags_of=(vision.__name__,))
