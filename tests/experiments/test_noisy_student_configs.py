"""noisy_student.py: the paper's numbers, every stage built, and one round of stages run."""

import dataclasses

import cv2
import jax
import numpy as np
import pytest
from configs import parsed

from experiments.quickstart import noisy_student as quick
from experiments.vit import noisy_student
from train_jax.checkpoint import read_meta
from train_jax.config import from_config, identity
from train_jax.errors import UserError
from train_jax.loop import fit
from train_jax.mesh import MeshConfig
from train_jax.optimizers import RmsProp, decayed
from train_jax.schedules import make_schedule, steps_of
from train_jax.sharding import flat_names
from vit_jax.data.preprocess import InceptionCrop, ResizeSmallCrop
from vit_jax.data.randaugment import RandAugment
from vit_jax.evaluate import evaluate
from vit_jax.models import api, efficientnet_config
from vit_jax.models.efficientnet_config import VARIANTS, EfficientNetConfig
from vit_jax.outline import outline
from vit_jax.pseudo_label import pseudo_label
from vit_jax.task import ViTTrainConfig, make_task

IMAGENET = 1_281_167
KNOWN = [name for name in VARIANTS if name != "B8"]


def built(arg):
    return from_config(ViTTrainConfig, noisy_student.get_config(arg))


def steps(config, duration):
    """A duration in steps of a run on ImageNet."""
    examples = IMAGENET * config.batch_size // 2048
    total = None
    for text in (config.total, duration):
        total = steps_of(
            text,
            batch_size=config.batch_size,
            examples_per_epoch=examples,
            total_steps=total,
        )
    return total


@pytest.mark.parametrize("variant", KNOWN)
def test_students_have_the_numbers_of_the_paper(variant):
    config = built(f"{variant},student,labels=DIR")
    large = variant in ("B5", "B6", "B7", "L2")
    assert config.batch_size == 2048 * 15
    assert config.total == ("350 epochs" if large else "700 epochs")
    assert config.optimizer == RmsProp(
        decay=0.9, momentum=0.9, eps=1e-3, weight_decay=1e-5, decay_pattern=noisy_student.DECAYED
    )
    total = steps(config, config.total)
    assert total == pytest.approx((350 if large else 700) * IMAGENET / 2048, abs=1)
    schedule = make_schedule(config.schedule, total, lambda text: steps(config, text))
    epoch = IMAGENET / 2048
    every = 2.4 if large else 4.8
    for intervals in (3, 50, 145):
        step = round((intervals + 0.5) * every * epoch)
        assert float(schedule(step)) == pytest.approx(0.128 * 0.97**intervals, rel=1e-4)
    assert float(schedule(0)) == 0
    pseudo = config.pseudo_labels
    assert (pseudo.ratio, pseudo.threshold, pseudo.per_class) == (14, 0.3, 130_000)
    assert (pseudo.targets, pseudo.selection, pseudo.labels) == ("soft", None, "DIR")
    assert pseudo.data.preprocess == config.data.preprocess
    assert (config.loss, config.label_smoothing, config.ema_decay) == ("softmax", 0.1, 0.9999)
    assert config.model.stochastic_depth == 0.2
    assert config.model.compute_dtype == "bfloat16"


def test_the_noise_of_large_students_is_that_of_the_paper():
    for variant, size in (("B7", 600), ("L2", 475)):
        config = built(f"{variant},student,labels=DIR,ratio=28")
        augment = RandAugment(layers=2, magnitude=27)
        assert config.data.randaugment == config.pseudo_labels.data.randaugment == augment
        assert config.data.preprocess == InceptionCrop(size=size, min_area=0.08)
        assert config.model.dropout == 0.5
        assert config.batch_size == 2048 * 29
        # Nothing is random in evaluation.
        assert config.evaluations["test"].randaugment is None
        assert config.evaluations["test"].preprocess.size == size


def test_l2_is_fine_tuned_at_800_without_augmentation():
    config = built("L2,finetune")
    assert (config.total, config.flip, config.pseudo_labels) == ("1.5 epochs", False, None)
    assert config.data.preprocess == ResizeSmallCrop(resize=832, size=800, method="bilinear")
    assert config.data.randaugment is None
    assert config.transfer.keep_head
    # The rate at which training ends.
    assert config.schedule.base == pytest.approx(0.128 * 0.97**145)
    assert config.mesh == MeshConfig(data=-1, fsdp=8)


