"""The figures of results: what is published, what was measured, and where the two belong."""

import dataclasses
import json

import commands
import numpy as np
import pytest
from drawn import assert_refuses, drawn
from etils import epath
from made_records import record_of

from experiments.figures import (
    canvas,
    data_size,
    measured,
    performance_compute,
    pose_actions,
    pose_semi,
)
from pose_jax import h36m
from train_jax.errors import UserError
from train_jax.record import write

pytestmark = pytest.mark.timeout(300)

B16 = "experiments/vit/pretrain.py:B/16,jft300m,epochs=7"
FIVE = {
    "imagenet2012,table=5": 0.80,
    "cifar10": 0.90,
    "cifar100": 0.85,
    "oxford_iiit_pet": 0.75,
    "oxford_flowers102": 0.70,
}
COUNTS = {
    "imagenet2012,table=5": 50_000,
    "cifar10": 10_000,
    "cifar100": 10_000,
    "oxford_iiit_pet": 3_669,
    "oxford_flowers102": 6_149,
}
DIGITS = "experiments/quickstart/pretrain.py"


def put(root, record, run, **changes):
    """Writes a record of a run's checkpoint."""
    checkpoint = f"{root}/{run}/checkpoints/100"
    made = dataclasses.replace(record, checkpoint=checkpoint, **changes)
    write(made, epath.Path(root) / run / "results")


def actions(errors, **metrics):
    """Metrics of a lifter: error -> action -> mm, and its mean."""
    for error, by_action in errors.items():
        metrics |= {f"{error}/action/{name}": value for name, value in by_action.items()}
        metrics[error] = float(np.mean(list(by_action.values())))
    return {"test": metrics}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Records of runs of the papers' recipes and of others."""
    root = tmp_path_factory.mktemp("results")
    by_action = {name: 40.0 + i for i, name in enumerate(h36m.ACTIONS)}
    slow = {name: 3.0 + i / 10 for i, name in enumerate(h36m.ACTIONS)}
    lifter = "experiments/pose/h36m.py:243"
    both = actions({"mpjpe": by_action, "mpjve": slow})
    put(root, record_of(lifter, both, examples=543_344), "h36m/ours")
    # At the end of its training only averages were measured.
    put(root, record_of(lifter, {"test": {"mpjpe": 99.0}}, examples=1), "h36m/other")

    tenth = "experiments/pose/h36m_semi.py:S1_10percent,keypoints=gt"
    for seed, value in enumerate((64.0, 66.0)):
        found = record_of(tenth, {"test": {"mpjpe": value}}, seed=seed, examples=543_344)
        put(root, found, f"semi/{seed}")
    for arg, value in (("9,labels=0.1", 80.0), ("9,labels=0.1,semi=true", 70.0), ("9", 60.0)):
        found = record_of(f"experiments/pose/cmu.py:{arg}", {"test": {"mpjpe": value}}, examples=5)
        put(root, found, f"semi/cmu {arg}")

    for data, value in FIVE.items():
        command = f"experiments/vit/finetune.py:B/16,{data}"
        found = record_of(command, {"test": {"accuracy": value}}, start=B16, examples=COUNTS[data])
        put(root, found, f"b16/{data}")
    digits = record_of(DIGITS, {"test": {"accuracy": 0.9, "top5": 1.0}}, examples=225)
    put(root, digits, "digits/small", cost={"exaflop": 1e-6})
    begun = dataclasses.replace(digits, start={"path": f"{root}/digits/small"}, cost={})
    put(root, begun, "digits/finetuned")
    write(dataclasses.replace(digits, checkpoint=None, cost={}), epath.Path(root) / "nowhere")

    values = {"test": dict.fromkeys(["mpjpe", "mpjve", "mpjve/action/Waving"], 7.0)}
    values["test"]["mpjve/action/Walking"] = 8.0
    file = {"results": values, "checkpoint": {"path": "runs/mine/checkpoints/4"}, "config": {}}
    (root / "evaluated.json").write_text(json.dumps(file))
    (root / "other.json").write_text('{"results": 3}')
    (root / "text.json").write_text("not JSON")
    (root / "empty").mkdir()
    return root


