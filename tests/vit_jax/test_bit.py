"""BiT against logits computed by big_vision, published sizes, and the compute of the ViT paper."""

import dataclasses
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import published_bit
import pytest
import seeded

from train_jax.errors import UserError
from train_jax.mesh import MeshConfig, make_mesh
from train_jax.sharding import flat_names, param_shardings
from vit_jax.bit_weights import open_bit
from vit_jax.init_from import nested
from vit_jax.models import api
from vit_jax.models.bit import (
    VARIANTS,
    BiTConfig,
    bit_config,
    multiply_adds,
    root_pool,
    variant_name,
)
from vit_jax.npz import open_npz, write_npz

# As big_vision pads: see test_the_border_of_the_root.
TINY = BiTConfig(stages=(1, 1, 2, 1), width=32, num_classes=10, root_padding="lowest")


def shapes_of(config, image_shape=(64, 64, 3)):
    return jax.eval_shape(lambda key: api.init(config, key, image_shape)[0], jax.random.key(0))


def num_params(config):
    return sum(leaf.size for leaf in jax.tree.leaves(shapes_of(config)))


@pytest.fixture(scope="module")
def fixture():
    return np.load(published_bit.DATA / "bit_paper_tiny.io.npz")


@pytest.fixture(scope="module")
def params(tmp_path_factory):
    path = tmp_path_factory.mktemp("bit") / "bit.npz"
    write_npz(path, published_bit.arrays().items())
    return nested(dict(open_bit(open_npz(path))))


@pytest.mark.parametrize(("execution", "remat"), [("scan", "convs"), ("unrolled", "none")])
def test_logits_of_the_original(fixture, params, execution, remat):
    config = dataclasses.replace(TINY, execution=execution, remat=remat)
    images = seeded.images(2, int(fixture["image_size"]), int(fixture["image_seed"]))
    with jax.default_matmul_precision("highest"):
        logits, outputs, state = jax.jit(lambda p, x: api.apply(config, p, {}, x))(params, images)
    np.testing.assert_allclose(logits, fixture["logits"], rtol=0, atol=1e-5)
    np.testing.assert_allclose(outputs["pre_logits"], fixture["out/pre_logits"], atol=1e-5)
    assert state == {}
    assert num_params(config) == int(fixture["num_params"])


def test_bfloat16_stays_near_and_keeps_parameters_and_logits_in_float32(fixture, params):
    config = dataclasses.replace(TINY, compute_dtype="bfloat16")
    images = seeded.images(2, 64, int(fixture["image_seed"]))
    logits, outputs, _ = jax.jit(lambda p, x: api.apply(config, p, {}, x))(params, images)
    assert (logits.dtype, outputs["pre_logits"].dtype) == (jnp.float32, jnp.float32)
    difference = np.abs(logits - fixture["logits"]).max()
    assert 1e-4 < difference < 0.1
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes_of(config))} == {jnp.dtype("float32")}


def test_the_border_of_the_root():
    """Around a map without positive values, zeros are the maximum, and big_vision's are not."""
    x = -jnp.ones((1, 6, 6, 1))
    zeros, lowest = (root_pool(x, padding)[0, :, :, 0] for padding in ("zeros", "lowest"))
    np.testing.assert_array_equal(zeros, [[0, 0, 0], [0, -1, -1], [0, -1, -1]])
    np.testing.assert_array_equal(lowest, -np.ones((3, 3)))
    assert bit_config("R50x1").root_padding == "zeros"  # that of the published weights


def test_every_way_to_run_it_gives_the_same_gradients():
    """Units that are alike differ in their parameters, so an order that is lost shows."""
    config = BiTConfig(stages=(3,), width=32, num_classes=3)
    params = published_bit.drawn(shapes_of(config))
    images = jnp.asarray(seeded.images(2, 16, 0))

    def gradients(execution, remat):
        model = dataclasses.replace(config, execution=execution, remat=remat)

        def loss(params):
            return (api.apply(model, params, {}, images, key=jax.random.key(1))[0] ** 2).sum()

        return flat_names(jax.jit(jax.grad(loss))(params))

    expected = gradients("unrolled", "none")
    for name, actual in gradients("scan", "convs").items():
        scale = np.abs(expected[name]).max()
        assert scale > 0, name
        np.testing.assert_allclose(actual, expected[name], atol=1e-4 * scale, err_msg=name)


def test_what_an_untrained_model_starts_from():
    config = BiTConfig(stages=(3,), width=32, num_classes=3, head_bias=-10.0)
    params, state = jax.jit(lambda key: api.init(config, key, (32, 32, 3)))(jax.random.key(0))
    flat = flat_names(params)
    assert state == {}
    assert not np.any(flat["head/kernel"])
    for name, value in flat.items():
        if name.endswith("/scale"):
            np.testing.assert_array_equal(value, 1)
        elif name.endswith("/bias"):
            np.testing.assert_array_equal(value, -10 if name == "head/bias" else 0)
    stacked = np.asarray(flat["block1/units/conv2/kernel"])
    assert stacked.shape == (2, 3, 3, 32, 32)
    # lecun_normal of each, and no two alike.
    np.testing.assert_allclose(stacked.std((1, 2, 3, 4)), 1 / math.sqrt(9 * 32), rtol=0.05)
    assert abs(np.corrcoef(stacked.reshape(2, -1))[0, 1]) < 0.05


