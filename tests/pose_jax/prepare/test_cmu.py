"""The open benchmark's file: whose cameras, which names, which motion, and what is refused."""

import argparse
import zipfile

import file_server
import numpy as np
import pytest
from acclaim import amc, write_subject

from pose_jax import h36m
from pose_jax.data import cmu_trials, motion, store
from pose_jax.prepare import cmu
from pose_jax.skeletons import H36M_17
from train_jax.errors import UserError


def run(source, output, *words):
    parser = argparse.ArgumentParser()
    cmu.add_arguments(parser)
    return cmu.run(parser.parse_args([f"--source={source}", f"--output={output}", *words]))


def positions(path):
    """Of all recordings, in order."""
    found = [recording.positions for recording in store.load(path).recordings]
    return [one for one in found if one is not None]


@pytest.fixture(scope="module")
def clip_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("clips") / "clips.npz"
    np.savez(
        path,
        **{
            "fps": np.float32(60),
            "joint_names": np.array(H36M_17.joints),
            "parents": np.array(H36M_17.parents),
            "train/walking/walking_3": motion.generate(0, frames=40, fps=60, action="Walking"),
            "train/walking_extra/walking_12": motion.generate(1, frames=31, fps=60),
            "test/walking/walking_3": motion.generate(2, frames=20, fps=60),
        },
    )
    return path


def test_clips_become_recordings_of_train_and_test(clip_file, tmp_path):
    line = run(clip_file, tmp_path / "cmu.npz")
    assert "2 clips for train (71 frames) and 1 clips for test (20 frames) at 60 frames" in line
    assert "errors of 3 (hips, shoulders), 4.2 (knees, elbows) and 6 pixels" in line
    poses = store.load(tmp_path / "cmu.npz")
    assert [(r.subject, r.action) for r in poses.recordings] == [
        ("train", "walking 3"),
        ("train", "walking_extra 12"),
        ("test", "walking 3"),
    ]
    assert [len(one) for one in positions(tmp_path / "cmu.npz")] == [40, 31, 20]
    assert {h36m.action_of(r.action) for r in poses.recordings} == {"walking", "walking_extra"}
    assert dict(poses.cameras["train"]) == h36m.cameras("S1")
    assert dict(poses.cameras["test"]) == h36m.cameras("S9")
    assert poses.fps == 60
    assert poses.skeleton == poses.keypoint_layout == "h36m17"
    assert "mocap.cs.cmu.edu" in poses.source
    assert poses.recordings[0].views["54138969"].shape == (40, 17, 3)


def test_poses_are_those_of_the_clip(clip_file, tmp_path):
    """Only moved over the floor and turned: bones and heights stay."""
    run(clip_file, tmp_path / "cmu.npz")
    first = positions(tmp_path / "cmu.npz")[0]
    clip = motion.generate(0, frames=40, fps=60, action="Walking")
    np.testing.assert_allclose(first[..., 2], clip[..., 2], atol=1e-6)
    for child, parent in H36M_17.bones:
        np.testing.assert_allclose(
            np.linalg.norm(first[:, child] - first[:, parent], axis=-1),
            np.linalg.norm(clip[:, child] - clip[:, parent], axis=-1),
            atol=1e-5,
        )


def test_noise_rate_and_seed_are_chosen(clip_file, tmp_path):
    line = run(clip_file, tmp_path / "exact.npz", "--noise=0", "--fps=30")
    assert "at 30 frames per second; exact keypoints" in line
    exact = store.load(tmp_path / "exact.npz")
    assert exact.fps == 30
    assert exact.recordings[0].views["54138969"].shape == (20, 17, 2)
    run(clip_file, tmp_path / "one.npz", "--fps=30", "--seed=1")
    run(clip_file, tmp_path / "noisy.npz", "--fps=30", "--seed=0", "--noise=10")
    noisy = store.load(tmp_path / "noisy.npz")
    hips = [r.views["54138969"][:, [1, 4]] for r in (exact.recordings[0], noisy.recordings[0])]
    assert 5 < np.median(np.linalg.norm(hips[1][..., :2] - hips[0], axis=-1)) < 25
    turned = [positions(tmp_path / name)[0] for name in ("exact.npz", "noisy.npz", "one.npz")]
    np.testing.assert_array_equal(turned[0], turned[1])
    assert not np.allclose(turned[0], turned[2], atol=1e-2)


