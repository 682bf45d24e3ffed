"""From a file of keypoints and a checkpoint to a file of poses."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import tiny_poses

from pose_jax import cameras
from pose_jax.cameras import Camera
from pose_jax.data import store
from pose_jax.data.views import PoseDataConfig, read_views
from pose_jax.lifter import lift
from pose_jax.models.config import TemporalConfig
from pose_jax.predict import predict
from train_jax.errors import UserError


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A directory with keypoints of own video, and checkpoints without and with a trajectory."""
    root = tmp_path_factory.mktemp("predict")
    store.save(root / "tiny.npz", tiny_poses.poses())
    store.save(root / "video.npz", video())
    tiny_poses.save(tiny_poses.lifter(), root / "run")
    tiny_poses.save(tiny_poses.lifter(trajectory=True), root / "moving")
    return root


def video(width=1000, height=1000, **changes):
    """Keypoints of one camera of which only the size of its images is known."""
    known = tiny_poses.poses({"S1": {"Walking": 30, "Turning": 1}}, views=1)
    recordings = [
        store.Recording("me", r.action, None, {"phone": next(iter(r.views.values()))})
        for r in known.recordings
    ]
    phone = {"me": {"phone": Camera("phone", width, height)}}
    fields = {"recordings": tuple(recordings), "cameras": phone, "skeleton": None}
    return dataclasses.replace(known, **(fields | changes))


def read(path):
    """(meta, poses) of a file, which holds no pickles."""
    with np.load(path) as file:
        meta = json.loads(str(file["meta"]))
        return meta, [file[f"poses/{i:06}"] for i in range(len(meta["sequences"]))]


def views_of(path, **changes):
    return read_views(PoseDataConfig(keypoints=str(path), **changes), "keypoints").views


def run(place, keypoints, checkpoint, output, **options):
    return predict(str(place / keypoints), str(place / checkpoint), str(output), **options)


@pytest.mark.parametrize("flip", [True, False])
def test_poses_of_every_frame(place, tmp_path, flip):
    report = run(place, "video.npz", "run", tmp_path / "poses.npz", flip=flip)
    assert report == f"31 poses of 2 sequences (root space): {tmp_path / 'poses.npz'}"
    meta, poses = read(tmp_path / "poses.npz")
    assert (meta["space"], meta["fps"], meta["skeleton"]) == ("root", 50.0, "h36m17")
    assert meta["sequences"][1] == {"subject": "me", "action": "Turning", "camera": "phone"}
    assert len(meta["joints"]) == len(meta["parents"]) == 17
    assert [pose.shape for pose in poses] == [(30, 17, 3), (1, 17, 3)]
    wanted = lift(tiny_poses.lifter(), views_of(place / "video.npz"), flip=flip)
    for pose, of_lifter in zip(poses, wanted, strict=True):
        assert pose.dtype == np.float32
        np.testing.assert_array_equal(pose, of_lifter)


def test_a_trajectory_places_them_before_the_camera(place, tmp_path):
    run(place, "video.npz", "moving", tmp_path / "poses.npz")
    meta, poses = read(tmp_path / "poses.npz")
    assert meta["space"] == "camera"
    wanted = lift(tiny_poses.lifter(trajectory=True), views_of(place / "video.npz"))
    np.testing.assert_array_equal(poses[0], wanted[0])


def test_and_in_the_world_where_the_camera_is_known(place, tmp_path):
    run(place, "tiny.npz", "moving", tmp_path / "poses.npz")
    meta, poses = read(tmp_path / "poses.npz")
    assert meta["space"] == "world"
    of_camera = lift(tiny_poses.lifter(trajectory=True), views_of(place / "tiny.npz"))
    described = store.load(place / "tiny.npz").cameras
    for sequence, pose, wanted in zip(meta["sequences"], poses, of_camera, strict=True):
        camera = described[sequence["subject"]][sequence["camera"]]
        back = cameras.world_to_camera(pose, *cameras.place(camera))
        np.testing.assert_allclose(back, wanted, atol=1e-5)


