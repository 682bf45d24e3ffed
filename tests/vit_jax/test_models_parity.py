"""The models against logits and shapes computed by the original implementation."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import published
import pytest
import seeded

from vit_jax.models import api
from vit_jax.models.vit import ResNetStem, ViTConfig, config_for

TINY = ViTConfig((4, 4), width=24, depth=2, mlp_dim=48, num_heads=3, num_classes=10)
CASES = {
    "tiny_token": TINY,
    "tiny_token_rep": dataclasses.replace(TINY, representation_size=20),
    "tiny_gap_rep": dataclasses.replace(TINY, pool="gap", representation_size=20),
    "tiny_hybrid": dataclasses.replace(
        TINY, patch_size=(1, 1), stem=ResNetStem(stages=(1, 2), width=32)
    ),
    "Ti_16_224": config_for("Ti/16"),
}
EXECUTIONS = [("scan", "names"), ("unrolled", "none")]


def shapes_of(config, image_shape):
    return jax.eval_shape(lambda key: api.init(config, key, image_shape)[0], jax.random.key(0))


def num_params(config, image_shape=(224, 224, 3)):
    return sum(leaf.size for leaf in jax.tree.leaves(shapes_of(config, image_shape)))


@pytest.mark.parametrize(("execution", "remat"), EXECUTIONS)
@pytest.mark.parametrize("case", CASES)
def test_logits_of_the_original(case, execution, remat, data_dir):
    config = dataclasses.replace(CASES[case], execution=execution, remat=remat)
    expected = np.load(data_dir / "vit" / f"{case}.io.npz")
    size, seed = int(expected["image_size"]), int(expected["seed"])
    logits = expected["logits"]
    images = seeded.images(len(logits), size, int(expected["image_seed"]))
    if "images" in expected:
        np.testing.assert_array_equal(images, expected["images"])
    params = published.fill(
        shapes_of(config, images.shape), lambda name, shape: seeded.draw(name, shape, seed)
    )
    with jax.default_matmul_precision("highest"):
        actual, outputs, _ = jax.jit(lambda p, x: api.apply(config, p, {}, x))(params, images)
    assert actual.dtype == jnp.float32
    assert outputs["pre_logits"].shape == (len(logits), config.representation_size or config.width)
    np.testing.assert_allclose(actual, logits, rtol=0, atol=2e-5)
    assert num_params(config, images.shape) == int(expected["num_params"])


@pytest.mark.parametrize("case", ["tiny_token", "tiny_token_rep", "tiny_gap_rep", "tiny_hybrid"])
def test_stored_weights_have_our_names(case, data_dir):
    """Every array of a published file is one of ours, and the other way round."""
    io = np.load(data_dir / "vit" / f"{case}.io.npz")
    stored = np.load(data_dir / "vit" / f"{case}.npz")
    shapes = shapes_of(CASES[case], io["images"].shape)
    ours = published.published_shapes(shapes)
    # Old files keep the vectors of GroupNorm as (1, 1, 1, C).
    assert ours == {name: _squeezed(name, stored[name].shape) for name in stored.files}


@pytest.mark.parametrize(
    ("name", "variant", "resolution"),
    [("B_8_224", "B/8", 224), ("L_32_384", "L/32", 384), ("R50_B_16_384", "R50+B/16", 384)],
)
def test_shapes_of_published_models(name, variant, resolution, data_dir):
    expected = json.loads((data_dir / "vit" / f"{name}.shapes.json").read_text())
    shapes = shapes_of(config_for(variant), (resolution, resolution, 3))
    assert published.published_shapes(shapes) == expected["shapes"]


def _squeezed(name, shape):
    norm = name.split("/")[-2][:2] == "gn" if "/" in name else False
    return [size for size in shape if size != 1] if norm else list(shape)


# Parameter counts at 224, or at the resolution given: without a head, with 1,000 classes, the same
# with the tanh layer, with 21,843 classes, the same with the tanh layer, 18,291 (JFT) with it.
PLAIN = """
Ti/16 5,524,416 5,717,416 5,754,472 9,740,115 9,777,171 9,091,635
S/32 22,493,952 22,878,952 23,026,792 30,903,507 31,051,347 29,683,827
S/16 21,665,664 22,050,664 22,198,504 30,075,219 30,223,059 28,855,539
B/32 87,455,232 88,224,232 88,814,824 104,252,499 104,843,091 102,111,603
B/16 85,798,656 86,567,656 87,158,248 102,595,923 103,186,515 100,455,027
B/8 85,807,872 86,576,872 87,167,464 102,605,139 103,195,731 100,464,243
L/32 305,510,400 306,535,400 307,585,000 327,899,475 328,949,075 325,308,275
L/16 303,301,632 304,326,632 305,376,232 325,690,707 326,740,307 323,099,507
L/14 303,178,752 304,203,752 305,253,352 325,567,827 326,617,427 322,976,627
H/14 630,764,800 632,045,800 633,685,480 658,745,683 660,385,363 655,835,251
H/16 630,918,400 632,199,400 633,839,080 658,899,283 660,538,963 655,988,851
g/14 1,011,202,432 1,012,611,432 1,014,595,304 1,041,979,219 1,043,963,091 1,038,958,323
G/14 1,842,775,680 1,844,440,680 1,847,211,240 1,879,144,275 1,881,914,835 1,876,000,755
"""
HYBRIDS = """
R+Ti/16 6,144,704 6,337,704 10,360,403
R26+S/32 36,046,912 36,431,912 44,456,467
R26+B/32 100,614,976 101,383,976 117,412,243
R50+B/16 97,890,112 98,659,112 114,687,379
R50+B/32 110,176,832 110,945,832 126,974,099
R50+L/32 327,969,856 328,994,856 350,358,931
R50+L/16 315,458,624 316,483,624 337,847,699
"""
PLAIN_HEADS = [
    (0, False),
    (1000, False),
    (1000, True),
    (21843, False),
    (21843, True),
    (18291, True),
]
HYBRID_HEADS = [(0, False), (1000, False), (21843, False)]


def _rows(table, heads):
    for line in table.strip().splitlines():
        variant, *counts = line.split()
        numbers = [int(count.replace(",", "")) for count in counts]
        yield pytest.param(variant, list(zip(heads, numbers, strict=True)), id=variant)


@pytest.mark.parametrize(
    ("variant", "counts"), [*_rows(PLAIN, PLAIN_HEADS), *_rows(HYBRIDS, HYBRID_HEADS)]
)
def test_parameter_counts(variant, counts):
    for (num_classes, representation), expected in counts:
        config = config_for(variant, num_classes=num_classes)
        if representation:
            config = dataclasses.replace(config, representation_size=config.width)
        assert num_params(config) == expected, (num_classes, representation)


@pytest.mark.parametrize(
    ("variant", "expected"),
    [("B/16", 86_566_120), ("B/32", 88_222_696), ("S/16", 22_049_896), ("S/32", 22_878_184)],
)
def test_parameter_counts_without_class_token(variant, expected):
    assert num_params(config_for(variant, pool="gap")) == expected


@pytest.mark.parametrize(
    ("variant", "resolution", "expected"),
    [
        ("B/16", 384, 86_859_496),
        ("L/16", 384, 304_715_752),
        ("L/16", 512, 305_174_504),
        ("H/14", 518, 633_470_440),
    ],
)
def test_parameter_counts_at_high_resolution(variant, resolution, expected):
    assert num_params(config_for(variant), (resolution, resolution, 3)) == expected
