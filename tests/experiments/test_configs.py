"""Every experiment that is shipped builds, says what its paper's table says, and runs."""

import dataclasses
import re
import types

import cv2
import jax
import numpy as np
import pytest
from configs import ROOT, config_classes, parsed, unread_keys

from experiments.quickstart import finetune as quick_finetune
from experiments.quickstart import pretrain as quick_pretrain
from experiments.vit import augreg, finetune, pretrain, recipes
from experiments.vit.datasets import DATASETS
from train_jax.checkpoint import read_meta
from train_jax.config import from_config
from train_jax.errors import UserError
from train_jax.loop import fit
from train_jax.mesh import MeshConfig
from train_jax.optimizers import Adam, Sgd, decayed
from train_jax.schedules import CosineConfig, LinearConfig, make_schedule, steps_of
from train_jax.sharding import flat_names
from vit_jax.data.preprocess import InceptionCrop, ResizeSmallCrop, Squash
from vit_jax.data.randaugment import AUGREG_LEVELS, RandAugment
from vit_jax.evaluate import evaluate
from vit_jax.models import api
from vit_jax.task import ViTTrainConfig, image_shape, make_task


def built(module, arg):
    return from_config(ViTTrainConfig, module.get_config(arg))


def models_of(row):
    if row.models != (recipes.ANY_VIT,):
        return row.models
    return "B/16", "B/32", "L/16", "L/32", "S/16", "H/14"


PRETRAIN = [
    (row, variant, epochs)
    for row in recipes.TABLE_3
    for variant in models_of(row)
    for epochs in (0, *row.epochs)
]
FINETUNE_VARIANTS = ("B/16", "B/32", "L/16", "L/32", "H/14", "R50+B/16", "Ti/16")
AUGREG = [(row, variant) for row in recipes.AUGREG for variant in row.levels]


def steps(config, duration):
    """A duration in steps of a run on the data set as published."""
    name = config.data.source.partition(":")[2]
    total = None
    for text in (config.total, duration):
        total = steps_of(
            text,
            batch_size=config.batch_size,
            examples_per_epoch=DATASETS[name].num_examples,
            total_steps=total,
        )
    return total


def made_schedule(config):
    """What `fit` derives of a config's durations, on the data set as published."""
    total = steps(config, config.total)
    for duration in (config.log_every, config.evaluate_every, config.checkpoint.every):
        assert 0 < steps(config, duration) <= total
    return make_schedule(config.schedule, total, lambda text: steps(config, text)), total


# --- the tables ---


@pytest.mark.parametrize(("row", "variant", "epochs"), PRETRAIN)
def test_pretraining_has_the_numbers_of_table_3(row, variant, epochs):
    length = f",epochs={epochs}" if epochs else ""
    config = built(pretrain, f"{variant},{row.data}{length}")
    dataset = DATASETS[row.data]
    assert (config.batch_size, config.total) == (4096, f"{epochs or row.epochs[-1]} epochs")
    assert config.optimizer == Adam(
        b1=0.9, b2=0.999, weight_decay=row.weight_decay, clip_norm=row.clip_norm
    )
    assert config.schedule == (
        LinearConfig(base=row.base_lr, end=1e-5, warmup="10_000 steps")
        if row.decay == "linear"
        else CosineConfig(base=row.base_lr, warmup="10_000 steps")
    )
    assert (config.loss, config.label_smoothing, config.mixup) == ("sigmoid", 0.0, 0.0)
    assert config.data.preprocess == InceptionCrop(size=224)
    assert config.data.randaugment is None
    assert config.ema_decay is None
    model = config.model
    assert (model.num_classes, model.head_bias) == (dataset.num_classes, -10.0)
    assert (model.dropout, model.attention_dropout) == (row.dropout, 0.0)
    assert (model.representation_size, model.pool) == (model.width, "token")
    assert (model.compute_dtype, model.execution, model.remat) == ("bfloat16", "scan", "names")
    assert config.data.split == dataset.part
    assert config.evaluations["held_out"].split == dataset.held_out
    assert config.evaluations["held_out"].preprocess == ResizeSmallCrop(resize=256, size=224)
    small = variant.startswith("S/")
    assert config.mesh == (MeshConfig() if small else MeshConfig(data=-1, fsdp=-1))


