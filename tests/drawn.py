"""Runs the commands of figures, and looks at what they write."""

import csv
import re

import commands
import cv2
import numpy as np

from train_jax.command_line import USER_ERROR_EXIT_CODE


def drawn(tmp_path, name, *words):
    """Runs a command; returns the rows of its table, once the three files are what they should."""
    output = tmp_path / "new" / name
    ended = commands.shared().run(f"experiments.figures.{name}", *words, f"--output={output}")
    assert (ended.code, ended.stderr) == (0, "")
    assert ended.stdout == f"{output}.png, {output}.pdf, {output}.csv\n"
    picture = cv2.imread(f"{output}.png")
    assert picture is not None
    assert min(picture.shape[:2]) > 200
    assert np.ptp(picture) > 100
    pdf = output.with_suffix(".pdf").read_bytes()
    assert pdf.startswith(b"%PDF")
    assert b"/Type3" not in pdf
    with open(f"{output}.csv", newline="") as stream:
        return list(csv.DictReader(stream))


def assert_refuses(tmp_path, name, *words, pattern):
    """That a command says in one sentence what is wrong, and writes nothing."""
    given = list(words)
    if not any(word.startswith("--output") for word in given):
        given.append(f"--output={tmp_path}/new")
    ended = commands.shared().run(f"experiments.figures.{name}", *given)
    assert "Traceback" not in ended.stderr, ended.stderr
    assert ended.code == USER_ERROR_EXIT_CODE, ended.stderr
    (line,) = ended.stderr.splitlines()
    assert re.search(pattern, line), line
    assert line[-1] in ".?)", line
    assert list(tmp_path.iterdir()) == []
