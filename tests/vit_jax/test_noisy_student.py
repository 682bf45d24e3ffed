"""Pseudo-labels and students: selection, files, joint batches, and that a student gains."""

import dataclasses
import json

import commands
import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from experiments.quickstart import noisy_student as quick
from train_jax.command_line import USER_ERROR_EXIT_CODE
from train_jax.config import from_config
from train_jax.errors import UserError
from train_jax.loop import fit
from train_jax.mesh import make_mesh
from vit_jax import noisy_student
from vit_jax.data import pseudo_labels
from vit_jax.data.on_device import normalise
from vit_jax.data.pipeline import DataConfig, data_source, eval_data
from vit_jax.data.preprocess import Squash
from vit_jax.data.pseudo_labels import About, PseudoLabels, Unlabelled, select_balanced
from vit_jax.init_from import load_model
from vit_jax.models import api
from vit_jax.noisy_student import PseudoLabelConfig, joint_data, joint_targets
from vit_jax.pseudo_label import images_of, pseudo_label
from vit_jax.task import ViTTrainConfig, make_task

# --- selection ---

LABELS = np.array([0, 0, 0, 1, 1, 2, -1, 2, 0], np.int32)
CONFIDENCES = np.array([0.9, 0.5, 0.7, 0.31, 0.3, 0.2, 0.99, 0.8, 0.5], np.float32)


def selected(per_class, threshold=0.3, seed=0):
    found = select_balanced(
        LABELS,
        CONFIDENCES,
        num_classes=4,
        threshold=np.float32(threshold),
        per_class=per_class,
        seed=seed,
    )
    return found.tolist()


def test_the_most_confident_are_kept_and_few_are_repeated():
    # Of class 0 the best two, of 1 the only one above the threshold, of 2 likewise, of 3 none.
    assert selected(2) == [0, 2, 3, 3, 7, 7]
    # Of equals the first.
    assert selected(3) == [0, 1, 2, 3, 3, 3, 7, 7, 7]


def test_without_balancing_all_above_the_threshold_come_once():
    assert selected(None) == [0, 1, 2, 3, 7, 8]


def test_every_repetition_is_of_the_whole_class_before_the_next_begins():
    counts = np.bincount(selected(6), minlength=9)
    assert counts[[0, 1, 2, 8]].sum() == 6
    assert set(counts[[0, 1, 2, 8]]) == {1, 2}
    # Which ones come twice is drawn.
    assert len({tuple(selected(6, seed=seed)) for seed in range(10)}) > 1


def test_a_threshold_that_leaves_nothing_is_said():
    with pytest.raises(UserError, match=r"No pseudo-label is more confident than 0\.9"):
        selected(2, threshold=0.99)


# --- files ---

ABOUT = About(data="images", examples=5, teacher="t", num_classes=3, shard=2, generation=0)


def shard_arrays(rows, num_classes=3):
    probabilities = np.full((len(rows), num_classes), 0.1)
    probabilities[np.arange(len(rows)), np.array(rows) % num_classes] = 1 - 0.1 * (num_classes - 1)
    return {
        "probabilities": probabilities,
        "label": np.array(rows) % num_classes,
        "confidence": np.linspace(0.5, 0.9, len(rows)),
    }


def write_all(directory, about):
    for shard in pseudo_labels.start_writing(directory, about):
        rows = about.rows(shard)
        pseudo_labels.write_shard(directory, shard, shard_arrays(rows, about.num_classes))


def test_labels_are_read_as_written(tmp_path):
    write_all(tmp_path / "labels", ABOUT)
    found = PseudoLabels(tmp_path / "labels")
    labels, confidences = found.best()
    np.testing.assert_array_equal(labels, [0, 1, 2, 0, 1])
    np.testing.assert_allclose(confidences, [0.5, 0.9, 0.5, 0.9, 0.5], rtol=1e-6)
    some = found.probabilities(np.array([4, 0, 4]))
    np.testing.assert_allclose(some, np.eye(3)[[1, 0, 1]] * 0.7 + 0.1, atol=1e-3)


def test_writing_goes_on_behind_what_is_complete(tmp_path):
    assert pseudo_labels.start_writing(tmp_path, ABOUT) == [0, 1, 2]
    pseudo_labels.write_shard(tmp_path, 1, shard_arrays(ABOUT.rows(1)))
    with pytest.raises(UserError, match="lacks the labels of the examples from 0 on; start"):
        PseudoLabels(tmp_path)
    # Killed between the two files of a pair.
    pseudo_labels.write_shard(tmp_path, 0, shard_arrays(ABOUT.rows(0)))
    (tmp_path / "00000.npz").unlink()
    assert pseudo_labels.start_writing(tmp_path, ABOUT) == [0, 2]


