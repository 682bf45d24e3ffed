import dataclasses
import json

import chex
import jax
import numpy as np
import pytest
import toy

from train_jax.checkpoint import Checkpoints, read_meta, restore_params
from train_jax.data import placement
from train_jax.errors import UserError
from train_jax.loop import fit
from train_jax.mesh import MeshConfig
from train_jax.train_config import CheckpointConfig, ProfileConfig


def records(workdir, key):
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return {r["step"]: r[key] for r in map(json.loads, lines) if key in r}


def final_params(workdir, task=None):
    shapes, _ = jax.eval_shape((task or toy.make_task()).init, jax.random.key(0))
    return jax.tree.map(np.asarray, restore_params(workdir, shapes))


def test_a_run_learns_logs_evaluates_and_saves(tmp_path):
    result = fit(toy.make_task(), toy.make_config(total="60 steps"), str(tmp_path))
    assert result.step == 60
    assert not result.preempted
    assert result.metrics["val/accuracy"] > 0.8
    assert result.metrics["val/examples"] == toy.NUM_EXAMPLES
    loss = records(tmp_path, "loss")
    assert list(loss) == list(range(4, 61, 4))
    assert loss[60] < loss[4]
    assert list(records(tmp_path, "val/accuracy")) == [10, 20, 30, 40, 50, 60]
    # The first update with warm-up has a rate of exactly 0; a line tells that of its last update.
    assert records(tmp_path, "learning_rate")[4] == pytest.approx(0.1, rel=0.01)
    meta = read_meta(tmp_path)
    assert meta["step"] == 60
    assert meta["config"]["total"] == "60 steps"
    assert meta["spent"]["core_seconds"]["cpu"]["train"] > 0
    assert json.loads((tmp_path / "config.json").read_text())["batch_size"] == 16


def test_a_workdir_may_be_relative(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fit(toy.make_task(), toy.make_config(total="4 steps"), "runs/toy")
    assert read_meta("runs/toy")["step"] == 4
    assert fit(toy.make_task(), toy.make_config(total="4 steps"), "runs/toy").step == 4


def test_several_steps_per_dispatch_change_nothing(tmp_path):
    # 7 divides none of the intervals: dispatches end early at each of them.
    for name, steps in (("one", 1), ("seven", 7)):
        config = toy.make_config(steps_per_dispatch=steps, total="30 steps")
        result = fit(toy.make_task(), config, str(tmp_path / name))
        assert result.step == 30
    for key in ("loss", "largest", "gradient_norm", "learning_rate", "val/accuracy"):
        one, seven = (records(tmp_path / name, key) for name in ("one", "seven"))
        assert list(one) == list(seven)
        np.testing.assert_allclose(list(one.values()), list(seven.values()), rtol=1e-5)
    chex.assert_trees_all_close(
        *(final_params(tmp_path / name) for name in ("one", "seven")), rtol=1e-5, atol=1e-7
    )


def test_a_run_of_long_dispatches_resumes_bitwise(tmp_path):
    task, config = toy.make_task(), toy.make_config(steps_per_dispatch=7)
    fit(task, config, str(tmp_path / "whole"))
    fit(task, config, str(tmp_path / "parts"))
    (tmp_path / "parts" / "checkpoints" / "20").rename(tmp_path / "gone")
    fit(task, config, str(tmp_path / "parts"))
    chex.assert_trees_all_equal(*(final_params(tmp_path / name) for name in ("whole", "parts")))


@pytest.mark.parametrize("limit", [placement.REPLICATED_BYTES, 0], ids=["replicated", "split"])
def test_examples_may_live_on_the_devices(tmp_path, monkeypatch, limit):
    monkeypatch.setattr(placement, "REPLICATED_BYTES", limit)
    loaded = toy.make_task()
    resident = dataclasses.replace(loaded, train_data=toy.resident_data(16))
    for name, task in (("loaded", loaded), ("resident", resident)):
        config = toy.make_config(accumulate=2, steps_per_dispatch=3)
        fit(task, config, str(tmp_path / name))
    a, b = (records(tmp_path / name, "loss") for name in ("loaded", "resident"))
    np.testing.assert_allclose(list(a.values()), list(b.values()), rtol=1e-6)


def test_a_finished_run_that_is_started_again_only_evaluates(tmp_path):
    config = toy.make_config()
    first = fit(toy.make_task(), config, str(tmp_path))
    again = fit(toy.make_task(), config, str(tmp_path))
    assert again.metrics == first.metrics
    assert again.step == 20


def test_resumed_is_bitwise_uninterrupted(tmp_path):
    task, config = toy.make_task(), toy.make_config(ema_decay=0.9)
    fit(task, config, str(tmp_path / "whole"))
    fit(task, config, str(tmp_path / "parts"))
    for step in (1, 2):
        # As after a kill: the run goes on from an older checkpoint.
        with Checkpoints(tmp_path / "parts" / "checkpoints") as checkpoints:
            assert checkpoints.latest_step() == 20
        newest = tmp_path / "parts" / "checkpoints" / "20"
        newest.rename(tmp_path / f"gone-{step}")
        fit(task, config, str(tmp_path / "parts"))
        whole, parts = (final_params(tmp_path / name) for name in ("whole", "parts"))
        chex.assert_trees_all_equal(whole, parts)
    assert records(tmp_path / "whole", "loss") == records(tmp_path / "parts", "loss")


def test_losses_do_not_depend_on_the_mesh(tmp_path):
    losses = []
    for mesh in (MeshConfig(), MeshConfig(1, 8), MeshConfig(2, 2, 2), MeshConfig(4, 1, 2)):
        workdir = tmp_path / f"{mesh.data}-{mesh.fsdp}-{mesh.tensor}"
        fit(toy.make_task(), toy.make_config(mesh=mesh), str(workdir))
        losses.append(list(records(workdir, "loss").values()))
        np.testing.assert_allclose(losses[-1], losses[0], rtol=1e-5, err_msg=str(mesh))


def test_a_run_may_go_on_with_another_mesh(tmp_path):
    config = toy.make_config()
    fit(toy.make_task(), config, str(tmp_path / "whole"))
    fit(toy.make_task(), config, str(tmp_path / "moved"))
    (tmp_path / "moved" / "checkpoints" / "20").rename(tmp_path / "gone")
    fit(
        toy.make_task(), dataclasses.replace(config, mesh=MeshConfig(2, 4)), str(tmp_path / "moved")
    )
    a, b = records(tmp_path / "whole", "loss"), records(tmp_path / "moved", "loss")
    assert list(a) == list(b)
    np.testing.assert_allclose(list(a.values()), list(b.values()), rtol=1e-5)


def test_accumulation_does_not_change_the_loss(tmp_path):
    task = toy.make_task(dropout=0)
    fit(task, toy.make_config(), str(tmp_path / "one"))
    fit(task, toy.make_config(accumulate=2), str(tmp_path / "two"))
    a, b = records(tmp_path / "one", "loss"), records(tmp_path / "two", "loss")
    np.testing.assert_allclose(list(a.values()), list(b.values()), rtol=1e-5)


def test_the_evaluation_uses_the_averaged_parameters(tmp_path):
    slow = fit(toy.make_task(), toy.make_config(ema_decay=0.999999), str(tmp_path / "slow"))
    plain = fit(toy.make_task(), toy.make_config(), str(tmp_path / "plain"))
    # An average that hardly moves is the initial model, which has not learned.
    assert slow.metrics["val/loss"] > plain.metrics["val/loss"] + 0.1


def test_a_loss_that_is_not_finite_stops_the_run_by_name_and_poisons_nothing(tmp_path):
    task = toy.make_task(poison_step=12)
    with pytest.raises(UserError, match=r"loss.* not finite at step 13.*nonfinite='skip'"):
        fit(task, toy.make_config(), str(tmp_path))
    assert read_meta(tmp_path)["step"] == 12
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(final_params(tmp_path)))


