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
# # Train and understand a pose lifter
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/vit-pose-jax/vit-pose-jax/blob/main/colabs/train_a_lifter.ipynb)
#
# A *lifter* reads the 2D keypoints of a person, frame after frame, and estimates the 3D pose. It
# never sees an image: a detector has turned the video into 17 points per frame before. This
# notebook trains the lifter of [Pavllo et al., 2019](https://arxiv.org/abs/1811.11742) in small,
# and looks at each part of it:
#
# 1. what goes in and what comes out,
# 2. which frames a pose depends on,
# 3. training, with one frame and with 27,
# 4. three ways to run the same weights,
# 5. the four errors of the paper's tables, computed by hand,
# 6. learning from video without labels.
#
# It takes a few minutes on two CPU cores. The motion is generated from formulas, so nothing is
# downloaded; figures measured on it compare models with each other, and say nothing about
# recordings of people.

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
import tempfile
from pathlib import Path

import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

# So that the figures look alike: colours that the colour-blind can tell apart.
BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#8A8A8A"
plt.rcParams.update({"figure.dpi": 90, "font.size": 9, "axes.titlesize": 9})
plt.rcParams.update({"axes.spines.top": False, "axes.spines.right": False})
plt.rcParams.update({"figure.constrained_layout.use": True, "legend.frameon": False})

# %% [markdown]
# ## 1. What goes in, what comes out
#
# `motion.clips` makes people of different builds walk, jog, squat, reach, wave and turn. `film`
# puts them before the four cameras of Human3.6M and simulates a detector: its keypoints tremble,
# some are far off for a moment, and each comes with a confidence.
#
# The people are three groups that have nobody in common: `train` has labels (3D poses), `video`
# will serve as video without labels, and `test` is for measuring.

# %%
from pose_jax.data import motion
from pose_jax.data.filming import film

FPS = 50.0
groups = {"train": (0, 8), "video": (1, 3), "test": (2, 2)}
people = {
    group: motion.clips(seed, per_action=count, frames=400, fps=FPS)
    for group, (seed, count) in groups.items()
}
cameras_of = {"train": "S1", "video": "S5", "test": "S9"}
poses = film(people, cameras_of=cameras_of, fps=FPS, name="formulas", source="pose_jax.data.motion")
for group, clips in people.items():
    print(f"{group:6} {len(clips)} clips of {400 / FPS:.0f} seconds, seen by four cameras")

# %% [markdown]
# One clip, every half a second, seen from a fixed direction: the person walks in a circle. Right
# limbs are orange, left ones blue.

# %%
from pose_jax.skeletons import H36M_17


def colour(joint):
    return BLUE if joint in H36M_17.left else ORANGE if joint in H36M_17.right else "#333333"


def draw(axes, pose, *, color=None, **style):
    """The bones of a pose (17, 2)."""
    for child, parent in H36M_17.bones:
        ends = pose[[child, parent]].T
        axes.plot(*ends, color=color or colour(child), solid_capstyle="round", **style)


def panels_of(count, *, height):
    """Panels without axes, side by side."""
    _, panels = plt.subplots(1, count, figsize=(9, height), sharex=True, sharey=True)
    for panel in panels:
        panel.set(xticks=[], yticks=[], aspect="equal")
        panel.spines[:].set_visible(False)
    return panels


clip = people["train"]["Walking 0"]
panels = panels_of(8, height=2.2)
for panel, frame in zip(panels, range(0, 200, 25), strict=True):
    x, y, z = (clip[frame] - clip[frame, 0] * [1, 1, 0]).T
    draw(panel, np.stack([x, z], axis=-1), lw=2)
    panel.set(title=f"{frame / FPS:.1f} s", xlim=(-0.6, 0.6))
    panel.axhline(0, color="#DDDDDD", lw=1, zorder=0)
plt.show()

# %% [markdown]
# What a camera sees of it: the true keypoints (grey) and the detector's (coloured). The network
# gets only the coloured ones. The difference is what it has to see through.

# %%
recording = next(one for one in poses.recordings if one.action == "Walking 0")
exact = film({"train": {"Walking 0": clip}}, cameras_of=cameras_of, fps=FPS,
             name="exact", source="", detector=None).recordings[0]  # fmt: skip
camera = poses.cameras["train"][next(iter(recording.views))]
seen, true = recording.views[camera.name], exact.views[camera.name]

