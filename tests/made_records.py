"""Result records as runs of the shipped configs would write them, with whatever they measured."""

import dataclasses
import json

from experiments.tables.recipe import config_of
from train_jax.budget import Spent
from train_jax.config import identity, to_dict
from train_jax.outline import replaced
from train_jax.record import Record, make_record
from vit_jax.least_squares import FEW_SHOT

L16 = "experiments/vit/finetune.py:L/16,cifar100"
I21K = "experiments/vit/pretrain.py:L/16,imagenet21k"
LIFTER = "experiments/pose/h36m.py:243"


def record_of(
    command, metrics, *, seed=0, start=None, evaluated=None, examples=None, time=None, **changes
) -> Record:
    """A record as a run of the config would write it, with keys of the config changed."""
    config = config_of(command)
    for key, value in {"seed": seed, **changes}.items():
        config = replaced(config, key, value)
    measured = config if evaluated is None else config_of(evaluated)
    meta = {
        "step": 100,
        "total_steps": 100,
        "seed": seed,
        "config": to_dict(config),
        "identity": {"config": identity(config)},
        "spent": Spent(10.0, {"v3": {"train": 86_400.0 * 225}}).to_json(),
    }
    if examples is not None:
        metrics = {split: {**each, "examples": examples} for split, each in metrics.items()}
    fewshot = getattr(measured, "fewshot", None)
    probes = {} if fewshot is None else {FEW_SHOT + k: v for k, v in fewshot.datasets.items()}
    meta = json.loads(json.dumps(meta))
    made = make_record("here", measured, metrics, meta=meta, checkpoint="x", data=probes)
    begin = None
    if isinstance(start, int):
        begin = {"path": "L_16.npz", "bytes": start}
    elif start:
        begin = {"path": "runs/x", "step": 9, "config": identity(config_of(start))}
    made = dataclasses.replace(made, start=begin)
    return made if time is None else dataclasses.replace(made, time=time)


def accuracy(value, split="test"):
    return {split: {"accuracy": value}}


def finetuned(value, **options):
    return record_of(L16, accuracy(value), **({"start": I21K, "examples": 10_000} | options))
