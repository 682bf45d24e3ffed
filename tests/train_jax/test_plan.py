"""The command that plans: one real program on the smallest slice, and its complaints."""

import dataclasses
import os
import re
import subprocess
import sys
import time

import commands
import pytest
import tiny
from tpu_compiler import NEEDS_COMPILER

from train_jax import plan
from train_jax.command_line import USER_ERROR_EXIT_CODE
from train_jax.forecast import Forecast, Memory
from train_jax.mesh import MeshConfig
from train_jax.topology import slice_named

PLAN = ("train_jax.plan", "--config=tests/tiny.py:20")
EXAMPLES = "--config.data.examples=1437"

pytestmark = pytest.mark.timeout(300)


def number(text, pattern):
    match = re.search(pattern.replace("#", r"\s*([\d,.e+-]+)"), text)
    assert match, f"{pattern} in\n{text}"
    return float(match[1].replace(",", ""))


@NEEDS_COMPILER
def test_a_plan():
    finished = commands.shared().run(*PLAN, EXAMPLES, "--topology=v5e:2x2", "--price=1.2")
    assert (finished.code, finished.stderr) == (0, "")
    text = finished.stdout
    assert "v5e:2x2: 4 chips v5e, 4 cores, 4 devices; mesh data 4 x fsdp 1 x tensor 1" in text
    assert number(text, r"parameters# *\n") == 19_626
    assert number(text, "steps,# images") == 20 * 16
    assert "It fits" in text
    together = number(text, "worst moment, together# of")
    assert 0 < together <= number(text, "scratch#") + 0.01
    # The program trains: its products are those of the model, its gradients meet over the data.
    assert re.search(r"all-reduce over data .* times", text)
    cycles = number(text, r"\(# Mcycles\)") * 1e6
    assert 1e5 < cycles < 1e7
    assert number(text, "step# s") == pytest.approx(cycles / 1.5e9, rel=0.1)
    rate = number(text, "images/s per core#")
    assert rate == pytest.approx(16 / 4 / number(text, "step# s"), rel=0.01)
    days = number(text, r"\n  days#")
    assert days == pytest.approx(20 * number(text, "step# s") / 86_400, rel=0.01)
    assert number(text, "core-days#") == pytest.approx(4 * days, rel=0.01)
    assert "at 1.2 per chip-hour" in text
    assert "Nothing has been" in text


@NEEDS_COMPILER
def test_slices_are_compared():
    words = ("--compare=v3:1x1,v6e:1x1", "--price=2")
    finished = commands.shared().run(*PLAN, EXAMPLES, *words)
    assert finished.code == 0, finished.stderr
    told = re.findall(r"^(\S+): [\d,.]+ Mcycles$", finished.stderr, re.MULTILINE)
    assert told == ["v3:1x1", "v6e:1x1"]
    head, _, *rows = (
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in finished.stdout.splitlines()
        if line.startswith("|")
    )
    assert [row[:2] for row in rows] == [["v3:1x1", "yes"], ["v6e:1x1", "yes"]]
    assert head[-1] == "cost"
    assert all(len(row) == len(head) for row in rows)


@NEEDS_COMPILER
def test_a_plan_of_a_budget():
    words = ("--config.total=budget", "--config.budget.hours=2", "--config.data.examples=1437")
    finished = commands.shared().run(*PLAN, "--topology=v5e:1x1", *words)
    assert (finished.code, finished.stderr) == (0, "")
    steps = number(finished.stdout, "steps,# images") / 16
    seconds = number(finished.stdout, "step# s")
    # What is kept back, as by default.
    assert steps * seconds == pytest.approx(0.95 * 7200, rel=0.01)
    assert "as long as 2 hours afford" in finished.stdout


@pytest.mark.slow
@NEEDS_COMPILER
def test_what_does_not_fit_is_said():
    """A batch of which nothing fits; every way out is tried."""
    words = (*PLAN, EXAMPLES, "--topology=v5e:1x1", "--batch=4194304")
    finished = commands.shared().start(*words).finish(timeout_s=280)
    assert finished.code == plan.DOES_NOT_FIT_EXIT_CODE
    assert number(finished.stdout, "It does not fit:# GiB are missing on each device") > 1
    assert "take a larger slice" in finished.stdout