def test_what_is_wrong_with_a_directory_is_said(tmp_path):
    with pytest.raises(UserError, match="holds no pseudo-labels; write them with python -m"):
        PseudoLabels(tmp_path / "none")
    with pytest.raises(UserError, match="mount the bucket"):
        PseudoLabels("gs://bucket/labels")
    write_all(tmp_path, ABOUT)
    other = dataclasses.replace(ABOUT, teacher="other")
    with pytest.raises(UserError, match=r"'t' -> 'other'.*name another directory"):
        pseudo_labels.start_writing(tmp_path, other)
    large = tmp_path / "00001.probabilities.npy"
    large.write_bytes(large.read_bytes()[:-4])
    with pytest.raises(UserError, match=r"00001\.probabilities\.npy is damaged"):
        PseudoLabels(tmp_path)
    (tmp_path / "labels.json").write_text(json.dumps({"format": 99}))
    with pytest.raises(UserError, match="cannot be read"):
        PseudoLabels(tmp_path)


# --- batches ---

NUM = 12


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Labelled images, black to grey, and unlabelled ones, each of one level; one is broken."""
    root = tmp_path_factory.mktemp("images")
    for kind, count in (("labelled", 6), ("unlabelled", NUM)):
        for i in range(count):
            place = root / kind / "all" / "abc"[i % 3]
            place.mkdir(parents=True, exist_ok=True)
            level = 10 * i + (5 if kind == "unlabelled" else 0)
            cv2.imwrite(str(place / f"{i}.png"), np.full((9, 9, 3), level, np.uint8))
    (root / "unlabelled" / "all" / "c" / "11.png").write_bytes(b"broken")
    return root


def images(folders, kind):
    return DataConfig(
        source=f"folder:{folders / kind}",
        split="all",
        preprocess=Squash(size=8),
        corrupt="skip",
        threads=1,
    )


@pytest.fixture(scope="module")
def pseudo(folders, tmp_path_factory):
    """Labels of the unlabelled images: the class is their index modulo 3."""
    data = images(folders, "unlabelled")
    about = About(data_source(data).fingerprint, NUM, "t", num_classes=3, shard=5, generation=0)
    labels = tmp_path_factory.mktemp("labels")
    write_all(labels, about)
    return PseudoLabelConfig(data=data, labels=str(labels), ratio=2, per_class=4)


def take(data, steps, rows=None):
    iterator = data.start(steps.start, np.arange(data.batch_size) if rows is None else rows)
    batches = [dict(next(iterator)) for _ in steps]
    iterator.close()
    return batches


def joint(folders, pseudo, **changes):
    arguments = {"batch_size": 6, "seed": 0, "num_classes": 3} | changes
    return joint_data(images(folders, "labelled"), pseudo, **arguments)


def test_a_batch_holds_both_kinds_and_every_image_its_own_probabilities(folders, pseudo):
    data, source = joint(folders, pseudo), data_source(pseudo.data)
    # One of the images cannot be read; the others by their grey level.
    index_of = {
        int(cv2.imread(source[i]["name"])[0, 0, 0]): i
        for i in range(NUM)
        if not source[i]["name"].endswith("11.png")
    }
    seen = set()
    for batch in take(data, range(12)):
        labelled = batch["labels"][:, 0] >= 0
        assert labelled.tolist() == 2 * [True] + 4 * [False]
        assert set(batch["image"][labelled].flat) <= set(range(0, 60, 10))
        assert not batch["probabilities"][labelled].any()
        for image, probabilities in zip(
            batch["image"][~labelled], batch["probabilities"][~labelled], strict=True
        ):
            index = index_of[int(image[0, 0, 0])]
            np.testing.assert_allclose(probabilities, np.eye(3)[index % 3] * 0.7 + 0.1, atol=1e-3)
            seen.add(index)
        for name, spec in data.shapes.items():
            assert (batch[name].shape, batch[name].dtype) == (spec.shape, spec.dtype)
    # The broken one was replaced, with the label of what replaced it.
    assert seen == set(index_of.values())
    assert len(data.skipped()) > 0
    # An epoch is one over the labelled images.
    assert data.examples_per_epoch // data.batch_size == 6 // 2


def test_hosts_and_restarts_see_the_same_batches(folders, pseudo):
    whole = take(joint(folders, pseudo), range(4))
    later = take(joint(folders, pseudo), range(3, 4))
    parts = [np.array([0, 5]), np.array([2, 3, 4]), np.array([1])]
    for rows in parts:
        for batch, mine in zip(whole, take(joint(folders, pseudo), range(4), rows), strict=True):
            for name in batch:
                np.testing.assert_array_equal(mine[name], batch[name][rows])
    for name in whole[3]:
        np.testing.assert_array_equal(later[0][name], whole[3][name])


def test_another_teacher_or_selection_is_another_data_set(folders, pseudo):
    def fingerprint(**changes):
        fields = dict(data=pseudo.data, labels=pseudo.labels, ratio=2, per_class=4)
        return joint(folders, PseudoLabelConfig(**(fields | changes))).fingerprint

    found = [
        fingerprint(),
        fingerprint(per_class=5),
        fingerprint(threshold=0.6),
        fingerprint(targets="hard"),
    ]
    assert len(set(found)) == 4
    assert fingerprint() == found[0]


def test_targets_are_labels_smoothed_or_the_teachers_probabilities():
    batch = {
        "labels": jnp.array([[1], [-1]], jnp.int32),
        "probabilities": jnp.array([[0, 0, 0], [0.2, 0.3, 0.499]], jnp.float16),
    }
    given = jnp.array([[0.1, 0.8, 0.1], [0.0, 0.0, 0.0]])
    found = joint_targets(given, batch)
    np.testing.assert_allclose(found[0], given[0])
    np.testing.assert_allclose(found[1], np.array([0.2, 0.3, 0.499]) / 0.999, rtol=2e-3)
    np.testing.assert_allclose(found.sum(axis=1), 1, rtol=1e-6)


def test_hard_targets_are_the_most_probable_class(folders, pseudo):
    hard = PseudoLabelConfig(
        data=pseudo.data, labels=pseudo.labels, ratio=2, per_class=4, targets="hard"
    )
    (batch,) = take(joint(folders, hard), range(1))
    soft = take(joint(folders, pseudo), range(1))[0]["probabilities"][2:]
    np.testing.assert_array_equal(
        batch["probabilities"][2:], np.eye(3)[soft.argmax(axis=1)].astype(np.float16)
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 7}, "batch of 7 does not split into 1 labelled and 2 .* multiple of 3"),
        ({"num_classes": 4}, "labels of 3 classes and the student's head has 4"),
    ],
)
def test_what_does_not_fit_is_refused(folders, pseudo, changes, message):
    with pytest.raises(UserError, match=message):
        joint(folders, pseudo, **changes)


def test_labels_of_other_images_are_refused(folders, pseudo):
    other = PseudoLabelConfig(data=images(folders, "labelled"), labels=pseudo.labels)
    with pytest.raises(UserError, match=r"labels of other images than folder:.*label those"):
        joint_data(images(folders, "labelled"), other, batch_size=15, seed=0, num_classes=3)


def test_a_student_of_another_generation_is_refused(folders, pseudo):
    """So the config that a record has says how many teachers came before."""
    second = dataclasses.replace(pseudo, generation=2)
    message = r"labels of a teacher of generation 0; set .*pseudo_labels\.generation=1, or"
    with pytest.raises(UserError, match=message):
        joint(folders, second)


@pytest.mark.parametrize(
    "wrong", [{"ratio": 0}, {"threshold": 1.0}, {"per_class": 0}, {"generation": 0}]
)
def test_settings_without_meaning_are_refused(pseudo, wrong):
    with pytest.raises(UserError, match=next(iter(wrong))):
        PseudoLabelConfig(data=pseudo.data, labels="x", **wrong)


# --- a teacher and its student, on digits ---


# Compiles in a third of the time of an EfficientNet; what is learned from does not depend on it.
MODEL = dataclasses.replace(
    tiny.MODEL, depth=1, dropout=0.0, stochastic_depth=0.0, execution="unrolled"
)
STEPS = "120 steps"


@pytest.fixture(scope="module")
def one_device():
    """Eight simulated devices on fewer cores wait for each other at every step."""
    devices = jax.devices()[:1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "devices", lambda: devices)
        yield


def generation(stage, seed, labels=None):
    """The quick start's run of a small transformer."""
    config = quick.get_config(f"{stage},{seed}")
    parts = [config.data, config.evaluations.test]
    if labels is not None:
        config.pseudo_labels.labels = str(labels)
        parts.append(config.pseudo_labels.data)
    for part in parts:
        part.data_dir, part.threads = tiny.DATA_DIR, 1
    frozen = from_config(ViTTrainConfig, config.to_dict())
    return dataclasses.replace(frozen, model=MODEL, total=STEPS)