panels = panels_of(5, height=2.8)
for panel, frame in zip(panels, range(100, 200, 20), strict=True):
    draw(panel, true[frame], color="#D9D9D9", lw=5)
    draw(panel, seen[frame, :, :2], lw=1.5)
    panel.set(title=f"frame {frame}")
near = true[100:200:20].reshape(-1, 2)
low, high = near.min(0) - 25, near.max(0) + 25
panels[0].set(xlim=(low[0], high[0]), ylim=(high[1], low[1]))  # pixels count downwards
plt.show()
error = np.linalg.norm(seen[..., :2] - true, axis=-1)
print(f"image {camera.width} x {camera.height}; mean error of a keypoint {error.mean():.1f} pixels")

# %% [markdown]
# Two conventions turn this into numbers for a network (paper, section 3):
#
# * **Keypoints** go from pixels to *screen units*: the image's width becomes [-1, 1], and y keeps
#   the aspect ratio. So cameras of different resolutions look alike.
# * **Poses** are in the axes of the camera (x right, y down, z away from it), in metres, and
#   *relative to the pelvis*: where the person stands cannot be told from the pose alone.
#
# A *view* is one recording seen by one camera, in this form.

# %%
from pose_jax.data.views import PoseDataConfig, select

data = {group: PoseDataConfig(keypoints="formulas", subjects=(group,)) for group in groups}
views = {group: select(poses, chosen, "positions") for group, chosen in data.items()}
view = views["train"].views[0]
print(
    f"{len(views['train'].views)} views to train on; of the first ({view.action}, {view.camera}):"
)
print(f"  keypoints {view.keypoints.shape}: x, y in [-1, 1], confidence")
print(f"  positions {view.positions.shape}: metres; the pelvis keeps its place in the camera")

# %% [markdown]
# ## 2. Which frames a pose depends on
#
# The network is a stack of convolutions over time without padding. Each layer looks at three
# inputs, and from layer to layer these are three times as far apart (*dilation*). With three
# layers a pose depends on 3 x 3 x 3 = 27 frames: the *receptive field*. A symmetric model looks
# as far ahead as back, so it is late by 13 frames; a causal one looks back only and is never late.

# %%
from pose_jax.models.config import TemporalConfig


def needed(config):
    """For every level from the pose down to the keypoints: the frames, and what each reads."""
    levels, edges = [{0}], []
    for width, dilation in reversed(config.taps):
        reach = (width - 1) * dilation
        first = -reach if config.causal else -reach // 2
        edges.append([(f, f + first + k * dilation) for f in levels[-1] for k in range(width)])
        levels.append({low for _, low in edges[-1]})
    return levels, edges


def picture(panel, config):
    levels, edges = needed(config)
    for level, pairs in enumerate(edges):
        for top, low in pairs:
            panel.plot([top, low], [-level, -level - 1], color=BLUE, lw=0.7)
    for level, frames in enumerate(levels):
        panel.plot(range(-27, 15), [-level] * 42, ".", color="#DDDDDD", ms=3)
        panel.plot(list(frames), [-level] * len(frames), "o", color=BLUE, ms=4)
    panel.plot(0, 0, "o", color=ORANGE, ms=8)
    panel.axvline(0, color=ORANGE, lw=0.7, ls=":")
    panel.set(yticks=range(-len(edges), 1), xlabel="frame, relative to the pose's", xlim=(-28, 15))
    panel.set(title="causal" if config.causal else "symmetric")


figure, panels = plt.subplots(1, 2, figsize=(9, 2.4), sharey=True)
for panel, causal in zip(panels, (False, True), strict=True):
    picture(panel, TemporalConfig(widths=(3, 3, 3), causal=causal))
panels[0].set_yticklabels(["keypoints", "layer 1", "layer 2", "pose"])
plt.show()

# %% [markdown]
# The picture is drawn from `TemporalConfig.taps`. Does the network do what it says? The gradient
# of one pose with respect to all keypoints is zero exactly where nothing is read:

# %%
from pose_jax.models import temporal

for causal in (False, True):
    config = TemporalConfig(widths=(3, 3, 3), channels=32, causal=causal)
    params, state = temporal.init(config, jax.random.key(0))
    x = jnp.asarray(view.keypoints[None, :100, :, :2])

    def of_frame_50(x, config=config, params=params, state=state):
        """Pose i of the output belongs to frame i + pad_before."""
        poses, _ = temporal.dilated(config, params, state, x)
        return poses[:, 50 - config.pad_before].sum()

    read = np.flatnonzero(np.abs(jax.grad(of_frame_50)(x)).sum((0, 2, 3)))
    print(
        f"{'causal' if causal else 'symmetric':9} pose of frame 50 depends on {len(read)} frames,"
    )
    print(f"{'':9} from {read.min()} to {read.max()}")

