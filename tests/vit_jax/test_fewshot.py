"""Frozen representations on the digits: in a run, from its checkpoint, and by the commands.

The run is one of masked patch prediction, from which fine-tuning then starts.
"""

import dataclasses
import json
import math
import re

import commands
import jax
import numpy as np
import pytest
import tiny
from published import load_published
from tiny_probes import DIGITS, FEWSHOT, TEST

from train_jax import loop
from train_jax.command_line import USER_ERROR_EXIT_CODE
from train_jax.config import to_dict
from train_jax.errors import UserError
from train_jax.mesh import MeshConfig, make_mesh
from train_jax.record import read_records
from train_jax.sharding import flat_names
from vit_jax.convert import convert
from vit_jax.data.on_device import normalise
from vit_jax.data.pipeline import eval_data
from vit_jax.data.preprocess import Squash
from vit_jax.evaluate import evaluate as evaluate_run
from vit_jax.fewshot import FewShotRun, evaluate
from vit_jax.flops import multiply_adds
from vit_jax.init_from import open_source
from vit_jax.knn import KnnRun
from vit_jax.knn import evaluate as evaluate_neighbours
from vit_jax.least_squares import few_shot, means_by_name
from vit_jax.masked_patch import MaskedPatchConfig
from vit_jax.models import api
from vit_jax.models.config import ViTConfig
from vit_jax.noisy_student import PseudoLabelConfig
from vit_jax.representations import ProbeData, Represented, load_frozen, make_extractor, only_size
from vit_jax.task import make_task
from vit_jax.transfer import MASKED_PATCH_PARTS

pytestmark = pytest.mark.timeout(300)

SHAPE = (16, 16, 3)
LARGER = dataclasses.replace(TEST, preprocess=Squash(20))