def train(config, workdir):
    return fit(make_task(config), config, str(workdir)).metrics["test/accuracy"]


def label(config, teacher, output, **options):
    return pseudo_label(
        config,
        str(teacher),
        str(output),
        source="digits",
        split="train",
        data_dir=tiny.DATA_DIR,
        **options,
    )


@pytest.fixture(scope="module")
def taught(one_device, tmp_path_factory):
    """A teacher, its labels in three pairs of files, and their number."""
    root = tmp_path_factory.mktemp("taught")
    config = generation("teacher", 0)
    accuracy = train(config, root / "teacher")
    return config, root, accuracy, label(config, root / "teacher", root / "labels", shard=512)


def test_the_teacher_labels_every_image_without_noise(taught):
    config, root, _, count = taught
    found = PseudoLabels(root / "labels")
    assert (count, found.about.shards) == (1437, 3)
    data = images_of(config, source="digits", split="train", data_dir=tiny.DATA_DIR)
    some = np.array([1000, 3, 700])
    part = Unlabelled(data_source(data), some, how="some")
    batch = next(eval_data(data, batch_size=8, source=part).start(np.arange(8)))
    params, state = load_model(
        root / "teacher", make_mesh(config.mesh), model=config.model, image_shape=(16, 16, 3)
    )
    logits, *_ = api.apply(config.model, params, state, normalise(jnp.asarray(batch["image"])))
    wanted = jax.nn.softmax(logits)[:3]
    np.testing.assert_allclose(found.probabilities(some), wanted, atol=2e-3)
    labels, confidences = found.best()
    np.testing.assert_array_equal(labels[some], np.argmax(wanted, axis=1))
    np.testing.assert_allclose(confidences[some], np.max(wanted, axis=1), atol=2e-3)


