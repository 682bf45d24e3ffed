"""What the ViT does beside its logits: noise, execution, precision, shapes, initial values."""

import dataclasses
import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from train_jax.errors import UserError
from train_jax.sharding import flat_names
from vit_jax.models import api
from vit_jax.models.attention import (
    _with_sums,
    _with_sums_by_product,
    attend,
    attend_plainly,
    relative_logits,
)
from vit_jax.models.embeddings import PositionEmbedding, learned_shapes, sincos2d
from vit_jax.models.layers import EPSILON, LayerNorm, dropout, stochastic_depth
from vit_jax.models.variants import SIZES
from vit_jax.models.vit import ResNetStem, ViTConfig, config_for

TINY = ViTConfig((4, 4), width=24, depth=3, mlp_dim=48, num_heads=3, num_classes=10)
HYBRID = dataclasses.replace(TINY, patch_size=(1, 1), stem=ResNetStem((1, 1), width=32))
SHAPE = (16, 16, 3)
EXECUTIONS = [
    ("scan", "names"),
    ("scan", "dots"),
    ("scan", "full"),
    ("unrolled", "none"),
    ("unrolled", "names"),
]

# Compiled once per configuration: op by op, a test would take seconds.
init_both = jax.jit(api.init, static_argnums=(0, 2))


def init(config, key, shape):
    params, model_state = init_both(config, key, shape)
    assert model_state == {}
    return params


def run(config, params, images, *, key=None):
    logits, outputs, _ = api.apply(config, params, {}, images, key=key)
    return logits, outputs


apply = jax.jit(run, static_argnums=0)


def make(config, shape=SHAPE, *, batch=4):
    """Parameters with a head that is not zero, and images."""
    params = init(config, jax.random.key(0), shape)
    if config.num_classes:
        kernel = params["head"]["kernel"]
        params["head"]["kernel"] = 0.1 * jax.random.normal(jax.random.key(1), kernel.shape)
    return params, jax.random.normal(jax.random.key(2), (batch, *shape))


def loss_and_gradient(config, params, images, *, key=None):
    def loss(params):
        return jnp.square(run(config, params, images, key=key)[0]).mean()

    with jax.default_matmul_precision("highest"):
        return jax.jit(jax.value_and_grad(loss))(params)


@pytest.mark.parametrize(("execution", "remat"), EXECUTIONS)
def test_execution_modes_agree(execution, remat):
    """Same values and gradients, with the same noise, scanned or not, recomputed or kept."""
    config = dataclasses.replace(
        TINY, depth=2, dropout=0.1, attention_dropout=0.1, stochastic_depth=0.2, remat="none"
    )
    params, images = make(config)
    key = jax.random.key(3)
    expected = loss_and_gradient(config, params, images, key=key)
    config = dataclasses.replace(config, execution=execution, remat=remat)
    actual = loss_and_gradient(config, params, images, key=key)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-7), actual, expected
    )


def test_initial_values_do_not_depend_on_execution():
    scanned = init(TINY, jax.random.key(0), SHAPE)
    unrolled = dataclasses.replace(TINY, execution="unrolled", remat="none")
    jax.tree.map(np.testing.assert_array_equal, scanned, init(unrolled, jax.random.key(0), SHAPE))


def test_scan_without_remat_is_refused():
    with pytest.raises(UserError, match="remat"):
        config_for("Ti/16", execution="scan", remat="none")


def test_initial_distributions():
    """ViT paper's code: xavier on flattened Q, K, V, out; 0.02 positions; zero class and head."""
    config = config_for("Ti/16", num_classes=7, head_bias=-10.0, representation_size=192)
    params = init(config, jax.random.key(0), (224, 224, 3))
    block = params["Transformer"]["encoderblock"]
    attention = block["MultiHeadDotProductAttention_0"]
    for name in ("query", "key", "value", "out"):
        kernel = attention[name]["kernel"]
        limit = np.sqrt(3 / 192)
        assert 0.999 * limit < jnp.abs(kernel).max() <= limit
        assert not attention[name]["bias"].any()
        np.testing.assert_allclose(kernel.std(), limit / np.sqrt(3), rtol=0.01)
    for dense in ("Dense_0", "Dense_1"):
        limit = np.sqrt(6 / (192 + 768))
        assert 0.999 * limit < jnp.abs(block["MlpBlock_0"][dense]["kernel"]).max() <= limit
        np.testing.assert_allclose(block["MlpBlock_0"][dense]["bias"].std(), 1e-6, rtol=0.1)
    # Every layer has its own draw.
    first, second = attention["query"]["kernel"][:2]
    assert not np.allclose(first, second)
    positions = params["Transformer"]["posembed_input"]["pos_embedding"]
    np.testing.assert_allclose(positions.std(), 0.02, rtol=0.02)
    np.testing.assert_allclose(params["embedding"]["kernel"].std(), 768**-0.5, rtol=0.02)
    np.testing.assert_allclose(params["pre_logits"]["kernel"].std(), 192**-0.5, rtol=0.02)
    assert not params["cls"].any()
    assert not params["head"]["kernel"].any()
    assert (params["head"]["bias"] == -10).all()