@pytest.mark.slow
@pytest.mark.timeout(900)
@NEEDS_COMPILER
def test_what_would_fit_is_said():
    """A batch that is a quarter too large, which recomputation or micro-batches bring in."""
    words = (*PLAN, EXAMPLES, "--topology=v5e:1x1", "--batch=98304")
    finished = commands.shared().start(*words).finish(timeout_s=840)
    assert finished.code == plan.DOES_NOT_FIT_EXIT_CODE
    missing = number(finished.stdout, "It does not fit:# GiB are missing on each device")
    together, usable = (number(finished.stdout, p) for p in ("together# of", r"together.* of#\n"))
    assert missing == pytest.approx(together - usable, abs=0.02)
    assert re.search(
        r"\nIt fits with --config\.model\.remat=full.* \(estimated step: [\d.e-]+ s\)",
        finished.stdout,
    )


@pytest.mark.parametrize(
    ("fits", "found"),
    [
        (lambda c: c.model.remat == "full", "It fits with --config.model.remat=full ("),
        (
            lambda c: c.mesh.fsdp == -1,
            "It fits with --config.mesh.data=-1 --config.mesh.fsdp=-1 --config.mesh.tensor=1 (",
        ),
        (
            lambda c: c.model.remat == "full" and c.mesh.fsdp == -1 and c.accumulate == 4,
            "--config.mesh.tensor=1 --config.accumulate=4 (",
        ),
        (lambda c: False, "take a larger slice"),
    ],
)
def test_the_least_change_that_fits_is_found(fits, found, monkeypatch):
    seen = []

    def forecast(config, chosen):
        seen.append(config)
        memory = Memory(1, 1, 1, 1, 1 if fits(config) else None, 2**30, 2**20)
        cycles = 10**9 if fits(config) else None
        return Forecast(
            chosen, {}, 1, 1, None, 1, memory, 1.0, None, cycles, (), 0, 0, "images", ()
        )  # fmt: skip

    monkeypatch.setattr(plan, "_forecast", forecast)
    config = tiny.make_config(batch_size=64)
    assert found in plan.remedy(config, slice_named("v5e:4x4"))
    assert config not in seen
    # What the config has already is not tried again: a minute of compilation each.
    seen.clear()
    both = dataclasses.replace(config, mesh=MeshConfig(data=-1, fsdp=-1))
    plan.remedy(both, slice_named("v5e:4x4"))
    assert both not in seen
    assert not any(one in seen[:i] for i, one in enumerate(seen))


def test_a_sweep_tries_meshes_then_policies_on_the_fastest(monkeypatch):
    cycles = {4: 10**9, 16: 2 * 10**9, 1: 3 * 10**9}
    seen = swept(monkeypatch, lambda config: cycles[config.mesh.fsdp])
    assert seen == [
        (1, 16, "names"),
        (4, 4, "names"),
        (16, 1, "names"),
        (4, 4, "dots"),
        (4, 4, "full"),
    ]


def test_a_sweep_goes_on_to_what_keeps_less_until_something_fits(monkeypatch):
    def fits_full(config):
        return 10**9 if config.model.remat == "full" and config.mesh.fsdp > 1 else None

    seen = swept(monkeypatch, fits_full)
    assert [remat for *_, remat in seen] == ["names"] * 3 + ["dots"] * 3 + ["full"] * 3
    assert len(set(seen)) == 9


def swept(monkeypatch, cycles):
    """Meshes and policies in the order in which a sweep tries them."""
    seen = []

    def forecast(config, chosen):
        seen.append((config.mesh.data, config.mesh.fsdp, config.model.remat))
        memory = Memory(1, 1, 1, 1, 1, 2**30, 0)
        return Forecast(
            chosen, {}, 1, 1, None, 1, memory, 1.0, 1.0, cycles(config), (), 0, 0, "images", ()
        )  # fmt: skip

    monkeypatch.setattr(plan, "_forecast", forecast)
    attempts = plan.sweep(tiny.make_config(batch_size=64), slice_named("v5e:4x4"))
    assert len(attempts) == len(seen)
    assert all(
        attempt.flags.endswith(f"remat={remat}")
        for attempt, (*_, remat) in zip(attempts, seen, strict=True)
    )
    return seen


