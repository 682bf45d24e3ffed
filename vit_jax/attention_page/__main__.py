"""An interactive page of what a Vision Transformer attends to in a picture.

    python -m vit_jax.attention_page cat.jpg --checkpoint=B_16.npz --output=cat.html

The page is one file that needs no network: the picture under the attention of any layer and head
(or the mean of the heads, or attention rollout) from any token (the class token, or a patch that is
clicked on), all heads of a layer beside each other, how far each of them looks, and what the model
predicts. Checkpoints, sizes and class names are as for python -m vit_jax.predict.
"""

import sys

from absl import flags, logging

from train_jax import command_line, config_flag, web_page
from train_jax.errors import UserError
from vit_jax.attention_page.page import page
from vit_jax.classifier import find_pictures
from vit_jax.predict import define_flags, named_classifier


def _command() -> None:
    logging.set_verbosity(logging.WARNING)
    words = command_line.parse(
        sys.argv, __doc__ or "", config_flag.__name__, "vit_jax.predict", arguments=("IMAGE",)
    )
    given = flags.FLAGS
    images = find_pictures(words)
    if len(images) > 1:
        raise UserError(f"{words[0]} has {len(images)} images and a page shows one; name a file.")
    text = page(named_classifier(), images[0], top=given.top)
    written = web_page.write(given.output, text)
    sys.stdout.write(f"{written}: {len(text.encode()) / 1e6:.1f} MB\n")


if __name__ == "__main__":
    define_flags()
    flags.DEFINE_string("output", "attention.html", "The page to write.")
    sys.exit(command_line.exit_code(_command))
