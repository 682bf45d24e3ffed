"""A lifter of two thousand parameters on generated motion; an experiment file like any other.

    python -m pose_jax.train --config=tests/tiny_poses.py --config.data_dir=DIR --workdir=DIR

``write`` makes the file of poses that it needs.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from pose_jax import h36m
from pose_jax.data import store
from pose_jax.data.framewise import pixels
from pose_jax.data.motion import generate
from pose_jax.data.views import PoseDataConfig
from pose_jax.lifter import Lifter
from pose_jax.models import temporal
from pose_jax.models.config import TemporalConfig
from pose_jax.skeletons import layout
from pose_jax.train_config import PoseTrainConfig
from train_jax.checkpoint import save_once
from train_jax.config import to_config_dict, to_dict
from train_jax.optimizers import Adam
from train_jax.schedules import CosineConfig

MODEL = TemporalConfig(widths=(3, 3), channels=8)

#: Recordings by subject: shorter and longer than the receptive field, one of a single frame.
TAKES = {
    "S1": {"Walking": 40, "Turning": 23},
    "S9": {"Walking": 70, "Walking 1": 33, "Turning": 5, "Waving": 1},
    "S11": {"Walking": 32, "Waving 1": 12},
}


def poses(takes=None, *, views=2, confidence=False, **changes):
    """A set of generated motion, seen by cameras of Human3.6M."""
    recordings, described = [], {}
    for subject, lengths in (takes or TAKES).items():
        described[subject] = dict(list(h36m.cameras(subject).items())[:views])
        for seed, (action, frames) in enumerate(lengths.items()):
            clip = generate(seed + len(subject), frames=frames, fps=50.0)
            seen = {
                name: _seen(clip, camera, confidence) for name, camera in described[subject].items()
            }
            recordings.append(store.Recording(subject, action, clip, seen))
    fields = {
        "name": "tiny",
        "fps": 50.0,
        "skeleton": "h36m17",
        "keypoint_layout": "h36m17",
        "source": "generated",
        "cameras": described,
        "recordings": tuple(recordings),
    }
    return store.PoseSet(**(fields | changes))


def _seen(clip, camera, confidence):
    seen = pixels(clip, camera)
    return np.concatenate([seen, np.full_like(seen[..., :1], 0.9)], -1) if confidence else seen


def weights(model=MODEL, seed=0):
    """Parameters and running statistics that training could have led to, as NumPy arrays."""
    rng = np.random.default_rng(seed)

    def filled(tree):
        if isinstance(tree, dict):
            return {
                name: np.exp(0.3 * rng.normal(size=leaf.shape)).astype(np.float32)
                if name in ("var", "scale")
                else filled(leaf)
                for name, leaf in tree.items()
            }
        return (0.3 * rng.normal(size=tree.shape)).astype(np.float32)

    params, state = temporal.init(model, jax.random.key(0))
    return filled(params), filled(state)


def lifter(model=MODEL, *, trajectory=False):
    """A lifter of generated weights."""
    networks = {"pose": model}
    if trajectory:
        networks["trajectory"] = dataclasses.replace(model, joints_out=1)
    made = {name: weights(network, i) for i, (name, network) in enumerate(networks.items())}
    return Lifter(
        model=model,
        params={name: params for name, (params, _) in made.items()},
        state={name: state for name, (_, state) in made.items()},
        skeleton=layout("h36m17"),
        keypoint_layout=layout("h36m17"),
        longest_side=False,
        fps=50.0,
    )


def save(lifter, path, **changes):
    """A checkpoint of a lifter."""
    about = {
        "model": to_dict(lifter.model),
        "trajectory": lifter.has_trajectory,
        "skeleton": lifter.skeleton.name,
        "keypoint_layout": lifter.keypoint_layout.name,
        "longest_side": lifter.longest_side,
        "fps": lifter.fps,
    }
    state = {"params": lifter.params, "model_state": lifter.state}
    save_once(path, jax.tree.map(jnp.asarray, state), about | changes)
    return str(path)


def make_config(**changes):
    """The run as dataclasses."""
    defaults = {
        "model": MODEL,
        "data": PoseDataConfig(keypoints="tiny.npz", subjects=("S1",)),
        "evaluations": {"test": PoseDataConfig(keypoints="tiny.npz", subjects=("S9", "S11"))},
        "batch_size": 16,
        "total": "4 steps",
        "optimizer": Adam(),
        "schedule": CosineConfig(base=1e-3, warmup="0 steps"),
    }
    return PoseTrainConfig(**(defaults | changes))


def get_config():
    """The same for the command line, which overrides its keys."""
    return to_config_dict(make_config())
