"""The whole way from a video to files, and poses while it arrives."""

import csv
import dataclasses
import io
import json
import subprocess
import sys
import types
import zipfile
from pathlib import Path

import av
import numpy as np
import pytest

from pose_jax import motion
from pose_jax.data import bvh
from pose_jax.lifter import lift
from pose_jax.skeletons import layout
from pose_jax.video import blazepose, blazepose_files, decode, lifting, packaged, pipeline, stream
from pose_jax.video.joints import converted
from train_jax.errors import UserError

SIZE = (320, 240)
COCO = layout("coco17")


def film(path: Path, frames: int = 30, rate: int = 30) -> str:
    with av.open(str(path), "w") as container:
        track = container.add_stream("libx264", rate=rate)
        track.width, track.height, track.pix_fmt = *SIZE, "yuv420p"
        for i in range(frames):
            image = np.full((SIZE[1], SIZE[0], 3), 8 * (i % 30), np.uint8)
            container.mux(track.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(track.encode())
    return str(path)


def standing(points: str) -> np.ndarray:
    """A person who faces the camera, (points, 3), pixels and confidence."""
    heights = {"nose": 0, "eye": 0, "ear": 0, "shoulder": 25, "elbow": 55, "wrist": 80}
    heights |= {"hip": 80, "knee": 125, "ankle": 165}
    widths = {"shoulder": 18, "elbow": 22, "wrist": 22, "hip": 11, "knee": 11, "ankle": 11}
    found = np.zeros((layout(points).num_joints, 3))
    for i, joint in enumerate(layout(points).joints):
        side, _, name = joint.rpartition("_")
        x = widths.get(name, 4) * ({"left": 1, "right": -1}.get(side, 0))
        found[i] = [160 + x, 40 + heights.get(name, 0), 0.9]
    return found


def test_a_video_and_keypoints_become_poses_in_every_format(tmp_path):
    video = film(tmp_path / "clip.mp4")
    keypoints = np.repeat(standing("coco17")[None], 30, axis=0)
    keypoints[:, :, 0] += np.linspace(-40, 40, 30)[:, None]
    np.save(tmp_path / "mine.npy", keypoints)
    options = pipeline.Options(
        keypoints=str(tmp_path / "mine.npy"), layout="coco17", render=False, page=False
    )
    report = pipeline.run(video, str(tmp_path / "out"), lifter=packaged.load(), options=options)
    assert report.startswith("1 people, 30 poses at 30 per second")
    scene = motion.read(tmp_path / "out" / "poses.npz")
    (person,) = scene.people
    assert scene.size == SIZE
    assert person.keypoints is not None
    np.testing.assert_allclose(person.keypoints, keypoints[..., :2], atol=1e-3)
    # Upright, on the floor, of a person's height, going to the right.
    assert abs(person.poses[..., 2].min()) < 0.05
    names = scene.layout.joints
    assert 1.2 < person.poses[15, names.index("head_top"), 2] < 2.2
    steps = np.diff(person.poses[5:25, 0, 0])
    assert (steps > 0).all()
    left, right = names.index("left_shoulder"), names.index("right_shoulder")
    assert (person.poses[:, left, 0] > person.poses[:, right, 0]).all()

    told = json.loads((tmp_path / "out" / "poses.json").read_text())
    assert told["joints"] == list(names)
    np.testing.assert_allclose(told["people"][0]["poses"], person.poses, atol=1e-4)
    with (tmp_path / "out" / "poses.csv").open() as lines:
        rows = list(csv.DictReader(lines))
    assert len(rows) == 30 * 17
    row = rows[3 * 17 + 5]
    assert (row["person"], row["frame"], row["joint"]) == ("person 1", "3", names[5])
    np.testing.assert_allclose(float(row["y"]), person.poses[3, 5, 1], atol=1e-4)
    clip, rate = bvh.read_clip(tmp_path / "out" / "person_1.bvh", metres=0.01)
    assert rate == 30
    assert np.linalg.norm(clip - person.poses, axis=-1).mean() < 0.03  # bones of equal length


def test_several_people_of_another_detector(tmp_path):
    """An array per person; who has no confidence is not there."""
    video = film(tmp_path / "clip.mp4")
    left = np.repeat(standing("coco17")[None], 30, axis=0)
    right = left + np.array([60, 0, 0])
    right[20:, :, 2] = 0
    np.savez(tmp_path / "both.npz", a=left, b=right)
    options = pipeline.Options(
        keypoints=str(tmp_path / "both.npz"), layout="coco17", render=False, page=False
    )
    pipeline.run(video, str(tmp_path / "out"), lifter=packaged.load(), options=options)
    one, two = motion.read(tmp_path / "out" / "poses.npz").people
    assert np.isfinite(one.poses).all()
    assert np.isfinite(two.poses[:20]).all()
    assert np.isnan(two.poses[20:]).all()
    assert two.poses[5, 0, 0] > one.poses[5, 0, 0] + 0.3
    second = dataclasses.replace(options, person=2)
    pipeline.run(video, str(tmp_path / "two"), lifter=packaged.load(), options=second)
    (only,) = motion.read(tmp_path / "two" / "poses.npz").people
    np.testing.assert_allclose(only.poses[:20], two.poses[:20], atol=1e-6)
    third = dataclasses.replace(options, person=3)
    with pytest.raises(UserError, match=r"--person=3: 2 people were found"):
        pipeline.run(video, str(tmp_path / "no"), lifter=packaged.load(), options=third)


def test_a_place_is_where_the_pose_looks_as_it_was_seen():
    rng = np.random.default_rng(0)
    pose = rng.normal(size=(9, 12, 3)) * 0.4
    place = np.array([0.7, -0.2, 5.0])
    focal = 640 / 2 / np.tan(np.radians(30))
    seen = (pose + place)[..., :2] / (pose + place)[..., 2:] * focal + np.array([320, 180])
    keypoints = np.concatenate([seen, np.ones((9, 12, 1))], axis=-1)
    found = lifting.placed(pose, keypoints, (640, 360), 30.0, 60.0)
    np.testing.assert_allclose(found, np.tile(place, (9, 1)), atol=1e-6)


def test_size_and_place_in_the_image_do_not_change_what_the_lifter_sees():
    keypoints = np.repeat(standing("h36m17")[None], 20, axis=0)
    other = keypoints * [2.5, 2.5, 1] + [300, 10, 0]
    np.testing.assert_allclose(lifting.framed(keypoints, 30), lifting.framed(other, 30), atol=1e-5)


def test_a_detector_without_a_trunk_gives_human36m_keypoints_and_others_are_refused():
    points = standing("blazepose33")
    found = converted(points, layout("blazepose33"), layout("h36m17"))
    hips = [layout("blazepose33").joints.index(f"{side}_hip") for side in ("left", "right")]
    np.testing.assert_allclose(found[0], points[hips].mean(0))
    with pytest.raises(UserError, match="reads mpii16 keypoints, of which coco17 lacks"):
        converted(standing("coco17"), COCO, layout("mpii16"))


def test_nobody_wrong_persons_and_missing_layouts_are_told(tmp_path):
    seen = pipeline.Seen({}, COCO, SIZE, 1.0, 30)
    with pytest.raises(UserError, match=r"no person was found in 30 frames"):
        pipeline.lifted(seen, packaged.load(), 30.0, pipeline.Options(), "clip.mp4")
    video = film(tmp_path / "clip.mp4", frames=3)
    options = pipeline.Options(keypoints="mine.npy")
    with pytest.raises(UserError, match="needs --layout"):
        pipeline.run(video, str(tmp_path / "out"), lifter=packaged.load(), options=options)


def test_models_that_are_not_the_known_ones_are_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "other.whl", "w") as wheel:
        wheel.writestr("mediapipe/modules/pose_detection/pose_detection.tflite", b"other")
    with pytest.raises(UserError, match="its SHA-256 differs"):
        blazepose_files.find(str(tmp_path / "other.whl"))
    with pytest.raises(UserError, match=r"--blazepose: there is no"):
        blazepose_files.find(str(tmp_path / "nowhere"))