@pytest.mark.parametrize(
    ("arg", "rate", "total"),
    [("L/16,jft300m", 4e-4, 1_035_645), ("B/16,imagenet2012", 3e-3, 93_835)],
)
def test_a_schedule_begins_peaks_and_ends_as_published(arg, rate, total):
    schedule, found = made_schedule(built(pretrain, arg))
    assert abs(found - total) < 10
    assert float(schedule(0)) == 0
    np.testing.assert_allclose(float(schedule(10_000)), rate, rtol=1e-6)
    np.testing.assert_allclose(
        float(schedule(found)), 1e-5 if "jft" in arg else 0, rtol=1e-3, atol=1e-10
    )


@pytest.mark.parametrize("row", recipes.TABLE_4, ids=lambda row: row.data)
@pytest.mark.parametrize("variant", FINETUNE_VARIANTS)
def test_finetuning_has_the_numbers_of_table_4(row, variant):
    user = ",source=tfds:dtd,classes=47" if row.data == "vtab" else ""
    config = built(finetune, f"{variant},{row.data},table=5{user}")
    dataset = DATASETS[row.data]
    assert (config.batch_size, config.total) == (512, f"{row.steps} steps")
    assert config.optimizer == Sgd(
        momentum=0.9, accumulator_dtype="bfloat16", clip_norm=1.0, weight_decay=0.0
    )
    assert isinstance(config.schedule, CosineConfig)
    assert config.schedule.base in row.lrs
    warmup = {20_000: 500, 10_000: 500, 2_500: 200, 500: 100}[row.steps]
    assert config.schedule.warmup == f"{warmup} steps"
    assert (config.loss, config.ema_decay, config.label_smoothing) == ("softmax", None, 0.0)
    size = 378 if variant == "H/14" else 384
    assert config.data.preprocess == InceptionCrop(size=size)
    assert config.data.split == dataset.whole
    assert list(config.evaluations) == ["test"]
    assert config.evaluations["test"].split == dataset.test
    assert config.evaluations["test"].preprocess == Squash(size=size)
    model = config.model
    assert model.num_classes == (47 if user else dataset.num_classes)
    assert (model.representation_size, model.head_bias) == (None, 0.0)
    assert model.dropout == (0.1 if variant in ("L/16", "H/14", "R50+B/16") else 0.0)


@pytest.mark.parametrize("row", recipes.TABLE_4, ids=lambda row: row.data)
def test_every_rate_of_the_grid_can_be_swept_without_the_test_set(row):
    user = ",source=tfds:dtd,classes=47" if row.data == "vtab" else ""
    dataset = DATASETS[row.data]
    for lr in row.lrs:
        config = built(finetune, f"L/16,{row.data},lr={lr},final=false,seed=2{user}")
        assert (config.schedule.base, config.seed) == (lr, 2)
        assert config.data.split == dataset.part
        assert {name: e.split for name, e in config.evaluations.items()} == {
            "held_out": dataset.held_out
        }


@pytest.mark.parametrize(("variant", "size"), [("L/16", 512), ("H/14", 518)])
def test_imagenet_in_table_2_is_larger_and_averaged(variant, size):
    config = built(finetune, f"{variant},imagenet2012,real=true")
    assert (config.data.preprocess.size, config.ema_decay) == (size, 0.9999)
    assert {name: e.source for name, e in config.evaluations.items()} == {
        "test": "tfds:imagenet2012",
        "real": "tfds:imagenet2012_real",
        "v2": "tfds:imagenet_v2/matched-frequency",
    }
    assert {e.preprocess.size for e in config.evaluations.values()} == {size}
    # Only ImageNet, and only these models.
    assert built(finetune, f"{variant},cifar10").ema_decay is None
    assert built(finetune, "B/16,imagenet2012").data.preprocess.size == 384


