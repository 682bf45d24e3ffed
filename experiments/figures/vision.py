"""Vision Transformers and pictures, as the commands of figures take them."""

import os
import re
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from etils import epath

from train_jax.errors import UserError
from vit_jax.data.decode import CorruptImageError, Picture
from vit_jax.data.on_device import normalise
from vit_jax.data.preprocess import Preprocess, preprocess
from vit_jax.init_from import Source, open_source, transfer_model
from vit_jax.models import api
from vit_jax.models.config import ViTConfig
from vit_jax.posemb import Grid
from vit_jax.recognise import Recognised, recognise
from vit_jax.transfer import TransferConfig
from vit_jax.weights import POSITION_TABLE

_PICTURES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")

Position = Literal["sincos2d", "none"]


def define_checkpoint_flags() -> None:
    """The flags of a checkpoint and what it does not tell itself."""
    flags.DEFINE_string(
        "checkpoint", None, "A run's directory, one of its checkpoints, or a published .npz file."
    )
    flags.DEFINE_string(
        "grid", None, "HEIGHTxWIDTH of the position table in patches, if it is not square."
    )


def define_picture_flags(*, limit: int) -> None:
    """The flags of pictures and of how a model sees them."""
    flags.DEFINE_list(
        "images", [], "Image files, or directories whose images are taken, those within included."
    )
    flags.DEFINE_integer(
        "limit", limit, "At most so many images, evenly spread over the sorted files."
    )
    flags.DEFINE_string(
        "size", None, "SIDE or HEIGHTxWIDTH of the model's input in pixels; as trained unless given"
    )
    flags.DEFINE_integer("batch_size", 8, "Images at a time.")
    flags.DEFINE_enum(
        "position",
        None,
        ["sincos2d", "none"],
        "The position embedding, where no table is learned and the checkpoint does not say.",
    )


def open_vit(
    path: str | None, *, grid: Grid | None = None, position: Position | None = None
) -> tuple[Source, Recognised]:
    """Looks at a checkpoint, ours or a published file, without reading its arrays.

    Args:
        path: where it is.
        grid: (height, width) of the position table in patches, if it is not square.
        position: the position embedding, if no table is learned and the checkpoint does not say.

    Raises:
        UserError: there is none, or it is not a Vision Transformer's.
    """
    if not path:
        raise UserError("--checkpoint is missing; name a run's directory or an .npz file.")
    source = open_source(path)
    if POSITION_TABLE in source.shapes:
        position = None
    else:
        position = source.about.get("model", {}).get("position", position)
    try:
        return source, recognise(source.shapes, grid=grid or source.grid, position=position)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def read_array(source: Source, name: str) -> np.ndarray:
    """One array of a checkpoint, and no other."""
    return np.asarray(source.read({name: source.shapes[name]})[name])


def load_params(
    source: Source, model: ViTConfig, image_shape: tuple[int, int, int], grid: Grid | None
) -> Any:
    """All parameters on one device, with the position table resized to the images.

    Raises:
        UserError: the patches do not tile the images, or the checkpoint is not of this model.
    """
    key = jax.random.key(0)
    shapes, model_state = jax.eval_shape(lambda key: api.init(model, key, image_shape), key)
    place = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    fresh = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place), shapes
    )
    config = TransferConfig(keep_head=True, source_grid=grid)
    params, _ = transfer_model(
        source.path, fresh, model_state, model=model, image_shape=image_shape, config=config
    )
    return params


def image_shape(found: Recognised, size: str | None) -> tuple[int, int, int]:
    """The images that a model gets: as given, or those of its position table.

    Raises:
        UserError: neither is known.
    """
    if size is not None:
        height, width = parse_pair(size, flag="size")
        return height, width, 3
    if found.image_shape is None:
        raise UserError(
            "The checkpoint does not tell the size of its images; give --size, such as 224."
        )
    return found.image_shape


def parse_pair(text: str, *, flag: str) -> tuple[int, int]:
    """Height and width from "14x28", or from "14" for a square.

    Raises:
        UserError: it is not written so.
    """
    match = re.fullmatch(r"([1-9]\d*)(?:x([1-9]\d*))?", text)
    if match is None:
        raise UserError(f"--{flag}={text!r} is not written like 14x28 (height x width) or 14.")
    return int(match[1]), int(match[2] or match[1])


def find_pictures(words: list[str], *, limit: int) -> list[str]:
    """Image files, from the names of files and directories.

    Raises:
        UserError: there are none, or a name is of nothing.
    """
    found: list[str] = []
    for word in words:
        path = epath.Path(word)
        if path.is_dir():
            found += sorted(_pictures_in(path))
        elif path.exists():
            found.append(word)
        else:
            raise UserError(f"--images: there is no {word}; name image files or directories.")
    if not found:
        raise UserError("There are no images; name files or directories with --images.")
    if limit < 1:
        raise UserError(f"--limit={limit} leaves no image; give a positive number.")
    if len(found) <= limit:
        return found
    return [found[i * len(found) // limit] for i in range(limit)]


def _pictures_in(directory: epath.Path) -> Iterator[str]:
    for child in directory.iterdir():
        if child.is_dir():
            yield from _pictures_in(child)
        elif child.suffix.lower() in _PICTURES:
            yield os.fspath(child)


def open_picture(path: str) -> Picture:
    """An image file, decoded.

    Raises:
        UserError: it is not an image, or damaged.
    """
    try:
        picture = Picture(epath.Path(path).read_bytes())
        _ = picture.pixels
    except (CorruptImageError, OSError) as error:
        raise UserError(
            f"{path} is not a readable image ({error}); name JPEG, PNG, BMP or WebP files."
        ) from error
    return picture


def read_pictures(paths: Sequence[str], size: Preprocess) -> np.ndarray:
    """Image files as a model gets them, float32 (n, h, w, 3) in [-1, 1].

    Raises:
        UserError: one is not an image, or damaged.
    """
    pixels = [preprocess(size, open_picture(path), draws=None) for path in paths]
    return np.asarray(normalise(jnp.asarray(np.stack(pixels))))
