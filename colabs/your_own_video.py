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
# # Your own video in 3D
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/vit-pose-jax/vit-pose-jax/blob/main/colabs/your_own_video.ipynb)
#
# One command turns a video of people into 3D motion: it decodes, detects people and their keypoints,
# follows each of them from frame to frame, lifts the keypoints to 3D, puts the people on the ground,
# and writes files that other tools read. This notebook runs it and looks at what it did:
#
# 1. the video,
# 2. the command,
# 3. keypoints,
# 4. tracks,
# 5. 3D poses, to be turned and played,
# 6. BVH for animation programs.
#
# The example is the demo clip of [Sports2D](https://github.com/davidpagnon/Sports2D) (BSD licence),
# which comes from the Python package index; on Colab you can upload your own instead.

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
import zipfile
from pathlib import Path

import av
import matplotlib.pyplot as plt
import numpy as np

runs = Path(tempfile.mkdtemp())
BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#8A8A8A"
plt.rcParams.update({"figure.dpi": 90, "font.size": 9, "axes.titlesize": 9})
plt.rcParams.update({"axes.spines.top": False, "axes.spines.right": False})
plt.rcParams.update({"figure.constrained_layout.use": True, "legend.frameon": False})

# %% [markdown]
# ## 1. The video
#
# Set `UPLOAD = True` on Colab to choose a file of your own. Best is a camera that stands still, and
# people who are seen whole. Upright and rotated videos are fine, sound is not needed.

# %%
UPLOAD = False

if UPLOAD:
    from google.colab import files

    video = Path(next(iter(files.upload())))
else:
    package = ["pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "sports2d==0.8.34"]
    subprocess.run([sys.executable, "-m", *package, "--dest", str(runs)], check=True)
    with zipfile.ZipFile(next(runs.glob("sports2d*.whl"))) as wheel:
        video = Path(wheel.extract("Sports2D/Demo/demo.mp4", runs))

with av.open(str(video)) as container:
    stream = container.streams.video[0]
    print(
        f"{stream.width} x {stream.height}, {stream.frames} frames of {float(stream.average_rate):g}/s"
    )

# %% [markdown]
# ## 2. The command
#
# The detector (BlazePose) is fetched once, as a file with a checksum, from the Python package index.
# The lifter comes with this project; `--checkpoint=DIR` takes one that you have trained
# ([train_a_lifter.ipynb](train_a_lifter.ipynb)).

# %%
output = runs / "out"
command = [sys.executable, "-m", "pose_jax.video", str(video), f"--output={output}"]
done = subprocess.run(command, capture_output=True, text=True)
print(done.stdout)
if done.returncode:
    raise RuntimeError(done.stderr)
for file in sorted(output.iterdir()):
    print(f"{file.name:24} {file.stat().st_size / 1e6:8.2f} MB")

# %% [markdown]
# ## 3. Keypoints
#
# `poses.npz` has everything as plain arrays, and `pose_jax.motion.read` makes a scene of it: people,
# each with poses, keypoints and confidences; NaN where they were not seen. Keypoints over four frames
# of the video, a colour per person; what the detector was sure of is drawn larger:

# %%
from pose_jax.motion import read

scene = read(output / "poses.npz")
print(
    f"{len(scene.people)} people, {scene.num_frames} frames of {scene.frames_per_second:g}/s, {scene.layout.name}"
)


def frames_at(seconds):
    """Pictures of the video at some times, in order."""
    found = []
    with av.open(str(video)) as container:
        for frame in container.decode(video=0):
            if len(found) < len(seconds) and frame.time >= seconds[len(found)]:
                found.append(frame.to_ndarray(format="rgb24"))
    return found


length = scene.num_frames / scene.frames_per_second
seconds = [length * part for part in (0.2, 0.4, 0.6, 0.8)]
shades = [BLUE, ORANGE, GREEN, "#CC79A7", "#E69F00", "#56B4E9"]
_, panels = plt.subplots(2, 2, figsize=(9, 5.2))
for panel, second, picture in zip(panels.flat, seconds, frames_at(seconds), strict=True):
    panel.imshow(picture[::2, ::2], extent=(0, scene.size[0], scene.size[1], 0))
    for person, shade in zip(scene.people, shades, strict=False):
        frame = int(second * scene.frames_per_second)
        if frame < len(person.poses) and person.keypoints is not None:
            x, y = person.keypoints[frame].T
            panel.scatter(x, y, s=1 + 9 * person.confidence[frame], color=shade)
    panel.set_title(f"{second:.1f} s")
    panel.axis("off")
plt.show()

# %% [markdown]
# ## 4. Tracks
#
# The detector says where people are in a frame, not who they are. Tracks join detections whose boxes
# overlap and whose keypoints are alike. When is each person seen, and where in the picture? (In the
# demo clip the detector loses the person who jumps while they are upside down in the air; who lands
# is a new track.)

# %%
_, (left, right) = plt.subplots(1, 2, figsize=(9, 2.6))
for row, (person, shade) in enumerate(zip(scene.people, shades, strict=False)):
    seen = np.isfinite(person.keypoints).all((1, 2))
    times = np.arange(len(seen)) / scene.frames_per_second
    left.scatter(times[seen], np.full(seen.sum(), row), s=4, color=shade)
    right.plot(*person.keypoints[seen].mean(1).T, color=shade, label=person.name)
left.set(
    yticks=range(len(scene.people)), yticklabels=[p.name for p in scene.people], xlabel="seconds"
)
left.set(ylim=(len(scene.people) - 0.5, -0.5), xlim=(0, length), title="when")
right.set(xlim=(0, scene.size[0]), ylim=(scene.size[1], 0), title="where, pixels", aspect="equal")
plt.show()

# %% [markdown]
# ## 5. In 3D
#
# Turn it (drag), scrub, play (space bar). The video is a part of the page. Depth is an estimate from
# keypoints alone: sizes are those of the people that the lifter was trained on, and distances between
# people are rough.

# %%
from pose_jax import viewer

viewer.show(scene, video=str(video), title=video.name)

# %% [markdown]
# The speed of every joint is a first check: people do not move faster than about 10 m/s, and a
# jump between frames is an error of the track or of the detector.

# %%
person = max(scene.people, key=lambda one: np.isfinite(one.poses).sum())
speed = np.linalg.norm(np.diff(person.poses, axis=0), axis=-1) * scene.frames_per_second
_, panel = plt.subplots(figsize=(9, 2.2))
for joint, shade in (("left_ankle", BLUE), ("right_ankle", ORANGE), ("head_top", GREY)):
    index = scene.layout.joints.index(joint)
    panel.plot(
        np.arange(len(speed)) / scene.frames_per_second, speed[:, index], color=shade, label=joint
    )
panel.set(xlabel="seconds", ylabel="m/s", ylim=(0, None), title=person.name)
panel.legend(ncols=3)
plt.show()

# %% [markdown]
# ## 6. BVH
#
# Animation programs (Blender, Maya, MotionBuilder) read BVH: a skeleton of named joints with offsets,
# and rotations per frame.

# %%
for file in sorted(output.glob("*.bvh")):
    lines = file.read_text().splitlines()
    joints = [line.split()[-1] for line in lines if line.split()[:1] in (["ROOT"], ["JOINT"])]
    print(f"{file.name}: {len(joints)} joints: {', '.join(joints)}")
    print(*lines[lines.index("MOTION") :][:3], sep="\n")

# %% [markdown]
# ## Where to go from here
#
# * `python -m pose_jax.video --help`: other detectors through keypoint files, smoothing, streaming.
# * How the lifter works: [train_a_lifter.ipynb](train_a_lifter.ipynb).