def test_arguments_of_finetuning_reach_the_run():
    config = built(finetune, "B/16,cifar10,resolution=224,source=folder:/data,classes=7")
    assert config.data.preprocess.size == config.evaluations["test"].preprocess.size == 224
    assert config.data.source == config.evaluations["test"].source == "folder:/data"
    assert config.model.num_classes == 7


@pytest.mark.parametrize(("row", "variant"), AUGREG)
def test_augreg_has_its_numbers(row, variant):
    config = built(augreg, f"{variant},{row.data}")
    level = AUGREG_LEVELS[row.levels[variant]]
    assert (config.batch_size, config.total) == (4096, "300 epochs")
    assert config.optimizer == Adam(b1=0.9, b2=0.999, weight_decay=0.1, clip_norm=1.0)
    assert config.schedule == CosineConfig(base=1e-3, warmup="10_000 steps")
    assert (config.data.randaugment, config.mixup) == (level.randaugment, level.mixup)
    model = config.model
    assert (config.loss, model.representation_size) == ("sigmoid", None)
    assert model.head_bias == {"imagenet21k": -10.0, "imagenet2012": -6.9}[row.data]
    assert (model.dropout, model.stochastic_depth) == (0.0, 0.0)


def test_the_settings_of_augreg_are_28():
    settings = set()
    for aug in ("none", "light1", "light2", "medium1", "medium2", "strong1", "strong2"):
        for regularised in ("true", "false"):
            for decay in (0.03, 0.1):
                config = built(
                    augreg,
                    f"S/16,imagenet21k,aug={aug},regularised={regularised},weight_decay={decay},"
                    "epochs=30",
                )
                assert config.total == "30 epochs"
                rate = 0.1 if regularised == "true" else 0.0
                assert config.model.dropout == config.model.stochastic_depth == rate
                settings.add((config.data.randaugment, config.mixup, rate, config.optimizer))
                if aug == "medium1":
                    assert config.data.randaugment == RandAugment(2, 15)
                    assert config.mixup == 0.2
    assert len(settings) == 28


def test_patches_tile_every_image_and_every_run_has_a_schedule():
    configs = [built(pretrain, f"{variant},{row.data}") for row, variant, _ in PRETRAIN]
    configs += [built(augreg, f"{variant},{row.data}") for row, variant in AUGREG]
    configs += [
        built(finetune, f"{variant},{data}")
        for variant in (*FINETUNE_VARIANTS, "R50+L/32", "R+Ti/16", "B/8")
        for data in ("imagenet2012", "oxford_flowers102")
    ]
    for config in configs:
        grid = api.grid_of(config.model, image_shape(config.data))
        for evaluation in config.evaluations.values():
            assert api.grid_of(config.model, image_shape(evaluation)) == grid
        made_schedule(config)


def test_weight_decay_is_for_kernels_alone():
    config = built(pretrain, "R50+B/16,jft300m")
    params, _ = jax.eval_shape(
        lambda key: api.init(config.model, key, image_shape(config.data)), jax.random.key(0)
    )
    mask = flat_names(decayed(params, config.optimizer.decay_pattern))
    assert {name for name, is_decayed in mask.items() if is_decayed} == {
        name for name in mask if name.endswith("kernel")
    }
    assert {"head/kernel", "conv_root/kernel", "embedding/kernel"} <= set(mask)


