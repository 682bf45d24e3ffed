"""Losses against the original implementations, and accuracies against their definitions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax import losses


@pytest.fixture(scope="module")
def original(request):
    path = request.path.parent.parent / "data" / "vit" / "losses.npz"
    with np.load(path, allow_pickle=False) as file:
        return {name: jnp.asarray(file[name]) for name in file.files}


@pytest.mark.parametrize("kind", ["sigmoid", "softmax"])
@pytest.mark.parametrize("targets", ["hard", "soft"])
def test_losses_equal_the_original(original, kind, targets):
    labels = original["labels" if targets == "hard" else "soft"]
    each = losses.cross_entropy(original["logits"], labels, kind=kind)
    np.testing.assert_allclose(each, original[f"{kind}_xent/{targets}/each"], rtol=2e-6)
    np.testing.assert_allclose(each.mean(), original[f"{kind}_xent/{targets}"], rtol=2e-6)


def test_a_zero_head_has_known_losses():
    logits, targets = jnp.zeros((3, 7)), losses.multi_hot(jnp.array([[0], [3], [6]]), 7)
    np.testing.assert_allclose(losses.softmax_cross_entropy(logits, targets), np.log(7), rtol=1e-6)
    sigmoid = losses.sigmoid_cross_entropy(logits, targets)
    np.testing.assert_allclose(sigmoid, 7 * np.log(2), rtol=1e-6)


def test_sigmoid_gradients_keep_their_digits_at_the_initial_bias():
    """At a bias of -10 almost all of the gradient is made of sigmoid(-10) = 4.54e-5."""
    logits = jnp.full((1, 4), -10.0)
    grads = jax.grad(lambda x: losses.sigmoid_cross_entropy(x, jnp.zeros((1, 4))).sum())(logits)
    np.testing.assert_allclose(grads, 1 / (1 + np.exp(10.0)), rtol=1e-6)


def test_bfloat16_logits_are_computed_in_float32():
    logits = jnp.array([[3.0, -2.0, 0.5]], jnp.bfloat16)
    targets = jnp.array([[1.0, 0.0, 0.0]])
    for kind in ("sigmoid", "softmax"):
        low = losses.cross_entropy(logits, targets, kind=kind)
        assert low.dtype == jnp.float32
        high = losses.cross_entropy(logits.astype(jnp.float32), targets, kind=kind)
        np.testing.assert_array_equal(low, high)


def test_multi_hot_of_padded_sets():
    labels = jnp.array([[2, -1, -1], [0, 3, 0], [-1, -1, -1]], jnp.int32)
    hot = losses.multi_hot(labels, 4)
    np.testing.assert_array_equal(hot, [[0, 0, 1, 0], [1, 0, 0, 1], [0, 0, 0, 0]])
    assert hot.dtype == jnp.float32


def test_smoothing_keeps_the_sum():
    smooth = losses.smooth_labels(jnp.array([[1.0, 0.0, 0.0, 0.0]]), 0.1)
    np.testing.assert_allclose(smooth, [[0.925, 0.025, 0.025, 0.025]], rtol=1e-6)


LOGITS = jnp.array(
    [[5, 4, 3, 2, 1, 0], [0, 1, 2, 3, 4, 5], [1, 9, 2, 3, 4, 5], [9, 1, 2, 3, 4, 5]], jnp.float32
)


@pytest.mark.parametrize(
    ("labels", "k", "expected"),
    [
        ([[0], [0], [1], [0]], 1, (3, 4)),  # single labels
        ([[5], [0], [0], [1]], 5, (0, 4)),  # the smallest logit is never among five of six
        ([[4], [1], [2], [2]], 5, (4, 4)),
        ([[5], [0], [0], [1]], 10, (4, 4)),  # no more guesses than classes
        ([[3, 0], [0, 1], [-1, -1], [0, -1]], 1, (2, 3)),  # ReaL: sets, the empty one left out
    ],
)
def test_accuracy(labels, k, expected):
    pair = losses.top_k_accuracy(LOGITS, jnp.array(labels, jnp.int32), k=k)
    assert tuple(map(float, pair)) == expected


def test_masked_rows_do_not_count():
    labels = jnp.array([[0], [5], [1], [0]], jnp.int32)
    mask = jnp.array([True, True, False, False])
    pair = losses.top_k_accuracy(LOGITS.at[2:].set(jnp.nan), labels, mask=mask)
    assert tuple(map(float, pair)) == (2, 2)
