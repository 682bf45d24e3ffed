"""Few-shot evaluation, nearest neighbours, masked patches: the papers' numbers, and a run."""

import dataclasses

import configs
import jax
import numpy as np
import pytest
import tiny

from experiments.quickstart import masked_patch as quick_masked
from experiments.vit import fewshot, knn, masked_patch, pretrain
from train_jax import loop
from train_jax.config import from_config
from train_jax.errors import UserError
from train_jax.mesh import make_mesh
from train_jax.optimizers import Adam
from train_jax.schedules import CosineConfig
from vit_jax.data.preprocess import InceptionCrop, ResizeCrop
from vit_jax.fewshot import FewShotRun
from vit_jax.fewshot import evaluate as evaluate_few_shot
from vit_jax.knn import KnnRun
from vit_jax.knn import evaluate as evaluate_neighbours
from vit_jax.masked_patch import MaskedPatchConfig
from vit_jax.models.config import ViTConfig
from vit_jax.task import ViTTrainConfig, make_task

pytestmark = pytest.mark.timeout(300)


def built(cls, module, arg=None):
    return from_config(cls, module.get_config(arg).to_dict())


def test_fewshot_is_that_of_big_vision():
    config = built(FewShotRun, fewshot).fewshot
    assert (config.shots, config.seeds, config.l2) == ((1, 5, 10, 25), 3, (1024.0,))
    assert set(config.datasets) == {
        "caltech101",
        "cars196",
        "cifar100",
        "dtd",
        "oxford_iiit_pet",
        "uc_merced",
    }
    for data in config.datasets.values():
        for split in (data.train, data.test):
            assert split.preprocess == ResizeCrop(resize=256, size=224)
    merced = config.datasets["uc_merced"]
    assert (merced.train.split, merced.test.split) == ("train[:1000]", "train[1000:]")


def test_fewshot_on_imagenet_at_another_resolution():
    arg, sweep = "imagenet2012,resolution=384", "--config.fewshot.l2=(1.0, 2.0)"
    config = configs.parsed(FewShotRun, "vit/fewshot.py", arg, sweep).fewshot
    (data,) = config.datasets.values()
    assert (data.train.source, data.train.split) == ("tfds:imagenet2012", "train[:65000]")
    assert data.test.split == "validation"
    assert data.test.preprocess == ResizeCrop(resize=439, size=384)
    assert config.l2 == (1.0, 2.0)


def test_pretraining_takes_fewshot_along():
    config = built(ViTTrainConfig, pretrain, "B/16,imagenet21k,fewshot=dtd")
    assert config.fewshot is not None
    assert set(config.fewshot.datasets) == {"dtd"}
    plain = built(ViTTrainConfig, pretrain, "B/16,imagenet21k")
    assert plain.fewshot is None


def test_neighbours_are_looked_for_in_all_of_the_training_set():
    config = built(KnnRun, knn, "imagenet2012+cifar10")
    splits = {name: (d.train.split, d.test.split) for name, d in config.datasets.items()}
    assert splits == {"imagenet2012": ("train", "validation"), "cifar10": ("train", "test")}
    assert config.temperature == 0.07


@pytest.mark.parametrize(
    ("target", "outputs"), [("mean_colour", 512), ("small_patch", 8192), ("pixels", 768)]
)
def test_masked_patches_have_the_numbers_of_the_appendix(target, outputs):
    arg = f"B/16,jft300m,target={target},seed=3"
    config = built(ViTTrainConfig, masked_patch, arg)
    assert (config.batch_size, config.total, config.seed) == (4096, "1000000 steps", 3)
    assert config.optimizer == Adam(b1=0.9, b2=0.999, weight_decay=0.1)
    assert config.schedule == CosineConfig(base=2e-4, warmup="10_000 steps")
    assert config.masked_patches == MaskedPatchConfig(target, 0.5, 0.8, 0.1)
    assert isinstance(config.model, ViTConfig)
    assert (config.model.patch_outputs, config.model.dropout) == (outputs, 0.0)
    assert config.data.preprocess == InceptionCrop(size=224)
    assert config.flip


