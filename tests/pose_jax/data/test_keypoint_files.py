"""Files of detectors: every kind gives the pixels and confidences that it holds."""

import json

import numpy as np
import pytest

from pose_jax.data.keypoint_files import read_tracks
from train_jax.errors import UserError


def pose(x, joints=17, confidence=0.5):
    """(J, 3): all joints at x, 2x."""
    return np.tile([float(x), 2.0 * x, confidence], (joints, 1))


def detectron(*frames, boxes=None):
    """A dump: per frame (score, x) of everybody."""
    posed, boxed = np.empty(len(frames), object), np.empty(len(frames), object)
    for t, people in enumerate(frames):
        rows = [
            np.stack([pose(x)[:, 0], pose(x)[:, 1], np.full(17, 9.0), np.full(17, 0.8)])
            for _, x in people
        ]
        posed[t] = [[], np.array(rows, np.float32).reshape(-1, 4, 17)]
        boxed[t] = [[], np.array([[0, 0, 1, 1, score] for score, _ in people]).reshape(-1, 5)]
    meta = np.array({"w": 1920, "h": 1080}, object)
    return {"boxes": boxed if boxes is None else boxes, "keypoints": posed, "metadata": meta}


def only(tracks):
    (track,) = tracks
    return track


def test_detectron_dumps_of_several_videos(tmp_path):
    frames = [(0.2, 1), (0.9, 50)], [], [(0.7, 52)]
    np.savez(tmp_path / "a.mp4.npz", **detectron(*frames))
    np.savez(tmp_path / "b.mp4.npz", **detectron(*frames[:1]))
    first, second = read_tracks(str(tmp_path), layout="coco17")
    assert (first.name, second.name) == ("a.mp4", "b.mp4")
    assert first.size == (1920, 1080)
    np.testing.assert_array_equal(first.keypoints[:, 3, 0], [50, 51, 52])
    np.testing.assert_array_equal(first.keypoints[:, 3, 1], [100, 102, 104])
    # The probability, not the logit.
    np.testing.assert_allclose(first.keypoints[:, 3, 2], [0.8, 0, 0.8], atol=1e-6)
    assert first.filled == 1
    np.testing.assert_array_equal(
        only(read_tracks(str(tmp_path / "b.mp4.npz"), layout="coco17")).keypoints,
        second.keypoints,
    )


def test_faulty_dumps_of_detectron(tmp_path):
    path = tmp_path / "a.mp4.npz"
    np.savez(path, **detectron([], []))
    with pytest.raises(UserError, match=r"a\.mp4: no person was found in any of 2 frames"):
        read_tracks(str(tmp_path), layout="coco17")
    np.savez(path, **detectron([(1, np.nan)]))
    with pytest.raises(UserError, match=r"a\.mp4\.npz: frame 0 holds NaN"):
        read_tracks(str(tmp_path), layout="coco17")
    np.savez(path, **detectron([(1, 1)], boxes=np.zeros((0,))))
    with pytest.raises(UserError, match="0 frames of boxes, 1 of keypoints"):
        read_tracks(str(tmp_path), layout="coco17")
    np.savez(path, other=np.zeros(3))
    with pytest.raises(UserError, match=r"holds no boxes; it is no dump of Detectron"):
        read_tracks(str(tmp_path), layout="coco17")
    with pytest.raises(UserError, match="Detectron does not number people"):
        read_tracks(str(tmp_path), layout="coco17", person=1)


def test_a_pickle_that_runs_code_is_refused(tmp_path):
    class Trap:
        def __reduce__(self):
            return (pytest.fail, ("unpickled",))

    np.savez(tmp_path / "a.npz", boxes=np.array([Trap()], object))
    with pytest.raises(UserError, match="could run code: not loaded"):
        read_tracks(str(tmp_path), layout="coco17")
    np.save(tmp_path / "a.npy", np.array([Trap()], object))
    with pytest.raises(UserError, match=r"a\.npy is damaged or of another kind"):
        read_tracks(str(tmp_path / "a.npy"), layout="coco17")


def test_keypoints_of_videopose3d(tmp_path):
    path = tmp_path / "data_2d_custom_mine.npz"
    videos = {"dance.mp4": {"custom": [pose(3)[None, :, :2].astype("f4")]}}
    about = {
        "layout_name": "coco",
        "num_joints": 17,
        "keypoints_symmetry": [[1], [2]],
        "video_metadata": {"dance.mp4": {"w": 720, "h": 1280}},
    }
    np.savez(path, positions_2d=np.array(videos, object), metadata=np.array(about, object))
    track = only(read_tracks(str(path), layout="coco17"))
    assert (track.name, track.size) == ("dance.mp4", (720, 1280))
    np.testing.assert_array_equal(track.keypoints, pose(3)[None, :, :2])


