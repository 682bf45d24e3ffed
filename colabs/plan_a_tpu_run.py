# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Plan a TPU run and read its budget
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/vit-pose-jax/vit-pose-jax/blob/main/colabs/plan_a_tpu_run.ipynb)
#
# Before a run: does it fit the slice, how long does it take, what does it cost? After it: what was
# the time spent on? This notebook
#
# 1. compiles the training step of a ViT-B/16 for TPU slices that are not there, and reads off
#    memory, communication and an estimate of time;
# 2. gives a small run a budget instead of a number of steps;
# 3. reads the ledger that every run keeps;
# 4. kills a run, starts it again, and finds the lost work in the ledger;
# 5. makes the report of both runs, and prints the commands that would start one on a slice.
#
# It needs no TPU, and takes a few minutes on two CPU cores.

# %%
# On Colab this fetches and installs the project; where it is importable, nothing happens.
import glob
import importlib.util
import shutil
import subprocess
import sys

if importlib.util.find_spec("train_jax") is None:
    tpu = glob.glob("/dev/accel*") + glob.glob("/dev/vfio/[0-9]*")
    extras = "colab,tpu" if tpu else "colab,cuda" if shutil.which("nvidia-smi") else "colab"
    address = "https://github.com/vit-pose-jax/vit-pose-jax"
    subprocess.run(["git", "clone", "--quiet", "--depth=1", address], check=True)
    pip = [sys.executable, "-m", "pip", "install", "--quiet"]
    subprocess.run([*pip, "--editable", f"vit-pose-jax[{extras}]"], check=True)
    sys.path.insert(0, "vit-pose-jax")

# %%
import jax

from train_jax.libtpu import quieten_without_tpu

quieten_without_tpu()
devices = jax.devices()
print(f"JAX {jax.__version__} on {len(devices)} x {devices[0].platform.upper()}", end=" ")
print(f"({devices[0].device_kind})")

# %%
import json
import os
import signal
import tempfile
import textwrap
import time
from pathlib import Path

import matplotlib.pyplot as plt

import train_jax

ROOT = Path(train_jax.__file__).parents[1]  # the repository, with the experiments
sys.path.insert(0, str(ROOT))

BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#8A8A8A"
plt.rcParams.update({"figure.dpi": 90, "font.size": 9, "axes.titlesize": 9})
plt.rcParams.update({"axes.spines.top": False, "axes.spines.right": False})
plt.rcParams.update({"figure.constrained_layout.use": True, "legend.frameon": False})

# %% [markdown]
# ## 1. A step, compiled for a slice that is not there
#
# The TPU compiler (`libtpu`) runs on any x86 Linux machine. It takes the very program that the
# training would run, for devices that exist only as a description, so that three things are exact:
# whether the program fits, how much memory it takes, and what is communicated. Time is an estimate.
#
# The config is that of the paper's ViT-B/16 on JFT-300M, Table 3: 4,096 images a step, 7 epochs.

# %%
from experiments.vit import pretrain
from train_jax.config import from_config
from vit_jax.task import ViTTrainConfig

config = from_config(ViTTrainConfig, pretrain.get_config("B/16,jft300m").to_dict())
print(f"{config.total} at batch {config.batch_size:,}; {config.optimizer}")
print(f"{config.schedule}")

# %%
from train_jax.forecast import forecast
from train_jax.plan_text import compared, report
from train_jax.topology import slice_named, use_compiler

plans = {}
if importlib.util.find_spec("libtpu") is None:
    print("The TPU compiler is not installed: `pip install libtpu` (0.7 GB unpacked) and run this")
    print("notebook again. Until then the cells of this section do nothing.")
else:
    use_compiler()
    for name in ("v3:16x16", "v5e:16x16", "v5e:2x2"):
        began = time.perf_counter()
        plans[name] = forecast(config, slice_named(name))
        print(f"{name:10} compiled in {time.perf_counter() - began:.0f} s")

# %%
if plans:
    print(report(plans["v3:16x16"], price=None))

# %% [markdown]
# The same as a picture, for three slices. What a program takes of a device's memory is mostly
# activations and gradients; parameters and optimiser state are small because each device holds a
# part of them (`fsdp`). Four chips of a v5e are too few for a batch of 4,096: the program does not
# fit, and what is missing is known before any money is spent.

# %%
GIB = 2**30
PARTS = (("parameters", "params"), ("optimiser", "optimizer"), ("batch", "rest"))