def test_hybrid_initial_scales():
    params = init(HYBRID, jax.random.key(0), (32, 32, 3))
    unit = params["block1"]["unit1"]
    assert not unit["gn3"]["scale"].any()
    assert (unit["gn1"]["scale"] == 1).all()
    assert (unit["gn_proj"]["scale"] == 1).all()


def test_untrained_head_returns_its_bias():
    config = dataclasses.replace(TINY, head_bias=-10.0)
    params = init(config, jax.random.key(0), SHAPE)
    logits, _ = apply(config, params, jnp.ones((2, *SHAPE)))
    np.testing.assert_array_equal(logits, np.full((2, 10), -10, np.float32))


def test_dropout_rate_and_mean():
    x = jnp.ones((200, 200))
    y = dropout(x, 0.25, key=jax.random.key(0))
    np.testing.assert_allclose((y == 0).mean(), 0.25, atol=0.01)
    np.testing.assert_allclose(y.mean(), 1, atol=0.015)
    np.testing.assert_allclose(y.max(), 1 / 0.75, rtol=1e-6)
    assert dropout(x, 0.25, key=None) is x
    assert dropout(x, 0.0, key=jax.random.key(0)) is x


def test_stochastic_depth_drops_whole_examples():
    x = jnp.ones((4000, 3, 2))
    y = stochastic_depth(x, jnp.float32(0.2), key=jax.random.key(0))
    assert ((y == y[:, :1, :1]).all(axis=(1, 2))).all()
    np.testing.assert_allclose((y[:, 0, 0] == 0).mean(), 0.2, atol=0.02)
    np.testing.assert_allclose(y.mean(), 1, atol=0.03)


def test_stochastic_depth_grows_with_depth():
    """Rate 0 in the first block, the given one in the last (AugReg)."""
    from vit_jax.models.encoder import _noise

    noise = _noise(dataclasses.replace(TINY, stochastic_depth=0.1), jax.random.key(0))
    np.testing.assert_allclose(noise["drop_rate"], [0, 0.05, 0.1], rtol=1e-6)


@pytest.mark.parametrize(
    ("rates", "places"),
    [
        # After the positions, and per block after the projection, the GELU, the second dense.
        ({"dropout": 0.1}, {(4, 17, 24): 1 + 2 * 3, (4, 17, 48): 3}),
        ({"attention_dropout": 0.1}, {(4, 3, 17, 17): 3}),
        ({"stochastic_depth": 0.1}, {(4, 1, 1): 2 * 3}),
        ({}, {}),
    ],
)
def test_places_of_the_noise(rates, places, monkeypatch):
    """Counts the masks drawn (ViT paper, section 4.1 and Appendix B.1)."""
    drawn: dict[tuple[int, ...], int] = {}
    bernoulli = jax.random.bernoulli

    def counting(key, p, shape):
        drawn[shape] = drawn.get(shape, 0) + 1
        return bernoulli(key, p, shape)

    config = dataclasses.replace(TINY, **rates, execution="unrolled", remat="none")
    params, images = make(config)
    monkeypatch.setattr(jax.random, "bernoulli", counting)
    run(config, params, images, key=jax.random.key(4))
    assert drawn == places
    run(config, params, images)
    assert drawn == places


def test_noise_needs_a_key_and_depends_on_it():
    config = dataclasses.replace(TINY, dropout=0.1)
    params, images = make(config)
    run = jax.jit(lambda key: apply(config, params, images, key=key)[0])
    plain = apply(TINY, params, images)[0]
    np.testing.assert_allclose(apply(config, params, images)[0], plain, atol=1e-6)
    one, two = run(jax.random.key(0)), run(jax.random.key(1))
    assert jnp.abs(one - two).max() > 1e-3
    np.testing.assert_array_equal(one, run(jax.random.key(0)))


