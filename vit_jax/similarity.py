"""How alike two images are to a Vision Transformer: what confirms near-duplicates."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from train_jax.mesh import MeshConfig, make_mesh
from vit_jax.data.on_device import normalise
from vit_jax.data.preprocess import Squash, preprocess
from vit_jax.init_from import open_source
from vit_jax.models import api
from vit_jax.recognise import recognise_any
from vit_jax.representations import load_frozen

# Images per step.
_BATCH = 64

#: From an index to an encoded file or pixels.
Reader = Callable[[int], bytes | np.ndarray]


def similarities(
    checkpoint: str,
    pairs: Sequence[tuple[int, int]],
    images: tuple[Reader, Reader],
) -> np.ndarray:
    """Cosine of the angle between the representations of two images, pair by pair.

    Args:
        checkpoint: a run of ours, or a published file.
        pairs: index of an image of the one kind, and of one of the other.
        images: from an index to an encoded file or pixels, of either kind; they are squashed to
            the size that the checkpoint was made for (224 x 224 where it is for any).

    Returns:
        float32 (pairs,).

    Raises:
        UserError: the checkpoint cannot be read.
    """
    shape = _image_shape(checkpoint)
    mesh = make_mesh(MeshConfig())
    with jax.set_mesh(mesh):
        frozen = load_frozen(checkpoint, mesh, image_shape=shape)

        @jax.jit
        def represent(batch: jax.Array) -> jax.Array:
            _, found, _ = api.apply(
                frozen.model, frozen.params, frozen.model_state, normalise(batch)
            )
            return found["pre_logits"]

        sides = []
        for side, read in enumerate(images):
            which = sorted({pair[side] for pair in pairs})
            features = {}
            for start in range(0, len(which), _BATCH):
                some = which[start : start + _BATCH]
                batch = np.zeros((_BATCH, *shape), np.uint8)
                for row, index in enumerate(some):
                    batch[row] = preprocess(Squash(shape[:2]), read(index), draws=None)
                rows = np.asarray(represent(jnp.asarray(batch)), np.float32)
                rows = rows / (np.linalg.norm(rows, axis=1, keepdims=True) + 1e-12)
                features.update(zip(some, rows, strict=False))
            sides.append(features)
    cosines = [float(sides[0][one] @ sides[1][other]) for one, other in pairs]
    return np.array(cosines, np.float32)


def _image_shape(checkpoint: str) -> tuple[int, int, int]:
    source = open_source(checkpoint)
    found = source.about.get("image_shape")
    if found is None:
        found = recognise_any(source.shapes, grid=source.grid).image_shape
    height, width, channels = found or (224, 224, 3)
    return int(height), int(width), int(channels)
