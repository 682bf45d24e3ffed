"""A camera that looks at a point from a direction, as a spectator would."""

import dataclasses

import numpy as np

#: Shares of a picture that people reach across.
_FILLED_ACROSS, _FILLED_DOWN = 0.9, 0.74


@dataclasses.dataclass(frozen=True)
class View:
    """Where from and how the world is seen.

    Attributes:
        target: (x, y, z) of what is in the middle, metres.
        distance: of the eye from it, metres.
        azimuth: where the eye stands around the target, degrees from the x axis towards y.
        elevation: how high above it, degrees.
        width: of the picture, pixels.
        height: of the picture.
        field: angle of view of the picture's shorter side, degrees.
    """

    target: np.ndarray
    distance: float
    azimuth: float
    elevation: float
    width: int
    height: int
    field: float = 32.0

    @property
    def focal(self) -> float:
        """Focal length in pixels."""
        return min(self.width, self.height) / 2 / np.tan(np.radians(self.field) / 2)

    @property
    def axes(self) -> np.ndarray:
        """Right, down and forward, as rows."""
        a, e = np.radians(self.azimuth), np.radians(self.elevation)
        forward = -np.array([np.cos(e) * np.cos(a), np.cos(e) * np.sin(a), np.sin(e)])
        right = np.array([-np.sin(a), np.cos(a), 0.0])
        return np.stack([right, np.cross(forward, right), forward])

    def see(self, points: np.ndarray) -> np.ndarray:
        """World (..., 3) -> right, down and forward of the eye, metres."""
        seen = (np.asarray(points, np.float64) - self.target) @ self.axes.T
        seen[..., 2] += self.distance
        return seen

    def place(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """World (..., 3) -> pixels (..., 2), and the distance (...) along the line of sight.

        Points at or behind the eye have no place: NaN.
        """
        seen = self.see(points)
        depth = np.where(seen[..., 2] > 0.05, seen[..., 2], np.nan)
        pixels = seen[..., :2] / depth[..., None] * self.focal
        middle = np.array([self.width / 2, self.height / 2])
        return pixels + middle, depth


def distance_for(points: np.ndarray, view: View) -> float:
    """How far from its target the eye must be to see nearly all of some points.

    Args:
        points: (n, 3), metres, relative to the target.
        view: whose distance is not looked at.

    Returns:
        Metres; at least 2.
    """
    right, down, forward = (points @ view.axes.T).T
    aside = np.abs(right) / (_FILLED_ACROSS * view.width / 2)
    above = np.abs(down) / (_FILLED_DOWN * view.height / 2)
    needed = np.maximum(aside, above) * view.focal - forward
    return max(2.0, float(np.percentile(needed, 99.0)))