def test_labelling_goes_on_where_it_was_stopped(taught):
    config, root, *_ = taught
    before = (root / "labels" / "00001.npz").read_bytes()
    (root / "labels" / "00001.npz").unlink()
    assert label(config, root / "teacher", root / "labels", shard=512) == 512
    assert (root / "labels" / "00001.npz").read_bytes() == before
    assert label(config, root / "teacher", root / "labels", shard=512) == 0
    with pytest.raises(UserError, match=r"labels\.shard: 512 -> 100"):
        label(config, root / "teacher", root / "labels", shard=100)


def test_a_student_learns_from_the_labels_that_it_is_given(taught):
    """With the truth about 1,437 images for labels it is far better than 50 labels make it.

    It would not be if images and labels were not brought together. That students gain from their
    teachers' labels is measured by the slow test beside this one.
    """
    _, root, teacher, _ = taught
    config = generation("student", 0, root / "truth")
    source = data_source(config.pseudo_labels.data)
    about = About(source.fingerprint, len(source), "truth", num_classes=10, shard=512, generation=0)
    truth = np.concatenate(source.labels())
    for shard in pseudo_labels.start_writing(root / "truth", about):
        labels = truth[about.rows(shard).start : about.rows(shard).stop]
        arrays = {
            "probabilities": np.eye(10)[labels],
            "label": labels,
            "confidence": np.ones(len(labels)),
        }
        pseudo_labels.write_shard(root / "truth", shard, arrays)
    student = train(config, root / "student")
    assert student > teacher + 0.1


@pytest.mark.slow
def test_students_improve_over_their_teachers_on_average(one_device, tmp_path):
    """As the quick start: 50 labels, one iteration; measured 8.3, 5.0 and 7.2 per cent."""
    gains = []
    for seed in quick.SEEDS:
        runs = quick.self_training(tmp_path, seed=seed, iterations=1)
        gains.append(runs[1] - runs[0])
    assert np.mean(gains) > 0.03
    assert min(gains) > 0


def test_a_config_without_evaluation_cannot_label():
    config = tiny.make_config(evaluations={})
    with pytest.raises(UserError, match="has no evaluations, so how images are prepared"):
        images_of(config, source="digits", split="train")


def test_the_ratio_splits_the_batch():
    config = PseudoLabelConfig(data=tiny.make_config().data, labels="x", ratio=14)
    assert noisy_student.labelled_rows(config, 30_720) == 2048


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "--checkpoint is missing; see --help"),
        (("--checkpoint=x",), "--source is missing"),
        (("--checkpoint=x", "--source=digits"), "--output is missing"),
        (("--checkpoint=/no/run", "--source=digits", "--output=/no/labels"), "/no/run does not"),
    ],
)
def test_the_command_says_what_is_missing(words, message):
    config = ("--config=tests/tiny.py:6", f"--data_dir={tiny.DATA_DIR}")
    finished = commands.shared().run("vit_jax.pseudo_label", *config, *words)
    assert finished.code == USER_ERROR_EXIT_CODE, finished.stderr
    assert message in finished.stderr
