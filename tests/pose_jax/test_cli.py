"""Whatever is wrong with a command, it ends with exit code 2 and one sentence that helps."""

import dataclasses
import json
import re

import commands
import numpy as np
import pytest
import tiny_poses

from pose_jax.data import store
from pose_jax.weights import to_torch, write_bin
from train_jax.checkpoint import save_once
from train_jax.command_line import USER_ERROR_EXIT_CODE
from train_jax.record import read_records

pytestmark = pytest.mark.timeout(300)

CONVERT = ("pose_jax.convert",)
EVALUATE = ("pose_jax.evaluate", "--config=tests/tiny_poses.py", "--config.data_dir={}")
PREDICT = ("pose_jax.predict", "{}/tiny.npz")
RUN = "--checkpoint={}/run"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A directory with all that a command needs, or may stumble over."""
    root = tmp_path_factory.mktemp("cli")
    poses = tiny_poses.poses({"S9": {"Walking": 12}, "S11": {"Walking": 9, "Waving": 1}})
    store.save(root / "tiny.npz", poses)
    store.save(root / "coco.npz", dataclasses.replace(poses, keypoint_layout="coco17"))
    tiny_poses.save(tiny_poses.lifter(), root / "run")
    write_bin(root / "model.bin", to_torch(*tiny_poses.weights()))
    write_bin(root / "resnet.bin", {"conv1.weight": np.zeros((4, 3, 7, 7), np.float32)})
    (root / "file").write_text("mine")
    (root / "text.bin").write_text("not a checkpoint")
    save_once(root / "vit", {"params": {"head": np.zeros(3, np.float32)}}, {})
    with np.load(root / "tiny.npz") as file:
        arrays = dict(file)
    arrays["keypoints/000000/54138969"] = arrays["keypoints/000000/54138969"][:, :16]
    np.savez(root / "joints.npz", **arrays)
    return root


def finished(words, place, **options):
    """A command, in whose words {} is the directory."""
    return commands.shared().run(*(word.replace("{}", str(place)) for word in words), **options)


@pytest.mark.parametrize(
    ("words", "pattern"),
    [
        (CONVERT, r"Give SOURCE and DESTINATION; see python -m pose_jax\.convert --help"),
        ((*CONVERT, "{}/model.bin", "{}/new"), r"does not tell whether it is causal.*--nocausal"),
        (
            (*CONVERT, "{}/model.bin", "{}/new", "--causal"),
            "which keypoints it reads; give --layout",
        ),
        (
            (*CONVERT, "{}/resnet.bin", "{}/new", "--causal", "--layout=h36m17"),
            r"another architecture: the file lacks expand_bn\.bias and 6 more; only the temporal",
        ),
        (
            (*CONVERT, "{}/model.bin", "{}/new", "--causal", "--layout=mpii16"),
            "reads 34 numbers per frame, but mpii16 has 16 keypoints",
        ),
        ((*CONVERT, "{}/text.bin", "{}/new", "--causal", "--layout=h36m17"), "damaged or of anoth"),
        ((*CONVERT, "{}/none.bin", "{}/new", "--causal", "--layout=h36m17"), "cannot be opened"),
        ((*CONVERT, "{}/run", "{}/new.bin", "--causal"), "tells its causal itself; leave out"),
        ((*CONVERT, "{}/run", "{}/model.bin"), r"model\.bin exists already"),
        ((*CONVERT, "{}/run", "{}/file/model.bin"), "file/model.bin cannot be"),
        ((*CONVERT, "{}/vit", "{}/new.bin"), "is not the checkpoint of a pose lifter"),
        ((*CONVERT, "{}/run", "{}/new.bin", "--casual"), r"Unknown command line flag 'casual'"),
        (("pose_jax.predict", RUN), r"Give KEYPOINTS; see"),
        (PREDICT, "--checkpoint and --output must both be given"),
        ((*PREDICT, RUN), "--checkpoint and --output must both be given"),
        (
            ("pose_jax.predict", "{}/joints.npz", RUN, "--output={}/new.npz"),
            r"recording S9 'Walking', camera 54138969: 16 joints, but the layout h36m17 has 17",
        ),
        (
            ("pose_jax.predict", "{}/coco.npz", RUN, "--output={}/new.npz"),
            "coco17 keypoints, the model reads h36m17",
        ),
        (("pose_jax.predict", "{}/none.npz", RUN, "--output={}/new.npz"), "cannot be opened: No s"),
        (
            ("pose_jax.predict", "{}/text.bin", RUN, "--output={}/new.npz"),
            "is not an .npz file, or is cut short",
        ),
        ((*PREDICT, RUN, "--output={}/file"), "file exists already; remove it"),
        ((*PREDICT, RUN, "--output={}/file/new.npz"), "file.* cannot be"),
        ((*PREDICT, "--checkpoint={}/vit", "--output={}/new.npz"), "not the checkpoint of a pose"),
        ((*PREDICT, "--checkpoint={}/file", "--output={}/new.npz"), "is a file, not a checkpoint"),
        ((*PREDICT, "--checkpoint={}/model.bin", "--output={}/new.npz"), "converted before; see"),
        (("pose_jax.evaluate", RUN), "--config is missing; name an experiment file"),
        (EVALUATE, "--checkpoint is missing; name a run"),
        ((*EVALUATE, "--checkpoint={}/none"), "none does not exist"),
        ((*EVALUATE, "--checkpoint={}/vit"), "is not the checkpoint of a pose lifter"),
        ((*EVALUATE, RUN, "--config.model.widths=(3,3,3)"), "of different networks"),
        ((*EVALUATE, RUN, "--config.model.causal=true"), r"config\.model\.causal: False -> True"),
        ((*EVALUATE, RUN, "--config.measure.root=none"), "'none'; it must be one of 'predicted', "),
        ((*EVALUATE, RUN, "--config.evaluations.test.keypoints=cpn.npz"), r"cpn\.npz"),
        ((*EVALUATE, RUN, "--config.evaluations.test.keypoints=coco.npz"), "has coco17; evaluate"),
        ((*EVALUATE, RUN, "--output={}/file"), "file exists already"),
        ((*EVALUATE, RUN, "--output={}/file/new.json"), "file.* cannot be"),
        ((*EVALUATE, RUN, "--by=joint"), "value should be one of <action|subject|"),
    ],
)
def test_mistakes(place, words, pattern):
    before = sorted(path.name for path in place.iterdir())
    ended = finished(words, place)
    assert "Traceback" not in ended.stderr, ended.stderr
    assert ended.code == USER_ERROR_EXIT_CODE, ended.stderr
    (line,) = ended.stderr.splitlines()
    assert line.startswith("Error: ")
    assert re.search(pattern, line), line
    assert line[-1] in ".?)", line
    assert ended.stdout == ""
    assert sorted(path.name for path in place.iterdir()) == before


@pytest.mark.parametrize(
    ("module", "flags"),
    [
        ("pose_jax.convert", ["--causal", "--layout", "--skeleton", "--dense"]),
        ("pose_jax.evaluate", ["--checkpoint", "--by", "--output", "--record", "--config"]),
        ("pose_jax.predict", ["--checkpoint", "--output", "--flip", "--longest_side"]),
    ],
)
def test_help_says_what_a_command_is_for(module, flags):
    ended = commands.shared().run(module, "--help")
    assert (ended.code, ended.stderr) == (0, "")
    assert f"python -m {module}" in ended.stdout
    for flag in flags:
        assert re.search(rf"^  {flag}: \S", ended.stdout, re.MULTILINE), flag
    # Not the hundreds of flags of the libraries.
    assert len(ended.stdout.splitlines()) < 40


def test_from_a_published_file_to_figures_and_poses(place, tmp_path):
    """What somebody does who has downloaded a model: convert, evaluate, predict, convert back."""
    told = ("--nocausal", "--layout=h36m17")
    ended = finished((*CONVERT, "{}/model.bin", f"{tmp_path}/ours", *told), place)
    assert (ended.code, ended.stderr) == (0, "")
    assert "symmetric, widths 3,3 (9 frames), 8 channels" in ended.stdout
    ours = f"--checkpoint={tmp_path}/ours"

    words = (*EVALUATE, ours, "--by=subject", f"--output={tmp_path}/new/results.json")
    ended = finished((*words, "--config.measure.flip=False"), place, devices=2)
    assert ended.code == 0, ended.stderr
    head = ["test, 44 frames", "mm"]
    assert [line.split("  ")[0].strip() for line in ended.stdout.splitlines()[:2]] == head
    saved = json.loads((tmp_path / "new" / "results.json").read_text())
    assert saved["config"]["measure"]["flip"] is False
    assert saved["checkpoint"]["converted_from"] == f"{place}/model.bin"
    (row,) = (line for line in ended.stdout.splitlines() if line.startswith("P1 MPJPE"))
    found = saved["results"]["test"]
    # Converted weights are of no run, so that a place for the record has to be named.
    assert not (tmp_path / "results").exists()
    names = ("mpjpe/subject/S9", "mpjpe/subject/S11", "mpjpe")
    assert row.split()[2:] == [f"{found[name]:.1f}" for name in names]

    ended = finished((*PREDICT, ours, f"--output={tmp_path}/poses.npz", "--noflip"), place)
    assert (ended.code, ended.stderr) == (0, "")
    assert ended.stdout == f"44 poses of 6 sequences (root space): {tmp_path}/poses.npz\n"

    ended = finished((*CONVERT, f"{tmp_path}/ours", f"{tmp_path}/model.bin"), place)
    assert (ended.code, ended.stderr) == (0, "")
    assert (tmp_path / "model.bin").read_bytes() == (place / "model.bin").read_bytes()


def test_evaluate_prints_what_the_run_measured(place, tmp_path):
    """With its trajectory network, averaged parameters and all."""
    options = ("--config.trajectory=True", "--config.ema_decay=0.5")
    words = ("pose_jax.train", *EVALUATE[1:], *options, f"--workdir={tmp_path}/run")
    ended = finished((*words, "--config.data.subjects=('S9',)"), place)
    assert ended.code == 0, ended.stderr
    lines = map(json.loads, (tmp_path / "run" / "metrics.jsonl").read_text().splitlines())
    logged = [line for line in lines if "test/mpjpe" in line][-1]
    out = f"--output={tmp_path}/results.json"
    ended = finished((*EVALUATE, *options, f"--checkpoint={tmp_path}/run", out), place)
    assert ended.code == 0, ended.stderr
    saved = json.loads((tmp_path / "results.json").read_text())
    for name in ("mpjpe", "p_mpjpe", "n_mpjpe", "mpjve", "trajectory"):
        assert saved["results"]["test"][name] == pytest.approx(logged[f"test/{name}"], rel=1e-6)
    assert saved["checkpoint"]["step"] == 4
    assert saved["checkpoint"]["identity"]["config"]["ema_decay"] == 0.5
    cost = saved["checkpoint"]["cost"]
    assert 0 < cost["goodput"] < 1
    (_, of_run), (place_of, record) = read_records([str(tmp_path)])
    assert place_of.parent == tmp_path / "run" / "results"
    assert (of_run.program, record.program) == ("train_jax.loop", "pose_jax.evaluate")
    assert (record.config_hash, record.seed, record.finished) == (of_run.config_hash, 0, True)
    result = record.splits["test"]
    assert {"examples": result["examples"], **result["metrics"]} == saved["results"]["test"]
    assert result["data"]["keypoints"] == "tiny.npz"
    assert record.cost["exaflop"] == of_run.cost["exaflop"] > 0
    assert sum(cost["core_seconds"]["cpu"].values()) == pytest.approx(
        86_400 * cost["core_days"]["cpu"]
    )
