"""Simulated filming: the geometry is that of the cameras, the errors are what the detector says."""

import numpy as np
import pytest

from pose_jax import cameras, h36m
from pose_jax.data import motion
from pose_jax.data.filming import RADIUS, Detector, film, place
from pose_jax.skeletons import H36M_17
from train_jax.errors import UserError

FPS = 50.0
END = [i for i, joint in enumerate(H36M_17.joints) if "ankle" in joint or "wrist" in joint]
MIDDLE = [i for i, joint in enumerate(H36M_17.joints) if "knee" in joint or "elbow" in joint]
TRUNK = [i for i in range(17) if i not in END + MIDDLE]


def filmed(clips, *, detector, seed=0):
    return film(
        clips,
        cameras_of={"A": "S1", "B": "S9"},
        fps=FPS,
        name="films",
        source="formulas",
        detector=detector,
        seed=seed,
    )


@pytest.fixture(scope="module")
def clips():
    return {
        "A": {"Walking 1": motion.generate(1, frames=200, fps=FPS, action="Walking")},
        "B": {
            "Waving 1": motion.generate(2, frames=200, fps=FPS, action="Waving"),
            "Squatting 1": motion.generate(3, frames=200, fps=FPS, action="Squatting"),
        },
    }


@pytest.fixture(scope="module")
def still():
    # Longer than a block, so that statistics are tight and blocks are joined.
    return {"A": {"Standing 1": np.repeat(motion.generate(1, frames=1, fps=FPS), 5000, axis=0)}}


def errors(still, **changes):
    """Errors in pixels (cameras, T, J, 2) and confidences of somebody who stands still."""
    exact = filmed(still, detector=None).recordings[0].views
    seen = filmed(still, detector=Detector(**changes)).recordings[0].views
    seen = np.stack(list(seen.values()))
    return seen[..., :2] - np.stack(list(exact.values())), seen[..., 2]


def test_without_errors_keypoints_are_the_projection_of_the_positions(clips):
    poses = filmed(clips, detector=None)
    assert [(r.subject, r.action) for r in poses.recordings] == [
        ("A", "Walking 1"),
        ("B", "Waving 1"),
        ("B", "Squatting 1"),
    ]
    assert poses.cameras == {"A": h36m.cameras("S1"), "B": h36m.cameras("S9")}
    for recording in poses.recordings:
        assert recording.positions is not None
        assert list(recording.views) == list(h36m.cameras("S1"))
        for name, pixels in recording.views.items():
            camera = poses.cameras[recording.subject][name]
            seen = cameras.world_to_camera(recording.positions, *cameras.place(camera))
            image = cameras.project(seen, cameras.intrinsics(camera))
            expected = cameras.to_pixels(image, width=camera.width, height=camera.height)
            np.testing.assert_allclose(pixels, expected, atol=2e-3)
            assert pixels.shape == (len(recording.positions), 17, 2)


def test_poses_are_turned_and_otherwise_unchanged(clips):
    poses = filmed(clips, detector=None)
    turns = []
    for recording in poses.recordings:
        clip = clips[recording.subject][recording.action]
        assert recording.positions is not None
        before, after = clip - clip[:, :1], recording.positions - recording.positions[:, :1]
        turn = np.angle(
            (after[..., 0] + 1j * after[..., 1]) * (before[..., 0] - 1j * before[..., 1])
        )[0, 1]
        cos, sin = np.cos(turn), np.sin(turn)
        turned = before @ np.array([[cos, sin, 0], [-sin, cos, 0], [0, 0, 1]])
        np.testing.assert_allclose(after, turned, atol=1e-5)
        np.testing.assert_allclose(recording.positions[..., 2], clip[..., 2], atol=1e-6)
        turns.append(turn)
    assert np.ptp(turns) > 0.1


def test_a_path_is_centred_and_only_a_long_one_made_smaller():
    clip = np.zeros((101, 17, 3), np.float32)
    clip[:, :, 1] = np.linspace(3, 4, 101)[:, None]
    clip[:, 5, 0] = 0.3
    near = place(clip, turn=0.0)
    np.testing.assert_allclose(near[:, 0, 1], np.linspace(-0.5, 0.5, 101), atol=1e-6)
    np.testing.assert_allclose(near[:, 5] - near[:, 0], clip[:, 5] - clip[:, 0], atol=1e-6)
    clip[:, :, 1] = np.linspace(3, 13, 101)[:, None]
    far = place(clip, turn=np.pi / 2)
    np.testing.assert_allclose(far[:, 0, 0], np.linspace(RADIUS, -RADIUS, 101), atol=1e-6)
    np.testing.assert_allclose(far[:, 5, 1] - far[:, 0, 1], 0.3, atol=1e-6)


@pytest.mark.parametrize("subject", ["S1", "S5", "S6", "S7", "S8", "S9", "S11"])
def test_everybody_is_in_front_of_the_cameras_and_in_the_image(subject):
    walk = motion.generate(4, frames=200, fps=FPS, action="Jogging")
    walk[..., 1] += np.linspace(0, 10, 200, dtype=np.float32)[:, None]
    poses = film(
        {"A": {f"Jogging {i}": walk for i in range(4)}},
        cameras_of={"A": subject},
        fps=FPS,
        name="films",
        source="formulas",
        detector=None,
    )
    inside = []
    for recording in poses.recordings:
        assert recording.positions is not None
        for name, pixels in recording.views.items():
            camera = poses.cameras["A"][name]
            seen = cameras.world_to_camera(recording.positions, *cameras.place(camera))
            assert np.asarray(seen)[..., 2].min() > 1.5
            size = np.array([camera.width, camera.height])
            inside.append(((pixels > 0) & (pixels < size)).all(-1).mean())
    assert np.mean(inside) > 0.99


