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
# # Look inside a Vision Transformer
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/vit-pose-jax/vit-pose-jax/blob/main/colabs/inside_a_vit.ipynb)
#
# Section 4.5 of the [paper](https://arxiv.org/abs/2010.11929) asks what a Vision Transformer has
# learnt. This notebook trains a small one on a task whose answer is known, *where in the picture
# is the digit?*, and looks with the paper's tools:
#
# 1. the pictures, and the model,
# 2. the filters that embed patches,
# 3. the position embeddings,
# 4. the attention of single heads,
# 5. attention rollout: is it where the digit is?
# 6. how far the heads look,
# 7. all of it as an interactive page,
# 8. the same for published weights, where there is a network.
#
# It takes a few minutes on two CPU cores, and nothing is downloaded before section 8.

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
import tempfile
from pathlib import Path

import cv2
import matplotlib.pyplot as plt
import numpy as np

runs = Path(tempfile.mkdtemp())
BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#8A8A8A"
plt.rcParams.update({"figure.dpi": 90, "font.size": 9, "axes.titlesize": 9})
plt.rcParams.update({"axes.spines.top": False, "axes.spines.right": False})
plt.rcParams.update({"figure.constrained_layout.use": True, "legend.frameon": False})


def panels_of(rows, columns, *, size):
    """Panels for pictures, size inches each."""
    _, panels = plt.subplots(rows, columns, figsize=(columns * size, rows * size), squeeze=False)
    for panel in panels.flat:
        panel.axis("off")
    return panels


# %% [markdown]
# ## 1. Pictures whose answer has a place
#
# scikit-learn comes with 8 x 8 handwritten digits and two photographs. Every picture below is a
# piece of a photograph of 32 x 32 pixels, with a digit (0, 1, 4 or 7) of 12 x 12 pixels somewhere
# in it. The label is the digit; the place is not told. To read the label, the model has to find it.
# (Digits lie on the borders of patches, which makes the task easy enough for a minute of training.)

# %%
from sklearn.datasets import load_digits, load_sample_images

SIDE, DIGIT, PATCH = 32, 12, 4
photographs = load_sample_images().images
digits = load_digits()
rng = np.random.default_rng(0)


