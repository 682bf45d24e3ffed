"""Weights of transformers and timm give their logits here, and go back without a changed bit.

The files are of models of transformers 5.24 and timm 1.0.31 with random weights; logits.npz has
their results on PyTorch 2.13.
"""

import dataclasses
import json
import shutil
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from train_jax.errors import UserError
from train_jax.mesh import MeshConfig, make_mesh
from train_jax.stored import read_meta
from vit_jax.convert import convert
from vit_jax.export import load
from vit_jax.hugging_face import open_torch
from vit_jax.init_from import load_model
from vit_jax.models import api
from vit_jax.safetensors_file import open_safetensors, write_safetensors

CASES: dict[str, Any] = {
    "hf_classifier": ("hf_classifier", "again", "huggingface"),
    "hf_model": ("hf_model", "again", "huggingface"),
    "timm": ("timm.safetensors", "again.safetensors", "timm"),
}


def arrays(path):
    file = open_safetensors(path)
    return {name: file.read(name) for name in file.shapes}


@pytest.mark.parametrize("case", CASES)
def test_the_logits_of_pytorch_and_back_to_the_bit(data_dir, tmp_path, case):
    source, again, names = CASES[case]
    convert(data_dir / "torch" / source, tmp_path / "run")
    classifier = load(tmp_path / "run")
    with np.load(data_dir / "torch" / "logits.npz") as io:
        images, expected = io["images"], io[case]
    got = api.apply(classifier.model, classifier.params, {}, jnp.asarray(images))[0]
    np.testing.assert_allclose(got, expected, atol=2e-5)
    convert(tmp_path / "run", tmp_path / again, names=names)
    one, other = open_torch(data_dir / "torch" / source)[0], open_torch(tmp_path / again)[0]
    assert set(one) == set(other)
    for name in one:
        np.testing.assert_array_equal(one[name], other[name], err_msg=name)


def test_numerics_and_labels_are_kept(data_dir, tmp_path):
    convert(data_dir / "torch" / "hf_classifier", tmp_path / "run")
    meta = read_meta(tmp_path / "run")
    assert (meta["model"]["gelu"], meta["model"]["norm_epsilon"]) == ("erf", 1e-12)
    assert meta["model"]["num_heads"] == 3
    assert meta["labels"][3] == "class 3"
    convert(tmp_path / "run", tmp_path / "again", names="huggingface")
    old, new = (
        json.loads((path / "config.json").read_text())
        for path in (data_dir / "torch" / "hf_classifier", tmp_path / "again")
    )
    assert {key: old[key] for key in new if key in old} == {
        key: new[key] for key in new if key in old
    }
    processor = json.loads((tmp_path / "again" / "preprocessor_config.json").read_text())
    assert processor["size"] == {"height": 16, "width": 16}
    assert processor["image_mean"] == [0.5, 0.5, 0.5]


@pytest.mark.parametrize("kept", ["torch", "ours"])
def test_a_model_of_another_gelu_does_not_start_from_them(data_dir, tmp_path, kept):
    source = data_dir / "torch" / "hf_classifier"
    convert(source, tmp_path / "run")
    model = load(tmp_path / "run").model
    path = source if kept == "torch" else tmp_path / "run"
    mesh = make_mesh(MeshConfig())

    def start(model):
        return load_model(path, mesh, model=model, image_shape=(16, 16, 3))

    start(model)
    other = dataclasses.replace(model, gelu="tanh")
    with pytest.raises(UserError, match=r"gelu='erf', not 'tanh'; set config.model.gelu=erf"):
        start(other)
    with pytest.raises(UserError, match=r"config\.model\.norm_epsilon=1e-12"):
        start(dataclasses.replace(model, norm_epsilon=1e-6))


def test_names_are_those_of_the_libraries(data_dir, tmp_path):
    convert(data_dir / "vit" / "tiny_token.npz", tmp_path / "mine", names="huggingface")
    names = set(open_safetensors(tmp_path / "mine" / "model.safetensors").shapes)
    theirs = data_dir / "torch" / "hf_classifier" / "model.safetensors"
    assert names == set(open_safetensors(theirs).shapes)
    config = json.loads((tmp_path / "mine" / "config.json").read_text())
    # The weights of the paper's code are of the tanh form.
    assert (config["hidden_act"], config["layer_norm_eps"]) == ("gelu_pytorch_tanh", 1e-6)


