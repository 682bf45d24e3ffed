"""Who is who."""

import itertools

import numpy as np

from pose_jax.video.tracking import Tracker, assignment, distinct, oks

BODY = np.random.default_rng(0).uniform(0, 1, (17, 2)) * [60, 180]


def person(x: float, y: float = 100) -> np.ndarray:
    return np.concatenate([BODY + np.array([x, y]), np.full((17, 1), 0.9)], axis=1)


def test_the_assignment_is_the_best_of_all():
    rng = np.random.default_rng(1)
    for rows, columns in ((1, 1), (3, 3), (2, 5), (5, 2), (4, 6)):
        gain = rng.normal(size=(rows, columns))
        pairs = assignment(gain)
        assert len({i for i, _ in pairs}) == len({j for _, j in pairs}) == min(rows, columns)
        wide = gain if rows <= columns else gain.T
        orders = itertools.permutations(range(wide.shape[1]), wide.shape[0])
        best = max(sum(wide[i, j] for i, j in enumerate(order)) for order in orders)
        np.testing.assert_allclose(sum(gain[i, j] for i, j in pairs), best)
    assert assignment(np.zeros((0, 3))) == []


def test_people_who_cross_keep_their_numbers():
    tracker = Tracker(patience=45)
    for frame in range(60):
        left, right = person(100 + 10 * frame), person(700 - 10 * frame, y=110)
        # The detector tells them in another order in every second frame, and cannot tell them
        # apart while one hides the other.
        hidden = abs(700 - 100 - 20 * frame) < 40
        if hidden:
            assert len(tracker.update(frame, [left])) == 1
        elif frame % 2:
            assert tracker.update(frame, [right, left]) == [1, 0]
        else:
            assert tracker.update(frame, [left, right]) == [0, 1]


def test_somebody_who_comes_back_soon_is_known_and_later_is_new():
    tracker = Tracker(patience=10)
    assert tracker.update(0, [person(100)]) == [0]
    assert tracker.update(8, [person(104)]) == [0]
    assert tracker.update(30, [person(104)]) == [1]


def test_a_second_finding_of_the_same_person_is_left_out():
    sure, again, other = person(100), person(103), person(400)
    again[:, 2] = 0.5
    assert distinct([again, sure, other]) == [1, 2]


def test_the_similarity_of_keypoints_counts_where_both_are_certain():
    one = person(0)
    assert oks(one, one) == 1
    far = one.copy()
    far[3, :2] += 1000
    assert 0.9 < oks(far, one) < 0.95
    far[3, 2] = 0
    assert oks(far, one) == 1
