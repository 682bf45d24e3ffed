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
# # Fine-tune a Vision Transformer, from weights to predictions
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/vit-pose-jax/vit-pose-jax/blob/main/colabs/finetune_vit.ipynb)
#
# Pre-train once on many images, fine-tune on the few that you have: this is how the
# [Vision Transformer](https://arxiv.org/abs/2010.11929) is used. This notebook does both in small and
# looks at every step:
#
# 1. the images, and how they become patches,
# 2. a pre-trained model,
# 3. what of it is kept: the position table is interpolated, the head begins at zero,
# 4. fine-tuning, and its learning rate,
# 5. predictions, mistakes, a confusion matrix,
# 6. the same with published weights, where there is a network.
#
# It takes a few minutes on two CPU cores. The images are scikit-learn's handwritten digits, which
# need no download.

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
import dataclasses
import json
import math
import tempfile
from pathlib import Path

import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import train_jax

ROOT = Path(train_jax.__file__).parents[1]  # the repository, with the experiments
sys.path.insert(0, str(ROOT))
runs = Path(tempfile.mkdtemp())

BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#8A8A8A"
plt.rcParams.update({"figure.dpi": 90, "font.size": 9, "axes.titlesize": 9})
plt.rcParams.update({"axes.spines.top": False, "axes.spines.right": False})
plt.rcParams.update({"figure.constrained_layout.use": True, "legend.frameon": False})


