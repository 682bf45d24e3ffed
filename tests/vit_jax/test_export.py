"""Exported classifiers give the logits of the model, in the tools that they are for."""

import dataclasses
import json

import commands
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from train_jax.errors import UserError
from train_jax.export import read_stablehlo
from vit_jax.export import Classifier, load, write
from vit_jax.models import api
from vit_jax.models.bit import BiTConfig
from vit_jax.models.config import ViTConfig

CASES = ["tiny_token", "tiny_gap_rep", "tiny_hybrid"]


def images(shape, count=3):
    return np.random.default_rng(0).normal(size=(count, *shape)).astype(np.float32)


def published(data_dir, case):
    """A classifier and the logits of the original code."""
    with np.load(data_dir / "vit" / f"{case}.io.npz") as file:
        return load(data_dir / "vit" / f"{case}.npz"), file["images"], file["logits"]


def own(**changes):
    """A classifier of random weights, none of them zero."""
    model = ViTConfig(
        (4, 4), 24, 2, 48, 3, 10, attention="einsum", execution="unrolled", remat="none", **changes
    )
    params, _ = api.init(model, jax.random.key(0), (16, 16, 3))
    rng = np.random.default_rng(1)
    params = jax.tree.map(
        lambda leaf: np.asarray(leaf + 0.1 * rng.normal(size=leaf.shape), np.float32), params
    )
    return Classifier(model, params, {}, (16, 16, 3))


def run_onnx(path, x):
    onnxruntime = pytest.importorskip("onnxruntime", reason="runs what was exported")
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (result,) = session.run(None, {"images": x})
    return result


def test_stablehlo_takes_any_batch(data_dir, tmp_path):
    classifier, x, expected = published(data_dir, "tiny_token")
    write(classifier, tmp_path / "model", "stablehlo")
    program = read_stablehlo(tmp_path / "model")
    for count in (1, len(x)):
        got = program(jnp.asarray(x[:count]))
        np.testing.assert_allclose(got, expected[:count], atol=1e-5)
    about = json.loads((tmp_path / "model.json").read_text())
    assert about["input"]["shape"] == ["batch", 16, 16, 3]
    assert about["output"]["name"] == "logits"
    assert "127.5" in about["preprocessing"]["scale"]
    assert about["platforms"] == ["cpu", "tpu", "cuda"]


@pytest.mark.parametrize("case", CASES)
def test_onnx_gives_the_logits_of_the_original(data_dir, tmp_path, case):
    pytest.importorskip("onnx", reason="writes the file")
    classifier, x, expected = published(data_dir, case)
    write(classifier, tmp_path / "model.onnx", "onnx")
    got = run_onnx(tmp_path / "model.onnx", x)
    np.testing.assert_allclose(got, expected, atol=1e-4)
    np.testing.assert_array_equal(got.argmax(-1), expected.argmax(-1))
    np.testing.assert_allclose(run_onnx(tmp_path / "model.onnx", x[:1]), expected[:1], atol=1e-4)


@pytest.mark.parametrize(
    "changes",
    [
        {"pool": "map", "position": "sincos2d", "gelu": "erf", "norm_epsilon": 1e-2},
        {"position": "none"},
    ],
)
def test_onnx_of_other_poolings_and_positions(tmp_path, changes):
    pytest.importorskip("onnx", reason="writes the file")
    classifier = own(**changes)
    x = images((16, 16, 3))
    expected = api.apply(classifier.model, classifier.params, {}, jnp.asarray(x))[0]
    write(classifier, tmp_path / "model.onnx", "onnx")
    np.testing.assert_allclose(run_onnx(tmp_path / "model.onnx", x), expected, atol=1e-4)


def test_large_weights_lie_beside_the_graph(tmp_path):
    pytest.importorskip("onnx", reason="writes the file")
    from vit_jax.onnx_vit import vit_graph

    classifier, x = own(), images((16, 16, 3))
    assert isinstance(classifier.model, ViTConfig)
    graph = vit_graph(classifier.model, classifier.params, classifier.image_shape)
    graph.save(tmp_path / "model.onnx", external_bytes=10_000)
    assert (tmp_path / "model.onnx.data").stat().st_size > 10_000
    expected = api.apply(classifier.model, classifier.params, {}, jnp.asarray(x))[0]
    np.testing.assert_allclose(run_onnx(tmp_path / "model.onnx", x), expected, atol=1e-4)


