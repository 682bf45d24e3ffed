"""EfficientNet: sizes as published, batch norm over the global batch, noise only in training."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from train_jax.errors import UserError
from train_jax.mesh import MeshConfig, make_mesh
from train_jax.sharding import batch_sharding, flat_names, param_shardings
from vit_jax.models import api
from vit_jax.models.efficientnet import BatchNorm, Conv, EfficientNet
from vit_jax.models.efficientnet_config import (
    VARIANTS,
    EfficientNetConfig,
    blocks_of,
    config_for,
    multiply_adds,
    round_channels,
)

# Of the published checkpoints, batch-norm statistics not counted.
PARAMETERS = {
    "B0": 5_288_548,
    "B1": 7_794_184,
    "B2": 9_109_994,
    "B3": 12_233_232,
    "B4": 19_341_616,
    "B5": 30_389_784,
    "B6": 43_040_704,
    "B7": 66_347_960,
    "B8": 87_413_142,
    "L2": 480_309_308,
}
# EfficientNet paper, Table 2, in thousand millions.
MULTIPLY_ADDS = {
    "B0": 0.39,
    "B1": 0.70,
    "B2": 1.0,
    "B3": 1.8,
    "B4": 4.2,
    "B5": 9.9,
    "B6": 19,
    "B7": 37,
}
# Seven blocks, of all kinds: kernels of 3 and 5, strides, with and without a residual branch.
TINY = EfficientNetConfig(width=0.1, depth=0.3, num_classes=3, small_images=True)


def shapes_of(config, size):
    return jax.eval_shape(lambda key: api.init(config, key, (size, size, 3)), jax.random.key(0))


FAST = ("B0", "B7", "L2")
ALL = [each if each in FAST else pytest.param(each, marks=pytest.mark.slow) for each in VARIANTS]


@pytest.mark.parametrize("variant", ALL)
def test_parameters_are_as_many_as_published(variant):
    config = config_for(variant)
    images = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    params = jax.eval_shape(EfficientNet(config).init, jax.random.key(0), images)["params"]
    assert sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params)) == PARAMETERS[variant]
    size = VARIANTS[variant].resolution
    if variant in MULTIPLY_ADDS:
        # The paper rounds, and counts B4 and B5 four per cent lower.
        found = multiply_adds(config, (size, size, 3)) / 1e9
        assert found == pytest.approx(MULTIPLY_ADDS[variant], rel=0.05)


def test_multiply_adds_are_those_of_the_compiled_products():
    """Counted over the convolutions and products of the traced model."""
    size = 32
    images = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    config = EfficientNetConfig(width=0.5, depth=0.4, num_classes=7)
    variables = shapes_of(config, size)
    jaxpr = jax.make_jaxpr(lambda p, s, x: api.apply(config, p, s, x)[0])(*variables, images)
    assert products(jaxpr.jaxpr) == multiply_adds(config, (size, size, 3))


def products(jaxpr):
    """Multiply-adds of a traced program; where platforms differ, of the default."""
    total = 0
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "conv_general_dilated":
            kernel, out = eqn.invars[1].aval.shape, eqn.outvars[0].aval.shape
            total += math.prod(out) * math.prod(kernel[:3])
        elif eqn.primitive.name == "dot_general":
            ((contracted, _), _) = eqn.params["dimension_numbers"]
            out, left = eqn.outvars[0].aval.shape, eqn.invars[0].aval.shape
            total += math.prod(out) * math.prod(left[i] for i in contracted)
        elif eqn.primitive.name == "cond":
            total += products(eqn.params["branches"][-1].jaxpr)
        else:
            inner = [eqn.params[name] for name in ("jaxpr", "call_jaxpr") if name in eqn.params]
            total += sum(products(getattr(each, "jaxpr", each)) for each in inner)
    return total


@pytest.mark.parametrize(
    ("channels", "width", "rounded"),
    [(32, 1.0, 32), (32, 1.1, 32), (24, 1.2, 32), (16, 1.4, 24), (320, 1.8, 576), (16, 0.1, 8)],
)
def test_channels_are_rounded_to_eights_and_never_down_by_more_than_a_tenth(
    channels, width, rounded
):
    assert round_channels(channels, width) == rounded


def test_small_images_keep_their_resolution_longer():
    strides = math.prod(block.stride for block in blocks_of(config_for("B0")))
    kept = math.prod(block.stride for block in blocks_of(TINY))
    assert (strides, kept) == (16, 4)


@pytest.mark.parametrize(("side", "size", "stride"), [(8, 3, 1), (7, 5, 2), (8, 5, 2), (6, 3, 2)])
def test_depthwise_convolutions_of_small_maps_are_convolutions(side, size, stride):
    """On a CPU they are products of matrices; padding is that of TensorFlow."""
    x = jax.random.normal(jax.random.key(0), (2, side, side + 1, 3))
    conv = Conv(3, size, stride, jnp.dtype("float32"), True)
    kernel = jax.random.normal(jax.random.key(1), (size, size, 1, 3))
    found = conv.apply({"params": {"kernel": kernel}}, x)
    wanted = jax.lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=3,
    )
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("depthwise", "fan_out"),
    [(False, 25 * 96), (True, 25)],  # a depthwise kernel has one output per input
)
def test_initial_kernels_have_the_published_variances(depthwise, fan_out):
    conv = Conv(96, 5, 1, jnp.dtype("float32"), depthwise)
    kernel = conv.init(jax.random.key(0), jnp.zeros((1, 8, 8, 96)))["params"]["kernel"]
    assert np.std(kernel) == pytest.approx(math.sqrt(2 / fan_out), rel=0.05)


def test_the_initial_head_is_uniform(tiny):
    limit = 1 / math.sqrt(TINY.num_classes)
    assert 0.97 * limit < np.abs(tiny[0]["head"]["kernel"]).max() <= limit


def test_batch_norm_takes_statistics_of_the_batch_and_remembers_them():
    norm = BatchNorm(0.9, jnp.dtype("float32"))
    x = 3 + 2 * jax.random.normal(jax.random.key(0), (64, 4, 4, 2))
    variables = norm.init(jax.random.key(1), x, False)
    y, state = norm.apply(variables, x, True, mutable=["batch_stats"])
    x = np.asarray(x)
    mean, variance = x.mean((0, 1, 2)), x.var((0, 1, 2))
    np.testing.assert_allclose(y, (x - mean) / np.sqrt(variance + 1e-3), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(state["batch_stats"]["mean"], 0.1 * mean, rtol=1e-5)
    np.testing.assert_allclose(state["batch_stats"]["var"], 0.9 + 0.1 * variance, rtol=1e-5)
    inferred = norm.apply({**variables, **state}, x, False)
    remembered = (x - 0.1 * mean) / np.sqrt(0.901 + 0.1 * variance)
    np.testing.assert_allclose(inferred, remembered, rtol=1e-4, atol=1e-4)


@pytest.fixture(scope="module")
def tiny():
    return api.init(TINY, jax.random.key(0), (8, 8, 3))


def test_statistics_are_of_the_global_batch_on_every_mesh():
    """Every device has examples of another mean; the statistics are those of all of them."""
    norm = BatchNorm(0.9, jnp.dtype("float32"))
    x = jax.random.normal(jax.random.key(0), (16, 4, 4, 3)) + jnp.arange(16.0).reshape(16, 1, 1, 1)
    variables = norm.init(jax.random.key(1), x, False)
    run = jax.jit(lambda x: norm.apply(variables, x, True, mutable=["batch_stats"]))
    one = run(x)
    mesh = make_mesh(MeshConfig(data=4, fsdp=2))
    with jax.set_mesh(mesh):
        eight = run(jax.device_put(x, batch_sharding(mesh)))
    for found, wanted in zip(jax.tree.leaves(eight), jax.tree.leaves(one), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(one[1]["batch_stats"]["mean"], 0.1 * 7.5 * np.ones(3), atol=0.05)


def test_eight_devices_split_the_large_kernels_of_l2():
    """Channels are multiples of eight; arrays of less than 64 Ki elements stay whole."""
    config = EfficientNetConfig(width=VARIANTS["L2"].width, depth=0.1)
    params, _ = shapes_of(config, 32)
    mesh = make_mesh(MeshConfig(data=1, fsdp=8))
    shardings = flat_names(param_shardings(params, api.param_rules(config, (32, 32, 3)), mesh))
    for name, leaf in flat_names(params).items():
        assert bool(shardings[name].spec) == (math.prod(leaf.shape) >= 1 << 16), name


def test_inference_is_without_noise_and_changes_nothing(tiny):
    params, state = tiny
    images = jax.random.normal(jax.random.key(1), (4, 8, 8, 3))
    run = jax.jit(lambda x: api.apply(TINY, params, state, x))
    logits, outputs, after = run(images)
    # Each example by itself: the others of its batch do not matter.
    np.testing.assert_allclose(run(images[::-1])[0][::-1], logits, atol=1e-5)
    jax.tree.map(np.testing.assert_array_equal, after, state)
    assert (logits.dtype, outputs["pre_logits"].shape) == (jnp.float32, (4, 128))


def test_half_precision_keeps_parameters_and_statistics():
    config = EfficientNetConfig(
        width=0.1, depth=0.1, num_classes=3, compute_dtype="bfloat16", remat="full"
    )
    variables = shapes_of(config, 16)
    images = jax.ShapeDtypeStruct((2, 16, 16, 3), jnp.float32)

    def loss(params, state, images):
        logits, _, state = api.apply(config, params, state, images, key=jax.random.key(0))
        return logits.sum(), (logits, state)

    gradient, (logits, state) = jax.eval_shape(jax.grad(loss, has_aux=True), *variables, images)
    dtypes = {leaf.dtype for leaf in jax.tree.leaves((variables, gradient, logits, state))}
    assert dtypes == {jnp.dtype("float32")}
    text = str(jax.make_jaxpr(loss)(*variables, images))
    assert "bf16[2,8,8,8]" in text


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: config_for("B9"), "Unknown EfficientNet 'B9'; there are B0, .* L2"),
        (lambda: EfficientNetConfig(width=0, depth=1), "width=0 is not a positive factor"),
        (lambda: EfficientNetConfig(width=1, depth=1, dropout=1.0), "dropout=1.0 is not a rate"),
    ],
)
def test_wrong_sizes_are_refused(make, message):
    with pytest.raises(UserError, match=message):
        make()