def test_commands_in_the_documentation_build():
    modules = {"pretrain": pretrain, "finetune": finetune, "augreg": augreg}
    command = re.compile(rf"({'|'.join(modules)})\.py:([A-Z]\w*/[^\s`\";]+)")
    folders = [ROOT / name for name in ("experiments", "vit_jax", "train_jax")]
    files = [ROOT / "README.md", *(path for root in folders for path in root.rglob("*.py"))]
    texts = {path: path.read_text(encoding="utf-8") for path in files}
    found = {match for text in texts.values() for match in command.findall(text)}
    assert {file for file, _ in found} == set(modules)
    for file, arg in found:
        concrete = arg.replace("$lr", "0.01").replace("BEST", "0.01").replace("$seed", "1")
        concrete = concrete.replace("classes=N", "classes=7")
        built(modules[file], concrete)


def test_tables_and_data_sets_agree():
    names = {row.data for row in (*recipes.TABLE_3, *recipes.TABLE_4, *recipes.AUGREG)}
    assert names == set(DATASETS)
    assert {row.data for row in recipes.TABLE_4} == set(recipes.FINETUNE_LR)
    for row in recipes.TABLE_4:
        assert recipes.FINETUNE_LR[row.data] in row.lrs


# --- what is wrong ---


@pytest.mark.parametrize(
    ("module", "arg", "message"),
    [
        (pretrain, None, "write VARIANT,DATASET"),
        (pretrain, "H/14,imagenet21k", r"no row for 'H/14'.*imagenet21k: B/16, B/32"),
        (pretrain, "R50+B/16,imagenet2012", "no row"),
        (pretrain, "L/16,imagenet", "no row for 'L/16' on 'imagenet'"),
        (pretrain, "Q/16,imagenet2012", "Unknown model size 'Q'"),
        (pretrain, "L/16,jft300m,epochs=30", "30 epochs but of 7 or 14.*config.total"),
        (pretrain, "L/16,jft300m,epochs=few", "must be of type int"),
        (pretrain, "L/16,jft300m,length=7", "no argument 'length'"),
        (finetune, None, "write VARIANT,DATASET"),
        (finetune, "L/16,cifar", "no row for 'cifar'.*cifar100"),
        (finetune, ",cifar10", "no row for 'no data set'"),
        (finetune, "dataset=cifar10", "not written like"),
        (finetune, "B-16,cifar10", "not written like"),
        (finetune, "L/16,cifar10,lr=high", "must be of type float"),
        (finetune, "L/16,cifar10,lr=-1", "must be positive"),
        (finetune, "L/16,cifar10,final=no", "must be true or false"),
        (finetune, "L/16,cifar10,table=3", "must be 2 or 5"),
        (finetune, "L/16,cifar10,real=true", "real=true is for imagenet2012"),
        (augreg, None, "write VARIANT,DATASET"),
        (augreg, "H/14,imagenet21k", "does not train 'H/14'"),
        (augreg, "S/16,imagenet21k,aug=light0", "Unknown level.*light1"),
        (augreg, "S/16,imagenet21k,epochs=90", "of 30 or 300"),
        (augreg, "S/16,imagenet21k,weight_decay=0.2", "config.optimizer.weight_decay=0.2"),
    ],
)
def test_wrong_arguments_are_refused_in_one_sentence(module, arg, message):
    with pytest.raises(UserError, match=message):
        module.get_config(arg)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (lambda: built(pretrain, "H/14,jft300m"), "'jft300m' is yours to supply.*source=folder:"),
        (lambda: built(finetune, "L/16,vtab,classes=3"), "'vtab' is yours to supply"),
    ],
)
def test_data_that_nobody_can_download_are_asked_for(config, message):
    with pytest.raises(UserError, match=message):
        make_task(config())


def test_a_head_of_another_size_than_the_users_data_is_refused(images):
    config = built(finetune, f"B/16,cifar10,source=folder:{images}")
    with pytest.raises(UserError, match=r"has 3 classes .* set config\.model\.num_classes=3"):
        make_task(config)


def test_resolutions_that_patches_do_not_tile_are_refused(images):
    config = built(finetune, f"H/14,cifar10,resolution=384,source=folder:{images},classes=3")
    with pytest.raises(UserError, match="384 is not divisible by the patch of 14"):
        make_task(config)


# --- every key is read ---