def test_equal_calls_write_equal_files(clip_file, tmp_path):
    for name in ("a.npz", "b.npz"):
        run(clip_file, tmp_path / name)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("--fps=0", "--fps=0 is no rate"),
        ("--fps=nan", "--fps=nan is no rate"),
        ("--noise=-1", "--noise=-1 is no deviation"),
        ("--fps=61", "has 60 frames per second, less than --fps=61"),
        ("--scale=0", "--scale=0 is no length"),
        ("--url=http://localhost", "--url says where to download from; add --download"),
        ("--seed=-1", "--seed=-1: give a number from 0 on"),
    ],
)
def test_impossible_numbers_are_refused(clip_file, tmp_path, word, message):
    with pytest.raises(UserError, match=message):
        run(clip_file, tmp_path / "cmu.npz", word)
    assert not list(tmp_path.iterdir())


def test_nothing_is_overwritten(clip_file, tmp_path):
    (tmp_path / "cmu.npz").write_text("mine")
    with pytest.raises(UserError, match=r"cmu\.npz exists already; remove it"):
        run(clip_file, tmp_path / "cmu.npz")
    assert (tmp_path / "cmu.npz").read_text() == "mine"


def test_a_missing_source_is_named(tmp_path):
    with pytest.raises(UserError, match=r"clips\.npz cannot be opened: No such file"):
        run(tmp_path / "clips.npz", tmp_path / "cmu.npz")


def test_cmus_own_files_are_downloaded_and_prepared(tmp_path, monkeypatch, capsys):
    """As from the database's site: fetched once, verified whenever they are used."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(cmu_trials, "files", lambda: iter(FILES))
    for subject, trial in (("09", "01"), ("35", "17")):
        write_subject(tmp_path / "theirs" / subject, subject, {trial: [{}] * 5})
    source = tmp_path / "cmu"
    with file_server.serving(tmp_path / "theirs") as server:
        line = run(source, tmp_path / "cmu.npz", "--download", f"--url={server.url}/")
        assert [path for path, _ in server.requests] == [f"/{name}" for name in FILES]
        assert "4 of 4: 35/35_17.amc" in capsys.readouterr().err
        run(source, tmp_path / "again.npz", "--download", f"--url={server.url}")
        assert len(server.requests) == 4
    assert "1 clips for train (3 frames) and 1 clips for test (3 frames) at 60 frames" in line
    poses = store.load(tmp_path / "cmu.npz")
    assert [(r.subject, r.action) for r in poses.recordings] == [
        ("train", "running 09_01"),
        ("test", "running 35_17"),
    ]
    (source / "35" / "35_17.amc").write_text(amc([{}] * 6))
    with pytest.raises(UserError, match=r"35_17\.amc is not what was fetched from http://127"):
        run(source, tmp_path / "changed.npz")


FILES = ["09/09.asf", "09/09_01.amc", "35/35.asf", "35/35_17.amc"]


def test_a_directory_or_an_archive_of_motion_files(tmp_path):
    write_subject(tmp_path / "mocap" / "09", "09", {"01": [{}] * 9, "12": [{}]})
    line = run(tmp_path / "mocap", tmp_path / "cmu.npz", "--fps=30")
    assert "1 clips for train (3 frames) at 30 frames per second" in line
    assert "1 files of motion that the benchmark does not use were left out" in line
    with zipfile.ZipFile(tmp_path / "mocap.zip", "w") as packed:
        for path in (tmp_path / "mocap" / "09").iterdir():
            packed.write(path, path.name)
    run(tmp_path / "mocap.zip", tmp_path / "packed.npz", "--fps=30")
    assert (tmp_path / "packed.npz").read_bytes() == (tmp_path / "cmu.npz").read_bytes()
