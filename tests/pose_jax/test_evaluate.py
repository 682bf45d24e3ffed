"""The paper's tables of a checkpoint, and a record of how they came about."""

import dataclasses
import json
import re

import numpy as np
import pytest
import tiny_poses

from pose_jax.data import store
from pose_jax.data.views import PoseDataConfig, read_views
from pose_jax.evaluate import evaluate, record, table
from pose_jax.lifter import lift
from pose_jax.measure import MeasureConfig
from train_jax.errors import UserError


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A directory with data and a checkpoint."""
    root = tmp_path_factory.mktemp("evaluate")
    store.save(root / "tiny.npz", tiny_poses.poses())
    tiny_poses.save(tiny_poses.lifter(trajectory=True), root / "run")
    return root


@pytest.fixture(scope="module")
def results(place):
    return evaluate(config_of(place), str(place / "run"))


def config_of(place, **changes):
    return tiny_poses.make_config(data_dir=str(place), **changes)


def split(**changes):
    fields = {"keypoints": "tiny.npz", "subjects": ("S9", "S11"), **changes}
    return {"test": PoseDataConfig(**fields)}


@pytest.mark.parametrize("flip", [True, False])
def test_what_is_measured_is_what_is_predicted(place, results, flip):
    """The poses that `pose_jax.predict` writes have the errors that this reports."""
    measure = MeasureConfig(flip=flip)
    found = results if flip else evaluate(config_of(place, measure=measure), str(place / "run"))
    views = read_views(split()["test"], "positions", data_dir=str(place)).views
    pose_only = tiny_poses.lifter()
    frames = []
    for view, pose in zip(views, lift(pose_only, views, flip=flip), strict=True):
        target = np.array(view.positions)
        target[:, 0] = 0
        frames.append(np.linalg.norm(pose - target, axis=-1).mean(-1))
    wanted = 1000 * np.concatenate(frames).mean()
    assert found["test"]["mpjpe/frames"] == pytest.approx(wanted, rel=1e-5)
    assert found["test"]["examples"] == sum(map(len, frames))


def test_all_errors_of_all_groups(results):
    found = results["test"]
    for name in ("mpjpe", "p_mpjpe", "n_mpjpe", "mpjve", "trajectory"):
        for group in ("action/Walking", "subject/S11", "subject and action/S9 Turning"):
            assert np.isfinite(found[f"{name}/{group}"])
        assert {key for key in found if key.startswith(f"{name}/camera/")} == {
            f"{name}/camera/{camera}" for camera in ("54138969", "55011271")
        }
    actions = [found[f"mpjpe/action/{action}"] for action in ("Walking", "Turning", "Waving")]
    assert found["mpjpe"] == pytest.approx(np.mean(actions))


def test_the_table_is_the_papers(results):
    lines = table(results).splitlines()
    assert lines[0] == "test, 306 frames"
    assert lines[1].split() == ["mm", "Walking", "Turning", "Waving", "Avg"]
    titles = ["P1 MPJPE", "P2 P-MPJPE", "P3 N-MPJPE", "MPJVE", "trajectory"]
    for line, title, name in zip(
        lines[2:], titles, ("mpjpe", "p_mpjpe", "n_mpjpe", "mpjve", "trajectory"), strict=True
    ):
        assert line.startswith(title)
        figures = re.findall(r"[\d.]+$|(?<= )[\d.]+(?= )", line)
        wanted = [f"{results['test'][key]:.1f}" for key in (f"{name}/action/Walking", name)]
        assert [figures[0], figures[-1]] == wanted
    assert len({len(line) for line in lines[1:]}) == 1
    subjects = table(results, "subject").splitlines()
    assert subjects[1].split() == ["mm", "S9", "S11", "Avg"]


def test_a_figure_that_is_not_there_is_a_dash():
    values = {"mpjpe": 5.0, "mpjpe/action/A": 4.0, "mpjpe/action/B": 6.0, "examples": 2.0}
    text = table({"test": values | {"mpjve": 1.0, "mpjve/action/A": 1.0}})
    assert text.splitlines()[-1].split() == ["MPJVE", "1.0", "-", "1.0"]


def test_the_record_tells_how_to_get_them_again(place, results):
    config = config_of(place)
    found = json.loads(json.dumps(record(config, str(place / "run"), results)))
    assert found["results"] == results
    assert found["checkpoint"] == {"path": str(place / "run" / "0"), "step": 0}
    assert found["config"]["model"]["widths"] == [3, 3]
    assert found["config"]["measure"] == {"flip": True, "root": "predicted"}
    assert found["config"]["evaluations"]["test"]["subjects"] == ["S9", "S11"]


def test_the_root_convention_is_the_configs(place, results):
    zero = MeasureConfig(root="zero")
    found = evaluate(config_of(place, measure=zero), str(place / "run"))["test"]
    assert abs(found["mpjpe"] - results["test"]["mpjpe"]) > 0.1
    assert found["trajectory"] == pytest.approx(results["test"]["trajectory"])


def other(kind, place):
    """A config that does not go with the checkpoint."""
    if kind == "network":
        model = dataclasses.replace(tiny_poses.MODEL, widths=(3, 3, 3), causal=True)
        return config_of(place, model=model)
    if kind == "nothing":
        return config_of(place, evaluations={})
    if kind == "longest side":
        return config_of(place, evaluations=split(longest_side=True))
    if kind == "subject":
        return config_of(place, evaluations=split(subjects=("S5",)))
    if kind == "missing":
        return config_of(place, evaluations=split(keypoints="h36m.npz"))
    assert kind == "layout"
    store.save(place / "coco.npz", tiny_poses.poses(keypoint_layout="coco17"), overwrite=True)
    return config_of(place, evaluations=split(keypoints="coco.npz"))


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (
            "network",
            r"different networks .config\.model\.widths: \[3, 3\] -> \[3, 3, 3\]; "
            r"config\.model\.causal: False -> True.; name the config of the checkpoint",
        ),
        ("nothing", r"no evaluations; add a split to config\.evaluations"),
        ("longest side", r"longest_side=False; set config\.evaluations\.test\.longest_side"),
        ("subject", r"tiny\.npz has no subject S5; it has S1, S11, S9"),
        ("missing", r"h36m\.npz"),
        ("layout", r"was made for h36m17 joints, and coco\.npz has coco17; evaluate it on data"),
    ],
)
def test_a_config_that_disagrees_is_refused(place, kind, message):
    with pytest.raises(UserError, match=message):
        evaluate(other(kind, place), str(place / "run"))


def test_dropout_and_precision_may_differ(place, results):
    """They are no part of the weights."""
    model = dataclasses.replace(tiny_poses.MODEL, dropout=0.0, compute_dtype="bfloat16")
    found = evaluate(config_of(place, model=model), str(place / "run"))["test"]["mpjpe"]
    assert found == pytest.approx(results["test"]["mpjpe"], rel=0.05)
    assert found != results["test"]["mpjpe"]