def picture_of(digit):
    """A picture, uint8 (32, 32, 3), and the top left corner of its digit."""
    photograph, size = photographs[rng.integers(2)], int(rng.integers(60, 180))
    y, x = (int(rng.integers(side - size)) for side in photograph.shape[:2])
    piece = photograph[y : y + size, x : x + size]
    picture = 0.6 * cv2.resize(piece, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    ink = cv2.resize(digit / 16, (DIGIT, DIGIT), interpolation=cv2.INTER_CUBIC).clip(0, 1)[
        ..., None
    ]
    corner = PATCH * rng.integers((SIDE - DIGIT) // PATCH + 1, size=2)
    place = tuple(slice(c, c + DIGIT) for c in corner)
    picture[place] = (1 - ink) * picture[place] + ink * np.array([255, 230, 90])
    return picture.astype(np.uint8), corner


# %% [markdown]
# They are written as files `{split}/{class}/*.png`, which is a data set as it is
# (`source="folder:..."`): your own images go the same way.

# %%
kept = [i for i in rng.permutation(len(digits.target)) if digits.target[i] in (0, 1, 4, 7)]
corners, files = {}, {"test": [], "train": []}
for number, i in enumerate([*kept[:150], *(4 * kept[150:])]):
    split = "test" if number < 150 else "train"
    file = runs / "pictures" / split / str(digits.target[i]) / f"{number}.png"
    file.parent.mkdir(parents=True, exist_ok=True)
    pixels, corners[file] = picture_of(digits.images[i])
    cv2.imwrite(str(file), cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))
    files[split].append(file)

print(*(f"{len(paths):,} pictures to {split} on" for split, paths in files.items()), sep=", ")
for panel, file in zip(panels_of(1, 8, size=1.1).flat, files["test"], strict=False):
    panel.imshow(cv2.imread(str(file))[..., ::-1])
    panel.set_title(file.parent.name, pad=2)
plt.show()

# %%
from train_jax.loop import fit
from train_jax.optimizers import Adam
from train_jax.schedules import CosineConfig
from train_jax.train_config import CheckpointConfig
from vit_jax.data.pipeline import DataConfig
from vit_jax.data.preprocess import Squash
from vit_jax.models.config import ViTConfig
from vit_jax.task import ViTTrainConfig, make_task

data = {
    split: DataConfig(
        source=f"folder:{runs / 'pictures'}", split=split, preprocess=Squash(size=SIDE)
    )
    for split in files
}
model = ViTConfig(
    patch_size=(PATCH, PATCH),
    width=64,
    depth=4,
    mlp_dim=256,
    num_heads=4,
    num_classes=4,
    execution="unrolled",
    remat="none",
)
config = ViTTrainConfig(
    model=model,
    data=data["train"],
    evaluations={"test": data["test"]},
    batch_size=64,
    total="400 steps",
    flip=False,
    optimizer=Adam(weight_decay=0.03, clip_norm=1.0),
    schedule=CosineConfig(base=1e-3, warmup="10 percent"),
    checkpoint=CheckpointConfig(every="100 percent"),
    evaluate_every="100 percent",
)

# %%
result = fit(make_task(config), config, str(runs / "run"))
print(f"{result.examples_per_second:,.0f} images/s, test accuracy", end=" ")
print(f"{result.metrics['test/accuracy']:.1%}")

# %%
from vit_jax.classifier import open_classifier
from vit_jax.data.on_device import normalise

classifier = open_classifier(str(runs / "run"))
model, params = classifier.model, classifier.params
pixels = np.stack([cv2.imread(str(file))[..., ::-1] for file in files["test"]])
images = normalise(pixels)  # float32 in [-1, 1], as the model gets them
grid = model.grid(images.shape)
print(
    f"{len(images)} test pictures of {grid[0]} x {grid[1]} patches; {model.depth} layers of",
    end=" ",
)
print(f"{model.num_heads} heads")

# %% [markdown]
# ## 2. The filters that embed patches
#
# A patch of 4 x 4 RGB pixels is multiplied by a matrix of 48 x 64: 64 filters that look like small
# pictures themselves. Shown are their principal components, those with the most variance first, with
# their share of it (paper, Figure 7, left). After a minute of training they are still much of the noise
# that they began as: no component stands out. In published models the first ones are smooth (section 8).

# %%
from vit_jax.embedding_analysis import filter_components, position_similarity

components, shares = filter_components(np.asarray(params["embedding"]["kernel"]), 14)
panels = panels_of(1, 14, size=0.64).flat
for panel, component, share in zip(panels, components, shares, strict=True):
    panel.imshow((component - component.min()) / np.ptp(component))
    panel.set_title(f"{share:.0%}", pad=2, fontsize=7)
plt.show()

# %% [markdown]
# ## 3. Position embeddings
#
# Every place in the 8 x 8 grid has a vector that is added to its patch. They begin as noise. Each
# tile shows how similar the vector of its place is to those of all places (paper, Figure 7, centre).

# %%
from vit_jax.models import api


def tiles(params):
    """All similarities in one picture, a gap between the tiles."""
    table = np.asarray(params["Transformer"]["posembed_input"]["pos_embedding"])
    similar = position_similarity(table, grid, has_class_row=True)
    gaps = np.pad(similar, ((0, 0), (0, 0), (0, 1), (0, 1)), constant_values=np.nan)
    return gaps.transpose(0, 2, 1, 3).reshape(grid[0] * 9, grid[1] * 9)[:-1, :-1]


untrained, _ = api.init(model, jax.random.key(0), images.shape)
_, panels = plt.subplots(1, 2, figsize=(7, 3.2))
for panel, name, weights in zip(
    panels, ("before", "after training"), (untrained, params), strict=True
):
    picture = panel.imshow(tiles(weights), cmap="viridis", vmin=-1, vmax=1)
    panel.set_title(name)
    panel.axis("off")
plt.colorbar(picture, ax=panels, shrink=0.8, label="cosine similarity")
plt.show()

# %% [markdown]
# 400 steps on a task that does not ask for a place leave most of this noise as it was: only in the
# diagonal, a place with itself, is there full similarity. Published models, which have seen millions
# of pictures, show rows and columns clearly (section 8).
#
# ## 4. Attention of single heads
#
# `each_layer` runs the encoder block by block and hands every layer's attention weights to a
# function. Rows are queries: here the row of the class token, whose vector the head of the model
# reads. One picture; a row per layer, a column per head; bright is much attention.

# %%
from vit_jax.attention_maps import each_layer

of_class_token = each_layer(model, params, images[:8], lambda weights: weights[:, :, 0, 1:])
of_class_token = np.asarray(of_class_token)  # layers, pictures, heads, patches
print("layers, pictures, heads, patches:", of_class_token.shape)
panels = panels_of(4, 5, size=1.15)
for layer in range(4):
    panels[layer, 0].imshow(pixels[0])
    panels[layer, 0].set_title(f"layer {layer + 1}", pad=2)
    for head in range(4):
        weights = of_class_token[layer, 0, head].reshape(grid)
        panels[layer, head + 1].imshow(weights, cmap="inferno", vmin=0)
        panels[layer, head + 1].set_title(
            f"head {head + 1}, at most {weights.max():.2f}", pad=2, fontsize=7
        )
plt.show()

# %% [markdown]
# ## 5. Attention rollout
#
# Single heads are many, and what a layer attends to has itself been mixed by the layers below. *Rollout*
# (Abnar and Zuidema, 2020) averages the heads, adds half the identity for the residual connection, and
# multiplies the matrices of all layers: which share of each patch flows into the class token?

# %%
from vit_jax.attention_maps import in_batches, mean_distances, rollout

shares = in_batches(rollout, model, params, np.asarray(images), batch_size=50)
panels = panels_of(2, 8, size=1.1)
for i, (top, low) in enumerate(panels.T):
    top.imshow(pixels[i])
    bright = cv2.resize(shares[i] / shares[i].max(), (SIDE, SIDE), interpolation=cv2.INTER_NEAREST)
    low.imshow((pixels[i] / 255 * bright[..., None]).clip(0, 1))
plt.show()

# %% [markdown]
# Here it can be checked, because the places are known. Nine of the 64 patches hold the digit, so a
# model that looked everywhere alike would give them 14 %:

# %%


def on_digit(shares):
    """Which part of the patches' share lies on the digit, for every picture."""
    parts = []
    for share, file in zip(shares, files["test"], strict=True):
        row, column = corners[file] // PATCH
        parts.append(share[row : row + 3, column : column + 3].sum() / share.sum())
    return np.array(parts)


before = in_batches(rollout, model, untrained, np.asarray(images), batch_size=50)
last = np.asarray(each_layer(model, params, images, lambda w: w[:, :, 0, 1:].mean(1)))[-1]
for name, values in (
    ("untrained", before),
    ("rollout", shares),
    ("last layer", last.reshape(-1, *grid)),
):
    print(f"{name:10} {on_digit(values).mean():.0%} of the attention is on the digit")

# %% [markdown]
# Rollout is a rough measure: it knows nothing of the values that are carried, nor of the MLPs, and
# half the identity in every layer keeps a part of the share where it was. That it finds the digit
# here does not say that it explains every model.
#
# ## 6. How far heads look
#
# The distance between the patch that asks and those that answer, weighted by attention and averaged
# over patches and pictures: a dot per head (paper, Figure 7, right). The line is attention that is the
# same everywhere, from which an untrained model differs little. A digit can be anywhere, so all
# patches look far here; published models have heads in their lowest layers that look near (section 8).

# %%
from vit_jax.attention_maps import patch_distances


def draw_distances(panel, model, pixels_away, shape):
    layers = np.repeat(np.arange(1, model.depth + 1), model.num_heads)
    panel.plot(layers, pixels_away.ravel(), "o", color=BLUE, alpha=0.7, label="one head")
    panel.axhline(
        patch_distances(model, shape).mean(), color=GREY, ls=":", label="everywhere alike"
    )
    panel.set(xlabel="layer", ylabel="mean distance, pixels", ylim=(0, 1.3 * pixels_away.max()))
    panel.set_xticks(range(1, model.depth + 1))
    panel.legend(loc="lower right")


distances = in_batches(mean_distances, model, params, np.asarray(images), batch_size=50, axis=1)
_, panel = plt.subplots(figsize=(5, 2.4))
draw_distances(panel, model, distances.mean(1), images.shape)
plt.show()

# %% [markdown]
# ## 7. An interactive page
#
# One picture, every layer and head: choose a layer, a head, or rollout, and point at a patch to see
# what it attends to. The page is a single HTML file without any connection to a network; the
# command `python -m vit_jax.attention_page` writes it.

# %%
from vit_jax import attention_page

attention_page.show(str(files["test"][0]), classifier)

# %% [markdown]
# ## 8. A published model
#
# Where there is a network, the cells below fetch a ViT-Ti/16 that was trained on millions of
# photographs (AugReg, 22 MB), and look at scikit-learn's two. Without a network they do nothing.

# %%
import urllib.request

ADDRESS = (
    "https://storage.googleapis.com/vit_models/augreg/Ti_16-i21k-300ep-lr_0.001-aug_none-"
    "wd_0.03-do_0.0-sd_0.0--imagenet2012-steps_20k-lr_0.03-res_224.npz"
)
published = None
try:
    with urllib.request.urlopen(ADDRESS, timeout=20) as stream:
        (runs / "Ti_16.npz").write_bytes(stream.read())
    published = open_classifier(str(runs / "Ti_16.npz"))
    print(published.name, published.image_shape)
except OSError as error:
    print(f"There is no network ({error}); the rest is passed over.")

# %%
if published:
    kernel = np.asarray(published.params["embedding"]["kernel"])
    table = np.asarray(published.params["Transformer"]["posembed_input"]["pos_embedding"])
    similar = position_similarity(table, (14, 14), has_class_row=True)
    components, _ = filter_components(kernel, 14)
    panels = panels_of(2, 7, size=1.1)
    for panel, component in zip(panels.flat, components, strict=True):
        panel.imshow((component - component.min()) / np.ptp(component))
    plt.show()
    panels = panels_of(1, 6, size=1.4).flat
    for panel, place in zip(
        panels, [(0, 0), (3, 3), (3, 10), (7, 7), (10, 3), (13, 13)], strict=True
    ):
        panel.imshow(similar[place], vmin=-1, vmax=1)
        panel.set_title(f"row {place[0] + 1}, column {place[1] + 1}", pad=2)
    plt.show()

# %%
from vit_jax.data.preprocess import preprocess

if published:
    seen = np.stack([preprocess(published.preprocess, one, draws=None) for one in photographs])
    maps = in_batches(
        rollout, published.model, published.params, np.asarray(normalise(seen)), batch_size=2
    )
    panels = panels_of(1, 4, size=2.2).flat
    for i, (image, share) in enumerate(zip(seen, maps, strict=True)):
        mask = cv2.resize(share / share.max(), image.shape[:2], interpolation=cv2.INTER_CUBIC)
        panels[2 * i].imshow(image)
        panels[2 * i + 1].imshow((image / 255 * mask.clip(0, 1)[..., None]).clip(0, 1))
    plt.show()

# %%
if published:
    away = in_batches(
        mean_distances,
        published.model,
        published.params,
        np.asarray(normalise(seen)),
        batch_size=2,
        axis=1,
    )
    _, panel = plt.subplots(figsize=(5, 2.4))
    draw_distances(panel, published.model, away.mean(1), seen.shape)
    plt.show()

# %% [markdown]
# ## Where to go from here
#
# * The paper's figures from any checkpoint: `python -m experiments.figures.attention_rollout`,
#   `python -m experiments.figures.attention_distance`, `python -m experiments.figures.position_similarity`
#   and `python -m experiments.figures.embedding_filters`; each says with `--help` what it takes.
# * How such a model is fine-tuned: [finetune_vit.ipynb](finetune_vit.ipynb).
