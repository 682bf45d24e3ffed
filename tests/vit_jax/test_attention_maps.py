"""Attention weights are those that the model uses; distances and rollout in closed form."""

import dataclasses
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import seeded
from published import load_published

from train_jax.errors import UserError
from train_jax.sharding import flat_names
from vit_jax import attention_maps
from vit_jax.init_from import nested
from vit_jax.models import api
from vit_jax.models.resnet_stem import run_stem
from vit_jax.models.vit import ResNetStem, ViTConfig

TINY = ViTConfig((4, 4), width=24, depth=2, mlp_dim=48, num_heads=3, num_classes=10)
PUBLISHED = {
    "tiny_token": TINY,
    "tiny_hybrid": dataclasses.replace(
        TINY, patch_size=(1, 1), stem=ResNetStem(stages=(1, 2), width=32)
    ),
}

# Compiled once per configuration: op by op, a test would take seconds.
distances_of = jax.jit(attention_maps.mean_distances, static_argnums=0)
rollout_of = jax.jit(attention_maps.rollout, static_argnums=0)


def norm(x, scale, bias):
    x = x - x.mean(-1, keepdims=True)
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * scale + bias


def gelu(x):
    return x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2


def encoder(p, x, weights):
    """The encoder in float64, whose attention weights (depth, b, heads, n, n) are given."""
    block, mha = "Transformer/encoderblock", "MultiHeadDotProductAttention_0"
    for i, layer_weights in enumerate(weights):
        layer = {n.removeprefix(f"{block}/"): p[n][i] for n in p if n.startswith(block)}
        y = norm(x, layer["LayerNorm_0/scale"], layer["LayerNorm_0/bias"])
        v = np.einsum("bnf,fhd->bnhd", y, layer[f"{mha}/value/kernel"])
        v = np.einsum("bhqk,bkhd->bqhd", layer_weights, v + layer[f"{mha}/value/bias"])
        x = x + np.einsum("bqhd,hdf->bqf", v, layer[f"{mha}/out/kernel"])
        x = x + layer[f"{mha}/out/bias"]
        y = norm(x, layer["LayerNorm_1/scale"], layer["LayerNorm_1/bias"])
        y = gelu(y @ layer["MlpBlock_0/Dense_0/kernel"] + layer["MlpBlock_0/Dense_0/bias"])
        x = x + y @ layer["MlpBlock_0/Dense_1/kernel"] + layer["MlpBlock_0/Dense_1/bias"]
    return norm(x, p["Transformer/encoder_norm/scale"], p["Transformer/encoder_norm/bias"])


def logits_given(config, p, tokens, weights):
    """What the model answers if its attention weights are these."""
    x = encoder(p, tokens, weights)
    return x[:, 0] @ p["head/kernel"] + p["head/bias"]


class Stem(nn.Module):
    """The convolutional front of a hybrid by itself."""

    config: ResNetStem

    @nn.compact
    def __call__(self, images):
        return run_stem(self.config, images, jnp.dtype(jnp.float32))


def patches(config, flat, images):
    """Embedded patches with class token and positions, (b, n, D)."""
    x = images
    if config.stem is not None:
        x = np.asarray(jax.jit(Stem(config.stem).apply)({"params": nested(flat)}, images))
    b, (rows, columns), (ph, pw) = len(x), config.grid(images.shape), config.patch_size
    x = x.reshape(b, rows, ph, columns, pw, -1).transpose(0, 1, 3, 2, 4, 5)
    x = x.reshape(b, rows * columns, -1) @ flat["embedding/kernel"].reshape(-1, config.width)
    x = x + flat["embedding/bias"]
    if config.class_token:
        x = np.concatenate([np.broadcast_to(flat["cls"], (b, 1, config.width)), x], axis=1)
    return x + flat["Transformer/posembed_input/pos_embedding"]


