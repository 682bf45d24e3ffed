"""How all figures look, and how they are saved: as PNG and PDF, and their data as CSV.

Matplotlib is imported when something is drawn, and only here and in the figures; pyplot, which
keeps state and asks for a screen, never.
"""

import contextlib
import csv
import dataclasses
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from absl import flags, logging
from etils import epath

from train_jax import command_line, process
from train_jax.checkpoint import require_writable
from train_jax.errors import UserError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Inches: the text block of a page in the style of the ViT paper, and half of it.
WIDTH, HALF = 5.5, 2.7

#: Colours that the colour-blind can tell apart (M. Okabe and K. Ito, "Color Universal Design"),
#: the palest left out; and marks, so that print without colour does as well.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKS = ("o", "s", "^", "D", "v", "P", "X")
GREY = "#6E6E6E"

_STYLE: Any = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": "#DDDDDD",
    "grid.linewidth": 0.5,
    "lines.linewidth": 1.2,
    "lines.markersize": 4,
    "figure.constrained_layout.use": True,
    "savefig.dpi": 300,
    "savefig.bbox": "tight",
    "savefig.pad_inches": 0.02,
    # Letters stay letters: publishers refuse Type 3 fonts.
    "pdf.fonttype": 42,
}

Row = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Drawing:
    """A figure, and the numbers in it.

    Attributes:
        figure: what is seen.
        rows: a dict per line of the CSV file, all with the same keys.
    """

    figure: "Figure"
    rows: Sequence[Row]


@contextlib.contextmanager
def style() -> Iterator[None]:
    """In this context Matplotlib draws as the figures should look.

    Raises:
        UserError: Matplotlib is not installed.
    """
    try:
        import matplotlib
    except ImportError as error:
        raise UserError(
            "Figures are drawn by Matplotlib, which is not installed; run `pip install matplotlib`."
        ) from error
    with matplotlib.rc_context(_STYLE):
        yield


def new_figure(width: float, height: float) -> "Figure":
    """An empty figure, in inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height))


def save(drawing: Drawing, output: str) -> list[str]:
    """Writes ``output``.png, .pdf and .csv; the same drawing gives the same bytes.

    Returns:
        The three paths.
    """
    png, pdf, table = paths(output)
    with epath.Path(png).open("wb") as stream:
        drawing.figure.savefig(stream, format="png", metadata={"Software": None})
    with epath.Path(pdf).open("wb") as stream:
        drawing.figure.savefig(stream, format="pdf", metadata={"CreationDate": None})
    with epath.Path(table).open("w") as stream:
        writer = csv.DictWriter(stream, list(drawing.rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(drawing.rows)
    return [png, pdf, table]


def paths(output: str) -> list[str]:
    """The three files of a figure."""
    return [f"{output}.{ending}" for ending in ("png", "pdf", "csv")]


def launch(draw: Callable[[], Drawing], usage: str, *, name: str, flags_of: Sequence[str]) -> None:
    """A figure's command: parses the flags, draws, saves, and exits.

    Args:
        draw: makes the drawing, once the flags are known.
        usage: the module docstring of the command, shown by ``--help``.
        name: of the files, unless ``--output`` says another.
        flags_of: modules that defined flags for the command.
    """
    flags.DEFINE_string(
        "output",
        f"figures/{name}",
        "The files to write, without their endings (.png, .pdf, .csv); must not exist.",
    )

    def command() -> None:
        command_line.parse(sys.argv, usage, __name__, *flags_of)
        output = flags.FLAGS.output
        _refuse_existing(output)
        process.set_up()
        # The plan of a transfer is no part of a figure.
        logging.set_verbosity(logging.WARNING)
        with style():
            require_writable(epath.Path(output).parent)
            written = save(draw(), output)
        sys.stdout.write(f"{', '.join(written)}\n")

    sys.exit(command_line.exit_code(command))


def _refuse_existing(output: str) -> None:
    for path in paths(output):
        if epath.Path(path).exists():
            raise UserError(f"{path} exists already; remove it, or name another with --output.")