def test_upright_video(place, tmp_path):
    """As the model was trained, unless the user knows better."""
    store.save(tmp_path / "upright.npz", video(1080, 1920))
    upright = str(tmp_path / "upright.npz")
    trained = dataclasses.replace(tiny_poses.lifter(), longest_side=True)
    tiny_poses.save(trained, tmp_path / "longest")
    predict(upright, str(tmp_path / "longest"), str(tmp_path / "trained.npz"))
    predict(upright, str(place / "run"), str(tmp_path / "width.npz"))
    predict(upright, str(place / "run"), str(tmp_path / "asked.npz"), longest_side=True)
    found = {name: read(tmp_path / f"{name}.npz")[1] for name in ("trained", "width", "asked")}
    (wanted, *_) = lift(trained, views_of(upright, longest_side=True))
    np.testing.assert_array_equal(found["trained"][0], wanted)
    np.testing.assert_array_equal(found["asked"][0], wanted)
    assert np.abs(found["width"][0] - wanted).max() > 0.01


def test_another_frame_rate_is_worth_a_warning(place, tmp_path, caplog):
    store.save(tmp_path / "slow.npz", video(fps=25.0))
    predict(str(tmp_path / "slow.npz"), str(place / "run"), str(tmp_path / "poses.npz"))
    assert "have 25 frames per second, the model was trained at 50" in caplog.text
    caplog.clear()
    # To a network of single frames all rates are the same.
    single = tiny_poses.lifter(TemporalConfig(widths=(1, 1), channels=8))
    tiny_poses.save(single, tmp_path / "single")
    predict(str(tmp_path / "slow.npz"), str(tmp_path / "single"), str(tmp_path / "other.npz"))
    assert "frames per second" not in caplog.text


def faulty(kind, place, directory):
    """(keypoints, checkpoint, output) of which one is wrong."""
    good = {"keypoints": place / "video.npz", "checkpoint": place / "run"}
    wrong = directory / "wrong.npz"
    if kind == "layout":
        coco = video(keypoint_layout="coco17")
        store.save(wrong, coco)
        return {**good, "keypoints": wrong}
    if kind == "positions only":
        known = tiny_poses.poses({"S1": {"Walking": 3}}, keypoint_layout=None)
        bare = [dataclasses.replace(r, views={}) for r in known.recordings]
        store.save(wrong, dataclasses.replace(known, recordings=tuple(bare)))
        return {**good, "keypoints": wrong}
    if kind == "no views":
        known = tiny_poses.poses({"S1": {"Walking": 3}})
        bare = [dataclasses.replace(r, views={}) for r in known.recordings]
        store.save(wrong, dataclasses.replace(known, recordings=tuple(bare)))
        return {**good, "keypoints": wrong}
    if kind == "confidence":
        model = TemporalConfig(widths=(3, 3), channels=8, features=3)
        tiny_poses.save(tiny_poses.lifter(model), directory / "three")
        return {**good, "checkpoint": directory / "three"}
    if kind == "exists":
        wrong.write_text("mine")
        return {**good, "output": wrong}
    if kind == "unwritable":
        wrong.write_text("mine")
        return {**good, "output": wrong / "poses.npz"}
    if kind == "no keypoints":
        return {**good, "keypoints": directory / "nowhere.npz"}
    return {**good, "checkpoint": directory / "nowhere"}


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("layout", r"has coco17 keypoints, the model reads h36m17; name a model for them"),
        ("positions only", r"wrong\.npz has no 2D keypoints"),
        ("no views", r"No frame with keypoints is left"),
        ("confidence", "has no confidences, which the model reads"),
        ("exists", r"wrong\.npz exists already; remove it"),
        ("unwritable", r"wrong\.npz cannot be (written|reached)"),
        ("no keypoints", r"nowhere\.npz cannot be opened: No such file"),
        ("no checkpoint", "nowhere does not exist; give a run's working directory"),
    ],
)
def test_what_cannot_be_lifted_is_told_and_leaves_no_file(place, tmp_path, kind, message):
    words = {"output": tmp_path / "poses.npz", **faulty(kind, place, tmp_path)}
    before = {path: path.stat().st_size for path in Path(tmp_path).iterdir() if path.is_file()}
    with pytest.raises(UserError, match=message):
        predict(*(str(words[name]) for name in ("keypoints", "checkpoint", "output")))
    after = {path: path.stat().st_size for path in Path(tmp_path).iterdir() if path.is_file()}
    assert after == before