# %% [markdown]
# ## 3. Training
#
# The recipe is the paper's with other sizes: Adam with AMSGrad, a rate that falls by 5 % at
# regular intervals, batch normalisation whose momentum falls too, dropout, and every window a
# second time as its mirror image. The loss is the mean distance of the joints to their true places,
# in metres. Two models have the same recipe: one sees a single frame, the other 27.

# %%
from pose_jax.task import task_of
from pose_jax.train_config import PoseTrainConfig
from train_jax.loop import fit
from train_jax.optimizers import Adam
from train_jax.schedules import ExponentialConfig
from train_jax.train_config import CheckpointConfig

runs = Path(tempfile.mkdtemp())


def recipe(widths, *, steps, channels=128):
    return PoseTrainConfig(
        model=TemporalConfig(widths=widths, channels=channels),
        data=data["train"],
        evaluations={"test": data["test"]},
        batch_size=128,
        total=f"{steps} steps",
        optimizer=Adam(amsgrad=True),
        schedule=ExponentialConfig(base=1e-3, factor=0.95, every="1.25 percent"),
        steps_per_dispatch=50,
        checkpoint=CheckpointConfig(every="100 percent"),
        log_every="50 steps",
        evaluate_every="100 percent",
    )


configs = {
    "single frame": recipe((1, 1, 1, 1, 1), steps=4000),
    "27 frames": recipe((3, 3, 3), steps=4000),
}
for name, config in configs.items():
    print(
        f"{name:13} sees {config.model.receptive_field:2}, {config.model.num_params:,} parameters"
    )

# %% [markdown]
# `fit` is the whole run: it saves, logs, evaluates, and would continue where it was stopped. The
# command `python -m pose_jax.train --config=... --workdir=...` calls the same function.

# %%
results = {}
for name, config in configs.items():
    task = task_of(config, views["train"], evaluations={"test": views["test"]})
    results[name] = fit(task, config, str(runs / name))
    print(f"{name:13} {results[name].examples_per_second:,.0f} examples/s")

# %%
ERRORS = ("mpjpe", "p_mpjpe", "n_mpjpe", "mpjve")
print(
    f"{'mm, new people':14}" + "".join(f"{name.upper().replace('_', '-'):>10}" for name in ERRORS)
)
for name, result in results.items():
    print(f"{name:14}" + "".join(f"{result.metrics[f'test/{e}']:10.1f}" for e in ERRORS))

# %% [markdown]
# More frames help, and they help most for the last column, the velocity error: a single frame
# trembles as the detector does, 27 average it out. Every run leaves `metrics.jsonl`, a JSON object
# per line, from which its curves can be drawn:

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 2.6))
for name, shade in (("single frame", ORANGE), ("27 frames", BLUE)):
    lines = [json.loads(line) for line in (runs / name / "metrics.jsonl").open()]
    lines = [line for line in lines if "loss" in line]
    steps = [line["step"] for line in lines]
    left.plot(steps, [1000 * line["loss"] for line in lines], color=shade, label=name)
    right.plot(steps, [line["learning_rate"] for line in lines], color=GREEN)
left.set(xlabel="step", ylabel="training loss, mm", ylim=(0, 200))
left.legend()
right.set(xlabel="step", ylabel="learning rate", ylim=(0, None))
plt.show()

# %% [markdown]
# (The training loss is measured with dropout and on trembling keypoints, so it ends above the
# errors of the table.) `load_lifter` reads a checkpoint without its config, and `lift` gives a
# pose for every frame. Here over the truth (grey), seen from the side: the direction to the right is
# the depth, away from the camera, of which the keypoints say least.

# %%
from pose_jax.lifter import lift, load_lifter

lifter = load_lifter(str(runs / "27 frames"))
chosen = next(v for v in views["test"].views if v.action == "Squatting 0")
predicted = lift(lifter, [chosen])[0]
target = chosen.positions.copy()
target[:, 0] = 0  # relative to the pelvis, which is at the origin

