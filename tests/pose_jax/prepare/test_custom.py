"""The user's own video: what the file says, its camera, and what is missing."""

import argparse
import json
import math

import numpy as np
import pytest

from pose_jax.data import store
from pose_jax.data.views import PoseDataConfig, read_views
from pose_jax.prepare import custom
from pose_jax.skeletons import LAYOUTS
from train_jax.errors import UserError

GIVEN = ("--width=1920", "--height=1080", "--fps=30")


def run(source, output, *words):
    parser = argparse.ArgumentParser()
    custom.add_arguments(parser)
    return custom.run(parser.parse_args([f"--source={source}", f"--output={output}", *words]))


@pytest.fixture
def dance(tmp_path):
    """Four frames of 17 joints."""
    rng = np.random.default_rng(0)
    x = rng.uniform(0, 1000, (4, 17, 3))
    x[..., 2] /= 1000
    np.save(tmp_path / "dance.npy", x)
    return tmp_path / "dance.npy"


def test_a_video_is_a_recording_with_a_camera_of_its_size(dance, tmp_path):
    line = run(dance, tmp_path / "mine.npz", "--layout=coco", *GIVEN)
    assert line.startswith("1 videos, 4 frames of coco17 keypoints: ")
    poses = store.load(tmp_path / "mine.npz")
    (recording,) = poses.recordings
    assert (recording.subject, recording.positions) == ("dance", None)
    assert (poses.fps, poses.skeleton, poses.keypoint_layout) == (30, None, "coco17")
    np.testing.assert_array_equal(recording.views["camera"], np.load(dance).astype(np.float32))
    camera = poses.cameras["dance"]["camera"]
    assert (camera.width, camera.height, camera.focal) == (1920, 1080, None)


@pytest.mark.parametrize(
    ("word", "focal"),
    [("--focal=1500", 1500), ("--fov=90", 540), ("--fov=60", 540 / math.tan(math.radians(30)))],
)
def test_with_a_focal_length_it_can_be_trained_on_without_labels(dance, tmp_path, word, focal):
    """Also of a portrait video."""
    output = tmp_path / "mine.npz"
    run(dance, output, "--layout=coco", "--width=1080", "--height=1920", "--fps=30", word)
    camera = store.load(output).cameras["dance"]["camera"]
    assert camera.focal == pytest.approx((focal, focal))
    assert camera.center == (540, 960)
    config = PoseDataConfig(keypoints=str(output), longest_side=True)
    (view,) = read_views(config, "intrinsics").views
    assert view.intrinsics is not None
    # In units of half the longer side.
    np.testing.assert_allclose(view.intrinsics[:4], [focal / 960, focal / 960, 0, 0], rtol=1e-6)


def test_without_one_it_cannot(dance, tmp_path):
    run(dance, tmp_path / "mine.npz", "--layout=coco", *GIVEN)
    with pytest.raises(UserError, match="no focal length"):
        read_views(PoseDataConfig(keypoints=str(tmp_path / "mine.npz")), "intrinsics")


@pytest.mark.parametrize(
    ("word", "name"),
    [
        ("coco", "coco17"),
        ("h36m", "h36m17"),
        ("halpe26", "halpe26"),
        ("openpose25", "openpose25"),
        ("openpose18", "openpose18"),
        ("blazepose", "blazepose33"),
        ("mpii", "mpii16"),
        ("blazepose33", "blazepose33"),
    ],
)
def test_layouts_by_name(tmp_path, word, name):
    np.save(tmp_path / "a.npy", np.full((2, LAYOUTS[name].num_joints, 2), 100))
    run(tmp_path / "a.npy", tmp_path / "mine.npz", f"--layout={word}", *GIVEN)
    assert store.load(tmp_path / "mine.npz").keypoint_layout == name


def test_frames_without_a_person_are_counted(tmp_path):
    values = np.full((26, 3), 100.0)
    values[:, 2] = 0.7
    people = [
        {"image_id": f"{i}.jpg", "keypoints": values.ravel().tolist(), "score": 1.0}
        for i in (0, 1, 4)
    ]
    (tmp_path / "halpe.json").write_text(json.dumps(people))
    line = run(tmp_path / "halpe.json", tmp_path / "mine.npz", "--layout=halpe26", *GIVEN)
    assert "nobody was seen in 2 frames, which were interpolated" in line
    (recording,) = store.load(tmp_path / "mine.npz").recordings
    assert recording.views["camera"].shape == (5, 26, 3)