def draw_memory(panel, plans):
    for row, plan in enumerate(plans.values()):
        memory, left = plan.memory, 0.0
        shares = [(label, getattr(memory, part) / GIB) for label, part in PARTS]
        shares.append(("activations, gradients", memory.total / GIB - sum(s for _, s in shares)))
        for (label, size), shade in zip(shares, (BLUE, GREEN, GREY, ORANGE), strict=True):
            panel.barh(row, size, left=left, color=shade, label=label if row == 0 else None)
            left += size
        panel.plot([memory.usable / GIB] * 2, [row - 0.45, row + 0.45], color="black", lw=2)
        verdict = "fits" if plan.fits else f"lacks {memory.missing / GIB:.1f} GiB"
        panel.text(max(left, memory.usable / GIB) + 0.6, row, verdict, va="center")
    panel.set(yticks=range(len(plans)), yticklabels=plans, xlabel="GiB a device; | what it has")
    panel.set(xlim=(0, 1.25 * max(plan.memory.total / GIB for plan in plans.values())))
    panel.invert_yaxis()
    panel.legend(loc="lower right", bbox_to_anchor=(1.0, 0.3))


if plans:
    draw_memory(plt.subplots(figsize=(9, 2.4))[1], plans)
    plt.show()

# %% [markdown]
# The paper counts cost in *core-days*: cores times days. The table has the estimates of all slices
# on which the step fits; the paper's own count for B/16 is 224 exaFLOP (Table 6).

# %%
if plans:
    print(compared(list(plans.values()), price=None))

# %% [markdown]
# On the command line this is `python -m train_jax.plan --config=FILE --compare=SLICE,SLICE`;
# `--sweep` tries meshes and remat policies, `--price=` adds the cost in money.
#
# ## 2. A budget instead of a number of steps
#
# *How long should I train?* is often *what may it cost?* With `total="budget"` the run measures its
# own steps and evaluations first, and takes as many steps as the budget affords. The learning-rate
# schedule ends with them, which it would not if the run were just cut off.
#
# The run: the quick start's ViT of 0.2 million parameters on scikit-learn's digits, for 45 seconds.

# %%
import dataclasses

from experiments.quickstart import pretrain as small
from train_jax.budget import BudgetConfig, chip_name, make_limit
from train_jax.errors import UserError
from train_jax.loop import fit
from train_jax.settle import settle
from vit_jax.task import make_task

config = from_config(ViTTrainConfig, small.get_config().to_dict())
config = dataclasses.replace(
    config,
    total="budget",
    log_every="5 percent",
    schedule=dataclasses.replace(config.schedule, warmup="10 percent"),
    checkpoint=dataclasses.replace(config.checkpoint, every="100 percent"),
)
workdir = Path(tempfile.mkdtemp()) / "budget"
# A budget that would be gone before the first step is refused, in one sentence; then twice as much.
for seconds in (45, 90, 180, 360):
    budget = BudgetConfig(hours=seconds / 3600, reserve=0.2)
    try:
        settled = settle(make_task, dataclasses.replace(config, budget=budget), str(workdir))
        break
    except UserError as error:
        print(error)

record = json.loads((workdir / "budget.json").read_text())
for what, measured in record["measured_seconds"].items():
    print(f"measured: {what:10} {measured:8.4f} s")
print(f"{seconds} seconds afford {settled.total}")

# %%
result = fit(make_task(settled), settled, str(workdir))
spent = make_limit(budget, chip_name()).share(result.spent)
print(
    f"{result.step:,} steps, {result.spent.seconds:.1f} of {seconds} s spent ({spent:.0%}),",
    end=" ",
)
print(f"test accuracy {result.metrics['test/accuracy']:.1%}")

# %% [markdown]
# A share of the budget is kept back for what cannot be measured beforehand: here 20 %
# (`budget.reserve`), because seconds on a shared machine differ; in a run of days the usual 5 % are
# enough. Should the machine become slower than that, the run is evaluated, saved and ended when the
# budget is spent, and says so. The number of steps is recorded in `budget.json` and holds for the
# whole run, whatever restarts come. From the run's `metrics.jsonl`:

# %%
lines = [json.loads(line) for line in (workdir / "metrics.jsonl").open()]
lines = [line for line in lines if "loss" in line]
steps = [line["step"] for line in lines]
figure, panels = plt.subplots(1, 3, figsize=(9, 2.4))
for panel, key, shade in zip(
    panels, ("loss", "learning_rate", "goodput"), (BLUE, GREEN, ORANGE), strict=True
):
    panel.plot(steps, [line[key] for line in lines], color=shade)
    panel.set(title=key.replace("_", " "), xlabel="step", ylim=(0, None))
plt.show()

# %% [markdown]
# ## 3. The ledger
#
# Every second of every core is on the ledger, by what it went to. *Goodput* is the share that went
# into training steps that count. A run of a minute spends much of them on starting and compiling;
# in a run of days both vanish, and what is left to look at is input, evaluation and checkpoints.

