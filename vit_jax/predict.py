"""What is in a picture: the classes that a checkpoint gives the highest probabilities.

    python -m vit_jax.predict cat.jpg --checkpoint=B_16-imagenet2012.npz
    python -m vit_jax.predict holiday/ dog.png --checkpoint=runs/pets --top=3 --format=json

Images are files or directories, which are searched in depth. The checkpoint is a run of ours (its
averaged parameters, where it kept them; images are prepared as in its evaluations) or a published
.npz file (the whole image is resized to the input). Class names are those of the data that the run
was trained on; of a published file with 1,000 or 21,843 classes those of ImageNet; or they are
given: --class_names=FILE has one a line, --class_names=cifar10 is one of the lists that come along
(imagenet2012, imagenet21k, cifar10, cifar100, oxford_iiit_pet, oxford_flowers102).

Printed is a table, or with --format=json a JSON object a line: image, predictions (class, name,
probability). Where classes do not exclude each other (a model trained with a sigmoid, such as the
published ones on ImageNet-21k), probabilities do not sum to 1.
"""

import json
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from absl import flags, logging

from train_jax import command_line, config_flag
from train_jax.config import from_config
from train_jax.errors import UserError
from vit_jax.class_names import short
from vit_jax.classifier import (
    Classifier,
    best,
    find_pictures,
    make_scorer,
    open_classifier,
    open_picture,
    seen_pixels,
)
from vit_jax.task import ViTTrainConfig

# The widest name in a table.
_NAME = 40


def predict(
    classifier: Classifier, images: Sequence[str], *, top: int = 5, batch_size: int = 16
) -> Iterator[dict[str, Any]]:
    """The most probable classes of image files.

    Args:
        classifier: see :func:`vit_jax.classifier.open_classifier`.
        images: paths.
        top: how many classes.
        batch_size: images at a time; the last batch is filled up, so that one program does.

    Yields:
        ``image`` and ``predictions``, a list of ``class`` (its index), ``name`` and
        ``probability``, falling.

    Raises:
        UserError: an image cannot be read, or the model has no classes.
    """
    score = make_scorer(classifier)
    size = min(batch_size, len(images))
    for start in range(0, len(images), size):
        paths = images[start : start + size]
        pixels = [seen_pixels(classifier, open_picture(path)) for path in paths]
        pixels += pixels[-1:] * (size - len(paths))
        for path, scores in zip(paths, score(np.stack(pixels)), strict=False):
            yield {
                "image": path,
                "predictions": [
                    {
                        "class": i,
                        "name": classifier.class_names[i],
                        "probability": float(scores[i]),
                    }
                    for i in best(scores, top)
                ],
            }


def table(result: dict[str, Any], *, width: int) -> str:
    """One image's predictions as text, a class a line.

    Args:
        result: as :func:`predict` yields it.
        width: of the column of names.
    """
    lines = [f"{result['image']}\n"]
    for found in result["predictions"]:
        name = short(found["name"])
        if len(name) > width:
            name = f"{name[: width - 1]}…"
        bar = "█" * round(20 * found["probability"])
        lines.append(f"  {found['probability']:7.2%}  {name:{width}}  {bar}".rstrip() + "\n")
    return "".join(lines)


def define_flags() -> None:
    """Flags of the commands that show what a checkpoint makes of pictures."""
    flags.DEFINE_string(
        "checkpoint", None, "A run's directory, one of its checkpoints, or a published .npz file."
    )
    flags.DEFINE_string(
        "class_names", None, "A file with a name a line, or a list that comes along (cifar10, ...)."
    )
    flags.DEFINE_integer(
        "size", None, "Side of the model's input in pixels; as in evaluation unless given.", 1
    )
    flags.DEFINE_bool("averaged", True, "Take the averaged parameters of a run that kept them.")
    flags.DEFINE_integer("top", 5, "How many classes.", 1)


def named_classifier() -> Classifier:
    """The model that the flags name.

    Raises:
        UserError: they name none, or it cannot be used.
    """
    given = flags.FLAGS
    if not given.checkpoint:
        raise UserError("--checkpoint is missing; name a run's directory or an .npz file.")
    config = None
    if config_flag.CONFIG.value is not None:
        config = from_config(ViTTrainConfig, config_flag.named_config())
    return open_classifier(
        given.checkpoint,
        config=config,
        size=given.size,
        class_names=given.class_names,
        averaged=given.averaged,
    )


def _command() -> None:
    logging.set_verbosity(logging.WARNING)
    words = command_line.parse(
        sys.argv, __doc__ or "", config_flag.__name__, arguments=("IMAGE...",)
    )
    given = flags.FLAGS
    images = find_pictures(words)
    classifier = named_classifier()
    width = min(max((len(short(name)) for name in classifier.class_names), default=1), _NAME)
    for result in predict(classifier, images, top=given.top, batch_size=given.batch_size):
        if given.format == "json":
            sys.stdout.write(f"{json.dumps(result, ensure_ascii=False)}\n")
        else:
            sys.stdout.write(table(result, width=width))
        sys.stdout.flush()


if __name__ == "__main__":
    define_flags()
    flags.DEFINE_enum("format", "table", ["table", "json"], "What is printed.")
    flags.DEFINE_integer("batch_size", 16, "Images at a time.", 1)
    sys.exit(command_line.exit_code(_command))