def test_errors_have_the_deviations_of_the_detector(still):
    error, _ = errors(still, pixels=2.0, middle=1.5, end=3.0, spread=0.0, outliers=0.0, memory=0.1)
    for joints, expected in ((TRUNK, 2.0), (MIDDLE, 3.0), (END, 6.0)):
        assert error[:, :, joints].std() == pytest.approx(expected, rel=0.03)
        assert abs(error[:, :, joints].mean()) < 0.1 * expected
    # Joints, cameras, x and y are independent.
    assert abs(np.corrcoef(error[0, :, 0, 0], error[0, :, 0, 1])[0, 1]) < 0.15
    assert abs(np.corrcoef(error[0, :, 0, 0], error[1, :, 0, 0])[0, 1]) < 0.15
    assert abs(np.corrcoef(error[0, :, 0, 0], error[0, :, 1, 0])[0, 1]) < 0.15


@pytest.mark.parametrize("slow", [0.0, 0.5, 1.0])
def test_part_of_the_error_changes_slowly(still, slow):
    error, _ = errors(still, spread=0.0, outliers=0.0, slow=slow, memory=0.1)
    error = error / error.std(axis=(0, 1, 3), keepdims=True)
    for frames in (1, 5):
        kept = (error[:, frames:] * error[:, :-frames]).mean()
        assert kept == pytest.approx(slow * np.exp(-frames / 5), abs=0.03)


def test_the_rate_does_not_change_how_long_errors_last(still):
    half = film(
        still,
        cameras_of={"A": "S1"},
        fps=FPS / 2,
        name="films",
        source="formulas",
        detector=Detector(slow=1.0, spread=0.0, outliers=0.0, memory=0.2),
    )
    exact = filmed(still, detector=None).recordings[0].views
    error = np.stack([v[..., :2] - exact[c] for c, v in half.recordings[0].views.items()])
    error = error / error.std(axis=(0, 1, 3), keepdims=True)
    assert (error[:, 5:] * error[:, :-5]).mean() == pytest.approx(np.exp(-1), abs=0.03)


def test_outliers_are_rare_far_off_and_last_some_frames(still):
    error, confidence = errors(
        still, pixels=0.1, outliers=0.02, outlier_pixels=100.0, outlier_seconds=0.1, spread=0.0
    )
    off = np.linalg.norm(error, axis=-1) > 5
    assert off.mean() == pytest.approx(0.02, rel=0.1)
    assert error[off].std() == pytest.approx(100, rel=0.1)
    # Five frames at 50 Hz, and a little more where one follows another.
    begins = (off[:, 1:] & ~off[:, :-1]).sum()
    assert 4.5 < off.sum() / begins < 6
    assert confidence[off].max() < confidence[~off].min()


def test_confidence_tells_how_large_errors_are_and_not_what_they_are(still):
    error, confidence = errors(still, doubt=20.0)
    assert 0 < confidence.min() < confidence.max() <= 1
    deviation = -20 * np.log(confidence)
    # Whatever the confidence, errors have the deviation that it stands for.
    for low, high in ((0.0, 0.5), (0.5, 0.8), (0.8, 0.9), (0.9, 1.0)):
        chosen = (confidence > low) & (confidence < high)
        unit = error[chosen] / deviation[chosen][:, None]
        assert chosen.sum() > 500
        assert unit.std() == pytest.approx(1, rel=0.1)
    assert confidence[:, :, TRUNK].mean() > confidence[:, :, END].mean() + 0.1
    # People about 400 pixels tall, as the class says.
    assert 4 < np.linalg.norm(error, axis=-1).mean() < 7


def test_a_seed_decides_and_other_clips_do_not_matter(clips):
    def views(poses, i):
        return np.stack(list(poses.recordings[i].views.values()))

    first = filmed(clips, detector=Detector())
    again = filmed(clips, detector=Detector())
    for i in range(3):
        np.testing.assert_array_equal(views(first, i), views(again, i))
        np.testing.assert_array_equal(first.recordings[i].positions, again.recordings[i].positions)
    alone = filmed({"B": {"Squatting 1": clips["B"]["Squatting 1"]}}, detector=Detector())
    np.testing.assert_array_equal(views(alone, 0), views(first, 2))
    other = filmed(clips, detector=Detector(), seed=1)
    assert np.abs(views(other, 0) - views(first, 0)).max() > 1
    # A clip under another name has other errors.
    renamed = filmed({"B": {"Squatting 2": clips["B"]["Squatting 1"]}}, detector=Detector())
    assert np.abs(views(renamed, 0) - views(first, 2)).max() > 1


def test_the_positions_do_not_depend_on_the_detector(clips):
    one, other = filmed(clips, detector=None), filmed(clips, detector=Detector())
    for a, b in zip(one.recordings, other.recordings, strict=True):
        np.testing.assert_array_equal(a.positions, b.positions)


def test_bad_input_is_named(clips):
    with pytest.raises(UserError, match="whose cameras see C"):
        filmed({"C": clips["A"]}, detector=None)
    with pytest.raises(UserError, match=r"A 'Walking 1' is \[5, 16, 3\]"):
        filmed({"A": {"Walking 1": np.zeros((5, 16, 3), np.float32)}}, detector=None)
    with pytest.raises(UserError, match="NaN"):
        filmed({"A": {"Walking 1": np.full((5, 17, 3), np.nan, np.float32)}}, detector=None)
    with pytest.raises(UserError, match="pixels must not be negative"):
        Detector(pixels=-1.0)
    with pytest.raises(UserError, match="slow is a share"):
        Detector(slow=1.5)
    with pytest.raises(UserError, match="doubt must be positive"):
        Detector(doubt=0.0)