def changed(data_dir, tmp_path, **changes):
    """The classifier's directory with another config."""
    shutil.copytree(data_dir / "torch" / "hf_classifier", tmp_path / "other")
    path = tmp_path / "other" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return tmp_path / "other"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "dinov2"}, "type 'dinov2'"),
        ({"hidden_act": "relu"}, "hidden_act 'relu' is not supported"),
        ({"num_channels": 1}, "images of 3 channels"),
        ({"num_attention_heads": 5}, "not a multiple of 5 heads"),
    ],
)
def test_other_architectures_are_refused(data_dir, tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        open_torch(changed(data_dir, tmp_path, **changes))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("blocks.0.ls1.gamma", "LayerScale"),
        ("reg_token", "register tokens"),
        ("blocks.0.attn.q_norm.weight", "normalised queries"),
        ("fc_norm.weight", "after pooling"),
        ("something.weight", "something.weight, which has no place"),
    ],
)
def test_parts_that_we_do_not_have_are_named(data_dir, tmp_path, name, message):
    weights = arrays(data_dir / "torch" / "timm.safetensors")
    weights[name] = np.zeros(64, np.float32)
    shapes = {name: array.shape for name, array in weights.items()}
    write_safetensors(tmp_path / "odd.safetensors", shapes, weights.items())
    with pytest.raises(UserError, match=message):
        open_torch(tmp_path / "odd.safetensors")


def test_incomplete_weights_are_told(data_dir, tmp_path):
    weights = arrays(data_dir / "torch" / "timm.safetensors")
    del weights["blocks.0.norm2.bias"]
    shapes = {name: array.shape for name, array in weights.items()}
    write_safetensors(tmp_path / "odd.safetensors", shapes, weights.items())
    with pytest.raises(UserError, match=r"lacks blocks\.0\.norm2\.bias"):
        open_torch(tmp_path / "odd.safetensors")


def test_pickles_are_not_read(data_dir, tmp_path):
    place = changed(data_dir, tmp_path)
    (place / "model.safetensors").rename(place / "pytorch_model.bin")
    with pytest.raises(UserError, match="may run code"):
        open_torch(place)


def test_files_are_those_of_the_safetensors_library(tmp_path):
    library = pytest.importorskip("safetensors.numpy", reason="reads and writes the same files")
    weights = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.asarray([7], np.float32)}
    write_safetensors(tmp_path / "ours", {"a": (2, 3), "b": (1,)}, weights.items())
    theirs = library.load_file(tmp_path / "ours")
    library.save_file(weights, tmp_path / "theirs")
    for read in (theirs, arrays(tmp_path / "theirs")):
        assert set(read) == set(weights)
        for name, array in weights.items():
            np.testing.assert_array_equal(read[name], array)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not a .safetensors file"),
        (b"\x10\0\0\0\0\0\0\0not json at all.", "not a .safetensors file"),
        (b"\xff" * 40, "not a .safetensors file"),
    ],
)
def test_damaged_files_are_told(tmp_path, data, message):
    (tmp_path / "file.safetensors").write_bytes(data)
    with pytest.raises(UserError, match=message):
        open_safetensors(tmp_path / "file.safetensors")


def test_cut_files_are_told(data_dir, tmp_path):
    data = (data_dir / "torch" / "timm.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(data[:-100])
    with pytest.raises(UserError, match="cut short"):
        open_safetensors(tmp_path / "cut.safetensors")
    with pytest.raises(UserError, match="cannot be opened"):
        open_safetensors(tmp_path / "absent.safetensors")


@pytest.mark.parametrize(
    ("case", "names", "to", "message"),
    [
        ("tiny_gap_rep", "huggingface", "out", "class token"),
        ("tiny_token_rep", "huggingface", "out", "representation layer"),
        ("tiny_hybrid", "timm", "out.safetensors", "no stem"),
        ("tiny_token", "timm", "out", "must end in .safetensors"),
        ("tiny_token", "timm", "out.safetensors", "3 heads of width 24"),
        ("tiny_token", "huggingface", "out.safetensors", "writes a directory"),
    ],
)
def test_what_a_format_has_no_place_for(data_dir, tmp_path, case, names, to, message):
    with pytest.raises(UserError, match=message):
        convert(data_dir / "vit" / f"{case}.npz", tmp_path / to, names=names)
    assert not list(tmp_path.iterdir())
