"""Normalising, flipping and MixUp inside the step, the same on any mesh."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from vit_jax.data.on_device import mixup, normalise, random_flip


def images(batch: int = 8) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (batch, 6, 5, 3), dtype=np.uint8)


def test_normalise_spans_minus_one_to_one():
    levels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1).repeat(3, axis=3)
    result = normalise(jnp.asarray(levels))
    assert result.dtype == jnp.float32
    np.testing.assert_allclose(result, (levels.astype(np.float64) - 127.5) / 127.5, atol=1e-7)
    assert (float(result.min()), float(result.max())) == (-1.0, 1.0)
    half = normalise(jnp.asarray(levels), dtype=jnp.bfloat16)
    assert half.dtype == jnp.bfloat16
    np.testing.assert_array_equal(half, result.astype(jnp.bfloat16))


def test_flip_mirrors_about_half_of_the_images():
    batch = images(512)
    result = np.asarray(random_flip(jnp.asarray(batch), jax.random.key(0)))
    flipped = np.array([np.array_equal(r, b[:, ::-1]) for r, b in zip(result, batch, strict=True)])
    kept = np.array([np.array_equal(r, b) for r, b in zip(result, batch, strict=True)])
    assert np.all(flipped ^ kept)
    assert 200 < flipped.sum() < 312


def test_mixup_mixes_neighbours_of_the_global_batch():
    x = normalise(jnp.asarray(images()))
    targets = jnp.eye(8, 10, dtype=jnp.float32)
    mixed, labels = jax.jit(lambda k: mixup(x, targets, key=k, p=0.5))(jax.random.key(3))
    share = float(labels[0, 0])
    assert 0.5 <= share <= 1
    np.testing.assert_allclose(labels.sum(axis=1), 1, atol=1e-6)
    for i in range(8):
        neighbour = (i - 1) % 8
        assert float(labels[i, neighbour]) == pytest.approx(1 - share, abs=1e-6)
        expected = share * np.asarray(x[i]) + (1 - share) * np.asarray(x[neighbour])
        np.testing.assert_allclose(mixed[i], expected, atol=1e-6)


def test_mixup_weights_follow_the_beta_distribution():
    one = jnp.zeros((2, 1, 1, 3)), jnp.eye(2, dtype=jnp.float32)
    draw = jax.jit(jax.vmap(lambda key: mixup(*one, key=key, p=0.2)[1][0, 0]))
    shares = np.asarray(draw(jax.random.split(jax.random.key(0), 4000)))
    a = np.random.default_rng(0).beta(0.2, 0.2, 100_000)
    assert shares.min() >= 0.5
    assert shares.mean() == pytest.approx(np.maximum(a, 1 - a).mean(), abs=0.01)


def test_no_mixup_is_the_identity():
    x, targets = jnp.ones((2, 1, 1, 3)), jnp.eye(2)
    assert mixup(x, targets, key=jax.random.key(0), p=0.0) == (x, targets)
    with pytest.raises(ValueError, match="p >= 0"):
        mixup(x, targets, key=jax.random.key(0), p=-1.0)


def test_the_mesh_changes_nothing():
    def step(batch, key):
        flip_key, mix_key = jax.random.split(key)
        x = normalise(random_flip(batch, flip_key))
        return mixup(x, jnp.eye(8, dtype=jnp.float32), key=mix_key, p=0.2)

    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    spread = jax.device_put(images(), NamedSharding(mesh, P("data")))
    alone = jax.device_put(images(), jax.devices()[0])
    for a, b in zip(
        jax.jit(step)(spread, jax.random.key(1)),
        jax.jit(step)(alone, jax.random.key(1)),
        strict=True,
    ):
        np.testing.assert_allclose(a, b, atol=1e-7)