@pytest.mark.parametrize(
    ("module", "arg", "message"),
    [
        (fewshot, "cifar", "Unknown data set 'cifar' for few-shot evaluation; known: caltech101"),
        (fewshot, "dtd,resolution=0", "resolution=0 must be positive"),
        (knn, "", "Unknown data set ''"),
        (knn, "jft300m", "jft300m has no test set"),
        (masked_patch, "B/16,jft300m,target=colour", "'colour' must be one of mean_colour"),
        (masked_patch, "B/16,jft300m,steps=0", "steps=0 must be positive"),
        (masked_patch, "B/16,jft", "Unknown data set 'jft'; did you mean jft300m"),
        (masked_patch, "H/14,jft300m,target=small_patch", "multiples of 4 pixels, not 14x14"),
    ],
)
def test_wrong_arguments_are_refused_in_one_sentence(module, arg, message):
    with pytest.raises(UserError, match=message):
        module.get_config(arg)


@pytest.mark.parametrize("cls", [FewShotRun, KnnRun])
def test_every_key_is_read(cls):
    assert configs.unread_keys(cls, ("train_jax", "vit_jax")) == []


#: What digits need to stand in the place of a data set.
DIGITS = {"source": "digits", "data_dir": tiny.DATA_DIR, "preprocess.size": 32}


def on_digits(path, split, **more):
    values = DIGITS | {"split": split} | more
    return [f"--config.{path}.{key}={value}" for key, value in values.items()]


@pytest.fixture(scope="module")
def one_device():
    """Compiles in half the time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "make_mesh", lambda c: make_mesh(c, jax.devices()[:1]))
        yield


def small(config):
    """The same run with a tiny model, for two steps; all else as it is shipped."""
    model = {"width": 32, "depth": 1, "mlp_dim": 64, "num_heads": 2, "patch_size": (16, 16)}
    model |= {"execution": "unrolled", "remat": "none", "compute_dtype": "float32"}
    return dataclasses.replace(
        config,
        model=dataclasses.replace(config.model, **model),
        batch_size=16,
        total="2 steps",
        schedule=dataclasses.replace(config.schedule, warmup="1 steps"),
    )


@pytest.fixture(scope="module")
def masked(one_device, tmp_path_factory):
    """A run of masked_patch.py, and its result."""
    digits = on_digits("data", "train") + on_digits("evaluations.held_out", "test")
    config = small(configs.parsed(ViTTrainConfig, "vit/masked_patch.py", "B/16,jft300m", *digits))
    workdir = tmp_path_factory.mktemp("masked")
    return workdir, loop.fit(make_task(config), config, str(workdir))


def test_masked_patches_step_evaluate_and_save(masked):
    workdir, result = masked
    assert result.step == 2
    np.testing.assert_allclose(result.metrics["held_out/loss"], np.log(512), rtol=1e-2)
    assert {"params/mask_token", "params/patch_head/kernel"} <= set(tiny.saved_state(workdir))


def test_the_quick_start_without_labels_steps_and_evaluates(one_device, tmp_path):
    config = built(ViTTrainConfig, quick_masked, "10")
    assert (config.total, config.masked_patches) == ("10 steps", MaskedPatchConfig())
    assert config.data.classes is None
    digits = on_digits("data", "train") + on_digits("evaluations.test", "test")
    config = small(configs.parsed(ViTTrainConfig, "quickstart/masked_patch.py", "10", *digits))
    result = loop.fit(make_task(config), config, str(tmp_path))
    assert (result.step, result.metrics["test/examples"]) == (2, tiny.NUM_TEST)
    np.testing.assert_allclose(result.metrics["test/loss"], np.log(512), rtol=1e-2)


def test_probes_of_a_run_on_digits(masked):
    """The shipped evaluations, with digits in the place of their data set."""
    workdir, _ = masked

    def probe(group):
        size = {"preprocess.resize": 36}
        parts = (("train", "train"), ("test", "test"))
        return [word for p, split in parts for word in on_digits(f"{group}.{p}", split, **size)]

    few = configs.parsed(FewShotRun, "vit/fewshot.py", "dtd", *probe("fewshot.datasets.dtd"))
    found = evaluate_few_shot(few, str(workdir))["dtd"]
    assert found.examples == tiny.NUM_TEST
    assert set(found.accuracies) == {1, 5, 10, 25}
    # Better than chance: of 360 digits a tenth would be right, give or take 0.016.
    assert found.accuracies[25].mean() > 0.15
    near = configs.parsed(KnnRun, "vit/knn.py", "cifar10", *probe("datasets.cifar10"))
    metrics = evaluate_neighbours(near, str(workdir))["cifar10"]
    assert metrics["examples"] == tiny.NUM_TEST
    assert metrics["10nn"] > 0.15