def train(config, workdir):
    """On one device, which compiles in half the time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "make_mesh", lambda c: make_mesh(c, jax.devices()[:1]))
        return loop.fit(make_task(config), config, str(workdir))


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    """A short run without labels, with few-shot evaluation and averaged parameters."""
    workdir = tmp_path_factory.mktemp("masked")
    config = tiny.make_config(
        model={"num_classes": 0, "patch_outputs": 512, "dropout": 0.0, "stochastic_depth": 0.0},
        masked_patches=MaskedPatchConfig(),
        fewshot=FEWSHOT,
        mixup=0.0,
        flip=False,
        batch_size=32,
        ema_decay=0.5,
        schedule=tiny.constant(),
    )
    return config, str(workdir), train(config, workdir)


def test_the_loss_falls_from_that_of_knowing_nothing(pretrained):
    _, workdir, result = pretrained
    losses = tiny.records(workdir, "loss")
    assert losses[1] == pytest.approx(math.log(512), rel=1e-6)
    assert losses[12] < losses[1] - 0.3
    assert result.metrics["test/loss"] < losses[1] - 0.3
    assert result.metrics["test/accuracy"] > 1 / 512
    assert result.metrics["test/examples"] == tiny.NUM_TEST


def test_evaluate_measures_a_masked_run_again(pretrained):
    config, workdir, result = pretrained
    again = evaluate_run(config, workdir)["test"]
    for name, value in again.items():
        assert value == pytest.approx(result.metrics[f"test/{name}"], rel=1e-6)


def by_hand(workdir, data):
    """Representations of a split in its own order, with the saved averaged parameters."""
    source = open_source(workdir)
    params = jax.tree.map(np.asarray, dict(source.read(source.shapes)))
    model = dataclasses.replace(
        tiny.MODEL, num_classes=0, patch_outputs=512, dropout=0.0, stochastic_depth=0.0
    )
    fresh, _ = jax.eval_shape(lambda key: api.init(model, key, SHAPE), jax.random.key(0))
    leaves, tree = jax.tree.flatten(fresh)
    params = tree.unflatten([params[name] for name in flat_names(fresh)])
    assert len(leaves) == len(jax.tree.leaves(params))
    represent = jax.jit(
        lambda images: api.apply(model, params, {}, normalise(images))[1]["pre_logits"]
    )
    batches = list(eval_data(data, batch_size=200).start(np.arange(200)))
    kept = [batch["mask"] for batch in batches]
    features = [np.asarray(represent(b["image"]))[k] for b, k in zip(batches, kept, strict=True)]
    labels = [batch["labels"][k] for batch, k in zip(batches, kept, strict=True)]
    return np.concatenate(features), np.concatenate(labels)


def test_representations_are_those_of_the_model_in_the_order_of_the_data(pretrained):
    _, workdir, _ = pretrained
    mesh = make_mesh(MeshConfig())
    with jax.set_mesh(mesh):
        frozen = load_frozen(workdir, mesh, image_shape=only_size({"digits": DIGITS}))
        assert isinstance(frozen.model, ViTConfig)
        assert (frozen.model.num_classes, frozen.model.patch_outputs) == (0, 0)
        extract = make_extractor(frozen.model, DIGITS, mesh, batch_size=104)
        both = extract(frozen.params, frozen.model_state)
    for found, split, number in zip(both, (DIGITS.train, DIGITS.test), (400, 360), strict=True):
        features, labels = by_hand(workdir, split)
        assert len(found) == number
        np.testing.assert_array_equal(found.labels, labels)
        np.testing.assert_allclose(found.features, features, rtol=0, atol=1e-5)


def test_the_run_and_the_command_measure_what_the_definition_says(pretrained):
    _, workdir, result = pretrained
    train, test = (
        Represented(*by_hand(workdir, split), 10) for split in (DIGITS.train, DIGITS.test)
    )
    expected = means_by_name(few_shot(train, test, FEWSHOT), FEWSHOT)
    found = evaluate(FewShotRun(fewshot=FEWSHOT, batch_size=104), workdir)["digits"]
    assert found.examples == tiny.NUM_TEST
    # One image more or less may be on the other side of a boundary.
    close = 2.1 / (tiny.NUM_TEST * FEWSHOT.seeds)
    for name, value in means_by_name(found.accuracies, FEWSHOT).items():
        assert value == pytest.approx(expected[name], abs=close)
        assert result.metrics[f"fewshot_digits/{name}"] == pytest.approx(value, abs=close)
    assert result.metrics["fewshot_digits/examples"] == tiny.NUM_TEST
    assert expected["5shot"] > expected["1shot"] > 0.1


def test_neighbours_tell_digits_apart(pretrained):
    config = KnnRun(datasets={"digits": DIGITS}, neighbours=(1, 10), batch_size=104)
    found = evaluate_neighbours(config, pretrained[1])["digits"]
    assert found["examples"] == tiny.NUM_TEST
    assert found["10nn"] > 0.3


def finetuning(workdir):
    return tiny.make_config(
        init_from=workdir,
        total="2 steps",
        mixup=0.0,
        evaluations={},
        model={"dropout": 0.0, "stochastic_depth": 0.0},
        schedule=tiny.constant(),
    )


def test_fine_tuning_starts_from_masked_patch_prediction(pretrained):
    _, workdir, _ = pretrained
    task = make_task(finetuning(workdir))
    shapes, _ = jax.eval_shape(task.init, jax.random.key(0))
    assert task.transfer is not None
    params, _ = task.transfer(shapes, {})
    found, saved = flat_names(params), tiny.saved_state(workdir)
    assert not {"mask_token", "patch_head/kernel"} & set(found)
    for name, value in found.items():
        # A new head of zeros; all else as the run had averaged it.
        expected = np.zeros_like(value) if name.startswith("head/") else saved[f"ema/{name}"]
        np.testing.assert_array_equal(value, expected, err_msg=name)


def test_a_published_file_of_masked_patch_prediction_holds_what_fine_tuning_loads(
    pretrained, tmp_path
):
    _, workdir, _ = pretrained
    path = tmp_path / "masked.npz"
    report = convert(workdir, path).splitlines()
    for name in ("mask_token", "patch_head/kernel"):
        assert any(line.startswith(name) and "dropped" in line for line in report), name
    saved, found = tiny.saved_state(workdir), load_published(path)
    assert found.keys() == {
        name.removeprefix("ema/")
        for name in saved
        if name.startswith("ema/") and not re.fullmatch(f"ema/({MASKED_PATCH_PARTS})", name)
    }
    for name, value in found.items():
        np.testing.assert_array_equal(value, saved[f"ema/{name}"], err_msg=name)
    loaded = []
    for start in (workdir, path):
        task = make_task(finetuning(str(start)))
        assert task.transfer is not None
        shapes, _ = jax.eval_shape(task.init, jax.random.key(0))
        loaded.append(task.transfer(shapes, {})[0])
    jax.tree.map(np.testing.assert_array_equal, *loaded)


@pytest.mark.slow
def test_fine_tuning_goes_on_from_masked_patch_prediction(pretrained, tmp_path):
    _, workdir, _ = pretrained
    train(finetuning(workdir), tmp_path)
    losses = tiny.records(tmp_path, "loss")
    assert losses[1] == pytest.approx(math.log(10), rel=1e-6)
    assert losses[2] != losses[1]


def test_the_model_of_a_published_file_is_recognised(data_dir):
    """The hidden layer before the head belongs to the representation; the head does not."""
    mesh, file = make_mesh(MeshConfig()), data_dir / "vit" / "tiny_token_rep.npz"
    with jax.set_mesh(mesh):
        frozen = load_frozen(str(file), mesh, image_shape=(24, 24, 3))
    shapes = {name: leaf.shape for name, leaf in flat_names(frozen.params).items()}
    assert shapes["pre_logits/kernel"] == (24, 20)
    # Made for 16 pixels in patches of 4.
    assert shapes["Transformer/posembed_input/pos_embedding"] == (1, 1 + 6 * 6, 24)
    assert not [name for name in shapes if name.startswith("head")]
    with np.load(file) as arrays:
        np.testing.assert_array_equal(
            frozen.params["pre_logits"]["kernel"], arrays["pre_logits/kernel"]
        )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mixup": 0.2}, "no labels to mix"),
        ({"loss": "sigmoid"}, "a loss of its own"),
        ({"pseudo_labels": PseudoLabelConfig(data=TEST, labels="x")}, "not both"),
        ({"masked_patches": None}, "patch_outputs is for masked patch prediction"),
    ],
)
def test_keys_that_masked_patch_prediction_does_not_read_are_refused(changes, message):
    masked = {"masked_patches": MaskedPatchConfig(), "mixup": 0.0}
    with pytest.raises(UserError, match=message):
        tiny.make_config(**(masked | {"model": {"num_classes": 0, "patch_outputs": 512}} | changes))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({}, "The config has no data sets"),
        (
            {"a": DIGITS, "b": ProbeData(train=DIGITS.train, test=LARGER)},
            "must have one size; found 16x16, 20x20",
        ),
    ],
)
def test_images_of_one_size_are_asked_for(data, message):
    with pytest.raises(UserError, match=message):
        only_size(data)


def test_splits_of_other_classes_are_refused():
    few = ProbeData(train=dataclasses.replace(DIGITS.train, classes=(0, 1)), test=TEST)
    with pytest.raises(UserError, match=r"has 2 classes and digits \(test\) 10"):
        make_extractor(tiny.MODEL, few, make_mesh(MeshConfig()), batch_size=8)


def command(module, name, *words):
    return commands.shared().run(
        f"vit_jax.{module}", f"--config=tests/tiny_probes.py:{name}", *words
    )


def test_the_commands_print_and_record(pretrained, tmp_path):
    _, workdir, _ = pretrained
    done = command("fewshot", "fewshot", f"--checkpoint={workdir}", f"--record={tmp_path}/few")
    assert done.code == 0, done.stderr
    head, row, notes = done.stdout.splitlines()
    assert head.split() == ["1-shot", "5-shot"]
    assert re.fullmatch(r"digits +\d+\.\d\d ± \d+\.\d\d +\d+\.\d\d ± \d+\.\d\d", row)
    assert notes == (
        "Top-1 in %, mean ± standard deviation over 2 choices of the images; penalty 1024."
    )
    done = command("knn", "knn", f"--checkpoint={workdir}", f"--record={tmp_path}/near")
    assert done.code == 0, done.stderr
    assert re.fullmatch(r"digits: 1-nn \d+\.\d\d%  10-nn \d+\.\d\d%  examples 360\n", done.stdout)
    for name, metrics in (("few", {"1shot", "5shot"}), ("near", {"1nn", "10nn"})):
        (file,) = (tmp_path / name).iterdir()
        split = json.loads(file.read_text())["splits"]["digits"]
        assert (set(split["metrics"]), split["examples"]) == (metrics, 360)
        assert split["data"] == json.loads(json.dumps(to_dict(DIGITS)))


def test_the_record_of_a_run_says_what_few_shot_evaluation_saw_and_what_training_took(pretrained):
    config, workdir, _ = pretrained
    ((_, record),) = read_records([workdir])
    assert record.splits["test"]["data"]["split"] == "test"
    found = record.splits["fewshot_digits"]
    assert found["data"] == json.loads(json.dumps(to_dict(DIGITS)))
    assert (set(found["metrics"]), found["examples"]) == ({"1shot", "5shot"}, tiny.NUM_TEST)
    assert record.step
    operations = 6 * multiply_adds(config.model, SHAPE) * record.step * config.batch_size
    assert record.cost["exaflop"] == pytest.approx(operations / 1e18)


@pytest.mark.parametrize("module", ["fewshot", "knn"])
def test_mistakes_are_said_in_one_sentence(module, tmp_path):
    for words, message in (
        ([], "--checkpoint is missing"),
        ([f"--checkpoint={tmp_path}"], "holds no complete checkpoint"),
    ):
        done = command(module, module, *words)
        assert done.code == USER_ERROR_EXIT_CODE
        assert message in done.stderr
        assert len(done.stderr.splitlines()) == 1
