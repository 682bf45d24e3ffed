"""Who is who from frame to frame.

Every frame's people are assigned to those known so far so that the sum of all likenesses is
largest. A likeness is that of the keypoints (OKS, the similarity of COCO) and of the boxes
(intersection over union), with the place where constant velocity would have brought somebody.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from pose_jax.video.blazepose import overlap

_SIGMA = 0.16  # of every keypoint, as share of the person's size: twice COCO's of a hip
_MIN_LIKENESS = 0.15
_SAME = 0.6  # OKS of two detections that are of one person


@dataclasses.dataclass(frozen=True, eq=False)
class Sighting:
    """A person in a frame.

    Attributes:
        frame: number of the frame.
        keypoints: float (points, 3), pixels and confidence.
    """

    frame: int
    keypoints: np.ndarray


class Tracker:
    """Gives people numbers, from 0 on.

    Args:
        patience: frames after which somebody who is not seen any more is given up.
    """

    def __init__(self, patience: int) -> None:
        self._patience = patience
        self._known: dict[int, list[Sighting]] = {}
        self._next = 0

    def update(self, frame: int, people: Sequence[np.ndarray]) -> list[int]:
        """The numbers of the people of the next frame.

        Args:
            frame: its number, larger than all before.
            people: keypoints, float (points, 3) each.
        """
        for number, seen in list(self._known.items()):
            if frame - seen[-1].frame > self._patience:
                del self._known[number]
        numbers = list(self._known)
        likeness = np.zeros((len(people), len(numbers)))
        for j, number in enumerate(numbers):
            expected = _expected(self._known[number], frame)
            for i, keypoints in enumerate(people):
                likeness[i, j] = (oks(keypoints, expected) + _box_overlap(keypoints, expected)) / 2
        result = [-1] * len(people)
        for i, j in assignment(likeness):
            if likeness[i, j] >= _MIN_LIKENESS:
                result[i] = numbers[j]
        for i, keypoints in enumerate(people):
            if result[i] < 0:
                result[i], self._next = self._next, self._next + 1
            seen = self._known.setdefault(result[i], [])
            seen.append(Sighting(frame, keypoints))
            del seen[:-6]
        return result


def assignment(gain: np.ndarray) -> list[tuple[int, int]]:
    """Pairs (row, column) of the largest sum, min(rows, columns) of them, by the Hungarian method.

    Shortest augmenting paths with potentials; see R. Jonker and A. Volgenant, 1987.

    Args:
        gain: float (rows, columns).
    """
    if gain.size == 0:
        return []
    if gain.shape[0] > gain.shape[1]:
        return sorted((i, j) for j, i in assignment(gain.T))
    cost = gain.max() - np.asarray(gain, np.float64)
    rows, columns = cost.shape
    u, v = np.zeros(rows), np.zeros(columns + 1)
    owner = np.full(columns + 1, -1)  # of a column; the last one is where a path begins
    for row in range(rows):
        owner[columns], at = row, columns
        shortest = np.full(columns, np.inf)
        before = np.full(columns, columns)
        done = np.zeros(columns + 1, bool)
        while owner[at] >= 0:
            done[at] = True
            step = cost[owner[at]] - u[owner[at]] - v[:columns]
            better = ~done[:columns] & (step < shortest)
            shortest[better], before[better] = step[better], at
            following = int(np.argmin(np.where(done[:columns], np.inf, shortest)))
            delta = shortest[following]
            u[owner[done]] += delta
            v[done] -= delta
            shortest[~done[:columns]] -= delta
            at = following
        while at != columns:
            owner[at] = owner[before[at]]
            at = int(before[at])
    return sorted((int(owner[j]), j) for j in range(columns) if owner[j] >= 0)


def oks(one: np.ndarray, other: np.ndarray) -> float:
    """Object keypoint similarity of two poses, in [0, 1].

    Args:
        one: float (points, 3), pixels and confidence.
        other: likewise; its size counts.
    """
    weights = np.minimum(one[:, 2], other[:, 2])
    weights = np.where(np.isfinite(one[:, 0] + other[:, 0]), weights, 0) + 0.0
    if weights.sum() <= 0:
        return 0.0
    box = _box(other)
    size = max(float(np.hypot(*(box[2:] - box[:2]))) / 2, 1.0)
    squares = np.nan_to_num(((one[:, :2] - other[:, :2]) ** 2).sum(-1))
    return float(np.average(np.exp(-squares / (2 * (size * _SIGMA) ** 2)), weights=weights))


def distinct(people: Sequence[np.ndarray]) -> list[int]:
    """Indices of people (points, 3) without those that are another one again, less certain."""
    order = sorted(range(len(people)), key=lambda i: -float(np.nanmean(people[i][:, 2])))
    kept: list[int] = []
    for i in order:
        if all(oks(people[i], people[j]) < _SAME for j in kept):
            kept.append(i)
    return sorted(kept)


def _expected(seen: Sequence[Sighting], frame: int) -> np.ndarray:
    last, first = seen[-1], seen[0]
    result = last.keypoints.copy()
    if last.frame > first.frame:
        moved = np.nanmedian(last.keypoints[:, :2] - first.keypoints[:, :2], axis=0)
        ahead = min(frame - last.frame, 10) / (last.frame - first.frame)
        result[:, :2] += np.nan_to_num(moved) * ahead
    return result


def _box(keypoints: np.ndarray) -> np.ndarray:
    there = np.isfinite(keypoints[:, 0])
    certain = there & (keypoints[:, 2] > 0.3)
    chosen = keypoints[certain if certain.sum() >= 2 else there, :2]
    if not len(chosen):
        return np.zeros(4)
    return np.concatenate([chosen.min(0), chosen.max(0)])


def _box_overlap(one: np.ndarray, other: np.ndarray) -> float:
    return float(overlap(_box(one), _box(other)))
