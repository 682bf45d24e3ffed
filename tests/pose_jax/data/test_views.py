"""What a network sees of a file: which frames of which recordings, in which units."""

import dataclasses

import numpy as np
import pytest
import tiny_poses

from pose_jax import h36m
from pose_jax.data import store
from pose_jax.data.store import PoseSet, Recording
from pose_jax.data.views import Need, PoseDataConfig, normalised, read_views, select
from train_jax.errors import UserError


def numbered(lengths, *, subject="S1", camera="54138969", positions=True, fps=50.0):
    """Recordings whose keypoints are the numbers of their frames, in pixels."""
    recordings = []
    for action, length in lengths.items():
        frame = np.arange(length, dtype=np.float32)[:, None, None]
        pose = np.zeros((length, 17, 3), np.float32) + frame if positions else None
        keypoints = np.zeros((length, 17, 2), np.float32) + frame
        recordings.append(Recording(subject, action, pose, {camera: keypoints}))
    return PoseSet(
        name="numbered",
        fps=fps,
        skeleton="h36m17" if positions else None,
        keypoint_layout="h36m17",
        source="",
        cameras={subject: {camera: h36m.cameras(subject)[camera]}},
        recordings=tuple(recordings),
    )


def frames(view):
    """The numbers of the frames of a view of `numbered`."""
    return np.rint((view.keypoints[:, 0, 0] + 1) * 500).astype(int)


def choose(poses, need: Need = "positions", **changes):
    return select(poses, PoseDataConfig(keypoints="file.npz", **changes), need)


@pytest.mark.parametrize(
    ("length", "start", "stop"), [(1383, 403, 541), (2597, 1170, 1430), (3000, 1898, 2198)]
)
def test_a_tenth_of_a_recording_is_the_one_that_the_original_chooses(length, start, stop):
    (view,) = choose(numbered({"Walking": length}), fraction=0.1).views
    np.testing.assert_array_equal(frames(view), np.arange(start, stop))
    assert view.positions is not None
    assert len(view.positions) == stop - start


def test_downsampling_takes_every_nth_frame_and_lowers_the_rate():
    poses = numbered({"Walking": 23})
    views = choose(poses, downsample=5)
    np.testing.assert_array_equal(frames(views.views[0]), [0, 5, 10, 15, 20])
    assert views.fps == 10.0
    # A part begins where that of the full rate would, and has a multiple of 5 frames.
    (view,) = choose(numbered({"Walking": 1383}), fraction=0.1, downsample=5).views
    assert len(view.keypoints) == 28
    np.testing.assert_array_equal(np.diff(frames(view)), 5)


def test_a_recording_of_which_no_frame_is_left_is_left_out():
    poses = numbered({"Walking": 4, "Sitting": 100})
    (view,) = choose(poses, fraction=0.1).views
    assert view.action == "Sitting"
    with pytest.raises(UserError, match=r"No frame with positions is left.*fraction of 0\.001"):
        choose(poses, fraction=0.001)


def test_actions_are_words_and_not_beginnings():
    poses = numbered({"Sitting": 5, "SittingDown": 6, "Sitting 1": 7, "Walking": 8})
    chosen = [view.action for view in choose(poses, actions=("Sitting",)).views]
    assert chosen == ["Sitting", "Sitting 1"]


def test_recordings_come_in_the_order_of_the_file_camera_by_camera():
    poses = tiny_poses.poses()
    views = choose(poses, subjects=("S11", "S9")).views
    wanted = [
        (recording.subject, recording.action, camera)
        for recording in poses.recordings
        if recording.subject != "S1"
        for camera in recording.views
    ]
    assert [(view.subject, view.action, view.camera) for view in views] == wanted


def test_positions_are_seen_from_the_camera_and_relative_to_a_root_that_keeps_its_place():
    """Golden numbers of the original: a root and a joint, in metres and in screen units."""
    poses = numbered({"Walking": 1})
    pose = np.zeros((1, 17, 3), np.float32)
    pose[0, 0], pose[0, 1] = (0.1, -0.2, 0.9), (0.4, 0.3, 1.5)
    keypoints = np.zeros((1, 17, 2), np.float32)
    keypoints[0, 0], keypoints[0, 1] = (408.767, 438.351), (380.774, 312.761)
    recording = Recording("S1", "Walking", pose, {"54138969": keypoints})
    (view,) = choose(dataclasses.replace(poses, recordings=(recording,))).views
    root, joint = (-0.494776, -0.367960, 5.446868), (-0.553032, -0.851657, 4.766689)
    assert view.positions is not None
    np.testing.assert_allclose(view.positions[0, 0], root, atol=2e-6)
    np.testing.assert_allclose(view.positions[0, 1], np.subtract(joint, root), atol=2e-6)
    np.testing.assert_allclose(
        view.keypoints[0, :2], [(-0.182466, -0.125299), (-0.238452, -0.376478)], atol=2e-6
    )
    assert view.intrinsics is not None
    np.testing.assert_allclose(
        view.intrinsics,
        [
            *(2.29009891, 2.28756237, 0.02508307, 0.02890298),
            *(-0.20709892, 0.24777518, -0.00307515, -0.00097570, -0.00142447),
        ],
        atol=1e-6,
    )