def test_every_key_of_every_config_is_read():
    assert {Adam, Sgd, InceptionCrop, RandAugment, MeshConfig} <= set(
        config_classes(ViTTrainConfig)
    )
    assert unread_keys(ViTTrainConfig, ("train_jax", "vit_jax")) == []


def test_unions_of_types_are_searched():
    @dataclasses.dataclass
    class Inner:
        depth: int

    @dataclasses.dataclass
    class Outer:
        many: dict[str, Inner | None]

    assert set(config_classes(Outer | int)) == {Outer, Inner}
    assert isinstance(Outer | int, types.UnionType)


# --- every file runs ---


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """A folder of 16 training and 5 test images in three classes, JPEG and PNG."""
    root, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for split, count in (("train", 16), ("test", 5)):
        for i in range(count):
            place = root / split / "abc"[i % 3]
            place.mkdir(parents=True, exist_ok=True)
            pixels = rng.integers(0, 256, (24 + i, 40, 3), np.uint8)
            cv2.imwrite(str(place / f"{i}.{('jpg', 'png')[i % 2]}"), pixels)
    return root


# Compiles in half the time. Pre-training is run as it is shipped: scanned, bfloat16.
ON_CPU = {"execution": "unrolled", "remat": "none", "compute_dtype": "float32"}


def small(config, **changes):
    """The same run with a tiny model, for two steps; all else as it is shipped."""
    model = dict(width=32, depth=2, mlp_dim=64, num_heads=2, patch_size=(8, 8), num_classes=3)
    if config.model.representation_size:
        model["representation_size"] = 32
    return dataclasses.replace(
        config,
        model=dataclasses.replace(config.model, **(model | changes)),
        batch_size=16,
        total="2 steps",
        schedule=dataclasses.replace(config.schedule, warmup="1 steps"),
    )


def on_folder(images, *, size, evaluations):
    """Command-line overrides that put a folder of images in the place of a data set."""
    splits = {"train": "train", **dict.fromkeys(evaluations, "test")}
    paths = {"train": "data", **{name: f"evaluations.{name}" for name in evaluations}}
    for name, path in paths.items():
        yield f"--config.{path}.source=folder:{images}"
        yield f"--config.{path}.split={splits[name]}"
        yield f"--config.{path}.preprocess.size={size}"
        yield f"--config.{path}.threads=1"


RUNS = {
    "pretrain": ("H/14,jft300m", 16, ["held_out"]),
    "augreg": ("S/16,imagenet2012,aug=medium1,regularised=true", 16, ["held_out", "test"]),
    "finetune": ("L/16,imagenet2012,real=true", 32, ["test", "real", "v2"]),
}


#: Files whose runs are tested beside, in tests/experiments.
ELSEWHERE = {
    "bit": "test_bit_configs.py",
    "bit_finetune": "test_bit_configs.py",
    "bit_vtab": "test_vtab.py",
    "fewshot": "test_probe_configs.py",
    "knn": "test_probe_configs.py",
    "masked_patch": "test_probe_configs.py",
    "noisy_student": "test_noisy_student_configs.py",
    "vtab": "test_vtab.py",
}


def test_every_file_has_a_run_here_or_elsewhere():
    files = {path.stem for path in (ROOT / "experiments/vit").glob("*.py")}
    files -= {"__init__", "recipes", "datasets"}
    assert files - set(RUNS) <= set(ELSEWHERE)
    for name in files - set(RUNS):
        text = (ROOT / "tests/experiments" / ELSEWHERE[name]).read_text(encoding="utf-8")
        assert name in text, f"{ELSEWHERE[name]} does not run experiments/vit/{name}.py"


#: The experiments of the quick start, and where they are run.
QUICK = {
    "pretrain": ".ci/run",  # by `make quickstart`
    "finetune": ".ci/run",
    "lift": "tests/experiments/test_quickstart.py",
    "masked_patch": "tests/experiments/test_probe_configs.py",
    "noisy_student": "tests/vit_jax/test_noisy_student.py",
}


