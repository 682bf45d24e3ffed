"""HumanEva's cameras against geometry."""

import numpy as np
import pytest

from pose_jax import cameras, humaneva
from train_jax.errors import UserError


@pytest.mark.parametrize("subject", ["S1", "S2", "S3"])
def test_every_camera_looks_at_a_person_upright(subject):
    """A person at the world's origin is near the axis and metres away, the head above the feet."""
    person = np.float32([[0, 0, 0.1], [0, 0, 1.7]])
    for camera in humaneva.cameras(subject).values():
        np.testing.assert_allclose(np.linalg.norm(camera.orientation), 1, atol=1e-6)
        seen = cameras.world_to_camera(
            person, np.float32(camera.orientation), np.float32(camera.translation)
        )
        assert np.all((seen[:, 2] > 3) & (seen[:, 2] < 5))
        assert np.all(np.abs(seen[:, 0] / seen[:, 2]) < 0.2)
        np.testing.assert_allclose(seen[0, 1] - seen[1, 1], 1.6, atol=0.05)


def test_cameras_look_from_three_sides():
    axes = [
        cameras.camera_to_world(np.float32([0, 0, 1]), np.float32(c.orientation), np.zeros(3))
        for c in humaneva.cameras("S1").values()
    ]
    cosines = np.array(axes) @ np.array(axes).T
    assert cosines[0, 1] < 0.4
    assert cosines[0, 2] < 0.4
    assert cosines[1, 2] < -0.8


def test_parts_of_the_data_share_their_subject_s_cameras():
    expected = humaneva.cameras("S2")
    for part in ("Train/S2", "Validate/S2", "Unlabeled/S2", "Unlabeled/Validate/S2"):
        assert humaneva.cameras(part) == expected
    assert expected != humaneva.cameras("S1")
    for subject in humaneva.SUBJECTS_TRAIN + humaneva.SUBJECTS_TEST:
        assert list(humaneva.cameras(subject)) == ["C1", "C2", "C3"]


def test_no_lens_no_projection():
    for subject in ("S1", "Unlabeled/S4"):
        for camera in humaneva.cameras(subject).values():
            with pytest.raises(UserError, match="no intrinsics"):
                cameras.intrinsics(camera)
    assert humaneva.cameras("S4")["C1"].orientation is None


def test_an_unknown_subject_is_refused():
    with pytest.raises(UserError, match="'Train/S5'"):
        humaneva.cameras("Train/S5")