panels = panels_of(6, height=2.6)
for panel, frame in zip(panels, range(100, 220, 20), strict=True):
    side = [2, 1]  # depth, which the camera does not see, and height
    draw(panel, target[frame][:, side], color="#D9D9D9", lw=5)
    draw(panel, predicted[frame][:, side], lw=1.5)
    panel.set(title=f"frame {frame}", xlim=(-0.7, 0.7), ylim=(1.05, -0.85))
plt.show()

# %% [markdown]
# The same, to be turned and played (drag, scroll, space bar), with the truth in grey and the error of
# every frame below; the button *Errors* colours the joints by theirs. `python -m pose_jax.viewer
# poses.npz` makes such a page of any poses; it is one HTML file that needs no network.

# %%
from pose_jax import viewer
from pose_jax.motion import Person, Scene, on_floor, upright


def scene_of(poses):
    """Poses of the camera's axes, on the floor of a world whose z is up."""
    person = Person("test person", on_floor(upright(poses)))
    return Scene((person,), H36M_17, None, FPS, None)


viewer.show(scene_of(predicted), truth=scene_of(target))

# %% [markdown]
# ## 4. Three forms, one set of weights
#
# * **dilated** maps a whole sequence to a pose per frame; neighbouring frames share their work;
# * **strided** maps one window to one pose and computes only what that needs: training uses it;
# * **streaming** takes frame after frame as video arrives, and keeps what it will need again.
#
# They are different programs for the same function. The sequence's first and last frames are
# repeated at both ends, so that every frame has a whole receptive field.

# %%
from pose_jax.data.windows import edge_extended
from pose_jax.models import streaming

model, params, state = lifter.model, lifter.params["pose"], lifter.state["pose"]
frames, field = 100, model.receptive_field
x = chosen.keypoints[:frames, :, : model.features]
extended = edge_extended(x, model.pad_before, model.pad_after)

dilated = np.asarray(temporal.dilated(model, params, state, extended[None])[0][0])
windows = np.stack([extended[i : i + field] for i in range(frames)])
strided = np.asarray(temporal.strided(model, params, state, windows)[0][:, 0])

# %%
folded = streaming.fold(model, params, state)  # batch normalisation goes into the kernels
stream = streaming.start(model, folded, jnp.asarray(extended[:1]))
push = jax.jit(lambda stream, frame: streaming.push(model, folded, stream, frame))
streamed = []
for frame in extended:
    stream, pose = push(stream, frame[None])
    streamed.append(np.asarray(pose[0]))
streamed = np.stack(streamed[field - 1 :])  # before that, poses belong to the repeated frames

for name, other in (("strided", strided), ("streaming", streamed)):
    print(f"{name:9} differs from dilated by at most {1000 * np.abs(other - dilated).max():.5f} mm")
per_frame, per_window = model.multiplications_per_frame, model.multiplications_per_window
print(f"products per pose: {per_frame:,} in a long sequence, {per_window:,} in a window of its own")

# %% [markdown]
# ## 5. The four errors, by hand
#
# One predicted pose and the truth. **MPJPE** is the mean distance of the joints. **N-MPJPE** first
# scales the prediction by the best factor, ⟨p, t⟩ / ⟨p, p⟩: the size of a person is hard to see.
# **P-MPJPE** also turns and moves it as well as possible (Procrustes), so only the shape counts.

# %%
frame = 160
p, t = predicted[frame].astype(float), target[frame].astype(float)


def distance(a, b):
    return 1000 * np.linalg.norm(a - b, axis=-1).mean()


scaled = p * (p * t).sum() / (p * p).sum()

p0, t0 = p - p.mean(0), t - t.mean(0)
u, s, vt = np.linalg.svd(p0.T @ t0)
s[-1] *= (sign := np.sign(np.linalg.det(u @ vt)))  # a rotation, never a reflection
rotation = u @ np.diag([1, 1, sign]) @ vt
moved = s.sum() / (p0**2).sum() * p0 @ rotation + t.mean(0)

panels = panels_of(3, height=2.8)
names = ("MPJPE", "N-MPJPE", "P-MPJPE")
for panel, name, pose in zip(panels, names, (p, scaled, moved), strict=True):
    draw(panel, t[:, side], color="#D9D9D9", lw=5)
    draw(panel, pose[:, side], lw=1.5)
    panel.set(title=f"{name} {distance(pose, t):.1f} mm", xlim=(-0.8, 0.8), ylim=(1.0, -0.8))
plt.show()

# %% [markdown]
# The **velocity error** compares the steps from frame to frame: how much a pose trembles and lags.
# `pose_jax.losses` has all four, for whole batches on any device:

