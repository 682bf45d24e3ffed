"""Makes a page on which poses can be turned, played and compared.

    python -m pose_jax.viewer poses.npz --video=clip.mp4 --output=page.html
    python -m pose_jax.viewer poses.npz --truth=truth.npz --output=page.html

POSES is a file of `python -m pose_jax.video` or of `python -m pose_jax.predict`. The page is one
file that needs no network: a small copy of the film is in it, and so is what draws. Measured poses
(--truth) are drawn in grey; then joints can be coloured by their error, and the error is plotted
over time.
"""

import sys

from absl import flags

from pose_jax import motion, viewer
from pose_jax.drawing.comparison import ALIGNS
from train_jax import command_line
from train_jax.errors import UserError


def _command() -> None:
    (poses,) = command_line.parse(sys.argv, __doc__ or "", arguments=("POSES",))
    given = flags.FLAGS
    if not given.output:
        raise UserError("--output must be given; name a file to write, such as page.html.")
    size = viewer.write(
        motion.read(poses),
        given.output,
        video=given.video,
        truth=motion.read(given.truth) if given.truth else None,
        title=given.title,
        align=given.align,
        largest_error=given.largest_error,
        video_limit=given.video_limit,
        theme=given.theme,
    )
    sys.stdout.write(f"{size / viewer.MEBIBYTE:.1f} MiB: {given.output}\n")


def _define_flags() -> None:
    """Not on import, because other commands have flags of the same names."""
    flags.DEFINE_string("output", None, "The .html file to write.")
    flags.DEFINE_string("video", None, "The film that the poses were found in.")
    flags.DEFINE_string("truth", None, "Measured poses, a file like POSES.")
    flags.DEFINE_string("title", "Poses", "Of the page.")
    flags.DEFINE_enum(
        "align",
        "root",
        list(ALIGNS),
        "Whether poses are compared with their roots at one place, or where they stand.",
    )
    flags.DEFINE_float("largest_error", 150.0, "Error of the last colour, mm.", lower_bound=1)
    flags.DEFINE_float("video_limit", 12.0, "Of the film in the page, MiB.", lower_bound=0)
    flags.DEFINE_enum("theme", "auto", list(viewer.THEMES), "Colours of the page.")


if __name__ == "__main__":
    _define_flags()
    sys.exit(command_line.exit_code(_command))
