"""ImageNet-ReaL's rule: right is a guess in the set of labels; an empty set does not count."""

import dataclasses

import jax
import numpy as np
import pytest
import tiny

from train_jax.evaluation import make_evaluator
from train_jax.mesh import MeshConfig, make_mesh
from vit_jax.data.on_device import normalise
from vit_jax.models import api
from vit_jax.task import make_evaluations

SHAPE = (16, 16, 3)


def label_sets(number):
    """Sets of none to three classes of ten, padded with -1, as ImageNet-ReaL has them."""
    rng = np.random.default_rng(0)
    sets = np.full((number, 3), -1, np.int32)
    for row, size in zip(sets, rng.integers(0, 4, number), strict=True):
        row[:size] = rng.choice(10, size, replace=False)
    return sets


def test_an_evaluation_counts_sets_of_labels():
    config = tiny.make_config(model={"depth": 1})
    evaluation = make_evaluations(config)["test"]
    data, sets = evaluation.data, label_sets(tiny.NUM_TEST)
    images = []

    def with_sets(rows):
        """As the loader gives such data: an empty set is masked, too."""
        for step, batch in enumerate(data.start(rows)):
            places = step * data.batch_size + rows
            labels = np.full((len(rows), 3), -1, np.int32)
            labels[places < len(sets)] = sets[places[places < len(sets)]]
            images.append(batch["image"][batch["mask"]])
            yield {**batch, "labels": labels, "mask": batch["mask"] & (labels >= 0).any(axis=1)}

    params, _ = jax.jit(lambda key: api.init(config.model, key, SHAPE))(jax.random.key(0))
    head = np.random.default_rng(1).normal(size=(32, 10)).astype(np.float32)
    params["head"] = {"kernel": head, "bias": np.zeros(10, np.float32)}
    changed = dataclasses.replace(evaluation, data=dataclasses.replace(data, start=with_sets))
    mesh = make_mesh(MeshConfig())
    with jax.set_mesh(mesh):
        found = make_evaluator(changed, mesh)(params, {})

    apply = jax.jit(lambda images: api.apply(config.model, params, {}, normalise(images))[0])
    guesses = np.argsort(-np.asarray(apply(np.concatenate(images))), axis=1)
    counted = [i for i, row in enumerate(sets) if (row >= 0).any()]
    assert 0 < len(counted) < tiny.NUM_TEST
    assert found["examples"] == len(counted)
    for name, k in (("accuracy", 1), ("top5", 5)):
        right = [bool(set(guesses[i, :k]) & set(sets[i])) for i in counted]
        assert found[name] == pytest.approx(np.mean(right), abs=1.1 / len(counted))
    first = np.mean([guesses[i, 0] == sets[i, 0] for i in counted])
    # Not the rule for single labels: more than one class of a set may be right.
    assert found["accuracy"] > first + 0.02
