"""Hands a classifier over to other tools, its weights inside.

    python -m vit_jax.export --checkpoint=DIR --format=onnx --output=model.onnx
    python -m vit_jax.export --checkpoint=B_16.npz --format=stablehlo --output=model.stablehlo

Formats: stablehlo (jax.export, for CPU, TPU and CUDA), onnx, and with TensorFlow installed
saved_model and tflite (one image at a time). The checkpoint is a run's directory or published
weights. The batch may have any size (not of tflite). What goes in and comes out, and how images are
prepared, is written beside the file, as OUTPUT.json. Everything is computed in float32.
"""

import dataclasses
import os
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags, logging

from train_jax import command_line
from train_jax import export as exports
from train_jax.config import from_config, to_dict
from train_jax.errors import UserError
from train_jax.export import Export, Format, define_flags, metadata_path, required_flags
from train_jax.onnx_graph import Graph
from train_jax.restore import restore_parts
from train_jax.sharding import flat_names
from vit_jax.init_from import nested, open_source
from vit_jax.models import api
from vit_jax.models.bit import BiTConfig
from vit_jax.models.config import ViTConfig
from vit_jax.models.efficientnet import EfficientNetConfig
from vit_jax.onnx_vit import vit_graph
from vit_jax.recognise import recognise_any

#: What "normalised" means to every model here.
PREPROCESSING = {
    "layout": "batch, height, width, RGB",
    "scale": "pixel / 127.5 - 1, so that 0..255 becomes -1..1",
}


@dataclasses.dataclass(frozen=True, eq=False)
class Classifier:
    """A model with its weights, ready to be exported.

    Attributes:
        model: it computes in float32.
        params: nested dict of float32 arrays.
        model_state: running statistics, or nothing.
        image_shape: (height, width, 3).
    """

    model: api.ModelConfig
    params: Any
    model_state: Any
    image_shape: tuple[int, int, int]


def load(checkpoint: str | os.PathLike[str], *, size: int | None = None) -> Classifier:
    """A checkpoint's model and weights.

    Args:
        checkpoint: as for :func:`vit_jax.init_from.open_source`.
        size: pixels on a side where neither shapes nor checkpoint tell.

    Raises:
        UserError: it cannot be read, or the size is not told or does not fit.
    """
    source = open_source(checkpoint)
    model, shape = _model(source)
    told = None if shape is None or not isinstance(model, ViTConfig) else tuple(shape[:2])
    if size is not None and told is not None and told != (size, size):
        raise UserError(
            f"The model's positions are for {told[0]}x{told[1]} images, not {size}x{size}; "
            "leave --size out, or fine-tune at that size."
        )
    if size is None and shape is None:
        raise UserError("The weights are for images of any size; give --size, e.g. --size=224.")
    shape = (size, size, 3) if size is not None else shape
    assert shape is not None
    api.grid_of(model, shape)
    abstract, state = jax.eval_shape(lambda key: api.init(model, key, shape), jax.random.key(0))
    wanted = flat_names(abstract)
    lacking = sorted(wanted.keys() - source.shapes.keys())
    if lacking:
        raise UserError(f"{source.path} lacks {lacking[0]} of its own model; it is damaged.")
    arrays = source.read({name: source.shapes[name] for name in wanted})
    params = nested({name: np.asarray(arrays[name], np.float32) for name in wanted})
    if jax.tree.leaves(state):
        state = restore_parts(checkpoint, {"model_state": state})["model_state"]
    return Classifier(model, params, state, (shape[0], shape[1], 3))


def _model(source: Any) -> tuple[api.ModelConfig, tuple[int, ...] | None]:
    about = source.about.get("model")
    if about:
        kinds = {"vit": ViTConfig, "bit": BiTConfig, "efficientnet": EfficientNetConfig}
        kind = kinds[about.get("name", "vit")]
        model = from_config(kind, about, path="model")
        shape = source.about.get("image_shape")
    else:
        found = recognise_any(source.shapes, grid=source.grid)
        model, shape = found.model, found.image_shape
    changes: dict[str, Any] = {"compute_dtype": "float32"}
    if isinstance(model, ViTConfig):
        # Fused attention is of one platform; nothing is differentiated.
        changes |= {"attention": "einsum", "execution": "unrolled", "remat": "none"}
        changes |= {"patch_outputs": 0}
    elif isinstance(model, BiTConfig):
        changes |= {"execution": "unrolled", "remat": "none"}
    return dataclasses.replace(model, **changes), tuple(shape) if shape else None


def export_of(classifier: Classifier) -> Export:
    """The function of images (batch, h, w, 3) to logits, and its description."""
    params, state = jax.tree.map(jnp.asarray, (classifier.params, classifier.model_state))
    model = classifier.model

    def logits(images: jax.Array) -> jax.Array:
        return api.apply(model, params, state, images)[0]

    classes = getattr(model, "num_classes", 0)
    return Export(
        function=logits,
        input_name="images",
        input_shape=("batch", *classifier.image_shape),
        output_name="logits" if classes else "representation",
        about={
            "preprocessing": PREPROCESSING,
            "num_classes": classes,
            "model": to_dict(model),
            "parameters": sum(leaf.size for leaf in jax.tree.leaves(params)),
        },
    )


def write(classifier: Classifier, path: str | os.PathLike[str], kind: Format) -> None:
    """Writes one format.

    Raises:
        UserError: the path is taken, or the format does not take this model.
    """

    def graph() -> Graph:
        if not isinstance(classifier.model, ViTConfig):
            raise UserError(
                "ONNX is written of Vision Transformers and hybrids; export StableHLO of a "
                f"{type(classifier.model).__name__.removesuffix('Config')}."
            )
        return vit_graph(classifier.model, classifier.params, classifier.image_shape)

    exports.write(export_of(classifier), path, kind, graph=graph)


def _define_flags() -> None:
    define_flags("A run's directory, or published weights.")
    flags.DEFINE_integer(
        "size", None, "Pixels on a side, for a model whose weights do not tell.", lower_bound=1
    )


def main() -> None:
    """The command line."""
    logging.set_verbosity(logging.WARNING)
    jax.config.update("jax_platforms", "cpu")
    command_line.parse(sys.argv, __doc__ or "", exports.__name__)
    checkpoint, kind, output = required_flags()
    write(load(checkpoint, size=flags.FLAGS.size), output, kind)
    sys.stdout.write(f"{kind}: {output} and {metadata_path(output)}\n")


if __name__ == "__main__":
    _define_flags()
    sys.exit(command_line.exit_code(main))
