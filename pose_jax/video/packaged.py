r"""The lifter that comes with this package, and how it was made.

    python -m pose_jax.prepare cmu --source=CLIPS.npz --fps=30 --output=data/pose/cmu30.npz
    python -m pose_jax.video.packaged keypoints data/pose/cmu30.npz data/pose/cmu_video.npz
    python -m pose_jax.train --config=experiments/pose/cmu.py:27 --workdir=DIR \
        --config.data.keypoints=cmu_video.npz --config.evaluations.test.keypoints=cmu_video.npz \
        --config.total='7_000 steps'
    python -m pose_jax.video.packaged weights DIR pose_jax/video/lifter.npz

lifter.md tells what it was trained on and how good it is. lifter.npz holds a JSON text ``meta``
and the parameters and running statistics as float16 arrays,
named by their path in the tree, such as ``params/expand/kernel``.
"""

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pose_jax.data import store
from pose_jax.lifter import POSE, Lifter, load_lifter
from pose_jax.models.config import TemporalConfig
from pose_jax.skeletons import layout
from pose_jax.video.joints import like_a_detector
from train_jax import command_line
from train_jax.config import from_config, to_dict
from train_jax.errors import UserError

PATH = Path(__file__).with_name("lifter.npz")


def load(path: Path = PATH) -> Lifter:
    """The packaged lifter: 27 frames at 30 per second, no trajectory."""
    with np.load(path, allow_pickle=False) as archive:
        meta = json.loads(str(archive["meta"]))
        flat = {name: archive[name] for name in archive.files if name != "meta"}
    trees: dict[str, Any] = {}
    for name, x in flat.items():
        *above, last = name.split("/")
        tree = trees
        for part in above:
            tree = tree.setdefault(part, {})
        tree[last] = jnp.asarray(x, jnp.float32)
    return Lifter(
        model=from_config(TemporalConfig, meta["model"], path="model"),
        params={POSE: trees["params"]},
        state={POSE: trees["state"]},
        skeleton=layout(meta["skeleton"]),
        keypoint_layout=layout(meta["keypoint_layout"]),
        longest_side=meta["longest_side"],
        fps=meta["fps"],
    )


def save(path: str, lifter: Lifter) -> None:
    """Writes a lifter's pose network as float16."""
    trees = {"params": lifter.params[POSE], "state": lifter.state[POSE]}
    flat: dict[str, Any] = {
        jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(x, np.float16)
        for path, x in jax.tree_util.tree_leaves_with_path(trees)
    }
    meta = {
        "model": to_dict(lifter.model),
        "skeleton": lifter.skeleton.name,
        "keypoint_layout": lifter.keypoint_layout.name,
        "longest_side": lifter.longest_side,
        "fps": lifter.fps,
    }
    with store.replacing(path) as stream:
        np.savez_compressed(stream, meta=np.array(json.dumps(meta)), **flat)


def _keypoints(source: str, output: str) -> None:
    poses = store.load(source)
    recordings = tuple(
        dataclasses.replace(
            recording,
            views={name: like_a_detector(view) for name, view in recording.views.items()},
        )
        for recording in poses.recordings
    )
    store.save(output, dataclasses.replace(poses, recordings=recordings))


def _command() -> None:
    if len(sys.argv) != 4 or sys.argv[1] not in ("keypoints", "weights"):
        raise UserError("Give `keypoints SOURCE OUTPUT` or `weights CHECKPOINT OUTPUT`.")
    what, source, output = sys.argv[1:]
    if what == "keypoints":
        _keypoints(source, output)
    else:
        save(output, load_lifter(source))


if __name__ == "__main__":
    sys.exit(command_line.exit_code(_command))
