"""What is drawn of the embeddings, against tables and filters that are known."""

import numpy as np
import pytest

from train_jax.errors import UserError
from vit_jax.embedding_analysis import filter_components, position_similarity
from vit_jax.models.embeddings import sincos2d


def test_similarity_of_the_sine_and_cosine_code():
    """It depends on the displacement alone: a mean of cosines of frequencies times steps."""
    grid, width = (3, 5), 32
    table = sincos2d(grid, width)
    found = position_similarity(table[None], grid, has_class_row=False)
    frequencies = 10_000.0 ** (-np.arange(8) / 7)
    rows, columns = np.indices(grid)
    for row, column in [(0, 0), (2, 1)]:
        down, across = rows - row, columns - column
        cosines = [np.cos(steps[..., None] * frequencies).mean(-1) for steps in (down, across)]
        np.testing.assert_allclose(found[row, column], np.mean(cosines, axis=0), atol=1e-6)


def test_the_class_token_has_no_place_and_zeros_are_similar_to_none():
    table = np.concatenate([np.ones((1, 4)), np.eye(4), np.zeros((2, 4))])
    found = position_similarity(table, (2, 3), has_class_row=True).reshape(6, 6)
    np.testing.assert_array_equal(found, np.diag([1, 1, 1, 1, 0, 0]))
    with pytest.raises(UserError, match="6 rows for patches, not the 9 of a 3x3 grid"):
        position_similarity(table, (3, 3), has_class_row=True)


def test_known_components_are_recovered():
    """Filters that are a mean and three orthogonal patterns, of falling strength."""
    rng = np.random.default_rng(0)
    patterns, _ = np.linalg.qr(rng.normal(size=(4 * 2 * 3, 3)))
    strengths, _ = np.linalg.qr(rng.normal(size=(60, 4)))
    strengths = strengths - strengths.mean(0)
    strengths, _ = np.linalg.qr(strengths)
    filters = rng.normal(size=(24, 1)) + patterns @ (strengths[:, :3] * [9, 3, 1]).T
    found, shares = filter_components(filters.reshape(4, 2, 3, 60), 3)
    assert found.shape == (3, 4, 2, 3)
    along = np.abs(found.reshape(3, 24) @ patterns)
    np.testing.assert_allclose(along, np.eye(3), atol=1e-6)
    np.testing.assert_allclose(shares, np.array([81, 9, 1]) / 91, rtol=1e-6)
    assert all(component.max() == np.abs(component).max() for component in found)


def test_there_are_only_so_many_components():
    with pytest.raises(UserError, match="8 filters of 12 values have 7 principal components"):
        filter_components(np.ones((2, 2, 3, 8)), 28)