@pytest.mark.parametrize(("config", "pool"), [(TINY, "map"), (HYBRID, "token"), (TINY, "gap")])
def test_bfloat16_is_close_and_parameters_stay_float32(config, pool):
    config = dataclasses.replace(config, depth=1, pool=pool, representation_size=20)
    params, images = make(config, (32, 32, 3))
    half = dataclasses.replace(config, compute_dtype="bfloat16")
    assert {leaf.dtype for leaf in jax.tree.leaves(init(half, jax.random.key(0), SHAPE))} == {
        jnp.dtype("float32")
    }
    logits, _ = apply(config, params, images)
    loose, outputs = apply(half, params, images)
    assert loose.dtype == outputs["pre_logits"].dtype == jnp.float32
    assert outputs["encoded"].dtype == jnp.bfloat16
    assert 0 < jnp.abs(logits - loose).max() < 0.05 * jnp.abs(logits).max() + 0.01
    if config.stem is None:
        # What they are of is known without compiling them.
        gradients = jax.eval_shape(partial(loss_and_gradient, half), params, images)[1]
        assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(gradients))


def test_softmax_is_float32_in_bfloat16():
    """With large logits, weights rounded before the sum would miss 1 by a percent."""
    q = jax.random.normal(jax.random.key(0), (1, 64, 1, 16), jnp.bfloat16) * 4
    v = jnp.ones((1, 64, 1, 16), jnp.bfloat16)
    jaxpr = str(jax.make_jaxpr(attend)(q, q, v))
    assert re.search(r"f32\[1,1,64,64\] = exp", jaxpr)


def test_the_backward_pass_makes_its_own_logits():
    """Merged with the forward pass's they would be kept, in float32, for every unrolled layer."""
    q = jnp.ones((1, 5, 1, 8))
    jaxpr = str(jax.make_jaxpr(lambda q, k, v: jax.vjp(attend, q, k, v)[1](v))(q, q, q))
    barrier = jaxpr.index("optimization_barrier")
    logits = [match.start() for match in re.finditer(r"f32\[1,1,5,5\] = dot_general", jaxpr)]
    assert len([place for place in logits if place < barrier]) == 1
    assert len([place for place in logits if place > barrier]) == 2


def test_attention_and_its_derivative():
    """Against the plain formula, differentiated automatically; more queries than keys."""

    def plain(q, k, v):
        logits = jnp.einsum("bqhd,bkhd->bhqk", q, k) / np.float32(np.sqrt(8))
        return jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(logits), v)

    keys = jax.random.split(jax.random.key(0), 4)
    q, k, v, gradient = (
        2 * jax.random.normal(key, (2, n, 3, 8)) for key, n in zip(keys, (7, 5, 5, 7), strict=True)
    )
    with jax.default_matmul_precision("highest"):
        expected, plain_vjp = jax.vjp(plain, q, k, v)
        actual, vjp = jax.vjp(attend, q, k, v)
        np.testing.assert_allclose(actual, expected, atol=1e-5)
        for ours, theirs in zip(vjp(gradient), plain_vjp(gradient), strict=True):
            np.testing.assert_allclose(ours, theirs, atol=1e-4)
        dropped = attend_plainly(q, k, v)
        np.testing.assert_allclose(dropped, expected, atol=1e-5)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_sums_of_weights_by_a_product_are_their_sums(dtype):
    """What a TPU does in the place of the CPU's code."""
    key, other = jax.random.split(jax.random.key(0))
    weights = jnp.exp(-4 * jax.random.uniform(key, (2, 3, 7, 50)))
    v = jax.random.normal(other, (2, 3, 50, 8)).astype(dtype)
    product, total = _with_sums(weights, v)
    actual, actual_total = _with_sums_by_product(weights, v)
    assert actual_total.shape == total.shape
    assert actual_total.dtype == jnp.float32
    np.testing.assert_allclose(actual, product, atol=1e-5)
    # Each weight is rounded by up to 2**-9 of itself in bfloat16, the sum by less.
    np.testing.assert_allclose(actual_total, total, rtol=1e-6 if dtype == jnp.float32 else 2e-3)


