"""A pose run without its data has the shapes of Human3.6M."""

import numpy as np
import pytest

from experiments.pose import cmu, h36m, h36m_semi, humaneva
from pose_jax.flops import multiply_adds
from pose_jax.outline import FRAMES, outline
from train_jax.outline import read_config


def planned(module, arg):
    config = read_config(module.get_config(arg))
    return config, outline(config)


def test_human36m():
    config, run = planned(h36m, "27")
    # 3,047 steps of 1024 are an epoch: every frame as it is, and mirrored.
    epoch = run.task.train_data.examples_per_epoch
    assert epoch == pytest.approx(2 * 1_559_752, rel=1e-3)
    keypoints = run.resident["keypoints"]
    assert keypoints.shape[1] == 17 * 2
    edges = 600 * (config.model.receptive_field - 1 + 2)
    assert keypoints.shape[0] == pytest.approx(FRAMES + edges, rel=1e-3)
    assert run.resident["positions"].shape[1] == 17 * 3
    assert {name: x.shape for name, x in run.batch.items()} == {
        "epoch": (1024,),
        "offset": (1024,),
    }
    assert {x.dtype for x in run.batch.values()} == {np.dtype(np.int32)}


def test_ten_percent_of_a_subject_beside_video_of_the_others():
    _, run = planned(h36m_semi, "S1_10percent")
    # 775 steps of 64 an epoch.
    assert run.task.train_data.examples_per_epoch == pytest.approx(775 * 64, rel=0.01)
    assert set(run.batch) == {"epoch", "offset", "unlabelled_epoch", "unlabelled_offset"}
    assert "unlabelled_intrinsics" in run.resident


def test_products_of_all_networks_and_kinds_count():
    config, run = planned(h36m_semi, "S1_10percent")
    alone = read_config(h36m.get_config("27"))
    assert multiply_adds(alone) == alone.model.multiplications_per_window
    assert run.multiply_adds > 3.9 * multiply_adds(alone)
    # Without dilation nothing of a window is left out: 27 frames in, one out (paper, Table 5).
    dense = read_config(h36m.get_config("27,dense=true"))
    assert multiply_adds(dense) > dense.model.multiplications_per_frame
    assert config.package == "pose_jax"


@pytest.mark.parametrize(("module", "arg"), [(cmu, "27"), (humaneva, None)])
def test_other_data_sets_can_be_planned(module, arg):
    config, run = planned(module, arg)
    assert run.task.train_data.examples_per_epoch > 0
    assert run.batch["offset"].shape == (config.batch_size,)