def test_weights_keep_their_names(data_dir, tmp_path):
    onnx = pytest.importorskip("onnx", reason="reads the file")
    classifier, *_ = published(data_dir, "tiny_token")
    write(classifier, tmp_path / "model.onnx", "onnx")
    model = onnx.load(tmp_path / "model.onnx")
    names = {array.name for array in model.graph.initializer}
    assert "Transformer/encoderblock_1/MlpBlock_0/Dense_0/kernel" in names
    assert model.opset_import[0].version == 20


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"position": "relative"}, "export StableHLO of this one"),
        ({"position": "learned2d"}, "export StableHLO of this one"),
    ],
)
def test_models_without_an_onnx_form_are_refused(tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        write(own(**changes), tmp_path / "model.onnx", "onnx")
    assert not list(tmp_path.iterdir())


def test_a_bit_has_no_onnx_form(tmp_path):
    bit = Classifier(BiTConfig((1,), 32), {}, {}, (32, 32, 3))
    with pytest.raises(UserError, match="export StableHLO of a BiT"):
        write(bit, tmp_path / "model.onnx", "onnx")


def test_nothing_is_overwritten(data_dir, tmp_path):
    classifier, *_ = published(data_dir, "tiny_token")
    (tmp_path / "model").write_text("precious")
    with pytest.raises(UserError, match="exists already"):
        write(classifier, tmp_path / "model", "stablehlo")
    with pytest.raises(UserError, match="its directory does not exist"):
        write(classifier, tmp_path / "none" / "model", "stablehlo")


def test_damaged_programs_are_told(tmp_path):
    (tmp_path / "model").write_bytes(b"nothing of the kind")
    with pytest.raises(UserError, match="not a program that JAX"):
        read_stablehlo(tmp_path / "model")
    with pytest.raises(UserError, match="cannot be read"):
        read_stablehlo(tmp_path / "absent")


def test_another_size_than_the_positions(data_dir):
    with pytest.raises(UserError, match="positions are for 16x16 images, not 32x32"):
        load(data_dir / "vit" / "tiny_token.npz", size=32)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "--checkpoint is missing"),
        (("--checkpoint=a.npz", "--output=b"), "--format is missing"),
        (("--checkpoint=a.npz", "--format=onnx"), "--output is missing"),
        (("--checkpoint=absent.npz", "--format=onnx", "--output=absent.onnx"), "absent.npz"),
        (("--format=pdf",), "pdf"),
    ],
)
def test_the_command_tells_what_is_wrong(arguments, message):
    finished = commands.shared().run("vit_jax.export", *arguments)
    assert finished.code == 2
    assert message in finished.stderr
    assert "Traceback" not in finished.stderr


def test_without_tensorflow_one_sentence_says_so(data_dir, tmp_path):
    arguments = [
        f"--checkpoint={data_dir / 'vit' / 'tiny_token.npz'}",
        f"--output={tmp_path / 'model'}",
    ]
    finished = commands.shared().run(
        "vit_jax.export", *arguments, "--format=saved_model", missing=("tensorflow",)
    )
    assert finished.code == 2
    assert "export-tensorflow" in finished.stderr
    assert commands.shared().run("vit_jax.export", *arguments, "--format=stablehlo").code == 0


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # TensorFlow's own deprecations
def test_saved_model_and_tflite_run_in_tensorflow(data_dir, tmp_path):
    tf = pytest.importorskip("tensorflow", reason="exports and runs both formats")
    classifier, x, expected = published(data_dir, "tiny_token")
    write(classifier, tmp_path / "saved", "saved_model")
    run = tf.saved_model.load(str(tmp_path / "saved")).signatures["serving_default"]
    got = run(images=tf.constant(x))["logits"].numpy()
    np.testing.assert_allclose(got, expected, atol=1e-4)
    write(classifier, tmp_path / "model.tflite", "tflite")
    interpreter = tf.lite.Interpreter(str(tmp_path / "model.tflite"))
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], x[:1])
    interpreter.invoke()
    got = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
    np.testing.assert_allclose(got, expected[:1], atol=1e-4)


def test_a_trained_checkpoint_says_what_it_is(tmp_path):
    from train_jax.checkpoint import save_once
    from train_jax.config import to_dict

    classifier = own(gelu="erf", norm_epsilon=1e-3)
    meta = {"model": to_dict(classifier.model), "image_shape": [16, 16, 3], "grid": [4, 4]}
    save_once(tmp_path / "run", {"params": jax.tree.map(jnp.asarray, classifier.params)}, meta)
    loaded = load(tmp_path / "run")
    assert loaded.model == dataclasses.replace(classifier.model)
    np.testing.assert_array_equal(loaded.params["cls"], classifier.params["cls"])
