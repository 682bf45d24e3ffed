"""The page holds the model's attention, to the precision that it says, and shows what it holds."""

import base64
import dataclasses
import json
import re
import zlib

import chromium
import commands
import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import seeded

from train_jax.errors import UserError
from train_jax.sharding import flat_names
from vit_jax import attention_maps
from vit_jax.attention_page import page, show
from vit_jax.attention_page.attention import look
from vit_jax.attention_page.page import pack
from vit_jax.classifier import Classifier, open_classifier, open_picture, seen_pixels
from vit_jax.data.preprocess import Squash
from vit_jax.init_from import nested
from vit_jax.models import api
from vit_jax.models.bit import BiTConfig
from vit_jax.models.vit import ViTConfig

TINY = ViTConfig((4, 4), width=24, depth=3, mlp_dim=48, num_heads=2, num_classes=5)
SHAPE = (12, 16, 3)
NASTY = "<img src=x onerror=alert(1)>"


def params_of(config):
    """Parameters whose attention is neither uniform nor sharp."""
    shapes, _ = jax.eval_shape(lambda key: api.init(config, key, SHAPE), jax.random.key(0))
    flat = flat_names(shapes)
    return nested({name: 1.5 * seeded.draw(name, leaf.shape, 0) for name, leaf in flat.items()})


def image(seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, (1, *SHAPE)).astype(np.float32)


def each(config, function):
    return np.asarray(jax.jit(function, static_argnums=0)(config, params_of(config), image()))


def all_weights(config):
    """(depth, heads, n, n)"""
    return each(config, lambda *given: attention_maps.each_layer(*given, lambda w: w[0]))


def unpacked(rows, kind, shape):
    """Weights as the browser has them, float64 of a shape (..., n)."""
    shares = np.frombuffer(zlib.decompress(base64.b64decode(rows["weights"])), kind)
    largest = np.frombuffer(zlib.decompress(base64.b64decode(rows["largest"])), "<f4")
    shares = shares.reshape(shape) / np.iinfo(kind).max
    return shares * largest.astype(np.float64).reshape(shape[:-1])[..., None]


@pytest.fixture(scope="module")
def token():
    """A model with a class token: its weights, and what the page makes of them."""
    return all_weights(TINY), look(TINY, params_of(TINY), image())


def test_the_page_holds_the_models_attention(token):
    weights, attention = token
    packed = pack(attention)
    assert (packed["depth"], packed["heads"], packed["tokens"]) == (3, 2, 13)
    summary = unpacked(packed["summary"], "<u2", (3, 2, 13))
    np.testing.assert_allclose(summary, weights[:, :, 0], atol=1e-5)
    assert np.ptp(weights[:, :, 0]) > 0.05
    assert list(packed["mean"]) == ["2", "1", "0"]
    for layer in range(3):
        mean = unpacked(packed["mean"][str(layer)], "u1", (13, 13))
        # Half a step of 1/255 of the row's largest weight.
        bound = weights[layer].mean(0).max(-1, keepdims=True) / 509
        assert (np.abs(mean - weights[layer].mean(0)) <= bound).all()
        full = unpacked(packed["full"][str(layer)], "u1", (2, 13, 13))
        bound = weights[layer].max(-1, keepdims=True) / 509
        assert (np.abs(full - weights[layer]) <= bound).all()


def test_rollout_and_distances_are_those_of_the_paper(token):
    _, attention = token
    packed = pack(attention)
    rolled = unpacked(packed["rollout"], "<u2", (3, 13))
    expected = each(TINY, attention_maps.rollout)
    np.testing.assert_allclose(rolled[-1, 1:].reshape(3, 4), expected[0], atol=1e-5)
    np.testing.assert_allclose(rolled.sum(1), 1, atol=1e-3)
    # After the first layer: half of it stays where it is.
    first = attention.summary[0].mean(0) / 2
    first[0] += 0.5
    np.testing.assert_allclose(rolled[0], first, atol=1e-5)
    distances = each(TINY, attention_maps.mean_distances)
    np.testing.assert_allclose(packed["distances"], distances[:, 0], atol=1e-3)


