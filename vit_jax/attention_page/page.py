"""The page: one picture, its attention, and the predictions, packed into one HTML file.

The browser unpacks every array: rows of the representation have 16 bits a weight, all others 8, as
shares of the largest weight of their row. Where not everything has room (a large model at a high
resolution), heads of low layers go first, then the means of layers in between; the page says so.
"""

import base64
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import cv2
import jax.numpy as jnp
import numpy as np

from train_jax import web_page
from train_jax.errors import UserError
from vit_jax.attention_page.attention import Attention, look
from vit_jax.class_names import short
from vit_jax.classifier import (
    Classifier,
    best,
    enlarged,
    make_scorer,
    open_classifier,
    open_picture,
    seen_pixels,
)
from vit_jax.data.decode import Picture
from vit_jax.data.on_device import normalise
from vit_jax.data.preprocess import preprocess
from vit_jax.models.config import ViTConfig

#: Characters of packed attention: pages stay below 20 MB.
ROOM = 18_000_000

_PARTS = Path(__file__).parent
# Pixels of the longer side of the picture in the page.
_SHOWN = 896


def page(classifier: Classifier, image: str, *, top: int = 5, room: int = ROOM) -> str:
    """The page of one picture.

    Args:
        classifier: see :func:`vit_jax.classifier.open_classifier`; it need not have a head.
        image: path of the picture.
        top: how many classes are shown.
        room: characters that the packed attention may take.

    Raises:
        UserError: the picture cannot be read, or the model has no attention to look at.
    """
    model = classifier.model
    if not isinstance(model, ViTConfig):
        raise UserError(
            f"{classifier.checkpoint} is no Vision Transformer: there is no attention to look at."
        )
    picture = open_picture(image)
    seen = seen_pixels(classifier, picture)
    attention = look(model, classifier.params, np.asarray(normalise(jnp.asarray(seen[None]))))
    data = {
        "title": os.path.basename(image),
        "model": classifier.name,
        "checkpoint": classifier.checkpoint,
        "input": list(classifier.image_shape[:2]),
        "grid": list(model.grid(classifier.image_shape)),
        "classToken": model.class_token,
        "pool": model.pool,
        **_shown(classifier, picture, seen),
        "predictions": _predictions(classifier, seen, top),
        "loss": classifier.loss,
        "namesFrom": classifier.names_from,
        "attention": pack(attention, room=room),
    }
    return web_page.compose(f"{data['title']}: attention of {classifier.name}", _PARTS, data)


def show(
    image: str, checkpoint: str | Classifier, *, top: int = 5, height: int = 1000, **options: Any
) -> Any:
    """The page in a notebook cell.

    Args:
        image: path of the picture.
        checkpoint: a run's directory, an .npz file, or a classifier that is open already.
        top: how many classes are shown.
        height: of the frame in pixels.
        **options: as for :func:`vit_jax.classifier.open_classifier`.

    Raises:
        UserError: as for :func:`page`.
    """
    if isinstance(checkpoint, str):
        checkpoint = open_classifier(checkpoint, **options)
    return web_page.in_cell(page(checkpoint, image, top=top), height=height)


def pack(attention: Attention, *, room: int = ROOM) -> dict[str, Any]:
    """Attention as the page's script takes it.

    Args:
        attention: of one picture.
        room: characters that the packed weights may take, beside the rows of the representation.

    Returns:
        ``depth``, ``heads``, ``tokens``; ``distances``, nested lists; ``summary`` and ``rollout``,
        rows of 16 bits; ``mean`` and ``full``, by layer (as text) the rows of 8 bits that there is
        room for. Rows are ``weights``, see :func:`train_jax.web_page.packed`, and ``largest``,
        float32, to which their maximum stands.
    """
    depth, heads, n = attention.summary.shape
    left = room
    mean: dict[str, Any] = {}
    for layer in _spread(depth):
        rows = _rows(attention.mean[layer], np.uint8)
        if (left := left - _length(rows)) < 0:
            break
        mean[str(layer)] = rows
    full: dict[str, Any] = {}
    if attention.heads is not None and len(mean) == depth:
        for layer in reversed(range(depth)):
            rows = {
                "weights": web_page.packed(attention.heads[layer]),
                "largest": web_page.packed(attention.largest[layer].astype(np.float32)),
            }
            if (left := left - _length(rows)) < 0:
                break
            full[str(layer)] = rows
    return {
        "depth": depth,
        "heads": heads,
        "tokens": n,
        "distances": attention.distances.round(3).tolist(),
        "summary": _rows(attention.summary, np.uint16),
        "rollout": _rows(attention.rollout, np.uint16),
        "mean": mean,
        "full": full,
    }


def _rows(weights: np.ndarray, kind: type[np.unsignedinteger[Any]]) -> dict[str, str]:
    """Weights (..., n) as shares of the largest of their row."""
    largest = weights.max(-1)
    shares = weights / np.maximum(largest, np.finfo(np.float32).tiny)[..., None]
    return {
        "weights": web_page.packed(np.round(shares * np.iinfo(kind).max).astype(kind)),
        "largest": web_page.packed(largest.astype(np.float32)),
    }


def _length(rows: dict[str, str]) -> int:
    return sum(map(len, rows.values()))


def _spread(depth: int) -> Iterable[int]:
    """Layers in an order in which those taken so far lie evenly, the last one first."""
    order, step = [depth - 1], depth
    while len(order) < depth:
        step = max(step // 2, 1)
        order += [i for i in range(depth - 1, -1, -step) if i not in order]
    return order


def _shown(classifier: Classifier, picture: Picture, seen: np.ndarray) -> dict[str, Any]:
    """What the model saw, with more of the picture's own pixels where there are more."""
    factor = min(_SHOWN / max(seen.shape[:2]), min(picture.size) / min(seen.shape[:2]))
    if factor > 1:
        seen = preprocess(enlarged(classifier.preprocess, factor), picture, draws=None)
    # Few pixels are shown as such.
    kind = ".png" if max(seen.shape[:2]) < 128 else ".jpg"
    encoded = cv2.imencode(kind, cv2.cvtColor(seen, cv2.COLOR_RGB2BGR))[1].tobytes()
    name = {".png": "png", ".jpg": "jpeg"}[kind]
    return {
        "image": f"data:image/{name};base64,{base64.b64encode(encoded).decode()}",
        "pixelated": kind == ".png",
    }


def _predictions(classifier: Classifier, seen: np.ndarray, top: int) -> list[dict[str, Any]]:
    if not classifier.model.num_classes:
        return []
    scores = make_scorer(classifier)(seen[None])[0]
    return [
        {
            "class": i,
            "name": short(classifier.class_names[i]),
            "all": classifier.class_names[i],
            "probability": float(scores[i]),
        }
        for i in best(scores, top)
    ]
