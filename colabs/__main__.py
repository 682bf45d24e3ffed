"""Executes the notebooks of this directory, each in a fresh kernel, and fails on any error.

    python -m colabs                      all of them
    python -m colabs finetune_vit ...     some
    python -m colabs --write ...          and keeps their pictures in the .ipynb

The text script (NAME.py, cells marked by ``# %%``) is the source: it is what is executed, and
``--write`` makes NAME.ipynb of it. Of all outputs only pictures are kept. Needs the packages of
``pip install -e '.[test]'``.
"""

import base64
import io
import sys
import time
from pathlib import Path
from typing import Any

import jupytext
import nbformat
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from PIL import Image

from train_jax import command_line

COLABS = Path(__file__).parent
TIMEOUT_S = 600
COLOURS = 128


def names() -> list[str]:
    """The notebooks, by their text scripts."""
    return sorted(path.stem for path in COLABS.glob("[!_]*.py"))


def read(name: str) -> Any:
    """The notebook of a text script, without outputs."""
    notebook = jupytext.read(COLABS / f"{name}.py", fmt="py:percent")
    for number, cell in enumerate(notebook.cells):
        # Random by default, which would make every new file differ from the old one.
        cell["id"] = f"cell-{number:02}"
    return notebook


def execute(notebook: Any) -> float:
    """Runs all cells in the root of the repository; returns the seconds that took.

    Raises:
        CellExecutionError: naming the cell and what it raised.
    """
    began = time.perf_counter()
    resources = {"metadata": {"path": str(COLABS.parent)}}
    # Sockets of files, which nobody else on the machine can read.
    kernel = AsyncKernelManager(kernel_name="python3", transport="ipc")
    NotebookClient(notebook, km=kernel, timeout=TIMEOUT_S, resources=resources).execute()
    return time.perf_counter() - began


def pictures_only(notebook: Any) -> None:
    """Drops every output but pictures, and what differs from one execution to the next."""
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type != "code":
            continue
        cell.execution_count = None
        pictures = [one for one in cell.outputs if "image/png" in one.get("data", {})]
        cell.outputs = [
            nbformat.v4.new_output("display_data", {"image/png": one.data["image/png"]})
            for one in pictures
        ]


def _smaller(png: str) -> str:
    """A picture of few colours, in base64: half the bytes, and the eye sees no difference."""
    stream = io.BytesIO()
    picture = Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB")
    picture.quantize(COLOURS).save(stream, format="PNG", optimize=True)
    return base64.b64encode(stream.getvalue()).decode()


def write(name: str, notebook: Any) -> None:
    """NAME.ipynb, paired with its text script."""
    notebook.metadata.pop("language_info", None)
    pictures_only(notebook)
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            output.data["image/png"] = _smaller(output.data["image/png"])
    nbformat.validate(notebook)
    jupytext.write(notebook, COLABS / f"{name}.ipynb")


def main() -> int:
    """The command; returns the exit code."""
    parser = command_line.Parser("python -m colabs", __doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="all of them unless given")
    parser.add_argument("--write", action="store_true", help="keep pictures in NAME.ipynb")
    given = parser.parse_args()
    unknown = sorted(set(given.names) - set(names()))
    if unknown:
        parser.error(f"there is no notebook {', '.join(unknown)}; there are {', '.join(names())}")
    failed = []
    for name in given.names or names():
        notebook = read(name)
        try:
            seconds = execute(notebook)
        except CellExecutionError as error:
            sys.stderr.write(f"{name}: {error}\n")
            failed.append(name)
            continue
        if given.write:
            write(name, notebook)
        sys.stdout.write(f"{name}: {seconds:.0f} s\n")
        sys.stdout.flush()
    return len(failed)


if __name__ == "__main__":
    sys.exit(command_line.exit_code(main))