def test_pose_actions_by_command(place, tmp_path):
    rows = drawn(tmp_path, "pose_actions", f"--results={place}/h36m")
    found = {(row["system"], row["action"]): float(row["mpjpe_mm"]) for row in rows}
    assert found["ours", "Directions"] == 40
    assert found["ours", "average"] == 47
    assert found["243 frames (paper)", "average"] == 46.8
    assert found["single frame (paper)", "WalkTogether"] == 42.7
    assert {system for system, _ in found if "paper" not in system} == {"ours"}
    assert len(rows) == 5 * 16


def test_pose_velocity_by_command(place, tmp_path):
    """From a file of results, on actions that the paper has not."""
    rows = drawn(tmp_path, "pose_velocity", f"--results=27 frames={place}/evaluated.json")
    assert [(row["system"], row["action"], float(row["mpjve_mm_per_frame"])) for row in rows] == [
        ("27 frames", "Waving", 8.0 - 1),
        ("27 frames", "Walking", 8.0),
        ("27 frames", "average", 7.0),
    ]


def test_without_results_the_figure_is_the_papers():
    systems = pose_actions.compared([], "mpjve")
    averages = {name: system["average"] for name, system in systems.items()}
    assert averages == {"single frame (paper)": 11.6, "243 frames (paper)": 2.8}
    assert all(len(system) == 16 for system in systems.values())
    assert len(pose_actions.compared([], "p_mpjpe")) == 4


def test_runs_of_one_name_are_averaged_and_the_papers_marks_are_hollow(place):
    one = measured.read_results([f"x={place}/evaluated.json"])[0]
    other = dataclasses.replace(
        one, checkpoint="other", splits={"test": {"mpjve": 9.0, "mpjve/action/Walking": 10.0}}
    )
    assert pose_actions.of_results([one, other], "mpjve") == {"x": {"Walking": 9.0, "average": 8.0}}
    paper = pose_actions.of_paper("mpjve")
    with canvas.style():
        figure = pose_actions.draw(paper | {"x": {"Walking": 9.0}}, "mpjve").figure
    (axes,) = figure.axes
    assert axes.get_ylabel() == "MPJVE (mm per frame)"
    fill = {line.get_label(): line.get_markerfacecolor() for line in axes.get_lines()}
    assert fill["single frame (paper)"] == "white"
    assert fill["x"] != "white"


def test_pose_semi_by_command(place, tmp_path):
    rows = drawn(tmp_path, "pose_semi", f"--results={place}/semi")
    cells = {
        (row["panel"], row["labelled"], row["training"], row["source"]): (
            float(row["mm"]),
            row["runs"],
        )
        for row in rows
    }
    point = ("(c) exact keypoints", "10 % of S1", "semi-supervised")
    assert cells[*point, "paper"] == (65.2, "1")
    assert cells[*point, "measured"] == (65.0, "2")
    assert cells["(a) CPN, 10 frames per second", "all", "supervised", "paper"] == (47.1, "1")
    ours = {key[:3]: value for key, (value, _) in cells.items() if key[3] == "measured"}
    assert ours.keys() == {
        point,
        ("cmu.npz", "10 % of all", "supervised"),
        ("cmu.npz", "10 % of all", "semi-supervised"),
        ("cmu.npz", "all", "supervised"),
    }
    assert sum(row["source"] == "paper" for row in rows) == 3 * 17


def test_labels_are_in_order_of_their_number(place):
    *_, panel = pose_semi.panels(measured.read_results([f"{place}/semi"]))
    assert panel.labels == ["10 % of all", "all"]


def test_performance_compute_by_command(place, tmp_path):
    rows = drawn(tmp_path, "performance_compute", f"--results={place}/b16,{place}/digits")
    points = {(row["panel"], row["model"], row["source"]): row for row in rows}
    paper = points["Average of five", "ViT-B/16, 7 epochs", "paper"]
    assert float(paper["accuracy"]) == pytest.approx(
        np.mean([84.15, 99.00, 91.87, 95.80, 99.56]), abs=1e-4
    )
    assert paper["exaflop"] == "224"
    ours = points["Average of five", "ViT-B/16, 7 epochs", "measured"]
    assert float(ours["accuracy"]) == pytest.approx(80)
    assert float(points["ImageNet", "ViT-B/16, 7 epochs", "measured"]["accuracy"]) == 80
    # The compute of a run that started from another is that of the other.
    for run in ("small", "finetuned"):
        point = points["digits, test", run, "measured"]
        assert (point["exaflop"], float(point["accuracy"])) == ("1e-06", 90)
    assert sum(row["source"] == "measured" for row in rows) == 4
    assert sum(row["panel"] == "ImageNet" and row["source"] == "paper" for row in rows) == 18


