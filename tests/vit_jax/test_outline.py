"""A ViT run without its data has the shapes and the length of the published one."""

import dataclasses

import numpy as np
import pytest
import tiny

from experiments.vit import augreg, finetune, pretrain
from train_jax.errors import UserError
from train_jax.outline import outline, read_config
from vit_jax.data.preprocess import Squash


def planned(module, arg):
    config = read_config(module.get_config(arg))
    return config, outline(config)


@pytest.mark.parametrize(
    ("module", "arg", "image", "examples"),
    [
        (pretrain, "B/32,jft300m", (4096, 224, 224, 3), 303_000_000 - 51_200),
        # 99 % of ImageNet: the rest is held out.
        (pretrain, "B/32,imagenet2012", (4096, 224, 224, 3), 1_268_355),
        (finetune, "B/32,cifar100", (512, 384, 384, 3), 50_000),
        (augreg, "Ti/16,imagenet21k", (4096, 224, 224, 3), 14_197_122 - 51_200),
    ],
)
def test_shapes_and_epochs(module, arg, image, examples):
    config, run = planned(module, arg)
    assert run.batch["image"].shape == image
    assert run.batch["image"].dtype == np.uint8
    assert run.batch["labels"].shape[0] == image[0]
    assert run.task.train_data.examples_per_epoch == examples
    assert run.resident == {}
    assert config.package == "vit_jax"


def test_the_papers_costs_go_with_the_papers_runs():
    facts = {fact.what: fact.value for fact in planned(pretrain, "H/14,jft300m")[1].published}
    assert facts == {"exaflop": 4262, "v3_core_days": 2500}
    facts = {fact.what: fact.value for fact in planned(pretrain, "B/16,jft300m")[1].published}
    assert facts == {"exaflop": 224}
    # Seven epochs are another run than fourteen; another data set has other costs.
    seven = planned(pretrain, "L/16,jft300m,epochs=7")[1].published
    assert [fact.value for fact in seven] == [783]
    assert planned(pretrain, "L/16,imagenet21k")[1].published == ()


def test_the_length_of_an_epoch_has_to_be_known():
    config = dataclasses.replace(tiny.make_config(), total="2 epochs")
    with pytest.raises(UserError, match=r"digits \(train\) has is not known.*data\.examples=N"):
        outline(config)
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, examples=1437))
    assert outline(config).task.train_data.examples_per_epoch == 1437
    few = dataclasses.replace(config.data, shots=5)
    config = dataclasses.replace(config, data=few)
    assert outline(config).task.train_data.examples_per_epoch == 50


def test_patches_that_do_not_tile_are_refused():
    config = tiny.make_config()
    data = dataclasses.replace(config.data, preprocess=Squash(size=15))
    with pytest.raises(UserError, match="not divisible by the patch"):
        outline(dataclasses.replace(config, data=data))