@pytest.mark.parametrize("case", PUBLISHED)
def test_the_weights_are_those_behind_the_original_logits(case, data_dir):
    """The published model's logits follow from our weights, with nothing else from the replay."""
    config = PUBLISHED[case]
    flat = load_published(data_dir / "vit" / f"{case}.npz")
    expected = np.load(data_dir / "vit" / f"{case}.io.npz")
    with jax.default_matmul_precision("highest"):
        weights = jax.jit(
            lambda params, images: attention_maps.each_layer(config, params, images, lambda w: w)
        )(nested(flat), expected["images"])
        tokens = patches(config, flat, expected["images"])
    assert weights.dtype == jnp.float32
    np.testing.assert_allclose(np.asarray(weights).sum(-1), 1, atol=1e-5)
    exact = {name: array.astype(np.float64) for name, array in flat.items()}
    found = logits_given(config, exact, tokens, np.asarray(weights, np.float64))
    np.testing.assert_allclose(found, expected["logits"], rtol=0, atol=2e-5)
    # It is the weights that do it.
    turned = np.roll(np.asarray(weights, np.float64), 1, axis=-1)
    wrong = logits_given(config, exact, tokens, turned)
    assert np.abs(wrong - expected["logits"]).max() > 1e-2


def model(**changes):
    """A model and parameters whose attention is uniform."""
    config = dataclasses.replace(TINY, **changes)
    params = nested({k: np.array(v) for k, v in _init(config).items()})
    attention = params["Transformer"]["encoderblock"]["MultiHeadDotProductAttention_0"]
    for name in ("query", "key"):
        attention[name] = jax.tree.map(np.zeros_like, attention[name])
    return config, params


def _init(config):
    """Parameters by flat name, whose attention is neither uniform nor sharp."""
    shapes, _ = jax.eval_shape(lambda key: api.init(config, key, (16, 24, 3)), jax.random.key(0))
    return {name: seeded.draw(name, leaf.shape, 0) for name, leaf in flat_names(shapes).items()}


def images(count, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, (count, 16, 24, 3)).astype(np.float32)


@pytest.mark.parametrize("pool", ["token", "gap"])
def test_uniform_attention_looks_as_far_as_the_patches_are_apart(pool):
    """4 x 6 patches of 4 pixels: the mean over all pairs, by hand."""
    config, params = model(pool=pool)
    places = [(4 * row, 4 * column) for row in range(4) for column in range(6)]
    mean = np.mean([math.dist(a, b) for a in places for b in places])
    # A class token takes one of 25 equal shares, which is not given to the others.
    expected = mean * 24 / 25 if pool == "token" else mean
    found = distances_of(config, params, images(2))
    assert found.shape == (2, 2, 3)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_attention_to_itself_has_no_distance():
    """Large one-hot position codes as queries and keys: every token sees itself alone."""
    config = dataclasses.replace(TINY, pool="gap", width=24, num_heads=1, depth=1)
    params = nested({k: np.array(v) for k, v in _init(config).items()})
    tree = params["Transformer"]
    params["embedding"]["kernel"][:] = 0
    tree["posembed_input"]["pos_embedding"][:] = np.eye(24)
    attention = tree["encoderblock"]["MultiHeadDotProductAttention_0"]
    for name in ("query", "key"):
        attention[name]["kernel"][:] = 20 * np.eye(24)[None, :, None]
    distances = distances_of(config, params, images(1))
    np.testing.assert_allclose(distances, 0, atol=1e-4)
    # And what reaches the representation is the mean of the patches, whatever the layer.
    np.testing.assert_allclose(rollout_of(config, params, images(1)), 1 / 24, rtol=1e-4)


def test_distances_are_pixels_of_the_image_in_a_hybrid_and_with_wide_patches():
    stem = dataclasses.replace(TINY, patch_size=(1, 2), stem=ResNetStem((1, 1), width=32))
    distances = attention_maps.patch_distances(stem, (16, 32, 3))
    assert distances.shape == (4, 4)
    np.testing.assert_allclose(distances[0], [0, 16, 8, math.hypot(8, 16)])


