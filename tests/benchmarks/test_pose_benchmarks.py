"""The benchmarks of the lifter run, at sizes at which nothing is measured."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def output(name, *arguments):
    """What a benchmark prints; its processes are given a device per core, as for a user."""
    environment = {k: v for k, v in os.environ.items() if k != "JAX_NUM_CPU_DEVICES"}
    command = [sys.executable, BENCHMARKS / name, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow  # compiles everything once
def test_the_throughput_of_ours_is_measured_alone_without_torch():
    text = output("pose_throughput.py", "--quick", "--widths=3,3")
    if "absent" in text:
        assert "pip install torch" in text
    for kind in ("training", "inference", "evaluation", "streaming"):
        assert re.search(rf"^3,3 +{kind} +[1-9][\d,]*/ *[1-9]", text, re.MULTILINE), text
    assert re.search(r"^3,3 +host +[\d.]+ ms of a step", text, re.MULTILINE)


@pytest.mark.slow  # compiles everything once
def test_both_strided_forms_are_measured():
    sizes = ("--widths=3,3", "--batch=4", "--channels=8", "--rounds=1")
    text = output("pose_strided_forms.py", *sizes)
    assert re.search(r"^3,3 .*convolution / product \d", text, re.MULTILINE)
