"""Published files to checkpoint directories and back, from the command line too."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from published import load_published

from train_jax.checkpoint import read_meta, read_params_shapes, save_once
from train_jax.config import from_config, to_dict
from train_jax.errors import UserError
from train_jax.sharding import flat_names
from vit_jax.convert import convert
from vit_jax.init_from import nested
from vit_jax.models import api
from vit_jax.models.config import ViTConfig
from vit_jax.models.variants import SIZES, STEMS, config_for
from vit_jax.recognise import recognise, variant_name
from vit_jax.weights import POSITION_TABLE, save_published


def same(one, other):
    assert one.keys() == other.keys()
    for name in one:
        assert one[name].dtype == other[name].dtype, name
        assert one[name].tobytes() == other[name].tobytes(), name


@pytest.mark.parametrize("case", ["tiny_token", "tiny_gap_rep", "tiny_hybrid"])
def test_there_and_back_changes_no_bit(data_dir, tmp_path, case):
    path = data_dir / "vit" / f"{case}.npz"
    convert(path, tmp_path / "checkpoint")
    convert(tmp_path / "checkpoint", tmp_path / "again.npz")
    same(load_published(tmp_path / "again.npz"), load_published(path))
    with np.load(path) as before, np.load(tmp_path / "again.npz") as after:
        assert before.files == sorted(after.files)
        assert all(before[name].shape == after[name].shape for name in before.files)


@pytest.mark.parametrize("case", ["tiny_token", "tiny_gap_rep", "tiny_hybrid"])
def test_the_checkpoint_says_what_it_is(data_dir, tmp_path, case):
    convert(data_dir / "vit" / f"{case}.npz", tmp_path / "checkpoint")
    meta = read_meta(tmp_path / "checkpoint")
    model = from_config(ViTConfig, meta["model"])
    original = json.loads(str(np.load(data_dir / "vit" / f"{case}.io.npz")["config"]))
    size = int(np.load(data_dir / "vit" / f"{case}.io.npz")["image_size"])
    assert meta["image_shape"] == [size, size, 3]
    assert meta["grid"] == [4, 4]
    assert model.patch_size == tuple(original["patches"]["size"])
    assert model.pool == original["classifier"]
    assert model.representation_size == original["representation_size"]
    assert model.num_classes == 10
    transformer = original["transformer"]
    assert (model.width, model.mlp_dim) == (original["hidden_size"], transformer["mlp_dim"])
    assert (model.depth, model.num_heads) == (transformer["num_layers"], transformer["num_heads"])
    if "resnet" in original:
        assert model.stem is not None
        assert model.stem.stages == tuple(original["resnet"]["num_layers"])
        assert model.stem.width == 64 * original["resnet"]["width_factor"]
    shapes = flat_names(read_params_shapes(tmp_path / "checkpoint"))
    assert {leaf.dtype for leaf in shapes.values()} == {np.dtype(np.float32)}


def test_the_report_lists_every_array(data_dir, tmp_path):
    path = data_dir / "vit" / "tiny_token_rep.npz"
    report = convert(path, tmp_path / "checkpoint")
    for name in load_published(path):
        assert any(line.startswith(name) and "loaded" in line for line in report.splitlines()), name
    assert "16x16, token pooling, representation layer of 20, 10 classes" in report.splitlines()[0]
    assert "12,110 parameters" in report.splitlines()[-1]


def test_one_published_form_to_another(data_dir, tmp_path):
    path = data_dir / "vit" / "tiny_token.npz"
    convert(path, tmp_path / "linen.npz", names="linen", layers="stacked")
    with np.load(tmp_path / "linen.npz") as file:
        kernel = file["Transformer/encoderblock/MultiHeadDotProductAttention_0/query/kernel"]
        assert kernel.shape == (2, 24, 3, 8)
    same(load_published(tmp_path / "linen.npz"), load_published(path))


def test_the_averaged_parameters_of_a_run_are_exported(data_dir, tmp_path):
    weights = nested(load_published(data_dir / "vit" / "tiny_token.npz"))
    plus_one = jax.tree.map(lambda array: array + 1, weights)
    device = lambda tree: jax.tree.map(jax.numpy.asarray, tree)  # noqa: E731
    save_once(tmp_path / "run", {"params": device(plus_one), "ema": device(weights)}, {})
    convert(tmp_path / "run", tmp_path / "averaged.npz")
    convert(tmp_path / "run", tmp_path / "last.npz", averaged=False)
    averaged, last = (load_published(tmp_path / f"{name}.npz") for name in ("averaged", "last"))
    np.testing.assert_array_equal(averaged["cls"], weights["cls"])
    np.testing.assert_array_equal(last["cls"], weights["cls"] + 1)


def test_nothing_is_overwritten(data_dir, tmp_path):
    path = data_dir / "vit" / "tiny_token.npz"
    (tmp_path / "empty").mkdir()
    convert(path, tmp_path / "empty")  # an empty directory holds nothing to lose
    with pytest.raises(UserError, match="empty exists already"):
        convert(path, tmp_path / "empty")
    (tmp_path / "file.npz").write_text("precious")
    with pytest.raises(UserError, match=r"file\.npz exists already"):
        convert(path, tmp_path / "file.npz")
    assert (tmp_path / "file.npz").read_text() == "precious"


def test_one_side_must_be_a_published_file(data_dir, tmp_path):
    convert(data_dir / "vit" / "tiny_token.npz", tmp_path / "a")
    with pytest.raises(UserError, match="both checkpoint directories"):
        convert(tmp_path / "a", tmp_path / "b")


def test_what_shapes_do_not_tell_must_be_given(data_dir, tmp_path):
    weights = load_published(data_dir / "vit" / "tiny_token.npz")
    table = weights[POSITION_TABLE]
    rectangular = {**weights, POSITION_TABLE: np.concatenate([table, table[:, 1:]], axis=1)}
    save_published(tmp_path / "wide.npz", rectangular)
    with pytest.raises(UserError, match="32 patches, which is not a square grid"):
        convert(tmp_path / "wide.npz", tmp_path / "wide")
    convert(tmp_path / "wide.npz", tmp_path / "wide", grid=(4, 8))
    assert read_meta(tmp_path / "wide")["image_shape"] == [16, 32, 3]
    # A checkpoint tells of its grid.
    convert(tmp_path / "wide", tmp_path / "again.npz")
    del weights[POSITION_TABLE]
    save_published(tmp_path / "fixed.npz", weights)
    with pytest.raises(UserError, match="say whether the positions are sincos2d or none"):
        convert(tmp_path / "fixed.npz", tmp_path / "fixed")
    convert(tmp_path / "fixed.npz", tmp_path / "fixed", position="sincos2d")
    assert read_meta(tmp_path / "fixed")["model"]["position"] == "sincos2d"
    # A checkpoint tells of its positions, too.
    convert(tmp_path / "fixed", tmp_path / "fixed_again.npz")
    with pytest.raises(UserError, match="position='none' is wrong"):
        convert(tmp_path / "wide", tmp_path / "none.npz", position="none")


def test_an_array_too_many_or_too_few_is_an_error(data_dir, tmp_path):
    weights = load_published(data_dir / "vit" / "tiny_token.npz")
    del weights["Transformer/encoder_norm/bias"]
    save_published(tmp_path / "file.npz", weights)
    with pytest.raises(UserError, match="Transformer/encoder_norm/bias: missing"):
        convert(tmp_path / "file.npz", tmp_path / "checkpoint")
    assert not (tmp_path / "checkpoint").exists()


def test_published_sizes_are_recognised(data_dir):
    for name, variant in {"B_8_224": "B/8", "L_32_384": "L/32", "R50_B_16_384": "R50+B/16"}.items():
        listed = json.loads((data_dir / "vit" / f"{name}.shapes.json").read_text())["shapes"]
        shapes = {}
        for key, shape in listed.items():
            key = key.replace("Attention_1", "Attention_0").replace("MlpBlock_3", "MlpBlock_0")
            if "encoderblock_" in key:
                layers = 1 + max(
                    int(k.split("_")[1].split("/")[0]) for k in listed if "block_" in k
                )
                key = "Transformer/encoderblock/" + key.split("/", 2)[2]
                shape = [layers, *shape]
            shapes[key] = jax.ShapeDtypeStruct(tuple(shape), np.float32)
        found = recognise(shapes)
        assert found.variant == variant
        assert found.model == config_for(variant, num_classes=found.model.num_classes)
        side = int(name.rsplit("_", 1)[1])
        assert found.image_shape == (side, side, 3)


def test_every_named_size_has_its_name():
    plain = [f"{size}/{patch}" for size in SIZES for patch in ("8", "14", "16x8")]
    hybrids = [f"{stem}+{size}/{stride}" for stem, stride in STEMS for size in ("Ti", "B", "L")]
    for name in plain + hybrids:
        assert variant_name(config_for(name)) == name


@pytest.mark.parametrize(
    "change", [{"position": "learned2d"}, {"position": "relative"}, {"position_at": "layers"}]
)
def test_positions_that_published_files_do_not_have_are_refused(tmp_path, change):
    model = dataclasses.replace(tiny.MODEL, **change)
    fresh, _ = jax.eval_shape(lambda key: api.init(model, key, (16, 16, 3)), jax.random.key(0))
    params = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), fresh)
    save_once(tmp_path / "run", {"params": params}, {"model": to_dict(model)})
    (name, value), *_ = change.items()
    with pytest.raises(UserError, match=f"{name}='{value}'.* published files have no names for"):
        convert(tmp_path / "run", tmp_path / "file.npz")


def run(*arguments):
    command = [sys.executable, "-m", "vit_jax.convert", *map(str, arguments)]
    root = Path(__file__).parents[2]
    return subprocess.run(command, capture_output=True, text=True, cwd=root, check=False)


def test_the_command_line(data_dir, tmp_path):
    done = run(data_dir / "vit" / "tiny_token.npz", tmp_path / "checkpoint")
    assert (done.returncode, done.stderr) == (0, "")
    assert "11,650 parameters" in done.stdout
    done = run(tmp_path / "none.npz", tmp_path / "other")
    assert done.returncode == 2
    assert (
        done.stderr == f"Error: {tmp_path}/none.npz cannot be opened: No such file or directory.\n"
    )


def test_help_shows_both_directions():
    done = run("--help")
    assert "vit_jax.convert B_16.npz checkpoint/" in done.stdout
    assert "vit_jax.convert checkpoint/ B_16.npz" in done.stdout
    assert "--grid" in done.stdout