# %%
LABELS = {
    "train": "training steps",
    "start": "start: data, restore",
    "compile": "compiling",
    "input": "waiting for input",
    "evaluate": "evaluations",
    "checkpoint": "checkpoints",
    "lost": "lost: done again",
}
SHADES = dict(
    zip(LABELS, (BLUE, "#56B4E9", "#E69F00", ORANGE, GREEN, "#CC79A7", "black"), strict=True)
)


def draw_ledger(panel, rows):
    for row, spent in enumerate(rows.values()):
        left = 0.0
        for kind, seconds in spent.by_kind().items():
            label = LABELS[kind] if row == 0 else None
            panel.barh(row, seconds, left=left, color=SHADES[kind], label=label)
            left += seconds
        panel.text(left * 1.01, row, f"goodput {spent.goodput():.0%}", va="center")
    panel.set(yticks=range(len(rows)), yticklabels=rows, xlabel="core-seconds")
    panel.set(xlim=(0, 1.2 * max(sum(s.by_kind().values()) for s in rows.values())))
    panel.invert_yaxis()
    figure = panel.get_figure()
    figure.legend(loc="outside lower center", ncols=4, fontsize=8)


draw_ledger(plt.subplots(figsize=(9, 2.0))[1], {f"{seconds} seconds": result.spent})
plt.show()
print(result.spent.summary())

# %% [markdown]
# ## 4. A run that is killed
#
# The command below saves every 200 steps. It is killed with SIGKILL somewhere after step 500, as a
# preempted machine would be, and started again with the same command: it goes on from the last
# checkpoint and ends in the same bits as a run that was left alone. The steps between the checkpoint
# and the kill are done twice, and the ledger says what that cost.

# %%
killed = workdir.parent / "killed"
command = [sys.executable, "-m", "vit_jax.train", "--config=experiments/quickstart/pretrain.py"]
command += ["--config.checkpoint.every=200 steps", "--config.log_every=20 steps"]
command += ["--config.evaluate_every=400 steps", f"--workdir={killed}"]
# On the CPU, because this notebook may hold the accelerator.
start = {"cwd": ROOT, "env": {**os.environ, "JAX_PLATFORMS": "cpu"}, "stderr": subprocess.DEVNULL}


def ledger():
    file = killed / "ledger.json"
    return json.loads(file.read_text()) if file.exists() else {"step": 0}


run = subprocess.Popen(command, **start)
while ledger()["step"] < 500 and run.poll() is None:
    time.sleep(0.02)
run.send_signal(signal.SIGKILL)
print(f"ended with {run.wait()} after step {ledger()['step']}")
print("saved:", *sorted(int(path.name) for path in (killed / "checkpoints").glob("[0-9]*")))

# %%
print(f"started again: exit code {subprocess.run(command, **start).returncode}")

# %%
from train_jax.checkpoint import read_meta
from train_jax.ledger_file import read_sign_of_life

whole = read_sign_of_life(killed)
draw_ledger(
    plt.subplots(figsize=(9, 2.4))[1],
    {"killed once": whole.spent, f"{seconds} seconds": result.spent},
)
plt.show()
meta = read_meta(str(killed))
print(f"step {meta['step']} of {meta['total_steps']}: {whole.spent.summary()}")

# %% [markdown]
# ## 5. The report, and the launch
#
# `train_jax.report` makes one HTML page of a run's working directory, or of several: curves, where
# the time went, the budget, results and config. The command is `python -m train_jax.report WORKDIR
# --output=report.html`; here it is in a cell, with both runs:

# %%
from train_jax import web_page
from train_jax.report import page

web_page.in_cell(page([str(workdir), str(killed)]), height=900)

# %% [markdown]
# `experiments/launch/tpu_vm.sh` queues for a slice, installs, starts, looks every minute, starts
# again what was preempted, and gives the slice back. `--dry_run` prints the commands and does
# nothing:

# %%
train = "python -m vit_jax.train --config=experiments/vit/pretrain.py:B/16,imagenet21k --workdir=gs://bucket/run"
flags = "--name=vit-b16 --zone=europe-west4-a --type=v3-512 --spot --dry_run"
launch = ["bash", "experiments/launch/tpu_vm.sh", "run", *flags.split(), "--", *train.split()]
done = subprocess.run(launch, cwd=ROOT, capture_output=True, text=True, check=True)
for line in done.stdout.splitlines()[:6]:  # then it watches
    print(textwrap.fill(line, 110, subsequent_indent="    ", break_on_hyphens=False))