def test_without_the_index_a_sentence_names_the_ways_out(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    failed = subprocess.CompletedProcess([], 1, "", "ERROR: no route\n")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(UserError, match=r"no route.*give --blazepose=WHEEL.*--keypoints"):
        blazepose_files.find()


def test_a_region_is_upright_for_the_person_and_boxes_of_one_person_become_one():
    region = blazepose.aligned(np.array([100.0, 100.0]), np.array([100.0, 60.0]))
    assert region == blazepose.Region((100.0, 100.0), 100.0, 0.0)
    lying = blazepose.aligned(np.array([0.0, 0.0]), np.array([40.0, 0.0]))
    np.testing.assert_allclose(lying.angle, np.pi / 2)
    middles = blazepose.anchors()
    assert middles.shape == (2254, 2)
    boxes, logits = np.zeros((2254, 12)), np.full(2254, -9.0)
    for anchor in (800, 801, 1700):
        boxes[anchor, :4] = [0, 0, 100, 100]
        logits[anchor] = 2.0
    # Two anchors of one cell see the same person, the third another one.
    assert len(blazepose.decoded(boxes, logits, middles)) == 2


def test_points_move_to_the_middle_of_certain_heat_only():
    heat = np.full((64, 64, 2), -20.0)
    heat[20, 31, 0] = 9.0
    heat[20, 31, 1] = -1.0
    places = np.array([[30 / 64, 21 / 64]] * 2)
    found = blazepose.refined(places, heat)
    np.testing.assert_allclose(found[0] * 64, [31, 20], atol=1e-3)
    np.testing.assert_allclose(found[1], places[1])


class Standing:
    """Instead of the finder: the same person in every frame."""

    def __init__(self, networks: object) -> None:
        del networks

    def update(self, image: np.ndarray) -> list[np.ndarray]:
        del image
        return [standing("blazepose33")]


def test_poses_of_a_pipe_come_as_json_lines_and_are_those_of_the_whole_video(monkeypatch, tmp_path):
    video = film(tmp_path / "clip.ts", frames=40)
    monkeypatch.setattr(stream, "Finder", Standing)
    monkeypatch.setattr(stream, "BlazePose", lambda directory: directory)
    monkeypatch.setattr(stream.blazepose_files, "find", lambda source: source)
    pipe = types.SimpleNamespace(buffer=io.BytesIO(Path(video).read_bytes()))
    monkeypatch.setattr(sys, "stdin", pipe)
    monkeypatch.setattr(stream, "LATEST", 60.0)  # whatever else this machine does
    lifter = packaged.load()
    found = list(stream.lines(camera=None, lifter=lifter, blazepose=None, field_of_view=60.0))
    told = [person for line in found for person in line["people"]]
    assert len(found) == 40
    assert len(told) == 40 - lifter.model.pad_after
    assert json.loads(json.dumps(told[0]))["id"] == 1
    keypoints = converted(standing("blazepose33"), layout("blazepose33"), lifter.keypoint_layout)
    seen = lifting.framed(np.repeat(keypoints[None], 40, axis=0), 30)[..., :2]
    view = lifting.View("a", "a", "a", np.ascontiguousarray(seen), None, None)
    (whole,) = lift(lifter, [view], flip=False)
    pose = np.array([told[-1]["joints"][joint] for joint in lifter.skeleton.joints])
    x, y, z = (whole[20] - whole[20, 0]).T
    np.testing.assert_allclose(pose - pose[0], np.stack([x, z, -y], -1), atol=2e-3)


def test_frames_that_are_late_are_left_out(monkeypatch):
    clock = iter(np.arange(100) * 0.1)
    monkeypatch.setattr(stream.time, "monotonic", lambda: next(clock))
    image = np.zeros((2, 2, 3), np.uint8)
    frames = [decode.Frame(image, 0.05 * i) for i in range(40)]
    kept = [frame.time for frame in stream.punctual(iter(frames))]
    assert kept[0] == 0
    assert 1 < len(kept) < 10


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_command_on_a_clip_of_two_people(tmp_path):
    words = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(tmp_path)]
    done = subprocess.run([*words, "sports2d==0.8.34"], capture_output=True, check=False)
    wheels = list(tmp_path.glob("sports2d-*.whl"))
    if done.returncode or not wheels:
        pytest.skip("the package index cannot be reached")
    with zipfile.ZipFile(wheels[0]) as archive:
        clip = archive.extract("Sports2D/Demo/demo.mp4", tmp_path)
    command = [sys.executable, "-m", "pose_jax.video", clip, f"--output={tmp_path / 'out'}"]
    done = subprocess.run(
        [*command, "--frames=130", "--norender", "--nopage"], capture_output=True, text=True
    )
    if "cannot be fetched" in done.stderr:
        pytest.skip("the package index cannot be reached")
    assert done.returncode == 0, done.stderr
    scene = motion.read(tmp_path / "out" / "poses.npz")
    assert len(scene.people) == 2
    for person in scene.people:
        seen = person.poses[np.isfinite(person.poses[:, 0, 0])]
        assert 1.2 < np.median(np.ptp(seen[..., 2], axis=1)) < 2.1