@pytest.mark.parametrize("variant", KNOWN)
@pytest.mark.parametrize("stage", noisy_student.STAGES)
def test_every_stage_of_every_model_builds(variant, stage):
    config = built(f"{variant},{stage}")
    size = 475 if variant == "L2" and stage != "finetune" else VARIANTS[variant].resolution
    assert config.data.preprocess.size == size
    assert config.model.width == VARIANTS[variant].width
    assert (config.pseudo_labels is not None) == (stage == "student")


def test_real_labels_and_other_images_are_measured_as_the_test_set_is():
    plain, real = built("L2,finetune"), built("L2,finetune,real=true")
    assert set(plain.evaluations) == {"test"}
    assert {name: (data.source, data.split) for name, data in real.evaluations.items()} == {
        "test": ("tfds:imagenet2012", "validation"),
        "real": ("tfds:imagenet2012_real", "validation"),
        "v2": ("tfds:imagenet_v2/matched-frequency", "test"),
    }
    centre = ResizeSmallCrop(resize=832, size=800, method="bilinear")
    assert {data.preprocess for data in real.evaluations.values()} == {centre}
    # What is measured does not make it another run.
    assert identity(real) == identity(plain)


def test_fewer_images_per_update_have_a_smaller_rate():
    config = built("B0,student,batch=512,ratio=1,unlabelled=folder:/a,selection=S,seed=3")
    assert (config.batch_size, config.schedule.base, config.seed) == (1024, 0.032, 3)
    assert config.pseudo_labels.data.source == "folder:/a"
    assert config.pseudo_labels.selection == "S"


def test_weight_decay_is_not_of_batch_norm():
    model = EfficientNetConfig(width=0.1, depth=0.1, num_classes=3)
    params, _ = jax.eval_shape(lambda key: api.init(model, key, (8, 8, 3)), jax.random.key(0))
    mask = flat_names(decayed(params, noisy_student.DECAYED))
    assert {name for name, is_decayed in mask.items() if not is_decayed} == {
        name for name in mask if "/bn_" in name or name.startswith("bn_")
    }


@pytest.mark.parametrize(
    ("arg", "message"),
    [
        (None, "Unknown EfficientNet ''; there are B0"),
        ("B7", "stage='' must be one of teacher, student, finetune; write VARIANT,STAGE"),
        ("B7,pupil", "stage='pupil' must be one of"),
        ("B7,teacher,labels=DIR", "labels is for the stage student, not teacher"),
        ("B7,student,ratio=0", "ratio=0 must be at least 1"),
        ("B7,student,batch=-1", "batch=-1 must be at least 1"),
    ],
)
def test_wrong_arguments_are_refused_in_one_sentence(arg, message):
    with pytest.raises(UserError, match=message):
        noisy_student.get_config(arg)


def test_images_that_nobody_can_download_are_asked_for(images, labels):
    config = built(f"B7,student,labels={labels},source=folder:{images}")
    with pytest.raises(UserError, match="'jft300m' is yours to supply"):
        make_task(dataclasses.replace(config, model=tiny_model(config), batch_size=15))


def test_a_plan_knows_the_batches_of_a_student():
    found = outline(built("L2,student,labels=DIR"))
    assert found.batch["image"].shape == (30_720, 475, 475, 3)
    assert found.batch["probabilities"].shape == (30_720, 1000)
    assert found.task.train_data.examples_per_epoch == 15 * IMAGENET
    assert found.choices == {"model.remat": ("none", "full")}
    assert [(each.what, each.value) for each in found.published] == [("v3_core_days", 12_300)]


def test_the_quick_start_builds():
    teacher = from_config(ViTTrainConfig, quick.get_config("teacher,1"))
    student = from_config(ViTTrainConfig, quick.get_config("student,1"))
    assert teacher.data == student.data
    assert (teacher.data.shots, teacher.data.shots_seed, teacher.seed) == (5, 1, 1)
    assert student.batch_size == (1 + student.pseudo_labels.ratio) * teacher.batch_size
    with pytest.raises(UserError, match="must be teacher or student"):
        quick.get_config("pupil")
    table = quick.table([[0.7, 0.8], [0.6, 0.9]])
    assert "65.0 ± 7.1" in table
    assert "20.0 ± 14.1" in table