def test_a_loss_that_is_not_finite_can_be_skipped(tmp_path):
    result = fit(toy.make_task(poison_step=12), toy.make_config(nonfinite="skip"), str(tmp_path))
    assert result.step == 20
    assert np.isfinite(result.metrics["val/loss"])
    assert records(tmp_path, "skipped_updates") == {16: 1}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 1}, r"another config \(config\.seed: 0 -> 1\)"),
        ({"total": "30 steps"}, r"config\.total"),
    ],
)
def test_a_workdir_of_another_run_is_refused(tmp_path, change, message):
    fit(toy.make_task(), toy.make_config(), str(tmp_path))
    with pytest.raises(UserError, match=message):
        fit(toy.make_task(), toy.make_config(**change), str(tmp_path))


def test_other_training_data_are_refused(tmp_path):
    fit(toy.make_task(), toy.make_config(), str(tmp_path))
    with pytest.raises(UserError, match="training data differ"):
        fit(toy.make_task(seed=1), toy.make_config(), str(tmp_path))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_size": 12}, "batch_size 12 does not split over 8 devices"),
        ({"accumulate": 3}, "choose a multiple of 24"),
        ({"steps_per_dispatch": 0}, "at least 1 step"),
        ({"mesh": MeshConfig(3)}, "does not fit 8 devices"),
        ({"total": "20 stepz"}, "not a duration"),
        ({"log_every": "often"}, "not a duration"),
    ],
)
def test_what_cannot_work_is_refused_before_time_is_spent(tmp_path, change, message):
    with pytest.raises(UserError, match=message):
        fit(toy.make_task(), toy.make_config(**change), str(tmp_path))
    assert not (tmp_path / "checkpoints").exists()


def test_checkpoints_are_kept_by_policy(tmp_path):
    keep = CheckpointConfig(every="2 steps", keep_last=1, keep_every="4 steps")
    fit(toy.make_task(), toy.make_config(checkpoint=keep, total="10 steps"), str(tmp_path))
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        assert checkpoints.steps() == [4, 8, 10]


def test_a_profile_is_written(tmp_path):
    config = toy.make_config(profile=ProfileConfig(start=3, steps=2), steps_per_dispatch=4)
    fit(toy.make_task(), config, str(tmp_path))
    assert list((tmp_path / "profile").rglob("*.xplane.pb"))