def show(images, titles=None, *, columns=10, size=0.9, grid=None, colours=None):
    """Pictures in rows, with lines every `grid` pixels."""
    rows = -(-len(images) // columns)
    height = rows * (size + (0.25 if titles is not None else 0))
    _, panels = plt.subplots(rows, columns, figsize=(columns * size, height), squeeze=False)
    for panel in panels.flat:
        panel.axis("off")
    for i, (panel, image) in enumerate(zip(panels.flat, images, strict=False)):
        panel.imshow(image, vmin=0, vmax=255, interpolation="nearest")
        for line in range(grid or 0, image.shape[0], grid or 1) if grid else ():
            panel.axhline(line - 0.5, color=ORANGE, lw=1)
            panel.axvline(line - 0.5, color=ORANGE, lw=1)
        if titles is not None:
            panel.set_title(titles[i], pad=2, color=colours[i] if colours else "black")
    plt.show()


# %% [markdown]
# ## 1. Images
#
# Pre-training sees six of the digits (0, 2, 3, 5, 6, 8) with all their labels. The other four are
# the new task, with *five labelled images each*. These are all the labels that fine-tuning gets:

# %%
from experiments.quickstart import finetune, pretrain
from train_jax.config import from_config
from vit_jax.data.decode import Picture
from vit_jax.data.pipeline import data_source
from vit_jax.task import ViTTrainConfig

before = from_config(ViTTrainConfig, pretrain.get_config().to_dict())
after = from_config(ViTTrainConfig, finetune.get_config().to_dict())
few = data_source(after.data)
examples = sorted((few[i] for i in range(len(few))), key=lambda one: one["labels"])
pixels = [Picture(one["image"]).pixels for one in examples]
show(pixels, [few.class_names[one["labels"][0]] for one in examples])

# %% [markdown]
# They are 8 x 8 pixels. In training every image is cut out at random and resized each time it is
# seen (*inception crop*, here with at least half of the area), in evaluation it is resized as a
# whole (*squash*, the first picture below). Pre-training was at 16 x 16 pixels; fine-tuning is at a higher
# resolution, 24 x 24, as in the paper. The patches stay at 4 x 4 pixels, so there are 36 of them
# instead of 16. A patch, flattened and multiplied by a matrix, is one token.

# %%
from train_jax.data.draws import Draws
from vit_jax.data.preprocess import preprocess

whole = preprocess(after.evaluations["test"].preprocess, pixels[0], draws=None)
crops = [preprocess(after.data.preprocess, pixels[0], draws=Draws(i)) for i in range(5)]
titles = ["evaluation", *(f"training, {i}" for i in range(1, 6))]
show([whole, *crops], titles, columns=6, size=1.5, grid=4)
print("grids of patches:", before.model.grid((16, 16, 3)), "->", after.model.grid((24, 24, 3)))

# %% [markdown]
# ## 2. A pre-trained model
#
# The model is a ViT of 0.2 million parameters: width 64, four layers, four heads. The recipe of
# pre-training is that of the paper's Table 3: Adam, warm-up, linear decay, weight decay, a sigmoid
# per class, and a hidden layer before the head. `fit` is the whole run; the command
# `python -m vit_jax.train --config=experiments/quickstart/pretrain.py --workdir=DIR` calls it too.

# %%
from train_jax.loop import fit
from vit_jax.task import make_task

result = fit(make_task(before), before, str(runs / "pretrain"))
print(f"{result.step} steps, {result.examples_per_second:,.0f} images/s,", end=" ")
print(f"test accuracy on the six digits {result.metrics['test/accuracy']:.1%}")

# %% [markdown]
# ## 3. What is kept
#
# Fine-tuning starts from a checkpoint by a *plan* that explains every parameter on both sides. If
# a single name or shape were unexplained, the run would be refused.

# %%
from train_jax.transfer import draft_plan
from vit_jax.init_from import open_source
from vit_jax.models import api
from vit_jax.transfer import TransferConfig, transfer_rules

shape = (24, 24, 3)
fresh, _ = api.init(after.model, jax.random.key(0), shape)
source = open_source(runs / "pretrain")
rules = transfer_rules(
    source.shapes,
    fresh,
    source_grid=source.grid,
    target_grid=after.model.grid(shape),
    config=TransferConfig(),
)
plan = draft_plan(source.shapes, fresh, rules)
for status in ("loaded", "resized", "zero-initialised", "dropped"):
    names = plan.names(status)
    print(f"{status:16} {len(names):2}", ", ".join(names[:4]), "..." if len(names) > 4 else "")

# %% [markdown]
# **The position table.** Each of the 16 patches has learnt a vector that says where it is. For 36
# patches there are no such vectors, so they are interpolated between the old ones *by their place in
# the image*, corners to corners. The picture: how similar each patch's vector is to that of the
# patch marked by the circle, in the old grid and in the new one.

# %%
from vit_jax.embedding_analysis import position_similarity
from vit_jax.posemb import resize_posemb
from vit_jax.weights import POSITION_TABLE

wanted = {POSITION_TABLE: source.shapes[POSITION_TABLE]}
table = np.asarray(source.read(wanted)[POSITION_TABLE])
resized = resize_posemb(table, old_grid=(4, 4), new_grid=(6, 6), has_class_row=True)
print(f"position table {table.shape} -> {resized.shape}: the class token's row and the patches'")

_, panels = plt.subplots(1, 4, figsize=(9, 2.3))
corners = {"corner": (0, 0), "inside": (1, 2)}
for i, (name, (row, column)) in enumerate(corners.items()):
    for j, (values, side) in enumerate(((table, 4), (resized, 6))):
        similar = position_similarity(values, (side, side), has_class_row=True)
        place = [round(x * (side - 1) / 3) for x in (row, column)]
        panel = panels[2 * i + j]
        image = panel.imshow(similar[tuple(place)], vmin=-1, vmax=1, cmap="RdBu_r")
        panel.plot(place[1], place[0], "o", mfc="none", mec="black", ms=9)
        panel.set(title=f"{name}, {side} x {side} patches", xticks=[], yticks=[])
plt.colorbar(image, ax=panels, shrink=0.8, label="cosine similarity")
plt.show()

# %% [markdown]
# **The head.** The head of pre-training, hidden layer included, is thrown away: its six classes are
# not ours. A new one begins at *zero*, so that the first step is not disturbed by random weights. The
# model then knows nothing, and says so: all classes are equally likely, and the loss is ln 4.

# %%
from train_jax.transfer import apply_plan
from vit_jax.data.on_device import normalise

head = {name: float(np.abs(leaf).max()) for name, leaf in fresh["head"].items()}
start = apply_plan(plan, source.read(source.shapes), fresh)
batch = np.stack([preprocess(after.evaluations["test"].preprocess, p, draws=None) for p in pixels])
logits, *_ = api.apply(after.model, start, {}, normalise(jnp.asarray(batch)))
loss = -jax.nn.log_softmax(logits).mean()
print(f"largest weight of the new head {head['kernel']}, largest logit {jnp.abs(logits).max()}")
print(f"cross-entropy {loss:.4f}; ln 4 = {math.log(4):.4f}")

# %% [markdown]
# ## 4. Fine-tuning
#
# As in the paper's Table 4: SGD with momentum, gradients clipped to length 1, no weight decay, a
# short warm-up and a cosine to zero. The rate of the very first step is exactly zero.

# %%
from train_jax.schedules import make_schedule, steps_of

total = steps_of(after.total)
rate = make_schedule(after.schedule, total, lambda text: steps_of(text, total_steps=total))
steps = np.arange(total)
_, panel = plt.subplots(figsize=(5, 1.9))
panel.plot(steps, [float(rate(step)) for step in steps], ".-", color=GREEN, ms=4)
panel.set(xlabel="step", ylabel="learning rate", title=str(after.optimizer.name).upper())
plt.show()

# %% [markdown]
# Two runs with the same recipe and the same 20 images: one from the pre-trained weights, one from
# random ones.

# %%
after = dataclasses.replace(after, log_every="3 steps", evaluate_every="10 percent")
starts = {"fine-tuned": str(runs / "pretrain"), "from scratch": None}
results = {}
for name, init_from in starts.items():
    config = dataclasses.replace(after, init_from=init_from)
    results[name] = fit(make_task(config), config, str(runs / name))
    print(f"{name:13} test accuracy {results[name].metrics['test/accuracy']:.1%}")

# %%
_, (left, right) = plt.subplots(1, 2, figsize=(9, 2.4))
for name, shade in zip(results, (BLUE, ORANGE), strict=True):
    lines = [json.loads(line) for line in (runs / name / "metrics.jsonl").open()]
    train = [line for line in lines if "loss" in line]
    test = [line for line in lines if "test/accuracy" in line]
    left.plot([line["step"] for line in train], [line["loss"] for line in train], color=shade)
    right.plot(
        [line["step"] for line in test],
        [100 * line["test/accuracy"] for line in test],
        "o-",
        ms=3,
        color=shade,
        label=name,
    )
left.axhline(math.log(4), color=GREY, ls=":")
left.annotate("ln 4", (total * 0.97, math.log(4)), va="bottom", ha="right", color=GREY)
left.set(xlabel="step", ylabel="training loss", ylim=(0, 1.6))
right.set(xlabel="step", ylabel="test accuracy, %", ylim=(0, 100))
right.legend(loc="lower right")
plt.show()

# %% [markdown]
# ## 5. Predictions
#
# `open_classifier` reads a checkpoint with all that is between it and people: the preprocessing of
# its evaluation, and the names of its classes.

# %%
from vit_jax.classifier import make_scorer, open_classifier

classifier = open_classifier(str(runs / "fine-tuned"))
held_out = data_source(after.evaluations["test"])
examples = [held_out[i] for i in range(len(held_out))]
truth = np.array([one["labels"][0] for one in examples])
pictures = [Picture(one["image"]).pixels for one in examples]
inputs = np.stack([preprocess(classifier.preprocess, p, draws=None) for p in pictures])
scores = make_scorer(classifier)(inputs)
predicted, names = scores.argmax(-1), classifier.class_names
print(f"{len(truth)} images, {(predicted == truth).mean():.1%} right; classes {', '.join(names)}")

chosen = range(20)
titles = [f"{names[predicted[i]]}  {scores[i].max():.0%}" for i in chosen]
colours = [GREEN if predicted[i] == truth[i] else ORANGE for i in chosen]
show([inputs[i] for i in chosen], titles, colours=colours)

# %% [markdown]
# The mistakes, the most confident first: *what it is → what the model says*. Some are hard for people
# too.

# %%
wrong = sorted(np.flatnonzero(predicted != truth), key=lambda i: -scores[i].max())[:10]
titles = [f"{names[truth[i]]} → {names[predicted[i]]}  {scores[i].max():.0%}" for i in wrong]
show([inputs[i] for i in wrong], titles, colours=[ORANGE] * len(wrong))

# %%
confusion = np.zeros((len(names), len(names)), int)
np.add.at(confusion, (truth, predicted), 1)
_, panel = plt.subplots(figsize=(3, 2.8))
panel.imshow(confusion, cmap="Blues", vmin=0)
for (row, column), count in np.ndenumerate(confusion):
    dark = count > confusion.max() / 2
    panel.text(column, row, count, ha="center", va="center", color="white" if dark else "black")
panel.set(xticks=range(len(names)), xticklabels=names, xlabel="predicted")
panel.set(yticks=range(len(names)), yticklabels=names, ylabel="true")
panel.spines[:].set_visible(False)
plt.show()

# %% [markdown]
# ## 6. Published weights
#
# Where there is a network, the cells below fetch a published ViT-Ti/16 (AugReg, 22 MB: pre-trained on
# ImageNet-21k, fine-tuned on ImageNet). An `.npz` file stands wherever a run's directory does. Without
# a network they do nothing.

# %%
import urllib.request

ADDRESS = (
    "https://storage.googleapis.com/vit_models/augreg/Ti_16-i21k-300ep-lr_0.001-aug_none-"
    "wd_0.03-do_0.0-sd_0.0--imagenet2012-steps_20k-lr_0.03-res_224.npz"
)
published = runs / "Ti_16.npz"
try:
    with urllib.request.urlopen(ADDRESS, timeout=20) as stream:
        published.write_bytes(stream.read())
    print(f"{published.stat().st_size / 1e6:.0f} MB")
except OSError as error:
    published = None
    print(f"There is no network ({error}); the rest is passed over.")

# %%
from sklearn.datasets import load_sample_images

from vit_jax.classifier import best

if published:
    imagenet = open_classifier(str(published))
    photographs = load_sample_images().images
    seen = np.stack([preprocess(imagenet.preprocess, one, draws=None) for one in photographs])
    rows = make_scorer(imagenet)(seen)
    top = [
        "\n".join(f"{imagenet.class_names[i][:24]} {row[i]:.0%}" for i in best(row, 3))
        for row in rows
    ]
    show(list(seen), top, columns=2, size=2.6)

# %% [markdown]
# And the same fine-tuning from these weights: `init_from` is the file, the model that of the file
# with our head, the images 64 x 64 pixels. Its position table is resized from 14 x 14 to 4 x 4
# patches.

# %%
from vit_jax.models.variants import config_for


def at(data, size):
    return dataclasses.replace(data, preprocess=dataclasses.replace(data.preprocess, size=size))


if published:
    config = dataclasses.replace(
        after,
        model=config_for("Ti/16", num_classes=4),
        data=at(after.data, 64),
        evaluations={"test": at(after.evaluations["test"], 64)},
        init_from=str(published),
    )
    result = fit(make_task(config), config, str(runs / "published"))
    print(f"from published weights: test accuracy {result.metrics['test/accuracy']:.1%}")

# %% [markdown]
# ## Where to go from here
#
# * Your own images: a directory `{split}/{class}/*.jpg` is a data set, `source="folder:/data/pets"`.
# * The paper's runs: `python -m vit_jax.train --config=experiments/vit/finetune.py:L/16,cifar100
#   --config.init_from=ViT-L_16.npz --workdir=DIR`.
# * Predictions on the command line: `python -m vit_jax.predict cat.jpg --checkpoint=DIR`.
# * What the model looks at: [inside_a_vit.ipynb](inside_a_vit.ipynb).
