"""Published BiT files: read, written, converted, started from, refused."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import published_bit
import pytest

from train_jax.checkpoint import read_meta
from train_jax.config import from_config
from train_jax.errors import UserError
from train_jax.sharding import flat_names
from vit_jax.bit_weights import is_bit, open_bit, save_bit
from vit_jax.convert import convert
from vit_jax.init_from import open_source, transfer_model
from vit_jax.models import api
from vit_jax.models.bit import BiTConfig, bit_config
from vit_jax.npz import open_npz
from vit_jax.recognise import recognise_any
from vit_jax.transfer import TransferConfig

MODEL = BiTConfig(stages=(1, 1, 2, 1), width=32, num_classes=10)
IMAGE = (64, 64, 3)


def shapes_of(config):
    return jax.eval_shape(lambda key: api.init(config, key, IMAGE)[0], jax.random.key(0))


def drawn(config):
    return published_bit.drawn(shapes_of(config))


def write(path, arrays):
    np.savez(path, **arrays)
    return str(path)


def read(path):
    with np.load(path) as file:
        return {name: file[name] for name in file.files}


@pytest.fixture(scope="module")
def arrays():
    return published_bit.arrays()


@pytest.fixture(scope="module")
def original(arrays, tmp_path_factory):
    return write(tmp_path_factory.mktemp("bit") / "BiT-M-tiny.npz", arrays)


def assert_same(one, other):
    assert one.keys() == other.keys()
    for name in one:
        assert one[name].dtype == other[name].dtype, name
        assert one[name].shape == other[name].shape, name
        assert one[name].tobytes() == other[name].tobytes(), name


def test_a_file_has_the_models_names_and_shapes(original):
    weights = open_bit(open_npz(original))
    shapes = shapes_of(MODEL)
    expected = {name: leaf.shape for name, leaf in flat_names(shapes).items()}
    assert {name: shape.shape for name, shape in weights.shapes.items()} == expected
    assert {name: array.shape for name, array in weights.items()} == expected
    assert weights.ignored == 0


@pytest.mark.parametrize("names", ["original", "linen"])
def test_writing_gives_back_the_file(original, arrays, tmp_path, names):
    save_bit(tmp_path / "again.npz", dict(open_bit(open_npz(original))), names=names)
    expected = arrays if names == "original" else published_bit.as_big_vision(arrays)
    assert_same(read(tmp_path / "again.npz"), expected)


@pytest.mark.parametrize("prefix", ["", "params/", "opt/target/"])
def test_other_forms_of_the_same_weights(original, arrays, tmp_path, prefix):
    expected = dict(open_bit(open_npz(original)))
    forms = [
        published_bit.as_big_vision(arrays),
        # The variables of a graph, numbered as they were made.
        {
            name.replace("standardized_conv2d", f"standardized_conv2d_{i}"): array
            for i, (name, array) in enumerate(arrays.items())
        },
    ]
    for i, form in enumerate(forms):
        form = {prefix + name: array for name, array in form.items()}
        if prefix:
            form["chrono"] = np.zeros(3)
        file = open_npz(write(tmp_path / f"{i}.npz", form))
        assert is_bit(file.shapes)
        weights = open_bit(file)
        assert_same(dict(weights), expected)
        assert weights.ignored == bool(prefix)


def test_units_keep_their_order_beyond_nine(tmp_path):
    config = BiTConfig(stages=(12,), width=32, num_classes=0)
    params = drawn(config)
    save_bit(tmp_path / "deep.npz", params)
    stored = read(tmp_path / "deep.npz")
    for unit in (2, 10, 12):
        np.testing.assert_array_equal(
            stored[f"resnet/block1/unit{unit:02d}/b/standardized_conv2d/kernel"],
            params["block1"]["units"]["conv2"]["kernel"][unit - 2],
        )
    again = open_bit(open_npz(str(tmp_path / "deep.npz")))
    assert_same(dict(again), {name: np.asarray(leaf) for name, leaf in flat_names(params).items()})
    assert recognise_any(again.shapes).model == config


def test_finetuning_replaces_the_whole_head_by_zeros(original):
    model = dataclasses.replace(MODEL, num_classes=7)
    fresh = drawn(model)
    params, state = transfer_model(original, fresh, {}, model=model, image_shape=IMAGE)
    flat, stored = flat_names(params), dict(open_bit(open_npz(original)))
    assert state == {}
    for name, value in flat.items():
        if name.startswith("head/"):
            np.testing.assert_array_equal(value, np.zeros(fresh["head"][name[5:]].shape))
        else:
            np.testing.assert_array_equal(value, stored[name])
    kept, _ = transfer_model(
        original,
        drawn(MODEL),
        {},
        model=MODEL,
        image_shape=IMAGE,
        config=TransferConfig(keep_head=True),
    )
    np.testing.assert_array_equal(kept["head"]["kernel"], stored["head/kernel"])


def test_weights_of_another_depth_are_refused(original):
    model = dataclasses.replace(MODEL, stages=(1, 1, 3, 1))
    with pytest.raises(UserError, match=r"block3/units/conv1/kernel: does not fit.*set model"):
        transfer_model(original, drawn(model), {}, model=model, image_shape=IMAGE)


def test_conversion_there_and_back(original, arrays, tmp_path):
    checkpoint = tmp_path / "checkpoint"
    report = convert(original, checkpoint)
    assert report.startswith("BiT of its own size (1+1+2+1 units, width 32), images of any size")
    assert "2,297,642 parameters" in report
    meta = read_meta(checkpoint)
    assert from_config(BiTConfig, meta["model"]) == MODEL
    assert (meta["variant"], meta["grid"], meta["image_shape"]) == (None, None, None)
    convert(checkpoint, tmp_path / "again.npz")
    assert_same(read(tmp_path / "again.npz"), arrays)
    assert dict(open_source(checkpoint).shapes) == dict(open_source(original).shapes)


def test_published_variants_are_recognised():
    for variant in ("R50x1", "R152x4"):
        config = bit_config(variant, num_classes=21_843)
        found = recognise_any(flat_names(shapes_of(config)))
        assert (found.model, found.variant) == (config, variant)
    assert found.describe() == (
        "BiT R152x4 (3+8+36+3 units, width 256), images of any size, 21843 classes"
    )


def test_the_command_converts_and_explains(original, tmp_path):
    command = [sys.executable, "-m", "vit_jax.convert", original]
    root = Path(__file__).parents[2]
    run = subprocess.run(
        [*command, str(tmp_path / "new.npz"), "--names=linen"],
        capture_output=True, text=True, cwd=root, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert "block3/units/conv2/kernel" in run.stdout
    assert "block3/unit02/conv2/kernel" in read(tmp_path / "new.npz")
    with pytest.raises(UserError, match="one array per unit; leave --layers out"):
        convert(original, tmp_path / "stacked.npz", layers="stacked")
    with pytest.raises(UserError, match="no position embedding; leave grid and position out"):
        convert(original, tmp_path / "grid.npz", grid=(4, 4))


CONV2 = "resnet/block3/unit02/b/standardized_conv2d/kernel"


def broken(arrays, change):
    arrays = dict(arrays)
    change(arrays)
    return arrays


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a.pop(CONV2), "lacks block3/unit2/conv2/kernel of a BiT; it is incomplete"),
        (
            lambda a: a.pop("resnet/block1/unit01/c/group_norm/gamma"),
            "lacks block1/unit1/gn3/scale of a BiT",
        ),
        (lambda a: a.pop("resnet/group_norm/gamma"), "lacks norm_pre_head/scale"),
        (
            lambda a: [a.pop(name) for name in list(a) if "block2/" in name],
            "lacks block2/unit1/conv1/kernel",
        ),
        (
            lambda a: a.update({"resnet/mean": np.zeros(3, np.float32)}),
            "not a BiT's weights: it holds resnet/mean",
        ),
        (
            lambda a: a.update({CONV2.replace("2d/", "2d_7/"): a[CONV2]}),
            "holds block3/units/conv2/kernel under two names .*it mixes two formats",
        ),
        (
            lambda a: a.update({"resnet/group_norm/gamma": np.ones((2, 512), np.float32)}),
            r"gamma of shape \(2, 512\) is no BiT's",
        ),
        (
            lambda a: a.update({"resnet/head/conv2d/bias": np.zeros(10, np.int32)}),
            "bias of shape .* is no BiT's",
        ),
    ],
)
def test_damaged_files_are_refused(arrays, tmp_path, change, message):
    path = write(tmp_path / "broken.npz", broken(arrays, change))
    with pytest.raises(UserError, match=message):
        open_source(path)


def test_units_that_differ_cannot_be_stacked(tmp_path):
    config = BiTConfig(stages=(3,), width=32, num_classes=0)
    save_bit(tmp_path / "deep.npz", drawn(config))
    arrays = read(tmp_path / "deep.npz")
    name = "resnet/block1/unit03/a/group_norm/beta"
    arrays[name] = arrays[name][:64]
    with pytest.raises(UserError, match="units' block1/units/gn1/bias differ in shape or dtype"):
        open_source(write(tmp_path / "differ.npz", arrays))


def test_nothing_but_a_bit_is_written(tmp_path):
    with pytest.raises(UserError, match="no place for embedding/kernel; drop it first"):
        save_bit(tmp_path / "no.npz", {"embedding": {"kernel": np.zeros((1, 1))}})
    assert list(tmp_path.iterdir()) == []
