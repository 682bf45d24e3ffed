"""The BiT experiments say what the papers say, and run."""

import dataclasses

import cv2
import jax
import numpy as np
import pytest
from configs import parsed, unread_keys

from experiments.vit import bit, bit_finetune, recipes
from experiments.vit.datasets import DATASETS
from train_jax.config import from_config
from train_jax.errors import UserError
from train_jax.loop import fit
from train_jax.mesh import MeshConfig
from train_jax.optimizers import Adam, Sgd, decayed
from train_jax.schedules import CosineConfig, LinearConfig, StepsConfig, make_schedule, steps_of
from train_jax.sharding import flat_names
from vit_jax.data.preprocess import InceptionCrop, ResizeCrop, ResizeSmallCrop, Squash
from vit_jax.evaluate import evaluate
from vit_jax.models import api
from vit_jax.models.bit import VARIANTS, BiTConfig, bit_config, variant_name
from vit_jax.outline import outline
from vit_jax.task import ViTTrainConfig, make_task


def built(module, arg):
    config = from_config(ViTTrainConfig, module.get_config(arg))
    assert isinstance(config.model, BiTConfig)
    return config


def made_schedule(config):
    """The learning rate of a run on the data set as published."""
    dataset = DATASETS[config.data.source.partition(":")[2]]

    def steps(duration, total=None):
        return steps_of(
            duration,
            batch_size=config.batch_size,
            examples_per_epoch=dataset.num_examples,
            total_steps=total,
        )

    total = steps(config.total)
    return make_schedule(config.schedule, total, lambda text: steps(text, total)), total


# --- pre-training ---


@pytest.mark.parametrize(
    ("data", "epochs", "boundaries", "loss", "head_bias"),
    [
        ("jft300m", 40, (10, 23, 30, 37), "sigmoid", -10.0),
        ("imagenet21k", 90, (30, 60, 80), "sigmoid", -10.0),
        ("imagenet2012", 90, (30, 60, 80), "softmax", 0.0),
    ],
)
def test_pretraining_has_the_numbers_of_the_bit_paper(data, epochs, boundaries, loss, head_bias):
    config = built(bit, f"R152x4,{data}")
    dataset = DATASETS[data]
    assert (config.batch_size, config.total, config.loss) == (4096, f"{epochs} epochs", loss)
    # 1e-4 through a momentum of 0.9, as a decay that is decoupled from it.
    assert config.optimizer == Sgd(momentum=0.9, weight_decay=1e-3)
    assert config.schedule == StepsConfig(
        base=0.48,
        boundaries=tuple(f"{epoch} epochs" for epoch in boundaries),
        factor=0.1,
        warmup="5_000 steps",
    )
    assert config.data.preprocess == InceptionCrop(size=224)
    assert (config.mixup, config.label_smoothing, config.data.randaugment) == (0.0, 0.0, None)
    assert config.evaluations["held_out"].preprocess == ResizeSmallCrop(resize=256, size=224)
    assert (config.data.split, config.evaluations["held_out"].split) == (
        dataset.part,
        dataset.held_out,
    )
    assert config.model == bit_config(
        "R152x4",
        num_classes=dataset.num_classes,
        head_bias=head_bias,
        compute_dtype="bfloat16",
        root_padding="zeros",
    )
    assert config.mesh == MeshConfig(data=-1, fsdp=-1)
    rate, total = made_schedule(config)
    step = round(boundaries[0] * dataset.num_examples / 4096)
    np.testing.assert_allclose(float(rate(5_000)), 0.48, rtol=1e-6)
    np.testing.assert_allclose(float(rate(step - 1)), 0.48, rtol=1e-6)
    np.testing.assert_allclose(float(rate(step)), 0.048, rtol=1e-6)
    np.testing.assert_allclose(float(rate(total - 1)), 0.48 / 10 ** len(boundaries), rtol=1e-5)