def test_joints_that_are_never_seen_are_named(tmp_path):
    joints = np.full((25, 3), 0.5)
    joints[:, :2] = 100
    joints[[11, 14]] = 0
    frame = {"people": [{"pose_keypoints_2d": joints.ravel().tolist()}]}
    (tmp_path / "a_000_keypoints.json").write_text(json.dumps(frame))
    line = run(tmp_path, tmp_path / "mine.npz", "--layout=openpose25", *GIVEN)
    assert "never seen in a whole video: right_ankle, left_ankle" in line


def test_the_size_that_the_file_tells_need_not_be_given(tmp_path):
    videos = {"a.mp4": {"custom": [np.full((2, 17, 2), 9.0, "f4")]}}
    about = {"video_metadata": {"a.mp4": {"w": 720, "h": 1280}}}
    np.savez(
        tmp_path / "data_2d_custom_a.npz",
        positions_2d=np.array(videos, object),
        metadata=np.array(about, object),
    )
    run(tmp_path / "data_2d_custom_a.npz", tmp_path / "mine.npz", "--layout=coco", "--fps=25")
    camera = store.load(tmp_path / "mine.npz").cameras["a.mp4"]["camera"]
    assert (camera.width, camera.height) == (720, 1280)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--layout=coco", *GIVEN[1:]), "does not tell the image size of dance; give --width in"),
        (("--layout=coco", GIVEN[0], GIVEN[2]), "of dance; give --height in pixels"),
        (("--layout=coco", *GIVEN[:2]), "--fps: give the frames per second"),
        (("--layout=coco", *GIVEN[:2], "--fps=0"), "--fps: give the frames per second"),
        (("--layout=coco", *GIVEN, "--width=0"), "--width=0: give the size"),
        (("--layout=coco", *GIVEN, "--focal=1", "--fov=9"), "say the same; give one"),
        (("--layout=coco", *GIVEN, "--focal=-1"), "--focal=-1: give the focal length"),
        (("--layout=coco", *GIVEN, "--fov=180"), "--fov=180: give degrees between 0 and 180"),
        (("--layout=coco18", *GIVEN), "no layout 'coco18'; give one of h36m17, .*openpose18"),
        (
            ("--layout=halpe26", *GIVEN),
            "dance has 17 joints, but halpe26 has 26; layouts of 17 are h36m17, coco17",
        ),
    ],
)
def test_what_is_missing_or_wrong_is_said(dance, tmp_path, words, message):
    with pytest.raises(UserError, match=message):
        run(dance, tmp_path / "mine.npz", *words)
    assert not (tmp_path / "mine.npz").exists()


def test_a_joint_count_of_no_layout(tmp_path):
    np.save(tmp_path / "a.npy", np.full((2, 5, 2), 100))
    with pytest.raises(UserError, match="a has 5 joints, but coco17 has 17; no layout has that"):
        run(tmp_path / "a.npy", tmp_path / "mine.npz", "--layout=coco", *GIVEN)


def test_shares_of_the_image_are_no_pixels(tmp_path):
    np.save(tmp_path / "a.npy", np.random.default_rng(0).uniform(size=(2, 33, 3)))
    with pytest.raises(UserError, match="at most 2 and so no pixels; multiply"):
        run(tmp_path / "a.npy", tmp_path / "mine.npz", "--layout=blazepose", *GIVEN)


def test_videos_with_and_without_confidences_do_not_mix(tmp_path):
    np.savez(tmp_path / "a.npz", one=np.full((2, 17, 2), 9), two=np.full((2, 17, 3), 9))
    with pytest.raises(UserError, match="some keypoints have a confidence and some have none"):
        run(tmp_path / "a.npz", tmp_path / "mine.npz", "--layout=coco", *GIVEN)


def test_nothing_is_overwritten(dance, tmp_path):
    (tmp_path / "mine.npz").write_text("mine")
    with pytest.raises(UserError, match=r"mine\.npz exists already"):
        run(dance, tmp_path / "mine.npz", "--layout=coco", *GIVEN)
    assert (tmp_path / "mine.npz").read_text() == "mine"