def test_long_recordings_are_converted_like_short_ones():
    poses = tiny_poses.poses({"S1": {"Walking": 1030}}, views=1)
    short = tiny_poses.poses({"S1": {"Walking": 1030}}, views=1)
    (recording,) = short.recordings
    assert recording.positions is not None
    cut = Recording(
        "S1",
        "Walking",
        recording.positions[1000:],
        {name: x[1000:] for name, x in recording.views.items()},
    )
    (whole,) = choose(poses).views
    (part,) = choose(dataclasses.replace(short, recordings=(cut,))).views
    np.testing.assert_array_equal(whole.keypoints[1000:], part.keypoints)
    assert whole.positions is not None
    np.testing.assert_array_equal(whole.positions[1000:], part.positions)


def test_confidences_stay_and_upright_video_fits_if_asked():
    camera = dataclasses.replace(h36m.cameras("S1")["54138969"], width=500, height=1000)
    pixels = np.full((2, 17, 3), (250, 1000, 0.7), np.float32)
    by_width = normalised(pixels, camera, longest_side=False)
    by_height = normalised(pixels, camera, longest_side=True)
    np.testing.assert_allclose(by_width[0, 0], (0, 2, 0.7), rtol=1e-6)
    np.testing.assert_allclose(by_height[0, 0], (0, 1, 0.7), rtol=1e-6)


def test_video_without_positions_is_of_use_where_they_are_not_needed():
    poses = numbered({"Walking": 5}, positions=False)
    needs: tuple[Need, ...] = ("intrinsics", "keypoints")
    for need in needs:
        (view,) = choose(poses, need).views
        assert view.positions is None
        assert view.intrinsics is not None
        assert view.intrinsics.shape == (9,)
    with pytest.raises(UserError, match=r"No frame with positions is left of file\.npz"):
        choose(poses, "positions")


def test_a_camera_without_a_lens_projects_nothing():
    poses = numbered({"Walking": 5}, positions=False)
    bare = dataclasses.replace(
        poses.cameras["S1"]["54138969"],
        **{"focal": None, "center": None, "orientation": None, "translation": None},
    )
    poses = dataclasses.replace(poses, cameras={"S1": {"54138969": bare}})
    (view,) = choose(poses, "keypoints").views
    assert view.intrinsics is None
    with pytest.raises(UserError, match=r"54138969 of S1 'Walking' has no focal length.*add the"):
        choose(poses, "intrinsics")


def test_ground_truth_of_one_file_goes_with_the_detections_of_another(tmp_path):
    poses = tiny_poses.poses({"S1": {"Walking": 9}, "S9": {"Walking": 7}})
    detections = tuple(
        dataclasses.replace(
            recording,
            positions=None,
            # Detections run on after the motion capture has stopped.
            views={c: np.concatenate([x + 1, x[-1:]]) for c, x in recording.views.items()},
        )
        for recording in poses.recordings
    )
    store.save(tmp_path / "truth.npz", poses)
    detected = dataclasses.replace(poses, recordings=detections, skeleton=None, name="detector")
    store.save(tmp_path / "detected.npz", detected)
    config = PoseDataConfig(keypoints="detected.npz", positions="truth.npz", subjects=("S1",))
    views = read_views(config, "positions", data_dir=str(tmp_path)).views
    exact = choose(poses, subjects=("S1",)).views
    for view, wanted in zip(views, exact, strict=True):
        np.testing.assert_array_equal(view.positions, wanted.positions)
        np.testing.assert_allclose(view.keypoints, wanted.keypoints + 2 / 1000, atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"subjects": ("S1", "S5")}, r"file\.npz has no subject S5; it has S1, S11, S9\."),
        ({"actions": ("Walk",)}, r"file\.npz has no action Walk; it has Turning, Walking, Waving"),
        ({"subjects": ("S1",), "actions": ("Waving",)}, "No frame .* for subjects S1, actions Wav"),
        ({"fraction": 0.0}, r"fraction must lie in \(0, 1\]"),
        ({"fraction": 1.5}, r"fraction must lie in \(0, 1\]"),
        ({"downsample": 0}, "downsample be at least 1"),
    ],
)
def test_a_choice_that_cannot_be_made_is_refused(changes, fault):
    with pytest.raises(UserError, match=fault):
        choose(tiny_poses.poses(), **changes)


def test_a_missing_file_is_named_with_what_makes_it(tmp_path):
    config = PoseDataConfig(keypoints="h36m.npz")
    with pytest.raises(UserError, match=r"h36m\.npz is not there.*python -m pose_jax\.prepare"):
        read_views(config, "positions", data_dir=str(tmp_path))