# --- one round, on a folder of images ---


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """A folder of 16 training and 5 validation images in three classes."""
    root, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for split, count in (("train", 16), ("validation", 5)):
        for i in range(count):
            place = root / split / "abc"[i % 3]
            place.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(place / f"{i}.png"), rng.integers(0, 256, (24, 20, 3), np.uint8))
    return root


@pytest.fixture(scope="module", autouse=True)
def small():
    """One block instead of dozens, on one device.

    Eight simulated devices on fewer cores wait for each other at every batch norm.
    """
    stages = (efficientnet_config._Stage(1, 3, 2, 6, 16),)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(efficientnet_config, "_STAGES", stages)
        patch.setattr(efficientnet_config, "_HEAD_CHANNELS", 64)
        devices = jax.devices()[:1]
        patch.setattr(jax, "devices", lambda: devices)
        yield


def tiny_model(config):
    # Half precision takes a CPU twice as long to compile.
    return dataclasses.replace(
        config.model, width=0.5, depth=1.0, num_classes=3, compute_dtype="float32"
    )


def shipped(images, arg, size, *overrides):
    """The config as the command line reads it, on the folder, with a tiny model, for two steps."""
    place = f"source=folder:{images}"
    unlabelled = f",unlabelled=folder:{images}" if "student" in arg else ""
    overrides = [*overrides, "--config.data.threads=1", "--config.evaluations.test.threads=1"]
    config = parsed(
        ViTTrainConfig, "vit/noisy_student.py", f"{arg},{place}{unlabelled}", *overrides
    )
    rows = 16 * (1 if config.pseudo_labels is None else 1 + config.pseudo_labels.ratio)

    def resized(data):
        crop = data.preprocess
        changes = {"size": size} | ({"resize": size + 2} if hasattr(crop, "resize") else {})
        return dataclasses.replace(data, preprocess=dataclasses.replace(crop, **changes))

    pseudo = config.pseudo_labels
    if pseudo is not None:
        pseudo = dataclasses.replace(pseudo, data=resized(pseudo.data))
    warmup = {"warmup": "0 steps"} if hasattr(config.schedule, "every") else {}
    return dataclasses.replace(
        config,
        model=tiny_model(config),
        data=resized(config.data),
        evaluations={"test": resized(config.evaluations["test"])},
        pseudo_labels=pseudo,
        batch_size=rows,
        evaluation_batch_size=8,
        total="2 steps",
        schedule=dataclasses.replace(config.schedule, **warmup),
    )


@pytest.fixture(scope="module")
def teacher(images, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("teacher")
    config = shipped(images, "B7,teacher", 16)
    return config, workdir, fit(make_task(config), config, str(workdir))


@pytest.fixture(scope="module")
def labels(images, teacher, tmp_path_factory):
    config, workdir, _ = teacher
    output = tmp_path_factory.mktemp("labels")
    pseudo_label(config, str(workdir), str(output), source=f"folder:{images}", split="train")
    return output


def check(config, workdir, result):
    """The run ended and evaluated every image, and its checkpoint gives the same numbers again."""
    assert result.step == read_meta(workdir)["step"] == 2
    again = evaluate(config, str(workdir))["test"]
    assert again["examples"] == 5
    for name, value in again.items():
        assert np.isfinite(value)
        np.testing.assert_allclose(result.metrics[f"test/{name}"], value, rtol=1e-4)


def taught(images, labels, workdir):
    # Of three classes none is much more than a third probable after two steps.
    changes = ("--config.pseudo_labels.threshold=0.0", "--config.pseudo_labels.per_class=9")
    config = shipped(images, f"B7,student,ratio=2,labels={labels}", 16, *changes)
    return config, workdir, fit(make_task(config), config, str(workdir))


def test_a_teacher_and_its_student_step_evaluate_and_save(images, teacher, labels, tmp_path):
    check(*teacher)
    check(*taught(images, labels, tmp_path))


@pytest.mark.slow
def test_fine_tuning_goes_on_from_a_student(images, labels, tmp_path):
    """Its mechanism is that of every start from a checkpoint (tests/vit_jax/test_init_from.py)."""
    _, student, _ = taught(images, labels, tmp_path / "student")
    config = shipped(images, "B7,finetune", 24, f"--config.init_from={student}")
    check(config, tmp_path / "tuned", fit(make_task(config), config, str(tmp_path / "tuned")))
