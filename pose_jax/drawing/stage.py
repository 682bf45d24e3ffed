"""Where a spectator looks during a scene: at its people, without haste."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from pose_jax.drawing.perspective import View, distance_for

#: Standard deviation of the Gaussian that the eye follows people with, seconds.
_CALM = 0.8


#: So many frames, evenly spread, tell how far people reach.
_LOOKED_AT = 200


@dataclasses.dataclass(frozen=True)
class Stage:
    """What is looked at.

    Attributes:
        centres: (frames, 3), its middle, metres.
        points: (n, 3), where joints are, of some frames, relative to the middle.
    """

    centres: np.ndarray
    points: np.ndarray

    @property
    def extent(self) -> float:
        """How far people reach to the sides of the middle, metres."""
        return float(np.percentile(np.abs(self.points[:, :2]).max(axis=1), 99))

    def distance(self, width: int, height: int, azimuth: float, elevation: float) -> float:
        """How far from the middle a spectator is who sees everybody, metres."""
        return distance_for(self.points, View(np.zeros(3), 1.0, azimuth, elevation, width, height))


def stage(poses: Sequence[np.ndarray], frames_per_second: float) -> Stage:
    """The stage of people, each (frames, joints, 3)."""
    frames = len(poses[0])
    low = np.full((frames, 2), np.inf)
    high = np.full((frames, 2), -np.inf)
    for one in poses:
        flat = one[..., :2]
        low = np.minimum(low, np.where(np.isfinite(flat), flat, np.inf).min(axis=1))
        high = np.maximum(high, np.where(np.isfinite(flat), flat, -np.inf).max(axis=1))
    known = np.isfinite(low[:, 0])
    if not known.any():
        middle = np.tile([0.0, 0.0, 1.0], (frames, 1))
        return Stage(middle, np.array([[-1.0, 0.0, -1.0], [1.0, 0.0, 1.0]]))
    at = np.arange(frames)
    sides = [
        _smooth(
            np.interp(at, at[known], (low[known, axis] + high[known, axis]) / 2),
            _CALM * frames_per_second,
        )
        for axis in range(2)
    ]
    some = np.unique(np.linspace(0, frames - 1, min(frames, _LOOKED_AT)).astype(int))
    heights = np.concatenate([one[some, :, 2].ravel() for one in poses])
    top = max(1.0, float(np.nanpercentile(heights, 99.5)))
    centres = np.column_stack([*sides, np.full(frames, top / 2)])
    seen = np.concatenate([(one[some] - centres[some, None]).reshape(-1, 3) for one in poses])
    seen = seen[np.isfinite(seen).all(axis=1)]
    feet = seen * (1, 1, 0) - (0, 0, top / 2)
    return Stage(centres, np.concatenate([seen, feet]))


def _smooth(values: np.ndarray, sigma: float) -> np.ndarray:
    radius = max(1, round(3 * sigma))
    kernel = np.exp(-0.5 * (np.arange(-radius, radius + 1) / max(sigma, 1e-3)) ** 2)
    padded = np.pad(values, radius, mode="edge")
    return np.convolve(padded, kernel / kernel.sum(), mode="valid")
