"""The prepared file: what is written comes back, and what does not fit is said in a sentence."""

import dataclasses
import json
import zipfile

import numpy as np
import pytest

from pose_jax.cameras import Camera
from pose_jax.data.store import PoseSet, Recording, join, load, save
from train_jax.errors import UserError

KNOWN = Camera(
    name="A",
    width=1000,
    height=1002,
    focal=(1145.0, 1143.8),
    center=(512.5, 515.5),
    radial=(-0.2, 0.25, -0.003),
    tangential=(-0.001, -0.0014),
    orientation=(1.0, 0.0, 0.0, 0.0),
    translation=(1.8, 4.9, 1.5),
)
UNKNOWN = Camera(name="A", width=1000, height=1002, focal=None, center=None)


def array(*shape, seed=0):
    return np.random.default_rng(seed).uniform(0, 1, shape).astype(np.float32)


def example(frames=5, views=("A", "B")):
    cameras = {name: dataclasses.replace(KNOWN, name=name) for name in ("A", "B")}
    return PoseSet(
        name="example",
        fps=50.0,
        skeleton="h36m17",
        keypoint_layout="coco17",
        source="made up",
        cameras={"S1": cameras},
        recordings=(
            Recording(
                "S1",
                "Walking 1",
                array(frames, 17, 3),
                {name: array(frames, 17, 2, seed=1) for name in views},
            ),
            Recording("S1", "Sitting", None, {"A": array(3, 17, 2, seed=2)}),
        ),
    )


def with_first(poses, **changes):
    first = dataclasses.replace(poses.recordings[0], **changes)
    return dataclasses.replace(poses, recordings=(first, *poses.recordings[1:]))


def test_what_is_written_comes_back(tmp_path):
    save(tmp_path / "poses.npz", example())
    back = load(tmp_path / "poses.npz")
    for field in ("name", "fps", "skeleton", "keypoint_layout", "source", "cameras"):
        assert getattr(back, field) == getattr(example(), field), field
    for one, other in zip(back.recordings, example().recordings, strict=True):
        assert (one.subject, one.action) == (other.subject, other.action)
        assert list(one.views) == list(other.views)
        for camera in one.views:
            np.testing.assert_array_equal(one.views[camera], other.views[camera])
    np.testing.assert_array_equal(back.recordings[0].positions, example().recordings[0].positions)
    assert back.recordings[1].positions is None


def test_numpy_alone_reads_the_file(tmp_path):
    save(tmp_path / "poses.npz", example())
    with np.load(tmp_path / "poses.npz", allow_pickle=False) as file:
        meta = json.loads(str(file["meta"]))
        assert meta["format"] == "pose_jax 1"
        assert meta["recordings"][0]["views"] == ["A", "B"]
        assert file["positions/000000"].shape == (5, 17, 3)
        assert file["keypoints/000001/A"].dtype == np.float32


def test_equal_sets_give_equal_bytes_and_nothing_half_written(tmp_path):
    save(tmp_path / "one.npz", example())
    save(tmp_path / "two.npz", example())
    assert (tmp_path / "one.npz").read_bytes() == (tmp_path / "two.npz").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.npz", "two.npz"]


def test_nothing_is_overwritten_unless_asked(tmp_path):
    save(tmp_path / "poses.npz", example())
    with pytest.raises(UserError, match=r"poses\.npz exists already"):
        save(tmp_path / "poses.npz", example(frames=6))
    save(tmp_path / "poses.npz", example(frames=6), overwrite=True)
    assert len(load(tmp_path / "poses.npz").recordings[0].views["A"]) == 6


def test_folders_are_made_and_a_missing_file_is_said_with_what_makes_it(tmp_path):
    save(tmp_path / "data" / "pose" / "poses.npz", example())
    with pytest.raises(UserError, match="cannot be written: Not a directory"):
        save(tmp_path / "data" / "pose" / "poses.npz" / "more.npz", example())
    with pytest.raises(UserError, match=r"cannot be opened: No such file.*prepare --help"):
        load(tmp_path / "poses.npz")


