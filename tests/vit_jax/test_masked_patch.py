"""Masked patch prediction: which patches are corrupted and how, what is predicted, from what."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from train_jax.errors import UserError
from train_jax.mesh import MeshConfig, make_mesh
from train_jax.sharding import batch_sharding
from vit_jax.data.on_device import normalise
from vit_jax.masked_patch import (
    MaskedPatchConfig,
    check_model,
    colours,
    draw_corruption,
    make_loss,
    make_metrics,
    num_outputs,
    targets,
)
from vit_jax.models import api
from vit_jax.models.bit import BiTConfig
from vit_jax.models.config import ViTConfig
from vit_jax.models.corruption import MASK, Corruption, corrupt
from vit_jax.models.vit import ViT

MODEL = ViTConfig(
    patch_size=(4, 4),
    width=16,
    depth=1,
    mlp_dim=32,
    num_heads=2,
    num_classes=0,
    patch_outputs=512,
    execution="unrolled",
    remat="none",
)
SHAPE = (16, 16, 3)


def drawn(config=None, *, seed=0, shape=(64, 196)):
    corruption = draw_corruption(config or MaskedPatchConfig(), jax.random.key(seed), shape=shape)
    return np.asarray(corruption.sources), np.asarray(corruption.predicted)


def numbers(sources, predicted):
    """How many patches of each image are corrupted, masked, swapped and kept."""
    own = np.arange(sources.shape[1])[None]
    corrupted = np.zeros(sources.shape, bool)
    np.put_along_axis(corrupted, predicted, True, axis=1)
    masked, changed = sources == MASK, (sources != own) & (sources != MASK)
    assert not (masked | changed)[~corrupted].any(), "a patch is changed that is not predicted"
    kept = corrupted & ~masked & ~changed
    return [set(each.sum(axis=1).tolist()) for each in (corrupted, masked, changed, kept)]


def test_half_of_the_patches_are_corrupted_in_the_papers_proportions():
    assert numbers(*drawn()) == [{98}, {78}, {10}, {10}]
    assert numbers(*drawn(MaskedPatchConfig(corrupted=0.15))) == [{29}, {23}, {3}, {3}]
    bert = MaskedPatchConfig(masked=0.5, swapped=0.5)
    assert numbers(*drawn(bert, shape=(8, 16))) == [{8}, {4}, {4}, {0}]


def test_every_patch_is_as_likely_as_another_to_be_corrupted_and_to_take_the_place_of_one():
    sources, predicted = drawn(shape=(2000, 16))
    often = np.bincount(predicted.ravel(), minlength=16) / 2000
    np.testing.assert_allclose(often, 0.5, atol=0.06)
    rows, places = np.nonzero((sources != np.arange(16)) & (sources != MASK))
    shifts = np.bincount((sources[rows, places] - places) % 16, minlength=16) / len(rows)
    assert shifts[0] == 0
    np.testing.assert_allclose(shifts[1:], 1 / 15, atol=0.03)


def test_corruption_follows_from_its_key_alone():
    for a, b in zip(drawn(seed=1), drawn(seed=1), strict=True):
        np.testing.assert_array_equal(a, b)
    assert (drawn(seed=1)[1] != drawn(seed=2)[1]).any()
    # Images of one batch differ.
    assert (drawn()[1][0] != drawn()[1][1]).any()


def test_embeddings_are_replaced_as_the_sources_say():
    x = jnp.arange(8.0).reshape(1, 4, 2)
    mask = jnp.asarray([[[-1.0, -2.0]]])
    found = corrupt(x, jnp.asarray([[MASK, 3, 2, 0]]), mask)
    assert found.tolist() == [[[-1, -2], [6, 7], [4, 5], [0, 1]]]


def hand_made():
    """8x8 pixels, patches of 4: black, almost level 1, exactly level 1 in green, and a mixture."""
    image = np.zeros((8, 8, 3), np.uint8)
    image[:4, 4:] = 32
    image[3, 7] = 31
    image[4:, :4, 1] = 32
    image[4:, 4:] = np.array([255, 0, 100])
    # Half of the last patch is white: its mean red is 255, green 127.5, blue 177.5.
    image[4:6, 4:] = 255
    return jnp.asarray(image[None])


def test_mean_colours_of_a_hand_made_image():
    black, almost, green = 0, 0, 1 * 8
    mixture = 7 * 64 + 3 * 8 + 5
    assert targets(hand_made(), "mean_colour", (4, 4)).tolist() == [
        [[black], [almost], [green], [mixture]]
    ]


def test_small_patches_of_a_hand_made_image():
    # One patch of 8x8 pixels as 4x4 cells of 2x2, row by row.
    grey, green, white, pink = 64 + 8 + 1, 8, 511, 7 * 64 + 3
    assert targets(hand_made(), "small_patch", (8, 8)).tolist() == [
        [[0, 0, grey, grey, 0, 0, grey, 0, green, green, white, white, green, green, pink, pink]]
    ]


def test_pixels_of_a_hand_made_image():
    found = targets(hand_made(), "pixels", (4, 4))
    assert found.shape == (1, 4, 48)
    image = np.asarray(hand_made()[0], np.float32) / 127.5 - 1
    np.testing.assert_allclose(found[0, 3], image[4:, 4:].ravel(), atol=1e-6)
    np.testing.assert_allclose(found[0, 1], image[:4, 4:].ravel(), atol=1e-6)


def test_all_512_colours_are_met():
    levels = (np.indices((8, 8, 8)).reshape(3, -1).T * 32 + 31).astype(np.uint8)
    found = colours(jnp.asarray(levels.reshape(1, 16, 32, 3)), (1, 1))
    assert found.ravel().tolist() == list(range(512))


def shapes(model):
    return jax.eval_shape(lambda key: api.init(model, key, SHAPE)[0], jax.random.key(0))


@pytest.fixture(scope="module")
def params():
    """With a head that is not zero, so that the patches matter to the loss."""
    params = jax.jit(lambda key: api.init(MODEL, key, SHAPE)[0])(jax.random.key(0))
    assert not any(leaf.any() for leaf in jax.tree.leaves(params["patch_head"]))
    rng = np.random.default_rng(0)
    head = {"kernel": rng.normal(size=(16, 512)) * 0.3, "bias": rng.normal(size=512)}
    params["patch_head"] = {name: jnp.asarray(x, jnp.float32) for name, x in head.items()}
    return params


def batch(number=8):
    rng = np.random.default_rng(1)
    return {"image": jnp.asarray(rng.integers(0, 256, (number, *SHAPE), np.uint8))}


@jax.jit
def predictions(params, images, corruption):
    variables = {"params": params}
    return ViT(MODEL).apply(variables, normalise(images), corruption=corruption)[1]["patches"]


def test_the_loss_is_the_mean_over_corrupted_patches_alone(params):
    images = batch(2)["image"]
    measured = jax.jit(make_metrics(MaskedPatchConfig(), MODEL))(
        params, {}, {"image": images, "mask": jnp.asarray([True, False])}
    )
    sources, predicted = drawn(shape=(2, 16))
    every = jnp.broadcast_to(jnp.arange(16, dtype=jnp.int32)[None], (2, 16))
    logits = predictions(params, images, Corruption(jnp.asarray(sources), every))
    wanted = np.asarray(targets(images, "mean_colour", (4, 4)))
    losses = -np.take_along_axis(np.asarray(jax.nn.log_softmax(logits)), wanted, axis=2)[..., 0]
    total, count = measured["loss"]
    assert (float(count), float(measured["accuracy"][1])) == (1, 1)
    np.testing.assert_allclose(total, losses[0, predicted[0]].mean(), rtol=1e-5)
    assert abs(float(total) - losses[0].mean()) > 1e-3


def test_what_is_masked_is_not_seen(params):
    sources = np.arange(16, dtype=np.int32)[None].copy()
    sources[0, 5] = MASK
    sources = np.concatenate([sources, sources])
    every = np.broadcast_to(np.arange(16, dtype=np.int32), (2, 16))
    corruption = Corruption(jnp.asarray(sources), jnp.asarray(every))
    images = np.array(batch(2)["image"])
    before = predictions(params, jnp.asarray(images), corruption)
    images[0, 4:8, 4:8] ^= 255
    after = predictions(params, jnp.asarray(images), corruption)
    np.testing.assert_array_equal(before, after)
    images[0, 0, 0] ^= 255
    assert (predictions(params, jnp.asarray(images), corruption) != before).any()


@pytest.mark.parametrize(
    ("target", "expected"),
    [("mean_colour", np.log(512)), ("small_patch", np.log(512)), ("pixels", None)],
)
def test_the_first_loss_is_that_of_knowing_nothing(target, expected):
    model = dataclasses.replace(MODEL, patch_outputs=num_outputs(target, MODEL))
    images = batch()["image"]
    loss = make_loss(MaskedPatchConfig(target=target, corrupted=1.0), model, flip=True)
    nothing = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes(model))
    value, (_, metrics) = jax.jit(loss)(
        nothing, {}, {"image": images}, jax.random.key(3), jnp.int32(0)
    )
    if expected is None:
        expected = np.mean(np.square(np.asarray(normalise(images))))
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    assert set(metrics) == (set() if target == "pixels" else {"accuracy"})


def test_the_gradient_reaches_the_mask_and_follows_from_the_key(params):
    loss = make_loss(MaskedPatchConfig(), MODEL, flip=True)

    @jax.jit
    def gradient(params, images, key):
        return jax.value_and_grad(
            lambda params: loss(params, {}, {"image": images}, key, jnp.int32(0))[0]
        )(params)

    images = batch()["image"]
    value, grads = gradient(params, images, jax.random.key(0))
    assert float(jnp.abs(grads["mask_token"]).min()) > 0
    assert all(float(jnp.abs(leaf).max()) > 0 for leaf in jax.tree.leaves(grads["patch_head"]))
    # Over eight devices it is the same loss with the same corruption.
    mesh = make_mesh(MeshConfig())
    split = jax.device_put(images, batch_sharding(mesh))
    with jax.set_mesh(mesh):
        again, _ = gradient(params, split, jax.random.key(0))
    np.testing.assert_allclose(again, value, rtol=1e-5)
    assert float(gradient(params, images, jax.random.key(1))[0]) != float(value)


def test_a_model_without_patch_outputs_has_neither_mask_nor_prediction_layer():
    both, plain = shapes(MODEL), shapes(dataclasses.replace(MODEL, patch_outputs=0))
    assert set(both) - set(plain) == {"mask_token", "patch_head"}


@pytest.mark.parametrize(
    ("config", "model", "message"),
    [
        ({}, {"patch_outputs": 8}, "set config.model.patch_outputs=512"),
        ({"target": "small_patch"}, {}, "set config.model.patch_outputs=8192"),
        ({"target": "pixels"}, {}, "set config.model.patch_outputs=48"),
        ({"target": "small_patch"}, {"patch_size": (14, 14)}, "multiples of 4 pixels, not 14x14"),
        ({}, {"num_classes": 10}, "set config.model.num_classes=0"),
        ({}, {"representation_size": 16}, "config.model.representation_size=None"),
    ],
)
def test_a_model_that_does_not_fit_the_task_is_refused(config, model, message):
    with pytest.raises(UserError, match=message):
        check_model(MaskedPatchConfig(**config), dataclasses.replace(MODEL, **model))


def test_a_model_without_patches_is_refused():
    with pytest.raises(UserError, match=r"config\.model must be a ViT"):
        check_model(MaskedPatchConfig(), BiTConfig((1,)))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"corrupted": 0.0}, r"corrupted=0\.0 is not in"),
        ({"masked": 0.9, "swapped": 0.2}, "must be shares of 1 together"),
    ],
)
def test_shares_that_are_none_are_refused(wrong, message):
    with pytest.raises(UserError, match=message):
        MaskedPatchConfig(**wrong)