def test_the_average_needs_all_five_data_sets(place):
    some = measured.read_results([f"{place}/b16/{data}" for data in list(FIVE)[:4]])
    points = performance_compute.points(some)
    assert [p.panel for p in points if p.source == "measured"] == ["ImageNet"]
    families = {p.family for p in points}
    assert families == set(performance_compute.FAMILIES[:3])


def test_data_size_by_command(place, tmp_path):
    words = [f"{place}/b16", f"300={place}/digits/small", f"0.6k={place}/digits/finetuned"]
    rows = drawn(tmp_path, "data_size", f"--results={','.join(words)}")
    first = {
        (row["model"], row["data"], row["source"]): float(row["accuracy"])
        for row in rows
        if row["panel"] == "Figure 3"
    }
    assert first["ViT-L/16", "ImageNet-21k", "paper"] == 85.15
    assert first["ViT-B/16", "JFT-300M", "measured"] == 80
    assert len(first) == 15
    study = [(row["examples"], float(row["accuracy"])) for row in rows if row["panel"] == "Study"]
    assert study == [("300", 90.0), ("600", 90.0)]


def test_numbers_of_examples():
    assert [data_size.parse_count(text) for text in ("30M", "1.5k", "1797")] == [
        30_000_000,
        1_500,
        1_797,
    ]
    for text in ("all", "M", "0", "3e5", "-1"):
        with pytest.raises(UserError, match="is not a number of examples such as 30M"):
            data_size.parse_count(text)


@pytest.mark.parametrize(
    "name",
    [
        "position_similarity",
        "embedding_filters",
        "attention_distance",
        "attention_rollout",
        "performance_compute",
        "data_size",
        "pose_actions",
        "pose_velocity",
        "pose_semi",
    ],
)
def test_help(name):
    ended = commands.shared().run(f"experiments.figures.{name}", "--help")
    assert (ended.code, ended.stderr) == (0, "")
    assert f"python -m experiments.figures.{name}" in ended.stdout
    assert f"Written are figures/{name}.png, .pdf and .csv" in ended.stdout
    flag = "--results" if "pose" in name or name in ("performance_compute", "data_size") else "--ch"
    assert f"\n  {flag}" in ended.stdout
    assert "\n  --output: " in ended.stdout
    assert len(ended.stdout.splitlines()) < 40


@pytest.mark.parametrize(
    ("words", "pattern"),
    [
        (("pose_velocity", "--results={}/none"), "no directory .*none"),
        (("pose_velocity", "--results={}/empty"), "empty holds no result records"),
        (("pose_velocity", "--results={}/digits"), "holds no mpjve by action; name results of"),
        (("pose_velocity", "--results={}/text.json"), "text.json is no file of results"),
        (("pose_velocity", "--results={}/other.json"), "other.json is no file of results"),
        (("pose_velocity", "--results=a="), "'a=' is not written like PATH or NAME=PATH"),
        (("pose_actions", "--results={}/evaluated.json"), "holds no mpjpe by action"),
        (("pose_actions", "--error=n_mpjpe"), "The paper has no n_mpjpe by action"),
        (("pose_actions", "--error=mm"), "value should be one of <mpjpe|p_mpjpe"),
        (("pose_semi", "--results={}/digits"), "nothing belongs here; name directories with"),
        (("performance_compute", "--results={}/nowhere"), "None of the results is an accuracy"),
        (("data_size", "--results={}/digits"), "name others by their number of training examp"),
        (("data_size", "--results=all={}/digits"), "'all' is not a number of examples"),
        (
            ("data_size", "--results=3={}/digits", "--metric=test/mpjpe"),
            "3 have no test/mpjpe; give one of test/accuracy, test/top5",
        ),
    ],
)
def test_mistakes(place, tmp_path, words, pattern):
    name, *given = (word.replace("{}", str(place)) for word in words)
    assert_refuses(tmp_path, name, *given, pattern=pattern)