NOT_A_NUMBER = array(5, 17, 2)
NOT_A_NUMBER[3, 2, 0] = np.nan


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"views": {"A": NOT_A_NUMBER}}, "'Walking 1', camera A: 1 of 5 .* NaN .* frame 3"),
        ({"positions": np.full((5, 17, 3), np.inf, np.float32)}, "positions: 5 of 5 .* frame 0"),
        ({"views": {"A": array(5, 16, 2)}}, "16 joints, but the layout coco17 has 17"),
        ({"positions": array(5, 15, 3)}, "15 joints, but the layout h36m17 has 17"),
        ({"views": {"A": array(5, 17, 4)}}, "4 numbers per joint, where 2 or 3 belong"),
        ({"positions": array(5, 17, 2)}, "2 numbers per joint, where 3 belong"),
        ({"views": {"A": array(0, 17, 2)}}, "the sequence has no frames"),
        ({"views": {"A": array(4, 17, 2)}}, "4 frames of keypoints but 5 of positions"),
        ({"views": {"C": array(5, 17, 2)}}, r"camera C is not described \(known of S1: A, B\)"),
        ({"subject": "S2"}, r"camera A is not described \(known of S2: none\)"),
        ({"views": {"A": array(5, 17, 2).astype(np.float64)}}, "float64.* is not float32"),
        ({"views": {"A": array(5, 34)}}, r"float32\[5, 34\] is not float32\[frames, joints"),
        ({"views": {"A": array(5, 17, 3)}}, "some keypoints have a confidence and some have none"),
        ({"views": {"A": 2 * array(5, 17, 3) + 1}}, "a confidence in frame 0 lies outside"),
        ({"views": {}, "positions": None}, "neither positions nor keypoints"),
        ({"action": "Sitting"}, "'Sitting' is there twice"),
        ({"views": {"A/B": array(5, 17, 2)}}, "'A/B' cannot name a camera"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        save(tmp_path / "poses.npz", with_first(example(), **changes))
    assert not (tmp_path / "poses.npz").exists()


def test_a_set_says_what_its_joints_are(tmp_path):
    for field, message in (("skeleton", "no skeleton"), ("keypoint_layout", "no keypoint layout")):
        with pytest.raises(UserError, match=message):
            save(tmp_path / "poses.npz", dataclasses.replace(example(), **{field: None}))
    with pytest.raises(UserError, match="no recordings"):
        save(tmp_path / "poses.npz", dataclasses.replace(example(), recordings=()))
    with pytest.raises(UserError, match="0 frames per second is no rate"):
        save(tmp_path / "poses.npz", dataclasses.replace(example(), fps=0))


def test_files_are_checked_when_they_are_read(tmp_path):
    """The same checks: files come from elsewhere, too."""
    path = tmp_path / "poses.npz"
    save(path, example())
    with np.load(path) as file:
        arrays = dict(file)
    arrays["keypoints/000000/B"][1, 0, 0] = np.nan
    np.savez(path, **arrays)
    with pytest.raises(UserError, match=r"poses\.npz: recording S1 'Walking 1', camera B: 1 of 5"):
        load(path)


def rewritten(path, change):
    """The file after somebody's hands were on it."""
    save(path, example())
    with np.load(path) as file:
        arrays = dict(file)
    meta = json.loads(str(arrays.pop("meta")))
    change(meta, arrays)
    np.savez(path, **{"meta": np.array(json.dumps(meta)), **arrays})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda meta, arrays: meta.update(format="pose_jax 2"), "of the format 'pose_jax 2'"),
        (lambda meta, arrays: meta.pop("fps"), "must have exactly the keys name, fps"),
        (lambda meta, arrays: meta.update(fps="fast"), "has a faulty fps: 'fast'"),
        (lambda meta, arrays: meta["recordings"][0].update(views=None), "has a faulty views: None"),
        (lambda meta, arrays: meta["cameras"]["S1"].update(A=3), "does not describe cameras"),
        (
            lambda meta, arrays: meta["cameras"]["S1"]["A"].pop("width"),
            r"camera A\.width is missing",
        ),
        (lambda meta, arrays: meta["cameras"].update(S1=3), "3 does not describe cameras"),
        (lambda meta, arrays: arrays.pop("positions/000000"), "lacks the array positions/000000"),
        (lambda meta, arrays: meta.update(skeleton="h36m18"), "h36m18"),
        (lambda meta, arrays: arrays.update(meta=np.array("nonsense")), "cannot be read"),
    ],
)
def test_a_faulty_description_is_refused(tmp_path, change, message):
    rewritten(tmp_path / "poses.npz", change)
    with pytest.raises(UserError, match=message):
        load(tmp_path / "poses.npz")