@pytest.mark.parametrize(
    ("variant", "epochs", "rate"),
    [
        ("R50x1", (7,), 1e-3),
        ("R50x2", (7,), 1e-3),
        ("R101x1", (7,), 8e-4),
        ("R152x1", (7,), 6e-4),
        ("R152x2", (7, 14), 6e-4),
        ("R200x3", (14,), 6e-4),
    ],
)
def test_pretraining_has_the_numbers_of_the_vit_papers_table_3(variant, epochs, rate):
    for length in (0, *epochs):
        config = built(bit, f"{variant},jft300m,recipe=vit,epochs={length}")
        assert (config.batch_size, config.total) == (4096, f"{length or epochs[-1]} epochs")
        assert config.optimizer == Adam(b1=0.9, b2=0.999, weight_decay=0.1)
        assert config.schedule == LinearConfig(base=rate, end=1e-5, warmup="10_000 steps")
        assert config.loss == "sigmoid"
        assert config.model == bit_config(
            variant, num_classes=18_291, head_bias=-10.0, compute_dtype="bfloat16"
        )
        assert config.data.preprocess == InceptionCrop(size=224)
        made_schedule(config)


@pytest.mark.parametrize(
    ("arg", "facts"),
    [
        ("R152x4,jft300m", {"v3_core_days": 9900}),
        ("R152x2,jft300m,recipe=vit,epochs=14", {"exaflop": 1126}),
        ("R152x2,jft300m", {}),  # 40 epochs
        ("R152x4,imagenet21k", {}),
    ],
)
def test_plans_know_what_the_papers_runs_cost(arg, facts):
    plan = outline(built(bit, arg))
    assert {fact.what: fact.value for fact in plan.published} == facts


def test_weight_decay_is_for_kernels_alone():
    config = built(bit, "R50x1,imagenet2012")
    params = jax.eval_shape(
        lambda key: api.init(config.model, key, (224, 224, 3))[0], jax.random.key(0)
    )
    mask = flat_names(decayed(params, config.optimizer.decay_pattern))
    assert {name for name, is_decayed in mask.items() if is_decayed} == {
        name for name in mask if name.endswith("kernel")
    }
    assert {"head/kernel", "conv_root/kernel", "block1/units/conv1/kernel"} <= set(mask)


# --- fine-tuning ---


@pytest.mark.parametrize(
    ("data", "steps", "mixup", "resize", "crop"),
    [
        ("imagenet2012", 20_000, 0.1, 448, 384),
        ("cifar10", 10_000, 0.1, 160, 128),
        ("cifar100", 10_000, 0.1, 160, 128),
        ("oxford_iiit_pet", 500, 0.0, 448, 384),
        ("oxford_flowers102", 500, 0.0, 448, 384),
        ("vtab,source=tfds:dtd,classes=47", 500, 0.0, 448, 384),
        ("vtab,source=tfds:svhn_cropped,classes=10,side=32", 500, 0.0, 160, 128),
        ("cifar10,source=folder:/x,examples=900,side=96,classes=3", 500, 0.0, 448, 384),
    ],
)
def test_finetuning_follows_the_hyperrule(data, steps, mixup, resize, crop):
    config = built(bit_finetune, f"R50x1,{data}")
    assert (config.batch_size, config.total, config.mixup) == (512, f"{steps} steps", mixup)
    assert config.optimizer == Sgd(momentum=0.9)
    assert config.schedule == StepsConfig(
        base=0.003,
        boundaries=("30 percent", "60 percent", "90 percent"),
        factor=0.1,
        warmup="100 steps" if steps == 500 else "500 steps",
    )
    assert (config.loss, config.ema_decay, config.flip) == ("softmax", None, True)
    assert config.model == bit_config(
        "R50x1", num_classes=config.model.num_classes, compute_dtype="bfloat16"
    )
    assert config.data.preprocess == ResizeCrop(resize=resize, size=crop)
    assert {name: e.preprocess for name, e in config.evaluations.items()} == {
        "test": Squash(size=crop)
    }
    dataset = DATASETS[data.partition(",")[0]]
    assert (config.data.split, config.evaluations["test"].split) == (dataset.whole, dataset.test)


