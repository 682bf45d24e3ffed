"""The notebooks agree with their text scripts, open on Colab, and are light."""

import ast
import base64
import re
from pathlib import Path

import jupytext
import pytest

from colabs.__main__ import COLABS, names, pictures_only, read

ROOT = Path(__file__).parents[2]
PROJECT = "https://github.com/vit-pose-jax/vit-pose-jax"
MOST_BYTES = 300_000


def sources(notebook):
    return [(cell.cell_type, cell.source) for cell in notebook.cells]


def stored(name):
    return jupytext.read(COLABS / f"{name}.ipynb")


def code(name):
    return [cell.source for cell in read(name).cells if cell.cell_type == "code"]


def prose(name):
    return [cell.source for cell in read(name).cells if cell.cell_type == "markdown"]


def test_every_notebook_has_its_text_script_and_the_reverse():
    assert [path.stem for path in sorted(COLABS.glob("*.ipynb"))] == names() != []


@pytest.mark.parametrize("name", names())
def test_the_pair_agrees(name):
    assert sources(stored(name)) == sources(read(name))


@pytest.mark.parametrize("name", names())
def test_it_opens_on_colab_under_one_title(name):
    first, *rest = prose(name)
    titles = [line for text in (first, *rest) for line in text.splitlines() if line[:2] == "# "]
    assert titles == [first.splitlines()[0]]
    target = (
        f"https://colab.research.google.com/github/{PROJECT[19:]}/blob/main/colabs/{name}.ipynb"
    )
    image = "https://colab.research.google.com/assets/colab-badge.svg"
    assert f"[![Open in Colab]({image})]({target})" in first.splitlines()


def test_all_install_and_name_the_accelerator_in_the_same_words():
    cells = {name: code(name)[:2] for name in names()}
    install, devices = cells["train_a_lifter"]
    for name, first in cells.items():
        assert first == [install, devices], name
    assert PROJECT in install
    assert "device_kind" in devices


def test_the_install_cell_does_nothing_where_the_project_is_importable(monkeypatch):
    import subprocess

    def refuse(*_, **__):
        raise AssertionError("it called a program")

    monkeypatch.setattr(subprocess, "run", refuse)
    exec(code("train_a_lifter")[0], {})


def test_the_install_cell_takes_extras_that_exist():
    written = ast.literal_eval(
        "[" + ",".join(re.findall(r'"colab[\w,]*"', code("train_a_lifter")[0])) + "]"
    )
    setup = (ROOT / "setup.py").read_text()
    extras = {extra for text in written for extra in text.split(",")}
    assert "colab" in extras
    for extra in extras:
        assert re.search(rf'^        "{extra}": \[', setup, re.MULTILINE), extra


@pytest.mark.parametrize("name", names())
def test_only_pictures_are_kept(name):
    path = COLABS / f"{name}.ipynb"
    assert path.stat().st_size < MOST_BYTES
    notebook = stored(name)
    outputs = [one for cell in notebook.cells for one in cell.get("outputs", [])]
    assert outputs, "its pictures are missing: python -m colabs --write"
    for one in outputs:
        assert set(one.data) == {"image/png"}
        assert base64.b64decode(one.data["image/png"]).startswith(b"\x89PNG")
    before = notebook.copy()
    pictures_only(notebook)
    assert notebook == before


@pytest.mark.parametrize("name", names())
def test_links_within_the_project_lead_somewhere(name):
    text = "\n".join(prose(name))
    for link in re.findall(r"\]\((?!https?:)([^)]+)\)", text):
        assert (COLABS / link).exists(), link
    for file in re.findall(r"`(?:python -m )?\S*?((?:experiments|colabs)/[\w/]+\.(?:py|md))", text):
        assert (ROOT / file).exists(), file
    for module in re.findall(r"python -m ([\w.]+)", text):
        path = ROOT / module.replace(".", "/")
        assert path.with_suffix(".py").exists() or (path / "__main__.py").exists(), module


@pytest.mark.parametrize("name", names())
def test_cells_are_short(name):
    for source in code(name)[2:]:
        assert len(source.splitlines()) <= 40, source


def test_the_readme_lists_every_notebook_with_its_badge():
    lines = [line for line in (COLABS / "README.md").read_text().splitlines() if ".ipynb)" in line]
    assert len(lines) == len(names())
    for name in names():
        title = prose(name)[0].splitlines()[0].removeprefix("# ")
        (line,) = [line for line in lines if f"]({name}.ipynb)" in line]
        assert title.startswith(line.split("[")[1].split("]")[0])
        assert line.endswith(f"blob/main/colabs/{name}.ipynb) |")
