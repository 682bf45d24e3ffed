"""Human3.6M's calibration against two publications of it, and against geometry."""

import numpy as np
import pytest

from pose_jax import cameras, h36m
from train_jax.errors import UserError

#: From world to camera, x = R X + t: t in metres as the data set's metadata have it, for each
#: camera. It depends on the orientation as much as on the camera's place.
T_OF_METADATA = {
    "S1": [
        (-0.3461, 0.5470, 5.4745),
        (0.2514, 0.4209, 5.5882),
        (0.4805, 0.2538, 5.7042),
        (0.0519, 0.3784, 4.4061),
    ],
    "S5": [
        (-0.2193, 0.5445, 5.5187),
        (0.1039, 0.3957, 5.7680),
        (0.5203, 0.2834, 5.5911),
        (-0.0791, 0.4256, 4.4545),
    ],
    "S6": [
        (-0.2395, 0.5458, 5.5239),
        (0.1690, 0.4097, 5.7143),
        (0.5220, 0.2863, 5.6433),
        (-0.0563, 0.4203, 4.4993),
    ],
    "S7": [
        (-0.3239, 0.5418, 5.5066),
        (0.1786, 0.4036, 5.6949),
        (0.4411, 0.2719, 5.6601),
        (0.0258, 0.4311, 4.4619),
    ],
    "S8": [
        (-0.0827, 0.5522, 5.5574),
        (-0.2091, 0.3751, 5.8183),
        (0.6231, 0.2909, 5.5344),
        (-0.1784, 0.4235, 4.4216),
    ],
    "S9": [
        (-0.3212, 0.4671, 5.5143),
        (0.0192, 0.4042, 5.7022),
        (0.4554, 0.2734, 5.6578),
        (-0.0693, 0.4222, 4.4579),
    ],
    "S11": [
        (-0.2347, 0.4643, 5.5367),
        (-0.0119, 0.4494, 5.5411),
        (0.7811, 0.2353, 5.5764),
        (-0.1551, 0.4222, 4.4354),
    ],
}
PLACED = h36m.SUBJECTS_TRAIN + h36m.SUBJECTS_TEST


@pytest.fixture(scope="module")
def original(request):
    path = request.path.parent.parent / "data" / "pose" / "camera.npz"
    with np.load(path, allow_pickle=False) as file:
        return dict(file)


def placed(camera):
    return np.float32(camera.orientation), np.float32(camera.translation)


def test_the_calibration_of_a_subject_equals_the_original(original):
    for i, camera in enumerate(h36m.cameras("S1").values()):
        orientation, translation = placed(camera)
        np.testing.assert_array_equal(orientation, original[f"orientation_{i}"])
        np.testing.assert_allclose(translation, original[f"translation_{i}"], rtol=2e-7)
        assert (camera.width, camera.height) == tuple(original[f"res_{i}"])
        params = cameras.intrinsics(camera)
        np.testing.assert_allclose(params, original["camera_params"][i], rtol=1e-6, atol=6e-8)


def test_lenses_equal_what_the_original_prints():
    expected = [
        [2.29009891, 2.28756237, 0.02508307, 0.02890298, -0.20709892, 0.24777518, -0.00307515],
        [2.29935122, 2.29518342, 0.01769722, 0.01612985, -0.19421363, 0.24040854, 0.00681998],
        [2.29828143, 2.29759789, 0.03963172, 0.00280535, -0.20833819, 0.25548801, -0.00246050],
        [2.29102278, 2.28954792, 0.02993643, 0.00176403, -0.19838409, 0.21832368, -0.00894781],
    ]
    tangential = [
        [-0.00097570, -0.00142447],
        [-0.00161903, -0.00274089],
        [0.00148439, -0.00076000],
        [-0.00058721, -0.00181336],
    ]
    params = np.stack([cameras.intrinsics(camera) for camera in h36m.CAMERAS])
    np.testing.assert_allclose(params[:, :7], expected, atol=2e-7)
    np.testing.assert_allclose(params[:, 7:], tangential, atol=6e-9)
    names = ["54138969", "55011271", "58860488", "60457274"]
    assert [camera.name for camera in h36m.CAMERAS] == names


@pytest.mark.parametrize("subject", PLACED)
def test_places_equal_the_metadata(subject):
    """The world's origin in camera space is the metadata's translation, to 0.1 mm."""
    for camera, expected in zip(
        h36m.cameras(subject).values(), T_OF_METADATA[subject], strict=True
    ):
        origin = cameras.world_to_camera(np.zeros(3, np.float32), *placed(camera))
        np.testing.assert_allclose(origin, expected, atol=6e-5)
        np.testing.assert_allclose(np.linalg.norm(camera.orientation), 1, atol=1e-7)


@pytest.mark.parametrize("subject", PLACED)
def test_every_camera_sees_a_person_upright(subject):
    """Feet at the world's origin are in the image, and below the head."""
    person = np.float32([[0, 0, 0.1], [0, 0, 1.7]])
    for camera in h36m.cameras(subject).values():
        screen = cameras.project(
            cameras.world_to_camera(person, *placed(camera)), cameras.intrinsics(camera)
        )
        pixels = cameras.to_pixels(screen, width=camera.width, height=camera.height)
        assert np.all((pixels > 0) & (pixels < 1000))
        assert pixels[0, 1] > pixels[1, 1] + 200


def test_cameras_stay_near_their_stands():
    """Between subjects they are moved by less than half a metre, and differ by metres."""
    places = np.array([[camera.translation for camera in h36m.cameras(s).values()] for s in PLACED])
    assert np.ptp(places, axis=0).max() < 0.5
    assert (
        np.linalg.norm(places[0, :, None] - places[0, None], axis=-1)[~np.eye(4, dtype=bool)].min()
        > 3
    )


def test_unlabelled_subjects_have_lenses_only():
    for subject in h36m.SUBJECTS_UNLABELLED:
        assert tuple(h36m.cameras(subject).values()) == h36m.CAMERAS
    assert all(camera.orientation is None for camera in h36m.CAMERAS)


def test_subjects_are_disjoint():
    everybody = PLACED + h36m.SUBJECTS_UNLABELLED
    assert len(set(everybody)) == 10
    assert set(h36m.EXTRINSICS) == set(PLACED)


def test_an_unknown_subject_is_refused():
    with pytest.raises(UserError, match=r"'S10'.*S1, S5, S6, S7, S8, S9, S11, S2, S3, S4"):
        h36m.cameras("S10")


def test_actions_are_first_words_not_beginnings():
    assert len(h36m.ACTIONS) == 15
    assert h36m.action_of("SittingDown 2") == "SittingDown"
    assert h36m.action_of("Walking 1") == "Walking"
    walking = [action for action in h36m.ACTIONS if action == h36m.action_of("Walking")]
    assert walking == ["Walking"]
    with pytest.raises(UserError, match="empty name"):
        h36m.action_of(" ")


@pytest.mark.parametrize(
    ("raw", "name"),
    [
        ("TakingPhoto", "Photo"),
        ("WalkingDog 1", "WalkDog 1"),
        ("Walking 1", "Walking 1"),
        ("WalkTogether", "WalkTogether"),
    ],
)
def test_recordings_have_the_names_of_the_literature(raw, name):
    assert h36m.recording_name(raw) == name
    assert h36m.action_of(name) in h36m.ACTIONS


def test_one_take_is_dropped():
    assert h36m.DROPPED == (("S11", "Directions"),)