def test_the_largest_model_sees_480_pixels_and_others_can():
    def crop(arg):
        return built(bit_finetune, arg).data.preprocess

    assert crop("R152x4,imagenet2012") == ResizeCrop(resize=512, size=480)
    assert crop("R152x4,imagenet2012,crop=384") == ResizeCrop(resize=448, size=384)
    assert crop("R50x1,imagenet2012,crop=480") == ResizeCrop(resize=512, size=480)
    assert crop("R152x4,cifar10") == ResizeCrop(resize=160, size=128)


@pytest.mark.parametrize("row", recipes.TABLE_4, ids=lambda row: row.data)
def test_finetuning_as_the_vit_paper_has_its_table_4(row):
    user = ",source=tfds:dtd,classes=47" if row.data == "vtab" else ""
    config = built(bit_finetune, f"R152x2,{row.data},rule=vit{user}")
    assert (config.batch_size, config.total, config.mixup) == (512, f"{row.steps} steps", 0.0)
    assert config.optimizer == Sgd(momentum=0.9, accumulator_dtype="bfloat16", clip_norm=1.0)
    assert isinstance(config.schedule, CosineConfig)
    assert config.schedule.base in row.lrs
    assert config.data.preprocess == InceptionCrop(size=384)
    assert config.evaluations["test"].preprocess == Squash(size=384)
    for lr in row.lrs:
        swept = built(bit_finetune, f"R152x2,{row.data},rule=vit,lr={lr},final=false{user}")
        assert swept.schedule.base == lr
        assert swept.data.split == DATASETS[row.data].part
        assert list(swept.evaluations) == ["held_out"]
    if row.data == "imagenet2012":
        assert 0.06 in row.lrs  # which ResNets and hybrids add (appendix B.1.1)


def test_other_labels_of_imagenet():
    config = built(bit_finetune, "R50x1,imagenet2012,real=true")
    assert set(config.evaluations) == {"test", "real", "v2"}
    assert {e.preprocess.size for e in config.evaluations.values()} == {384}


# --- what is refused ---


@pytest.mark.parametrize(
    ("module", "arg", "message"),
    [
        (bit, "R50x1,cifar10", "BiT paper does not pre-train on 'cifar10'.*jft300m, imagenet21k"),
        (bit, "", "BiT paper does not pre-train on 'no data set'"),
        (bit, "R34x1,jft300m", "Unknown BiT 'R34x1'"),
        (bit, "R50x1,imagenet2012,epochs=7", "trains 90 epochs on imagenet2012; for another"),
        (bit, "R50x1,jft300m,recipe=adam", "recipe=adam must be bit or vit"),
        (bit, "R50x1,imagenet21k,recipe=vit", "does not train 'R50x1' on 'imagenet21k'"),
        (bit, "R50x3,jft300m,recipe=vit", "its ResNets are R50x1, R50x2"),
        (bit, "R50x1,jft300m,recipe=vit,epochs=14", "no run of 14 epochs but of 7"),
        (bit_finetune, "R50x1,svhn", "Table 4 of the ViT paper has no row for 'svhn'"),
        (bit_finetune, "B/16,cifar10", "Unknown BiT 'B/16'"),
        (bit_finetune, "R50x1,cifar10,rule=best", "rule=best must be bit or vit"),
        (bit_finetune, "R50x1,cifar10,lr=0.1", "lr has no place in rule=bit; drop it"),
        (bit_finetune, "R50x1,cifar10,rule=vit,crop=480", "crop has no place in rule=vit"),
        (bit_finetune, "R50x1,imagenet2012,crop=400", "crop=400 must be 384 or 480"),
        (bit_finetune, "R50x1,cifar10,side=-1", "side=-1 must be positive"),
        (bit_finetune, "R50x1,cifar10,real=true", "real=true is for imagenet2012"),
    ],
)
def test_what_the_papers_do_not_have_is_refused(module, arg, message):
    with pytest.raises(UserError, match=message):
        module.get_config(arg)


