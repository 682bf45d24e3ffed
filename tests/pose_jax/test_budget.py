"""A lifter whose training is as long as a budget: its statistics follow, as its schedule does."""

import commands
import jax.numpy as jnp
import pytest
import tiny_poses

from pose_jax.data import store
from pose_jax.data.views import PoseDataConfig
from pose_jax.objective import make_momentum
from pose_jax.task import make_task
from pose_jax.train_config import SemiConfig
from train_jax.budget import BudgetConfig
from train_jax.command_line import USER_ERROR_EXIT_CODE
from train_jax.settle import settle

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A directory with data."""
    root = tmp_path_factory.mktemp("budget")
    store.save(root / "tiny.npz", tiny_poses.poses())
    return root


@pytest.mark.parametrize("semi", [False, True])
def test_the_measured_length_is_that_of_all_that_depends_on_it(place, tmp_path, semi):
    unlabelled = PoseDataConfig(keypoints="tiny.npz", subjects=("S9",))
    changes = {"semi": SemiConfig(data=unlabelled)} if semi else {}
    config = tiny_poses.make_config(
        data_dir=str(place), total="budget", budget=BudgetConfig(hours=0.05), **changes
    )
    lengths = []

    def watched(config):
        lengths.append(config.total)
        return make_task(config)

    settled = settle(watched, config, str(tmp_path))
    steps = int(settled.total.removesuffix(" steps"))
    assert 100 < steps < 2**30
    assert lengths == [f"{2**30} steps"]
    task = make_task(settled)
    momentum = make_momentum(settled, task.train_data.examples_per_epoch)
    # In the last epoch it is next to its last value.
    assert float(momentum(jnp.int32(steps - 1))) == pytest.approx(config.batch_norm.last, rel=0.05)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--config.budget.hours=-1",), "config.budget.hours is -1; it must be more than 0."),
        (
            ("--config.budget.hours=1", "--config.budget.core_days=2"),
            "config.budget has core_days and hours; set one of them, and the other to None.",
        ),
        (
            ("--config.budget.core_days=2", "--config.budget.chip=v8"),
            "config.budget.chip is 'v8', which is not known; it must be one of v2, v3, v4, v5e, "
            "v5p, v6e, v7, cpu.",
        ),
        (
            ("--config.total=budget",),
            "config.total is 'budget' and config.budget sets none; set config.budget.core_days or "
            "config.budget.hours.",
        ),
    ],
)
def test_a_wrong_budget_ends_a_command_in_one_sentence(place, tmp_path, words, sentence):
    finished = commands.shared().run(
        "pose_jax.train",
        "--config=tests/tiny_poses.py",
        f"--config.data_dir={place}",
        f"--workdir={tmp_path}/run",
        *words,
    )
    assert finished.code == USER_ERROR_EXIT_CODE, finished.stderr
    assert finished.stderr.splitlines()[-1] == f"Error: {sentence}"
    assert not (tmp_path / "run").exists()