def test_layer_norm_and_its_derivative():
    """Against the plain formula, differentiated automatically, also of tokens far from zero."""

    def plain(params, x):
        centred = x - x.mean(-1, keepdims=True)
        y = centred / jnp.sqrt(jnp.square(centred).mean(-1, keepdims=True) + EPSILON)
        return y * params["scale"][None, None] + params["bias"][None, None]

    key, other = jax.random.split(jax.random.key(0))
    x = 3 * jax.random.normal(key, (2, 5, 64)) + jnp.linspace(-10, 10, 5)[None, :, None]
    gradient = jax.random.normal(other, x.shape)
    params = {"scale": jnp.linspace(0.5, 2, 64), "bias": jnp.linspace(-1, 1, 64)}
    expected, plain_vjp = jax.vjp(plain, params, x)
    norm = LayerNorm(jnp.dtype("float32"))
    actual, vjp = jax.vjp(lambda params, x: norm.apply({"params": params}, x), params, x)
    np.testing.assert_allclose(actual, expected, atol=2e-5)
    jax.tree.map(
        lambda ours, theirs: np.testing.assert_allclose(ours, theirs, atol=2e-5, rtol=2e-5),
        vjp(gradient),
        plain_vjp(gradient),
    )
    # Tokens without variation stay finite.
    constant = norm.apply({"params": params}, jnp.full((1, 1, 64), 1000.0))
    np.testing.assert_allclose(constant[0, 0], params["bias"], atol=1e-5)


@pytest.mark.parametrize("position", ["learned", "learned2d", "relative", "sincos2d", "none"])
@pytest.mark.parametrize("pool", ["token", "gap", "map"])
def test_non_square_images_and_patches(pool, position):
    config = dataclasses.replace(TINY, patch_size=(4, 8), pool=pool, position=position)
    params, images = make(config, (12, 40, 3))
    logits, outputs = apply(config, params, images)
    tokens = 3 * 5 + (pool == "token")
    assert config.grid(images.shape) == (3, 5)
    assert config.num_tokens(images.shape) == tokens
    assert logits.shape == (4, 10)
    assert outputs["encoded"].shape == (4, tokens, 24)
    at_stem = position in ("learned", "learned2d")
    assert ("posembed_input" in params["Transformer"]) == at_stem


def test_without_positions_a_vit_is_a_bag_of_patches():
    config = dataclasses.replace(TINY, position="none")
    params, images = make(config)
    upside_down = images.reshape(4, 4, 4, 16, 3)[:, ::-1].reshape(images.shape)
    logits = [apply(config, params, x)[0] for x in (images, upside_down)]
    np.testing.assert_allclose(logits[0], logits[1], atol=1e-5)


@pytest.mark.parametrize("pool", ["token", "gap"])
def test_two_dimensional_positions(pool):
    """Row beside column; the class token has a vector of its own (ViT paper, Appendix D.4)."""
    config = dataclasses.replace(TINY, position="learned2d", pool=pool)
    embedding = PositionEmbedding(config, (2, 3))
    shapes = learned_shapes(config, (2, 3))
    assert shapes["row_embedding"] == (2, 12)
    assert shapes["column_embedding"] == (3, 12)
    rng = np.random.default_rng(0)
    params = {name: rng.normal(size=shape).astype("f4") for name, shape in shapes.items()}
    (table,) = embedding.apply({"params": params}, method="table")
    if pool == "token":
        np.testing.assert_array_equal(table[0], params["cls_embedding"][0, 0])
        table = table[1:]
    for i, (row, column) in enumerate(np.ndindex(2, 3)):
        expected = [params["row_embedding"][row], params["column_embedding"][column]]
        np.testing.assert_array_equal(table[i], np.concatenate(expected))


def test_relative_positions_are_a_second_attention():
    """Against a loop over all pairs; queries look at vectors of the distance, scaled alike."""
    key, other = jax.random.split(jax.random.key(0))
    q = jax.random.normal(key, (2, 4, 3, 8))
    embedding = jax.random.normal(other, (7, 3, 8))
    with jax.default_matmul_precision("highest"):
        actual = np.asarray(relative_logits(q, embedding))
    for b, h, i, j in np.ndindex(2, 3, 4, 4):
        expected = np.dot(q[b, i, h], embedding[i - j + 3, h]) / np.sqrt(8)
        np.testing.assert_allclose(actual[b, h, i, j], expected, atol=1e-5)


def test_relative_positions_reach_the_logits():
    config = dataclasses.replace(TINY, position="relative")
    params, images = make(config)
    attention = params["Transformer"]["encoderblock"]["MultiHeadDotProductAttention_0"]
    tokens = config.num_tokens(images.shape)
    assert attention["relative_embedding"].shape == (
        TINY.depth, 2 * tokens - 1, TINY.num_heads, TINY.head_dim
    )  # fmt: skip
    gradients = loss_and_gradient(config, params, images)[1]["Transformer"]["encoderblock"]
    gradient = gradients["MultiHeadDotProductAttention_0"]["relative_embedding"]
    assert (jnp.abs(gradient).sum((0, 2, 3)) > 0).all()