def test_rollout_is_the_product_with_the_residual_half():
    """One layer and two, against matrices multiplied in order."""
    config = dataclasses.replace(TINY, depth=2)
    params = nested({k: 1.5 * v for k, v in _init(config).items()})
    run = jax.jit(attention_maps.each_layer, static_argnums=(0, 3))
    first, second = np.asarray(run(config, params, images(3), _mean_over_heads))
    assert np.ptp(first[:, 0]) > 1e-3
    eye = np.eye(25)
    expected = (0.5 * (second + eye)) @ (0.5 * (first + eye))
    found = np.asarray(rollout_of(config, params, images(3)))
    np.testing.assert_allclose(found.reshape(3, 24), expected[:, 0, 1:], rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(found.sum((1, 2)) + expected[:, 0, 0], 1, rtol=1e-5)

    one = params | {"Transformer": dict(params["Transformer"])}
    one["Transformer"]["encoderblock"] = jax.tree.map(
        lambda x: x[:1], params["Transformer"]["encoderblock"]
    )
    found = rollout_of(dataclasses.replace(config, depth=1), one, images(3))
    expected = 0.5 * (first + eye)[:, 0, 1:]
    np.testing.assert_allclose(np.asarray(found).reshape(3, 24), expected, rtol=1e-4, atol=1e-7)


def _mean_over_heads(weights):
    return weights.mean(1)


def test_a_pooling_head_says_what_is_pooled():
    """Its query looks at one token; uniform layers leave half of that there per layer."""
    config, params = model(pool="map", position="none")
    attention = params["MAPHead_0"]["MultiHeadDotProductAttention_0"]
    attention["query"] = jax.tree.map(np.zeros_like, attention["query"])
    uniform = rollout_of(config, params, images(2))
    np.testing.assert_allclose(uniform, 1 / 24, rtol=1e-5)
    attention["query"]["bias"][:] = 30 * np.random.default_rng(0).normal(size=(3, 8))
    sharp = np.asarray(rollout_of(config, params, images(2)))
    np.testing.assert_allclose(sharp.sum((1, 2)), 1, rtol=1e-5)
    probed = (sharp.reshape(2, 24) - 0.75 / 24) / 0.25
    logits = _probe_logits(config, params, images(2))
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    weights = (weights / weights.sum(-1, keepdims=True)).mean(1)
    assert weights.max() > 0.1
    np.testing.assert_allclose(probed, weights, atol=1e-4)


def _probe_logits(config, params, images):
    encoded = np.asarray(
        jax.jit(api.apply, static_argnums=0)(config, params, {}, images)[1]["encoded"]
    )
    attention = params["MAPHead_0"]["MultiHeadDotProductAttention_0"]
    k = np.einsum("bnf,fhd->bnhd", encoded, attention["key"]["kernel"]) + attention["key"]["bias"]
    return np.einsum("hd,bnhd->bhn", attention["query"]["bias"], k) / math.sqrt(8)


@pytest.mark.parametrize("change", [{"position": "relative"}, {"position_at": "layers_shared"}])
def test_positions_that_are_not_at_the_stem_are_refused(change):
    config = dataclasses.replace(TINY, **change)
    with pytest.raises(UserError, match="positions are at the stem, not with position="):
        attention_maps.rollout(config, _init(config), images(1))


def test_batches_do_not_matter():
    config = dataclasses.replace(TINY, position="sincos2d")
    params = nested({k: 1.5 * v for k, v in _init(config).items()})
    whole = distances_of(config, params, images(5))
    several = attention_maps.in_batches(
        attention_maps.mean_distances, config, params, images(5), batch_size=2, axis=1
    )
    np.testing.assert_allclose(several, whole, rtol=1e-5)
    assert np.ptp(several, axis=1).max() > 0
    with pytest.raises(UserError, match="no images to look at"):
        attention_maps.in_batches(attention_maps.rollout, config, params, images(0), batch_size=2)