# %%
from pose_jax import losses

# As in the evaluation, the network's own estimate of the pelvis counts as one of the joints.
pair = predicted[frame : frame + 2], target[frame : frame + 2]
velocities = [np.diff(two, axis=0)[0] for two in pair]
by_hand = [distance(p, t), distance(moved, t), distance(scaled, t), distance(*velocities)]
by_library = [
    losses.mpjpe_each(*pair)[0],
    losses.p_mpjpe_each(*pair)[0],
    losses.n_mpjpe_each(*pair)[0],
    losses.velocity_each(*pair)[0],
]
for name, one, other in zip(ERRORS, by_hand, by_library, strict=True):
    print(f"{name:8} by hand {one:7.3f} mm, pose_jax.losses {1000 * float(other):7.3f} mm")
np.testing.assert_allclose(by_hand, 1000 * np.array(by_library), rtol=1e-3)

# %% [markdown]
# ## 6. Learning from video without labels
#
# Suppose that 3D poses are known of `train` only where they walk and jog, while there is plenty of
# video of everything (`video`), of which nothing is known but the keypoints and the camera's lens.
# A second network then estimates where the person is (the *trajectory*). Pose and trajectory,
# projected back to the image, must meet the keypoints that they came from; and bones must be as
# long as those of labelled people are on average.

# %%
from pose_jax.train_config import SemiConfig

few = dataclasses.replace(data["train"], actions=("Walking", "Jogging"), fraction=0.1)
labelled = select(poses, few, "positions")
video = select(poses, data["video"], "intrinsics")
small = dataclasses.replace(recipe((3, 3), steps=2000), data=few, trajectory=True, batch_size=64)
semi = dataclasses.replace(small, semi=SemiConfig(data=data["video"], warmup="200 steps"))
print(f"{sum(len(v.keypoints) for v in labelled.views):,} labelled frames,", end=" ")
print(f"{sum(len(v.keypoints) for v in video.views):,} without labels")

# %%
fitted = {}
for name, config, others in (("labels alone", small, None), ("labels and video", semi, video)):
    task = task_of(config, labelled, others, {"test": views["test"]})
    fitted[name] = fit(task, config, str(runs / name))
    errors = fitted[name].metrics
    print(
        f"{name:17} MPJPE {errors['test/mpjpe']:6.1f} mm, P-MPJPE {errors['test/p_mpjpe']:6.1f} mm"
    )

# %% [markdown]
# The back-projection on a frame of `video`: the keypoints are black, the projected 3D pose is
# coloured, and the thin red lines between them are what the projection term makes short. Nobody
# told the network the 3D pose.

# %%
from pose_jax import cameras
from pose_jax.h36m import cameras as lenses

chosen = next(v for v in video.views if v.action == "Reaching 0")
size = {"width": lenses("S5")[chosen.camera].width, "height": lenses("S5")[chosen.camera].height}
keypoints = np.asarray(cameras.to_pixels(chosen.keypoints[..., :2], **size))

frame = 150
panels = panels_of(2, height=3.8)
for panel, name in zip(panels, fitted, strict=True):
    # With a trajectory network, poses are where the camera sees them.
    placed = lift(load_lifter(str(runs / name)), [chosen])[0]
    image = np.asarray(cameras.to_pixels(cameras.project(placed, chosen.intrinsics), **size))
    draw(panel, image[frame], lw=2)
    for ends in np.stack([image[frame], keypoints[frame]], axis=1):
        panel.plot(*ends.T, color="#CC0000", lw=1)
    panel.plot(*keypoints[frame].T, "o", color="black", ms=3)
    mean = np.linalg.norm(image - keypoints, axis=-1).mean()
    panel.set(title=f"{name}: {mean:.1f} pixels on average of all frames")
low, high = keypoints[frame].min(0) - 60, keypoints[frame].max(0) + 60
panels[0].set(xlim=(low[0], high[0]), ylim=(high[1], low[1]))
plt.show()

# %% [markdown]
# ## Where to go from here
#
# * Your own video: [your_own_video.ipynb](your_own_video.ipynb).
# * What a run costs: [plan_a_tpu_run.ipynb](plan_a_tpu_run.ipynb).
# * The real thing: `python -m pose_jax.train --config=experiments/pose/h36m.py:243`, or without a
#   licence `experiments/pose/cmu.py`; `python -m pose_jax.prepare SOURCE --help` says where data
#   come from.