@pytest.mark.parametrize("position", ["learned", "learned2d"])
def test_positions_in_every_layer(position):
    """Equal vectors in every layer are shared ones; in a single layer, those at the stem."""
    layers = dataclasses.replace(TINY, position=position, position_at="layers")
    shared = dataclasses.replace(layers, position_at="layers_shared")
    params, images = make(layers)
    blocks = params["Transformer"]["encoderblock"]
    assert "posembed_input" not in params["Transformer"]
    stacked = blocks["posembed_input"]
    assert all(len(leaf) == TINY.depth for leaf in stacked.values())
    one = {name: leaf[0] for name, leaf in stacked.items()}
    same = {name: jnp.stack([leaf] * TINY.depth) for name, leaf in one.items()}
    plain = {name: leaf for name, leaf in blocks.items() if name != "posembed_input"}

    def logits(config, encoder):
        return apply(config, params | {"Transformer": params["Transformer"] | encoder}, images)[0]

    expected = logits(layers, {"encoderblock": plain | {"posembed_input": same}})
    at_encoder = {"encoderblock": plain, "posembed_input": one}
    np.testing.assert_allclose(logits(shared, at_encoder), expected, atol=1e-5)
    assert jnp.abs(logits(layers, {"encoderblock": blocks}) - expected).max() > 1e-3

    first = {"encoderblock": jax.tree.map(lambda leaf: leaf[:1], plain), "posembed_input": one}
    single = dataclasses.replace(shared, depth=1)
    stem = dataclasses.replace(single, position_at="stem")
    np.testing.assert_allclose(logits(single, first), logits(stem, first), atol=1e-5)


@pytest.mark.parametrize(
    "changes",
    [
        {"position": "relative"},
        {"position": "learned2d", "position_at": "layers"},
        {"position_at": "layers_shared"},
    ],
)
def test_other_positions_scanned_and_unrolled(changes):
    config = dataclasses.replace(TINY, **changes)
    params, images = make(config)
    unrolled = dataclasses.replace(config, execution="unrolled", remat="none")
    expected, gradients = loss_and_gradient(config, params, images)
    actual, others = loss_and_gradient(unrolled, params, images)
    np.testing.assert_allclose(actual, expected, rtol=1e-5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5), gradients, others
    )
    assert len(jax.tree.leaves(params)) == len(jax.tree.leaves(gradients))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"position": "relative", "position_at": "layers"}, "position_at='layers' is for"),
        ({"position": "none", "position_at": "layers_shared"}, "set position_at='stem'"),
        ({"position": "relative", "attention": "cudnn"}, "knows no relative positions"),
        ({"position": "learned2d", "width": 15, "num_heads": 3}, "needs an even width, not 15"),
    ],
)
def test_positions_that_do_not_go_together(changes, said):
    with pytest.raises(UserError, match=said):
        dataclasses.replace(TINY, **changes)


def test_sincos2d():
    code = sincos2d((3, 5), 16)
    assert code.shape == (15, 16)
    assert len(np.unique(code.round(6), axis=0)) == 15
    # Token 7 is row 1, column 2; the first frequency is 1, the last 1/10,000.
    np.testing.assert_allclose(code[7, [0, 4, 8, 12]], [np.sin(2), np.cos(2), np.sin(1), np.cos(1)])
    np.testing.assert_allclose(code[7, 3], np.sin(2e-4), rtol=1e-6)