@pytest.mark.parametrize("pool", ["gap", "map"])
def test_a_model_without_a_class_token_shows_the_mean_of_its_queries(pool):
    config = dataclasses.replace(TINY, pool=pool, depth=2)
    attention = look(config, params_of(config), image())
    np.testing.assert_allclose(attention.summary, all_weights(config).mean(2), atol=1e-6)
    rolled = each(config, attention_maps.rollout).reshape(-1)
    np.testing.assert_allclose(attention.rollout[-1], rolled, atol=1e-6)


def test_what_has_no_room_is_left_out_from_the_lowest_layers_up(token):
    _, attention = token
    whole = pack(attention)

    def length(rows):
        return sum(map(len, rows.values()))

    means = sum(map(length, whole["mean"].values()))
    last = length(whole["full"]["2"])
    tight = pack(attention, room=means + last)
    assert list(tight["full"]) == ["2"]
    assert len(tight["mean"]) == 3
    tighter = pack(attention, room=length(whole["mean"]["2"]))
    assert (list(tighter["mean"]), list(tighter["full"])) == (["2"], [])
    assert tighter["summary"] == whole["summary"]
    large = look(TINY, params_of(TINY), image(), most=100)
    assert large.heads is None
    assert not pack(large)["full"]


@pytest.fixture(scope="module")
def classifier():
    names = tuple(f"{NASTY} {i}, synonym" for i in range(5))
    return Classifier(
        "run/<b>", TINY, params_of(TINY), {}, Squash(SHAPE[:2]), "softmax", names, "here"
    )


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
    path = tmp_path_factory.mktemp("pictures") / f"{NASTY}.png".replace("/", "")
    pixels = np.random.default_rng(3).integers(0, 255, (36, 48, 3)).astype(np.uint8)
    cv2.imwrite(str(path), pixels)
    return str(path)


def data_of(text):
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    assert found
    return json.loads(found[1])


def test_the_page_shows_the_predictions_and_the_picture_as_it_is_seen(classifier, picture):
    data = data_of(page(classifier, picture, top=2))
    seen = seen_pixels(classifier, open_picture(picture))
    images = jnp.asarray((seen[None].astype(np.float32) - 127.5) / 127.5)
    run = jax.jit(lambda params, images: api.apply(TINY, params, {}, images)[0])
    odds = np.exp(np.asarray(run(classifier.params, images), np.float64)[0])
    odds /= odds.sum()
    order = np.argsort(-odds)[:2]
    assert [one["class"] for one in data["predictions"]] == list(order)
    found = [one["probability"] for one in data["predictions"]]
    np.testing.assert_allclose(found, odds[order], rtol=1e-4)
    # The picture has three times as many pixels as the input, and all of them are shown.
    encoded = base64.b64decode(data["image"].partition(",")[2])
    pixels = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR)
    np.testing.assert_array_equal(pixels, cv2.imread(picture))


def test_models_without_attention_or_head(classifier, picture):
    with pytest.raises(UserError, match="there is no attention to look at"):
        page(dataclasses.replace(classifier, model=BiTConfig((1,), width=32)), picture)
    bare = dataclasses.replace(TINY, num_classes=0)
    bare = dataclasses.replace(classifier, model=bare, params=params_of(bare))
    assert data_of(page(bare, picture))["predictions"] == []


def test_a_cell_of_a_notebook_holds_the_page(classifier, picture):
    pytest.importorskip("IPython", reason="IPython is not installed")
    html = show(picture, classifier, height=700).data
    assert html.startswith('<div><iframe srcdoc="&lt;!doctype html&gt;')
    assert 'height="700"' in html
    assert NASTY not in html