def test_every_key_of_a_bit_is_read():
    assert unread_keys(BiTConfig, ("train_jax", "vit_jax")) == []


# --- both files run ---


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """A folder of 16 training and 5 test images in three classes."""
    root, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for split, count in (("train", 16), ("test", 5)):
        for i in range(count):
            place = root / split / "abc"[i % 3]
            place.mkdir(parents=True, exist_ok=True)
            pixels = rng.integers(0, 256, (24 + i, 40, 3), np.uint8)
            cv2.imwrite(str(place / f"{i}.{('jpg', 'png')[i % 2]}"), pixels)
    return root


def small(config):
    """The same run with a tiny model, for two steps; all else as it is shipped."""
    model = dataclasses.replace(
        config.model, stages=(2,), width=32, num_classes=3, compute_dtype="float32"
    )
    return dataclasses.replace(
        config,
        model=model,
        batch_size=8,
        total="2 steps",
        schedule=StepsConfig(base=config.schedule.base, boundaries=(), warmup="1 steps"),
    )


def on_folder(images, *, preprocess, evaluations):
    yield f"--config.data.source=folder:{images}"
    yield "--config.data.split=train"
    yield "--config.data.threads=1"
    yield from preprocess
    for name in evaluations:
        yield f"--config.evaluations.{name}.source=folder:{images}"
        yield f"--config.evaluations.{name}.split=test"
        yield f"--config.evaluations.{name}.preprocess.size=32"
        yield f"--config.evaluations.{name}.threads=1"


@pytest.mark.slow  # tests/vit_jax/test_bit_end_to_end.py is the fast one
def test_pretraining_and_finetuning_run_one_after_the_other(images, tmp_path):
    overrides = on_folder(
        images, preprocess=["--config.data.preprocess.size=32"], evaluations=["held_out"]
    )
    config = small(parsed(ViTTrainConfig, "vit/bit.py", "R101x3,jft300m", *overrides))
    assert config.mesh == MeshConfig(data=-1, fsdp=-1)
    before = fit(make_task(config), config, str(tmp_path / "pretrain"))
    assert before.step == 2
    # One update after a bias of -10: still improbable classes.
    assert 3 < before.metrics["held_out/loss"] < 10

    overrides = on_folder(
        images,
        preprocess=["--config.data.preprocess.size=32", "--config.data.preprocess.resize=40"],
        evaluations=["test"],
    )
    start = f"--config.init_from={tmp_path / 'pretrain'}"
    config = small(
        parsed(ViTTrainConfig, "vit/bit_finetune.py", "R50x1,cifar10", start, *overrides)
    )
    assert config.data.preprocess == ResizeCrop(resize=40, size=32)
    after = fit(make_task(config), config, str(tmp_path / "finetune"))
    assert (after.step, after.metrics["test/examples"]) == (2, 5)
    # A head of zeros has hardly begun to tell three classes apart.
    np.testing.assert_allclose(after.metrics["test/loss"], np.log(3), rtol=0.1)
    again = evaluate(config, str(tmp_path / "finetune"))
    np.testing.assert_allclose(again["test"]["loss"], after.metrics["test/loss"], rtol=1e-5)


def test_every_variant_builds():
    for variant in VARIANTS:
        for module, data in ((bit, "imagenet21k"), (bit_finetune, "imagenet2012")):
            config = built(module, f"{variant},{data}")
            assert isinstance(config.model, BiTConfig)
            assert variant_name(config.model) == variant
            made_schedule(config)