def test_other_files_are_told_apart(tmp_path):
    path = tmp_path / "file.npz"
    np.savez(path, other=np.zeros(3))
    with pytest.raises(UserError, match="not a file of poses of this project"):
        load(path)
    save(tmp_path / "whole.npz", example())
    path.write_bytes((tmp_path / "whole.npz").read_bytes()[:-100])
    with pytest.raises(UserError, match=r"is not an .npz file, or is cut short"):
        load(path)


def test_a_pickle_in_the_file_is_not_opened(tmp_path):
    save(tmp_path / "poses.npz", example())
    with zipfile.ZipFile(tmp_path / "poses.npz") as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    np.save(tmp_path / "object.npy", np.array({"a": 1}, dtype=object), allow_pickle=True)
    members["positions/000000.npy"] = (tmp_path / "object.npy").read_bytes()
    with zipfile.ZipFile(tmp_path / "bad.npz", "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    with pytest.raises(UserError, match=r"damaged at positions/000000 .*pickle"):
        load(tmp_path / "bad.npz")


def halves():
    whole = example()
    three = dataclasses.replace(
        whole,
        name="3D",
        keypoint_layout=None,
        recordings=(dataclasses.replace(whole.recordings[0], views={}),),
    )
    two = dataclasses.replace(
        whole,
        name="2D",
        skeleton=None,
        source="a detector",
        cameras={"S1": {name: dataclasses.replace(UNKNOWN, name=name) for name in "AB"}},
        recordings=tuple(
            dataclasses.replace(recording, positions=None) for recording in whole.recordings
        ),
    )
    return three, two


def test_positions_and_detections_are_joined_by_name():
    three, two = halves()
    longer = {"A": array(7, 17, 2, seed=5), "B": array(5, 17, 2, seed=6)}
    both = join(three, with_first(two, views=longer))
    walking, sitting = both.recordings
    assert both.skeleton == "h36m17"
    assert both.keypoint_layout == "coco17"
    assert both.source == "made up\na detector"
    # The detector ran on after the motion capture had stopped: cut at the end.
    np.testing.assert_array_equal(walking.views["A"], longer["A"][:5])
    np.testing.assert_array_equal(walking.positions, three.recordings[0].positions)
    # Keypoints without positions stay: a semi-supervised model learns from them.
    assert sitting.action == "Sitting"
    assert sitting.positions is None


def test_of_two_descriptions_of_a_camera_the_fuller_one_is_kept():
    three, two = halves()
    assert join(three, two).cameras["S1"]["A"] == KNOWN
    swapped = dataclasses.replace(three, cameras=two.cameras)
    assert (
        join(swapped, dataclasses.replace(two, cameras=three.cameras)).cameras["S1"]["A"] == KNOWN
    )
    resized = dataclasses.replace(UNKNOWN, width=640)
    with pytest.raises(UserError, match="images of 1000x1002 in one file and of 640x1002"):
        join(three, dataclasses.replace(two, cameras={"S1": {"A": resized, "B": resized}}))


def test_detections_that_end_too_early_are_refused():
    three, two = halves()
    short = {"A": array(4, 17, 2), "B": array(5, 17, 2)}
    with pytest.raises(UserError, match="camera A: 4 frames of keypoints in 2D for 5 of positions"):
        join(three, with_first(two, views=short))


def test_a_recording_without_detections_is_refused():
    three, two = halves()
    with pytest.raises(UserError, match="2D has nothing for S1 'Walking 1'"):
        join(three, dataclasses.replace(two, recordings=two.recordings[1:]))
    with pytest.raises(UserError, match=r"3D has 50.0 frames per second but 2D has 25"):
        join(three, dataclasses.replace(two, fps=25.0))