def test_the_page_in_a_browser(classifier, picture, tmp_path):
    """What is chosen is shown with the model's numbers; no request, no complaint; names as text."""
    weights = all_weights_of(classifier, picture)
    path = tmp_path / "page.html"
    path.write_text(page(classifier, picture))
    with chromium.browser() as running, chromium.opened(running, path) as found:
        window = found.page
        window.wait_for_function("document.getElementById('caption').textContent !== ''")
        assert window.locator("h1").inner_text() == picture.rsplit("/", 1)[1]
        assert window.locator(".bet .name").first.inner_text().startswith(NASTY)
        assert window.locator("main img").count() == 0
        stage = window.locator("#stage")
        box = stage.bounding_box()

        def overlay():
            return stage.evaluate("canvas => canvas.toDataURL()")

        def caption(text):
            window.wait_for_function(
                "text => document.getElementById('caption').textContent.includes(text)", arg=text
            )

        def weight_at(row, column):
            window.mouse.move(0, 0)
            at = ((column + 0.5) / 4 * box["width"], (row + 0.5) / 3 * box["height"])
            stage.hover(position={"x": at[0], "y": at[1]})
            shown = window.locator("#hover").inner_text()
            assert shown.startswith(f"Patch in row {row + 1}, column {column + 1}: ")
            return float(shown.split()[-2]) / 100

        caption("Layer 3 of 3 · mean of 2 heads · from the class token")
        expected = weights[2].mean(0)[0, 1 + 4 * 1 + 2]
        assert weight_at(1, 2) == pytest.approx(expected, rel=0.05)
        drawn = [overlay()]
        window.locator('#matrix [data-layer="0"][data-head="1"]').click()
        caption("Layer 1 of 3 · head 2 · from the class token")
        assert weight_at(2, 3) == pytest.approx(weights[0, 1, 0, 1 + 4 * 2 + 3], rel=0.05)
        drawn.append(overlay())
        stage.click(position={"x": box["width"] * 0.3, "y": box["height"] * 0.9})
        caption("from the patch in row 3, column 2")
        query = 1 + 4 * 2 + 1
        assert weight_at(0, 0) == pytest.approx(weights[0, 1, query, 1], rel=0.05)
        drawn.append(overlay())
        window.keyboard.press("r")
        window.keyboard.press("ArrowDown")
        caption("Up to layer 2 of 3 · rollout · from the patch")
        eye = np.eye(13)
        rolled = (weights[1].mean(0) + eye) @ (weights[0].mean(0) + eye) / 4
        assert weight_at(1, 1) == pytest.approx(rolled[query, 1 + 4 + 1], rel=0.05)
        drawn.append(overlay())
        window.locator("#heads button").first.click()
        caption("Layer 2 of 3 · head 1")
        window.keyboard.press("o")
        drawn.append(overlay())
        assert len(set(drawn)) == len(drawn)
        window.keyboard.press("t")
        assert window.evaluate("document.documentElement.dataset.theme") == "dark"
        assert (found.complaints, found.requests) == ([], [])


def all_weights_of(classifier, picture):
    seen = seen_pixels(classifier, open_picture(picture))
    images = jnp.asarray((seen[None].astype(np.float32) - 127.5) / 127.5)
    run = jax.jit(
        lambda params, images: attention_maps.each_layer(TINY, params, images, lambda w: w[0])
    )
    return np.asarray(run(classifier.params, images))


def test_the_command_writes_a_page(data_dir, picture, tmp_path):
    published = str(data_dir / "vit" / "tiny_token.npz")
    output = tmp_path / "page.html"
    words = ("vit_jax.attention_page", picture, f"--checkpoint={published}")
    done = commands.shared().run(*words, f"--output={output}")
    assert done.code == 0, done.stderr
    data = data_of(output.read_text())
    opened = open_classifier(published)
    assert data["attention"]["depth"] == opened.model.depth
    done = commands.shared().run("vit_jax.attention_page", str(tmp_path), words[2])
    assert done.code == 2
    assert done.stderr.startswith(f"Error: There is no image in {tmp_path}")
