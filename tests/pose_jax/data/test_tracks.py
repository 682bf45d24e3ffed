"""Who is followed, and what stands where nothing was seen."""

import numpy as np
import pytest

from pose_jax.data.tracks import Person, fill, follow
from train_jax.errors import UserError


def person(x, score=1.0, number=None, confidence=0.9, joints=3):
    """All joints at (x, 2x), one pixel further for each."""
    place = np.arange(joints) + float(x)
    return Person(np.stack([place, 2 * place, np.full(joints, confidence)], axis=-1), score, number)


def test_the_most_certain_person_of_each_frame_is_taken():
    track = follow("v", [[person(1, 0.2), person(100, 0.8)], [person(2, 0.9), person(101, 0.3)]])
    np.testing.assert_array_equal(track.keypoints[:, 0, 0], [100, 2])
    assert track.keypoints.dtype == np.float32
    assert (track.filled, track.unseen) == (0, ())


def test_a_numbered_person_is_followed():
    frames = [
        [person(1, 0.2, 7), person(100, 0.8, 3)],
        [person(101, 0.9, 3)],
        [person(3, 0.1, 7)],
    ]
    track = follow("v", frames, person=7)
    np.testing.assert_array_equal(track.keypoints[:, 0, 0], [1, 2, 3])
    np.testing.assert_allclose(track.keypoints[:, 0, 2], [0.9, 0, 0.9])
    assert track.filled == 1
    with pytest.raises(UserError, match="there is no person 4; there are 3, 7"):
        follow("v", frames, person=4)
    with pytest.raises(UserError, match="nobody tracked them; leave out --person"):
        follow("v", [[person(1)]], person=4)


def test_frames_with_nobody_are_interpolated_per_coordinate():
    frames = {10: [person(0)], 11: [], 14: [person(4)]}
    track = follow("v", frames)
    np.testing.assert_allclose(track.keypoints[:, 0, 0], [0, 1, 2, 3, 4])
    np.testing.assert_allclose(track.keypoints[:, 2, 1], [4, 6, 8, 10, 12])
    np.testing.assert_allclose(track.keypoints[:, 1, 2], [0.9, 0, 0, 0, 0.9])
    assert track.filled == 3


def test_at_the_ends_the_nearest_pose_is_held():
    track = follow("v", [[], [person(5)], [person(6)], [], []])
    np.testing.assert_array_equal(track.keypoints[:, 0, 0], [5, 5, 6, 6, 6])
    np.testing.assert_allclose(track.keypoints[:, 0, 2], [0, 0.9, 0.9, 0, 0])


def test_a_joint_that_was_not_found_is_interpolated_alone():
    x = np.stack([person(i).joints for i in (0, 50, 2)])
    x[1, 1] = np.nan
    filled, unseen = fill(x)
    np.testing.assert_allclose(filled[1, 1], [2, 4, 0])
    np.testing.assert_allclose(filled[1, 0], [50, 100, 0.9])
    assert unseen == ()


def test_a_joint_that_is_never_seen_stands_in_the_middle_of_the_others():
    x = np.stack([person(i).joints for i in (0, 10)])
    x[:, 2] = np.nan
    filled, unseen = fill(x)
    assert unseen == (2,)
    np.testing.assert_allclose(filled[:, 2], [[0.5, 1, 0], [10.5, 21, 0]])


def test_confidences_are_cut_off_and_may_be_absent():
    filled, _ = fill(np.stack([person(1, confidence=1.7).joints, person(2, confidence=-1).joints]))
    np.testing.assert_array_equal(filled[:, 0, 2], [1, 0])
    filled, _ = fill(person(1).joints[None, :, :2])
    assert filled.shape == (1, 3, 2)


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        ([], "v holds no frames"),
        ([[], []], "no person was found in any of 2 frames"),
        ([[person(np.nan)]], "no person was found in any of 1 frames"),
        ([[person(1, joints=3)], [person(1, joints=4)]], "people have 3 and 4 joints"),
        ({0: [person(1)], 500: [person(1)]}, "is in 2 of 501 frames only"),
    ],
)
def test_what_cannot_be_followed(frames, message):
    with pytest.raises(UserError, match=message):
        follow("v", frames)