def test_plain_arrays(tmp_path):
    a, b = np.stack([pose(1), pose(2, confidence=1.5)]), np.stack([pose(4)] * 3)
    np.savez(tmp_path / "mine.npz", second=b, first=a)
    first, second = read_tracks(str(tmp_path / "mine.npz"), layout="coco17")
    assert (first.name, second.name) == ("first", "second")
    np.testing.assert_array_equal(first.keypoints[:, 0], [[1, 2, 0.5], [2, 4, 1]])
    np.save(tmp_path / "dance.npy", b[..., :2].astype(np.int32))
    track = only(read_tracks(str(tmp_path / "dance.npy"), layout="coco17"))
    assert track.name == "dance"
    assert track.size is None
    np.testing.assert_array_equal(track.keypoints, b[..., :2])


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.full((4, 17, 2), np.nan), "4 of 4 frames hold NaN .*, the first is frame 0; interpol"),
        (np.zeros((0, 17, 2)), "holds no frames"),
        (np.zeros((4, 17, 4)), r"is \[4, 17, 4\], not \[frames, joints, 2 or 3\]"),
        (np.zeros((4, 34)), r"is \[4, 34\], not"),
        (np.array(["a"]), "is no array of numbers"),
    ],
)
def test_faulty_arrays(tmp_path, array, message):
    np.save(tmp_path / "mine.npy", array)
    with pytest.raises(UserError, match=message):
        read_tracks(str(tmp_path / "mine.npy"), layout="coco17")
    np.savez(tmp_path / "mine.npz", mine=array)
    with pytest.raises(UserError, match=message):
        read_tracks(str(tmp_path / "mine.npz"), layout="coco17")


def entry(image, x, score=1.0, joints=26, **more):
    return {
        "image_id": image,
        "category_id": 1,
        "keypoints": pose(x, joints).ravel().tolist(),
        "score": score,
        **more,
    }


def write(path, content):
    path.write_text(json.dumps(content))
    return str(path)


@pytest.mark.parametrize("form", ["{}.jpg", "video_01_frame{:06}.png", None])
def test_results_of_cocos_format(tmp_path, form):
    def image(number):
        return number if form is None else form.format(number)

    people = [entry(image(7), 1, 2.0), entry(image(5), 4, 1.0), entry(image(7), 9, 3.0)]
    track = only(read_tracks(write(tmp_path / "alphapose.json", people), layout="halpe26"))
    assert track.name == "alphapose"
    assert track.keypoints.shape == (3, 26, 3)
    np.testing.assert_array_equal(track.keypoints[:, 25, 0], [4, 6.5, 9])
    np.testing.assert_array_equal(track.keypoints[:, 25, 2], [0.5, 0, 0.5])


@pytest.mark.parametrize("key", ["idx", "track_id"])
@pytest.mark.parametrize("form", [int, float, lambda number: [number]])
def test_tracked_results(tmp_path, key, form):
    people = [entry(0, 1, 9, **{key: form(1)}), entry(0, 5, 1, **{key: form(2)})]
    path = write(tmp_path / "r.json", people)
    assert only(read_tracks(path, layout="halpe26", person=2)).keypoints[0, 0, 0] == 5
    assert only(read_tracks(path, layout="halpe26")).keypoints[0, 0, 0] == 1


@pytest.mark.parametrize(("joints", "body"), [(136, 26), (133, 17), (17, 17)])
def test_of_whole_bodies_the_body_is_taken(tmp_path, joints, body):
    path = write(tmp_path / "r.json", [entry(0, 1, joints=joints)])
    assert only(read_tracks(path, layout="halpe26")).keypoints.shape == (1, body, 3)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"people": []}, "is no list of people as COCO's results are"),
        ([], "no person was found; the list is empty"),
        ([{"keypoints": [1.0, 2.0, 0.5]}], "image_id None, which tells no frame"),
        ([{"image_id": "a.jpg", "keypoints": [1.0, 2.0, 0.5]}], "image_id 'a.jpg', which tells no"),
        ([{"image_id": 0}], "keypoints is no list of x, y and confidence"),
        ([{"image_id": 0, "keypoints": [1, 2]}], "keypoints is no list of x, y and confidence"),
        ([{"image_id": 0, "keypoints": [1, 2, "c"]}], "holds something that is no number"),
        ([{"image_id": 0, "keypoints": [1, float("nan"), 1]}], "keypoints holds NaN or infinite"),
        ([{"image_id": 0, "keypoints": [1, 2, 1], "score": "high"}], "the score 'high'"),
        ([entry(0, 1), entry(1, 1, joints=17)], "people have 17 and 26 joints"),
        ([entry(0, 1), entry(9999, 1)], "is in 2 of 10000 frames only"),
    ],
)
def test_faulty_results(tmp_path, content, message):
    with pytest.raises(UserError, match=message) as error:
        read_tracks(write(tmp_path / "results.json", content), layout="halpe26")
    assert "results" in str(error.value)