def test_patch_embedding_equals_the_convolution():
    config = dataclasses.replace(TINY, patch_size=(4, 8), depth=1, pool="gap")
    params, images = make(config, (12, 40, 3))
    from vit_jax.models.embeddings import PatchEmbedding

    with jax.default_matmul_precision("highest"):
        module = PatchEmbedding(24, (4, 8), jnp.dtype("float32"))
        actual = module.apply({"params": params["embedding"]}, images)
        expected = jax.lax.conv_general_dilated(
            images,
            params["embedding"]["kernel"],
            (4, 8),
            "VALID",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
    np.testing.assert_allclose(actual, expected.reshape(4, 15, 24), atol=1e-5)


@pytest.mark.parametrize(
    ("variant", "patch", "stages"),
    [
        ("S/8", (8, 8), None),
        ("B/16x8", (16, 8), None),
        ("g-opt/14", (14, 14), None),
        ("R26+B/32", (1, 1), (2, 2, 2, 2)),
        ("R50+L/16", (1, 1), (3, 4, 9)),
        ("R+Ti/16", (8, 8), ()),
    ],
)
def test_names(variant, patch, stages):
    config = config_for(variant, num_classes=5)
    assert config.patch_size == patch
    assert config.num_classes == 5
    assert (config.stem and config.stem.stages) == stages


def test_head_sizes_are_whole():
    heads = {size: config_for(f"{size}/16").head_dim for size in SIZES}
    assert heads["mu"] == 16
    assert {heads[size] for size in ("Ti", "S", "M", "B", "L")} == {64}
    assert (heads["So400m"], heads["H"], heads["g"], heads["G"], heads["e"]) == (
        72,
        80,
        88,
        104,
        112,
    )


@pytest.mark.parametrize("variant", ["B", "Q/16", "B/0", "R51+B/16", "R50+B/8", "B/16/2"])
def test_unknown_names_are_refused(variant):
    with pytest.raises(UserError):
        config_for(variant)


@pytest.mark.parametrize(
    "overrides",
    [
        {"num_heads": 5},
        {"dropout": 1.0},
        {"stochastic_depth": -0.1},
        {"width": 18, "num_heads": 3, "position": "sincos2d"},
    ],
)
def test_impossible_models_are_refused(overrides):
    with pytest.raises(UserError):
        dataclasses.replace(TINY, **overrides)


@pytest.mark.parametrize("config", [TINY, HYBRID], ids=["plain", "hybrid"])
def test_indivisible_resolution_is_refused(config):
    with pytest.raises(UserError, match="not divisible"):
        api.init(config, jax.random.key(0), (18, 16, 3))


def test_cudnn_on_a_cpu_is_refused():
    params, images = make(TINY)
    with pytest.raises(UserError, match="GPU"):
        apply(dataclasses.replace(TINY, attention="cudnn"), params, images)


def test_headless_model_returns_the_representation():
    config = dataclasses.replace(TINY, num_classes=0)
    params, images = make(config)
    representation, outputs = apply(config, params, images)
    assert "head" not in params
    np.testing.assert_array_equal(representation, outputs["pre_logits"])
    np.testing.assert_allclose(representation, outputs["encoded"][:, 0])


def test_sharding_rules_cover_every_parameter_and_all_apply():
    configs = [
        (TINY, SHAPE),
        (dataclasses.replace(TINY, pool="map", representation_size=8), SHAPE),
        (dataclasses.replace(TINY, position="learned2d"), SHAPE),
        (dataclasses.replace(TINY, position="learned2d", position_at="layers"), SHAPE),
        (dataclasses.replace(TINY, position="relative"), SHAPE),
        (HYBRID, (32, 32, 3)),
    ]
    used: set[str] = set()
    for config, shape in configs:
        params, _ = jax.eval_shape(
            lambda k, c=config, s=shape: api.init(c, k, s), jax.random.key(0)
        )
        rules = api.param_rules(config, shape)
        used |= {pattern for pattern, _ in rules}
        for name, leaf in flat_names(params).items():
            axes = [axes for pattern, axes in rules if re.fullmatch(pattern, name)]
            assert len(axes) == 1, name
            assert len(axes[0]) == leaf.ndim, name
            assert ("layer" in axes[0]) == ("encoderblock" in name)
    assert used == {pattern for pattern, _ in api.PARAM_RULES}


@pytest.mark.parametrize("axes", [(8, 1, 1), (2, 2, 2), (1, 4, 2)])
def test_sharded_model_equals_one_device(axes):
    """Data, FSDP and tensor parallelism give the logits and gradients of one device."""
    from jax.sharding import AxisType

    from train_jax.sharding import batch_sharding, param_shardings

    config = dataclasses.replace(TINY, width=32, num_heads=2)
    params, images = make(config, batch=8)
    expected = loss_and_gradient(config, params, images)
    mesh = jax.make_mesh(axes, ("data", "fsdp", "tensor"), axis_types=(AxisType.Auto,) * 3)
    with jax.set_mesh(mesh):
        params = jax.device_put(
            params, param_shardings(params, api.param_rules(config, SHAPE), mesh)
        )
        actual = loss_and_gradient(config, params, jax.device_put(images, batch_sharding(mesh)))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), actual, expected
    )
