"""Nearest neighbours by cosine, found in chunks over devices, and their weighted vote."""

import math

import jax
import numpy as np
import pytest

from train_jax.errors import UserError
from train_jax.mesh import MeshConfig, make_mesh
from vit_jax.knn import KnnRun, accuracies, nearest, vote
from vit_jax.representations import Represented


def features(number, *, seed):
    """Rows of very different lengths, which the cosine must not see."""
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(number, 8)) * rng.uniform(0.1, 50, (number, 1))).astype(np.float32)


def cosines(test, train):
    unit = [x / np.linalg.norm(x.astype(np.float64), axis=1, keepdims=True) for x in (test, train)]
    return unit[0] @ unit[1].T


@pytest.mark.parametrize(("devices", "at_once"), [(1, 1 << 26), (8, 60)], ids=["whole", "chunks"])
def test_neighbours_are_the_most_similar_of_all(devices, at_once):
    train, test, k = features(50, seed=0), features(21, seed=1), 4
    mesh = make_mesh(MeshConfig(), jax.devices()[:devices])
    # 21 images on 8 devices are 3 each: 60 similarities are chunks of 20, the last with padding.
    found, index = nearest(train, test, k, mesh, max_similarities=at_once)
    every = cosines(test, train)
    np.testing.assert_array_equal(index, np.argsort(-every, axis=1)[:, :k])
    np.testing.assert_allclose(found, -np.sort(-every, axis=1)[:, :k], rtol=0, atol=1e-6)


def test_the_first_of_equal_images_comes_first():
    train = np.tile(features(2, seed=0), (3, 1))
    _, index = nearest(train, train[:1], 3, make_mesh(MeshConfig()), max_similarities=4)
    assert index.tolist() == [[0, 2, 4]]


def test_votes_are_weighted_by_similarity():
    similarities = np.array([[0.9, 0.8, 0.8], [0.9, 0.5, 0.5]], np.float32)
    labels = np.array([[0, 1, 1], [0, 1, 1]])
    # exp(-0.1 / t) twice against 1: at 0.07 near neighbours outvote nearest ones, far ones do not.
    assert 2 * math.exp(-0.1 / 0.07) < 1 < 2 * math.exp(-0.1 / 0.5)
    assert vote(similarities, labels, num_classes=2, temperature=0.07).tolist() == [0, 0]
    assert vote(similarities, labels, num_classes=2, temperature=0.5).tolist() == [1, 0]
    assert vote(similarities, labels, num_classes=2, temperature=1e-6).tolist() == [0, 0]


def test_accuracy_for_each_number_of_neighbours():
    train, test = features(30, seed=2), features(40, seed=3)
    labels = np.arange(30) % 3
    truth = np.stack([np.arange(40) % 3, np.full(40, -1)], axis=1)
    config = KnnRun(datasets={}, neighbours=(1, 7))
    found = accuracies(
        Represented(train, labels[:, None].astype(np.int32), 3),
        Represented(test, truth.astype(np.int32), 3),
        config,
        make_mesh(MeshConfig()),
    )
    every = cosines(test, train)
    for k in (1, 7):
        right = 0
        for row, wanted in zip(every, truth[:, 0], strict=True):
            near = np.argsort(-row)[:k]
            weights = [np.exp(row[near] / 0.07)[labels[near] == c].sum() for c in range(3)]
            right += int(np.argmax(weights) == wanted)
        assert found[k] == right / 40


@pytest.mark.parametrize(
    ("wrong", "message"),
    [({"neighbours": (0,)}, "at least 1"), ({"temperature": 0.0}, "temperature above 0")],
)
def test_settings_that_make_no_sense_are_refused(wrong, message):
    with pytest.raises(UserError, match=message):
        KnnRun(datasets={}, **wrong)


def test_more_neighbours_than_images_are_refused():
    few = Represented(features(5, seed=0), np.zeros((5, 1), np.int32), 1)
    with pytest.raises(UserError, match="200 neighbours cannot be found among 5 images"):
        accuracies(few, few, KnnRun(datasets={}), make_mesh(MeshConfig()))