def openpose(*people, **more):
    return {
        "version": 1.3,
        "people": [{"pose_keypoints_2d": p.ravel().tolist(), **more} for p in people],
    }


def test_frames_of_openpose(tmp_path):
    lost = pose(3, 25)
    lost[4] = 0
    frames = [
        openpose(pose(1, 25), pose(100, 25, confidence=0.9)),
        openpose(),
        openpose(pose(102, 25)),
        openpose(lost),
    ]
    for number, frame in enumerate(frames):
        write(tmp_path / f"dance_{number:012}_keypoints.json", frame)
    write(tmp_path / f"walk_{5:012}_keypoints.json", openpose(pose(7, 25)))
    dance, walk = read_tracks(str(tmp_path), layout="openpose25")
    assert (dance.name, walk.name) == ("dance", "walk")
    np.testing.assert_array_equal(dance.keypoints[:, 0, 0], [100, 101, 102, 3])
    # A joint at (0, 0) with confidence 0 was not found.
    np.testing.assert_array_equal(dance.keypoints[3, 4], [102, 204, 0])
    np.testing.assert_allclose(dance.keypoints[:, 0, 2], [0.9, 0, 0.5, 0.5])
    assert dance.filled == 1
    assert len(walk.keypoints) == 1


def test_a_joint_that_openpose_never_finds(tmp_path):
    lost = pose(3, 25)
    lost[[11, 24]] = 0
    write(tmp_path / "a_0_keypoints.json", openpose(lost))
    track = only(read_tracks(str(tmp_path), layout="openpose25"))
    assert track.unseen == (11, 24)
    np.testing.assert_array_equal(track.keypoints[0, 24], [3, 6, 0])


def test_people_that_openpose_has_tracked(tmp_path):
    frame = openpose(pose(1, 25), pose(2, 25))
    for number, one in enumerate(frame["people"]):
        one["person_id"] = [number + 4]
    write(tmp_path / "a_0_keypoints.json", frame)
    track = only(read_tracks(str(tmp_path), layout="openpose25", person=5))
    assert track.keypoints[0, 0, 0] == 2
    write(tmp_path / "a_0_keypoints.json", openpose(pose(1, 25), person_id=[-1]))
    with pytest.raises(UserError, match="nobody tracked them; leave out --person"):
        read_tracks(str(tmp_path), layout="openpose25", person=0)


def test_faulty_frames_of_openpose(tmp_path):
    path = tmp_path / "a_0_keypoints.json"
    for content, message in (
        ([], "holds no people; it is no file of OpenPose"),
        ({"people": [{}]}, "pose_keypoints_2d is no list of x, y and confidence"),
        ({"people": [{"pose_keypoints_2d": [1, 2]}]}, "pose_keypoints_2d is no list"),
        (openpose(np.zeros((25, 3))), "no person was found in any of 1 frames"),
    ):
        write(path, content)
        with pytest.raises(UserError, match=message):
            read_tracks(str(tmp_path), layout="openpose25")
    path.write_text('{"people": [')
    with pytest.raises(UserError, match=r"a_0_keypoints\.json is damaged or of another kind"):
        read_tracks(str(tmp_path), layout="openpose25")
    path.rename(tmp_path / "a_keypoints.json")
    with pytest.raises(UserError, match="its name tells no frame"):
        read_tracks(str(tmp_path), layout="openpose25")


def test_other_sources(tmp_path):
    with pytest.raises(UserError, match=r"holds neither \*_keypoints\.json files of OpenPose nor"):
        read_tracks(str(tmp_path), layout="coco17")
    with pytest.raises(UserError, match=r"neither a directory nor a \.json"):
        read_tracks(str(tmp_path / "video.mp4"), layout="coco17")
    for name in ("a.json", "a.npz", "a.npy"):
        with pytest.raises(UserError, match="cannot be opened: No such file"):
            read_tracks(str(tmp_path / name), layout="coco17")
    with pytest.raises(UserError, match="does not number people; leave out --person"):
        read_tracks(str(tmp_path / "a.npy"), layout="coco17", person=1)
