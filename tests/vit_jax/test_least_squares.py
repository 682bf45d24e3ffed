"""Few-shot classification is regularised least squares to {-1, 1}^K, as explicit algebra has it."""

import numpy as np
import pytest

from train_jax.errors import UserError
from vit_jax.fewshot import Result, best_penalty, table
from vit_jax.least_squares import FewShotConfig, LeastSquares, choose, few_shot, means_by_name
from vit_jax.representations import Represented

CLASSES, DIM = 3, 6
L2 = 2.0**10


def points(number, *, seed=0):
    """Features of very different scales and offsets, float32, and labels."""
    rng = np.random.default_rng(seed)
    labels = np.arange(number) % CLASSES
    centres = np.random.default_rng(100).normal(size=(CLASSES, DIM))
    features = centres[labels] + rng.normal(size=(number, DIM))
    return (features * 10.0 ** np.arange(-2, 4) + 5).astype(np.float32), labels.astype(np.int32)


def explicit(x, labels, l2, *, standardise=True, bias=100.0, absent=-1.0, test=None):
    """Weights and test outputs by stacking the penalty under the equations, in float64."""
    x = x.astype(np.float64)
    mean, deviation = x.mean(0), x.std(0) + 1e-5
    if not standardise:
        mean, deviation = np.zeros(DIM), np.ones(DIM)

    def prepared(x):
        x = (x.astype(np.float64) - mean) / deviation
        return np.concatenate([x, np.full((len(x), 1), bias)], axis=1)

    a = np.concatenate([prepared(x), np.sqrt(l2) * np.eye(DIM + 1)])
    targets = np.where(np.eye(CLASSES)[labels] == 1, 1.0, absent)
    b = np.concatenate([targets, np.zeros((DIM + 1, CLASSES))])
    weights = np.linalg.lstsq(a, b, rcond=None)[0]
    return weights if test is None else prepared(test) @ weights


@pytest.mark.parametrize("number", [4, 60], ids=["fewer points than features", "more"])
@pytest.mark.parametrize("l2", [0.5, L2])
def test_weights_are_those_of_an_explicit_solve(number, l2):
    x, labels = points(number)
    weights = LeastSquares(x, labels, num_classes=CLASSES).weights(l2)
    np.testing.assert_allclose(weights, explicit(x, labels, l2), rtol=1e-7, atol=1e-12)


@pytest.mark.parametrize(
    "wrong",
    [
        {"bias": 0.0},
        {"bias": 1.0},
        {"standardise": False},
        {"absent": 0.0},
    ],
    ids=str,
)
def test_what_the_reference_does_matters(wrong):
    """No bias, a penalised one, no standardisation or targets of {0, 1} are other classifiers."""
    x, labels = points(60)
    weights = LeastSquares(x, labels, num_classes=CLASSES).weights(L2)
    assert not np.allclose(weights, explicit(x, labels, L2, **wrong), rtol=1e-2, atol=1e-9)


def test_accuracy_is_that_of_the_largest_output():
    x, labels = points(15)
    test, truth = points(200, seed=1)
    outputs = explicit(x, labels, L2, test=test)
    expected = np.mean(np.argmax(outputs, axis=1) == truth)
    assert 1 / CLASSES < expected < 1
    found = LeastSquares(x, labels, num_classes=CLASSES).accuracies(
        test, truth[:, None], l2=(L2, L2)
    )
    assert found == [expected, expected]
    # Any of several labels is right, padding never.
    several = np.stack([truth, np.full_like(truth, -1), np.argmax(outputs, axis=1)], axis=1)
    assert LeastSquares(x, labels, num_classes=CLASSES).accuracies(test, several, l2=(L2,)) == [1.0]


def test_a_feature_that_never_changes_does_no_harm():
    x, labels = points(20)
    constant = np.concatenate([x, np.full((20, 1), 7, np.float32)], axis=1)
    found = [LeastSquares(each, labels, num_classes=CLASSES).weights(L2) for each in (x, constant)]
    np.testing.assert_allclose(found[0], np.delete(found[1], DIM, axis=0), rtol=1e-6)


def test_choices_are_random_and_the_smaller_are_part_of_the_larger():
    _, labels = points(30)
    choices = [choose(labels, num_classes=CLASSES, seed=seed) for seed in (0, 0, 1)]
    for c in range(CLASSES):
        np.testing.assert_array_equal(choices[0][c], choices[1][c])
        assert choices[0][c].tolist() != choices[2][c].tolist()
        assert sorted(choices[0][c]) == np.flatnonzero(labels == c).tolist()


def test_every_seed_and_number_of_shots_is_a_problem_of_its_own():
    train, test = points(30), points(90, seed=1)
    config = FewShotConfig(datasets={}, shots=(1, 5), seeds=2, l2=(1.0, L2))
    result = few_shot(
        Represented(train[0], train[1][:, None], CLASSES),
        Represented(test[0], test[1][:, None], CLASSES),
        config,
    )
    for shots in (1, 5):
        for seed in (0, 1):
            rng = np.random.default_rng(seed)
            classes = [rng.permutation(np.flatnonzero(train[1] == c)) for c in range(CLASSES)]
            chosen = np.concatenate([each[:shots] for each in classes])
            for i, l2 in enumerate(config.l2):
                outputs = explicit(train[0][chosen], train[1][chosen], l2, test=test[0])
                expected = np.mean(np.argmax(outputs, axis=1) == test[1])
                assert result[shots][i, seed] == expected
    means = means_by_name(result, config)
    assert set(means) == {"1shot_l2=1", "1shot_l2=1024", "5shot_l2=1", "5shot_l2=1024"}
    assert means["5shot_l2=1024"] == pytest.approx(result[5][1].mean())


def test_one_penalty_is_chosen_for_all_data_sets_by_mean_rank():
    # The first is best by far on one data set, the second is best or second best on all.
    results = {
        "a": Result({1: np.array([[0.9], [0.5], [0.1]])}, 10),
        "b": Result({1: np.array([[0.4], [0.8], [0.7]]), 5: np.array([[0.4], [0.8], [0.7]])}, 10),
    }
    assert best_penalty(results) == 1
    config = FewShotConfig(datasets={}, shots=(1,), seeds=1, l2=(1.0, 2.0, 3.0))
    text = table({"a": results["a"], "b": Result({1: results["b"].accuracies[1]}, 10)}, config)
    assert text.splitlines()[1].split() == ["a", "50.00"]
    assert "penalty 2, the best of 1, 2, 3 by mean rank" in text


@pytest.mark.parametrize("wrong", [{"shots": ()}, {"shots": (0,)}, {"seeds": 0}, {"l2": (0.0,)}])
def test_settings_that_make_no_sense_are_refused(wrong):
    with pytest.raises(UserError, match="Few-shot evaluation needs"):
        FewShotConfig(datasets={}, **wrong)
