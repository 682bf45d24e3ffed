"""A ViT of 20 thousand parameters on scikit-learn's digits; an experiment file like any other.

    python -m vit_jax.train --config=tests/tiny.py:20 --workdir=DIR

All that is random in training is on: crops, flips, mixup, dropout and stochastic depth.
"""

import dataclasses
import json
import tempfile
from pathlib import Path

import numpy as np

from train_jax import stored
from train_jax.config import parse_arg, to_config_dict
from train_jax.optimizers import Adam
from train_jax.restore import read_arrays
from train_jax.schedules import CosineConfig
from train_jax.sharding import flat_names
from train_jax.train_config import CheckpointConfig
from vit_jax.data.pipeline import DataConfig
from vit_jax.data.preprocess import InceptionCrop, Squash
from vit_jax.models.config import ViTConfig
from vit_jax.task import ViTTrainConfig

NUM_TEST = 360

# Prepared once for all tests, and kept from one run to the next; preparing takes a lock.
DATA_DIR = str(Path(tempfile.gettempdir()) / "vit-pose-jax-test-data")

MODEL = ViTConfig(
    patch_size=(4, 4),
    width=32,
    depth=2,
    mlp_dim=64,
    num_heads=4,
    num_classes=10,
    dropout=0.1,
    stochastic_depth=0.2,
    remat="none",
)


def make_config(*, size=16, model=None, **changes):
    """The run as dataclasses; ``model`` holds changes of the model."""
    digits = {"source": "digits", "data_dir": DATA_DIR}
    defaults = {
        "model": dataclasses.replace(MODEL, **(model or {})),
        "data": DataConfig(
            split="train", preprocess=InceptionCrop(size=size, min_area=0.5), **digits
        ),
        "evaluations": {"test": DataConfig(split="test", preprocess=Squash(size=size), **digits)},
        "batch_size": 16,
        "total": "12 steps",
        "optimizer": Adam(weight_decay=0.03, clip_norm=1.0),
        "schedule": CosineConfig(base=1e-3, warmup="4 steps"),
        "mixup": 0.2,
        "checkpoint": CheckpointConfig(every="4 steps"),
        "log_every": "1 steps",
        "evaluate_every": "100 percent",
        "evaluation_batch_size": 104,  # the last of four batches is mostly padding
    }
    return ViTTrainConfig(**(defaults | changes))


def get_config(arg=None):
    """The same for the command line, which overrides its keys."""
    steps = parse_arg(arg, steps=12)["steps"]
    return to_config_dict(make_config(total=f"{steps} steps", ema_decay=0.9))


def records(workdir, key):
    """A metric of a run by step, each step once."""
    lines = map(json.loads, (Path(workdir) / "metrics.jsonl").read_text().splitlines())
    found = [(line["step"], line[key]) for line in lines if key in line]
    assert len(dict(found)) == len(found), f"{key} is logged twice for a step"
    return dict(found)


def saved_state(path):
    """Everything in the newest checkpoint: name -> array on one device."""
    directory = stored.find(path)
    state = read_arrays(directory, stored.read_shapes(directory), whole=True)
    return {name: np.asarray(array) for name, array in flat_names(state).items()}


def assert_same_bits(a, b):
    """That two saved states are equal to the last bit."""
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def constant():
    """A schedule without warm-up, for runs of any length."""
    return CosineConfig(base=1e-3, warmup="0 steps")