# With 1,000 classes: timm's counts in millions for the published files, and "928 M" without a head
# (BiT paper, and the closed form below).
PUBLISHED_MILLIONS = {
    "R50x1": 25.55,
    "R50x3": 217.32,
    "R101x1": 44.54,
    "R101x3": 387.93,
    "R152x2": 236.34,
    "R152x4": 936.53,
}


def closed_form(variant):
    """Without a head: a root, units of three convolutions with two vectors a norm, projections."""
    depth, factor = map(int, variant.removeprefix("R").split("x"))
    units = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3), 200: (3, 24, 36, 3)}[depth]
    root = 64 * factor
    total, inputs = 7 * 7 * 3 * root, root
    for i, count in enumerate(units):
        narrow, wide = root * 2**i, 4 * root * 2**i
        total += inputs * wide  # the projection
        for _ in range(count):
            total += inputs * narrow + 9 * narrow**2 + narrow * wide
            total += 2 * inputs + 2 * narrow + 2 * narrow
            inputs = wide
    return total + 2 * inputs


@pytest.mark.parametrize("variant", VARIANTS)
def test_parameter_counts(variant):
    config = bit_config(variant)
    total = num_params(config)
    head = 1000 * (config.representation_size + 1)
    assert total - head == closed_form(variant)
    assert num_params(dataclasses.replace(config, num_classes=0)) == closed_form(variant)
    if variant in PUBLISHED_MILLIONS:
        assert round(total / 1e6, 2) == PUBLISHED_MILLIONS[variant]
    if variant == "R152x4":
        assert (total - head) // 10**6 == 928
    assert variant_name(config) == variant


# ViT paper, Table 6: variant, epochs, exaFLOP of pre-training on JFT-300M.
TABLE_6 = [
    ("R50x1", 7, 50),
    ("R50x2", 7, 199),
    ("R101x1", 7, 96),
    ("R152x1", 7, 141),
    ("R152x2", 7, 563),
    ("R152x2", 14, 1126),
    ("R200x3", 14, 3306),
]


@pytest.mark.parametrize(("variant", "epochs", "printed"), TABLE_6)
def test_compute_of_table_6(variant, epochs, printed):
    products = multiply_adds(bit_config(variant), (224, 224, 3))
    exaflop = 2 * 3 * epochs * 303e6 * products / 1e18
    assert abs(exaflop / printed - 1) < 0.01


def products_of(equation):
    """Multiply-adds of a traced convolution, one place and one element of the kernel at a time."""
    (images, kernel), parameters = equation.invars, equation.params
    (_, *sides, _), (*sizes, inputs, outputs) = images.aval.shape, kernel.aval.shape
    inside = 1
    for side, size, stride, (before, after) in zip(
        sides, sizes, parameters["window_strides"], parameters["padding"], strict=True
    ):
        starts = range(-before, side + after - size + 1, stride)
        taps = itertools.product(starts, range(size))
        inside *= sum(0 <= start + tap < side for start, tap in taps)
    return inside * inputs * outputs


@pytest.mark.parametrize("size", [64, 50])
def test_the_count_is_that_of_the_convolutions(size):
    config = dataclasses.replace(TINY, execution="unrolled", remat="none")
    image = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    jaxpr = jax.make_jaxpr(lambda p, x: api.apply(config, p, {}, x))(shapes_of(config), image)

    def convolutions(jaxpr):
        for equation in jaxpr.eqns:
            if equation.primitive.name == "conv_general_dilated":
                yield equation
            for value in equation.params.values():
                inner = getattr(value, "jaxpr", value)
                if hasattr(inner, "eqns"):
                    yield from convolutions(inner)

    found = list(convolutions(jaxpr.jaxpr))
    assert len(found) == 1 + 5 * 3 + 4
    assert multiply_adds(config, (size, size, 3)) == sum(map(products_of, found))


def test_every_parameter_has_a_place_and_large_ones_are_split():
    config = bit_config("R50x1")
    mesh = make_mesh(MeshConfig(data=1, fsdp=8))
    rules = api.param_rules(config, (224, 224, 3))
    placed = flat_names(param_shardings(shapes_of(config), rules, mesh))
    for name in ("block1/units/conv2/kernel", "block4/unit1/conv_proj/kernel", "head/kernel"):
        assert "fsdp" in placed[name].spec, name
    # The axis of the units is the loop's.
    assert placed["block3/units/conv2/kernel"].spec[0] is None


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: bit_config("R34x1"), "Unknown BiT 'R34x1'; .*'R50x1'; depths are R26, R50"),
        (lambda: bit_config("B/16"), "Unknown BiT 'B/16'"),
        (lambda: BiTConfig(stages=(3, 0)), r"stages=\(3, 0\) is not a number of units"),
        (lambda: BiTConfig(stages=()), r"stages=\(\) is not a number of units"),
        (lambda: BiTConfig(stages=(1,), width=40), "width 40 is not a multiple of the 32 groups"),
    ],
)
def test_what_cannot_be_is_refused(make, message):
    with pytest.raises(UserError, match=message):
        make()