@pytest.mark.parametrize(
    ("words", "pattern"),
    [
        ((*PLAN, EXAMPLES), "Give either --topology=SLICE or --compare=SLICE,SLICE"),
        ((*PLAN, "--topology=v3:2x2", "--compare=v5e:2x2"), "Give either --topology"),
        (("train_jax.plan", "--topology=v3:2x2"), "--config is missing; name an experiment file"),
        ((*PLAN, "--topology=v3"), "--topology: there is no slice 'v3'; write one as in v2:4x4"),
        ((*PLAN, "--compare=v3:2x2,v5e:4x4x4"), "gives 3 axes, and v5e has 2"),
        ((*PLAN, "--compare=v3:2x2,v5e:2x2", "--sweep"), "--sweep is for one slice"),
        ((*PLAN, "--topology=v3:2x2", "--timeout=0"), "--timeout=0 is no time; give minutes above"),
        (("train_jax.plan", "--config=no.py", "--topology=v3:2x2"), "there is no file 'no.py'"),
        ((*PLAN, "--topology=v3:2x2", "--batch=x"), "[Bb]atch.*x"),
        ((*PLAN, "--topology=v3:2x2", "--config.model.width=30"), "not a multiple of the 4 heads"),
    ],
)  # fmt: skip
def test_mistakes_are_one_sentence(words, pattern):
    finished = commands.shared().run(*words)
    assert finished.code == USER_ERROR_EXIT_CODE, finished.stderr
    (line,) = finished.stderr.splitlines()
    assert re.search(f"^Error: .*{pattern}", line), line


@NEEDS_COMPILER
@pytest.mark.parametrize(
    ("words", "pattern"),
    [
        ((EXAMPLES, "--batch=30"), "batch_size 30 does not split over 4 devices"),
        ((EXAMPLES, "--config.mesh.fsdp=3"), "does not fit 4 devices"),
        ((EXAMPLES, "--config.total=budget"), "'budget' and config.budget sets none; set"),
        ((EXAMPLES, "--timeout=0.001"), "has not finished the training step for v5e:2x2 within"),
        (("--config.total='2 epochs'",), r"How many examples digits \(train\) has is not known"),
    ],
)
def test_what_cannot_run_is_one_sentence(words, pattern):
    finished = commands.shared().run(*PLAN, "--topology=v5e:2x2", *words)
    assert finished.code == USER_ERROR_EXIT_CODE, finished.stderr
    (line,) = finished.stderr.splitlines()
    assert re.search(pattern, line), line


def test_without_the_compiler():
    finished = commands.shared().run(*PLAN, "--topology=v3:2x2", missing=["libtpu"])
    assert finished.code == USER_ERROR_EXIT_CODE
    assert re.fullmatch(
        r"Error: The TPU compiler \(libtpu\) is not installed.* pip install -e '\.\[plan\]'\.\n",
        finished.stderr,
    )


def test_who_waits_is_told_what_for(monkeypatch, capsys):
    monkeypatch.setattr(plan, "_WORD_EVERY_S", 0.01)
    with plan._patience("the training step for v6e:2x2", None):
        time.sleep(0.1)
    told = capsys.readouterr().err
    assert told.startswith("Still compiling the training step for v6e:2x2, for 0 minutes.\n")
    time.sleep(0.05)
    assert capsys.readouterr().err == ""


@NEEDS_COMPILER
def test_other_commands_are_silent_where_the_compiler_is():
    """libtpu finds no TPU and says so loudly, were it not answered."""
    code = (
        "import jax; from train_jax import command_line; "
        "command_line.exit_code(lambda: print(jax.devices()[0].platform))"
    )
    environ = {name: value for name, value in os.environ.items() if name != "JAX_PLATFORMS"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=commands.ROOT, env=environ, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "cpu\n", "")