def test_every_quick_start_has_a_run():
    files = (ROOT / "experiments/quickstart").glob("*.py")
    names = {path.stem for path in files if "\ndef get_config(" in path.read_text("utf-8")}
    assert names == set(QUICK)
    for name, place in QUICK.items():
        run = "make quickstart" if place == ".ci/run" else name
        assert run in (ROOT / place).read_text(encoding="utf-8"), f"{place} does not run {name}"
    run_all = (ROOT / "experiments/quickstart/__main__.py").read_text(encoding="utf-8")
    assert all(name in run_all for name, place in QUICK.items() if place == ".ci/run")


@pytest.fixture
def one_device(monkeypatch):
    """Compiles in half the time; pre-training runs on all, with its parameters split."""
    devices = jax.devices()[:1]
    monkeypatch.setattr(jax, "devices", lambda: devices)


@pytest.fixture(scope="module")
def pretrained(images, tmp_path_factory):
    """A run of pretrain.py on 8 devices with its parameters split, and its result."""
    arg, size, names = RUNS["pretrain"]
    overrides = on_folder(images, size=size, evaluations=names)
    config = small(parsed(ViTTrainConfig, "vit/pretrain.py", arg, *overrides))
    workdir = tmp_path_factory.mktemp("pretrain")
    return config, workdir, fit(make_task(config), config, str(workdir))


def check_saved(config, workdir, result):
    """The run ended, evaluated every image, and its checkpoint gives the same numbers again."""
    assert (result.step, result.preempted) == (2, False)
    assert read_meta(workdir)["step"] == 2
    again = evaluate(config, str(workdir))
    assert set(again) == set(config.evaluations)
    for split, metrics in again.items():
        assert metrics["examples"] == 5
        for name, value in metrics.items():
            assert np.isfinite(value)
            np.testing.assert_allclose(result.metrics[f"{split}/{name}"], value, rtol=1e-5)


def test_pretraining_steps_evaluates_and_saves(pretrained):
    config, workdir, result = pretrained
    assert config.mesh == MeshConfig(data=-1, fsdp=-1)
    # Two steps after a bias of -10: still improbable classes.
    assert 5 < result.metrics["held_out/loss"] < 15
    check_saved(config, workdir, result)


def test_augreg_steps_evaluates_and_saves(images, one_device, tmp_path):
    arg, size, names = RUNS["augreg"]
    overrides = on_folder(images, size=size, evaluations=names)
    config = small(parsed(ViTTrainConfig, "vit/augreg.py", arg, *overrides), depth=1, **ON_CPU)
    assert config.data.randaugment == RandAugment(2, 15)
    check_saved(config, tmp_path, fit(make_task(config), config, str(tmp_path)))


def test_finetuning_goes_on_from_pretraining_at_a_higher_resolution(
    images, pretrained, one_device, tmp_path
):
    arg, size, names = RUNS["finetune"]
    overrides = on_folder(images, size=size, evaluations=names)
    start = f"--config.init_from={pretrained[1]}"
    config = small(parsed(ViTTrainConfig, "vit/finetune.py", arg, start, *overrides), **ON_CPU)
    assert (config.ema_decay, config.init_from) == (0.9999, str(pretrained[1]))
    result = fit(make_task(config), config, str(tmp_path))
    # A head of zeros, averaged with 0.9999, has hardly begun to tell three classes apart.
    np.testing.assert_allclose(result.metrics["test/loss"], np.log(3), rtol=1e-2)
    check_saved(config, tmp_path, result)


def test_the_quick_start_builds():
    before = from_config(ViTTrainConfig, quick_pretrain.get_config())
    after = built(quick_finetune, "2")
    assert (after.seed, after.data.shots_seed) == (2, 2)
    assert not set(before.data.classes) & set(after.data.classes)
    assert after.data.preprocess.size > before.data.preprocess.size
