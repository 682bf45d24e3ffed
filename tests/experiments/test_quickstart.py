"""The pose half of the quick start: its files build, and what it prints is what it does."""

import commands
import pytest
from configs import parsed

from experiments.pose import cmu
from experiments.quickstart import lift, lifting, motion
from experiments.quickstart.workdir import make_anew
from pose_jax.data import motion as formulas
from pose_jax.data import store
from pose_jax.train_config import PoseTrainConfig
from train_jax.command_line import USER_ERROR_EXIT_CODE
from train_jax.config import from_config
from train_jax.errors import UserError


def built(arg):
    return from_config(PoseTrainConfig, lift.get_config(arg).to_dict())


def test_the_models_differ_in_what_they_see_only():
    temporal, single = built("27"), built("1")
    assert temporal == built(None)
    assert (temporal.model.receptive_field, single.model.receptive_field) == (27, 1)
    assert len(single.model.widths) == 5
    for field in ("data", "evaluations", "batch_size", "total", "optimizer", "schedule", "seed"):
        assert getattr(temporal, field) == getattr(single, field)
    # The recipe is the open benchmark's.
    benchmark = from_config(PoseTrainConfig, cmu.get_config("27").to_dict())
    assert (temporal.model, temporal.optimizer) == (benchmark.model, benchmark.optimizer)
    assert temporal.schedule == benchmark.schedule
    with pytest.raises(UserError, match="frames=9 must be one of 1, 27"):
        lift.get_config("9")


@pytest.fixture
def little(monkeypatch):
    """One tiny model on little motion."""
    monkeypatch.setattr(motion, "TRAIN", 1)
    monkeypatch.setattr(motion, "TEST", 1)
    monkeypatch.setattr(motion, "FRAMES", 40)
    shipped = lift.get_config

    def small(arg):
        config = shipped(arg)
        tiny = {"model": {"channels": 8}, "batch_size": 16, "total": "2 steps"}
        config.update({**tiny, "steps_per_dispatch": 1})
        return config

    monkeypatch.setattr(lift, "get_config", small)
    monkeypatch.setattr(lifting, "MODELS", {"temporal model": 27})


def test_it_prints_what_it_does_and_the_errors(little, tmp_path, capsys):
    tables = lifting.lifting(tmp_path)
    printed = capsys.readouterr().out
    file = tmp_path / "motion.npz"
    assert f"\npython -m experiments.quickstart.motion --file={file}\n" in printed
    assert "generated from formulas, not recorded: 7 clips to train on and 7 clips to" in printed
    which = f"--config=experiments/quickstart/lift.py:27 --config.data_dir={tmp_path}"
    run = tmp_path / "lift-27"
    assert f"\npython -m pose_jax.train {which} --workdir={run}\n" in printed
    assert f"\npython -m pose_jax.evaluate {which} --checkpoint={run}\n" in printed
    # The command means the run that was made.
    config = parsed(PoseTrainConfig, "quickstart/lift.py", "27", f"--config.data_dir={tmp_path}")
    assert config.data_dir == str(tmp_path)
    assert (run / "metrics.jsonl").exists()
    lines = tables.splitlines()
    actions = [*formulas.ACTIONS, "Mixed"]
    assert lines[1] == f"temporal model, {7 * 4 * 40:,} frames"
    assert lines[2].split() == ["mm", *actions, "Avg"]
    assert [line[:9] for line in lines[3:7]] == ["P1 MPJPE ", "P2 P-MPJP", "P3 N-MPJP", "MPJVE    "]
    assert "generated from formulas, not recorded" in tables


def test_motion_is_of_other_people_and_never_overwritten(little, tmp_path):
    path = tmp_path / "new" / "motion.npz"
    motion.make(path)
    poses = store.load(path)
    by_split = {
        split: [r.positions for r in poses.recordings if r.subject == split]
        for split in ("train", "test")
    }
    assert {len(found) for found in by_split.values()} == {7}
    for one, other in zip(by_split["train"], by_split["test"], strict=True):
        assert one is not None
        assert other is not None
        thighs = [float(((x[0, 1] - x[0, 2]) ** 2).sum() ** 0.5) for x in (one, other)]
        assert abs(thighs[0] - thighs[1]) > 1e-4
    with pytest.raises(UserError, match="exists"):
        motion.make(path)


def test_help_and_a_missing_name():
    command = commands.shared()
    shown = command.run("experiments.quickstart.motion", "--help")
    assert (shown.code, shown.stderr) == (0, "")
    assert "--file" in shown.stdout
    assert len(shown.stdout.splitlines()) < 40
    refused = command.run("experiments.quickstart.motion")
    assert refused.code == USER_ERROR_EXIT_CODE
    assert "--file is missing; name the one to write." in refused.stderr


def test_only_its_own_directory_is_made_anew(tmp_path):
    ours, theirs = tmp_path / "new" / "runs", tmp_path / "thesis"
    for _ in range(2):
        make_anew(ours)
        assert not (ours / "run").exists()
        (ours / "run").mkdir()
    theirs.mkdir()
    make_anew(theirs)  # an empty one
    (tmp_path / "chapter").write_text("")
    for full in (tmp_path, tmp_path / "chapter"):
        with pytest.raises(UserError, match="would be deleted; name"):
            make_anew(full)
    assert (tmp_path / "chapter").exists()
