"""Keypoints over time: gaps, another frame rate, and smoothing."""

import dataclasses

import numpy as np

_GAP_SECONDS = 0.5


@dataclasses.dataclass(frozen=True, eq=False)
class Series:
    """One person's keypoints.

    Attributes:
        times: float64 (frames,), seconds, increasing.
        keypoints: float64 (frames, points, 3), pixels and confidence.
    """

    times: np.ndarray
    keypoints: np.ndarray


def resample(series: Series, grid: np.ndarray, *, gap: float = _GAP_SECONDS) -> np.ndarray:
    """Keypoints at other times, by linear interpolation.

    Args:
        series: what was seen.
        grid: float64 (t,), seconds.
        gap: seconds; what lies between two sightings further apart stays unseen.

    Returns:
        float64 (t, points, 3); NaN where the person was not seen. In a gap that was filled
        confidences fall to 0 in its middle.
    """
    times = series.times
    flat = series.keypoints.reshape(len(times), -1)
    result = np.stack([np.interp(grid, times, column) for column in flat.T], axis=1)
    result = result.reshape(len(grid), *series.keypoints.shape[1:])
    after = np.clip(np.searchsorted(times, grid), 1, max(len(times) - 1, 1))
    low = times[after - 1]
    high = times[np.minimum(after, len(times) - 1)]
    typical = float(np.median(np.diff(times))) if len(times) > 1 else 0.0
    distance = np.minimum(np.abs(grid - low), np.abs(high - grid))
    inside = (grid >= times[0] - typical / 2 - 1e-6) & (grid <= times[-1] + typical / 2 + 1e-6)
    unseen = (~inside) | ((high - low > gap) & (distance > typical / 2 + 1e-6))
    filled = (high - low > 1.5 * typical + 1e-6) & (distance > 1e-6)
    result[filled, :, 2] *= (1 - 2 * distance / np.maximum(high - low, 1e-9))[filled, None]
    result[unseen] = np.nan
    return result


def held(keypoints: np.ndarray) -> np.ndarray:
    """Keypoints (t, points, 3) without NaN: interpolated, and held at the ends."""
    there = np.isfinite(keypoints[:, 0, 0])
    at = np.arange(len(keypoints))
    flat = keypoints.reshape(len(keypoints), -1)
    columns = [np.interp(at, at[there], column[there]) for column in flat.T]
    return np.stack(columns, axis=1).reshape(keypoints.shape)


def one_euro(
    x: np.ndarray, rate: float, *, min_cutoff: float = 1.0, beta: float = 0.3, speed_cutoff=1.0
) -> np.ndarray:
    """The One Euro filter: a low-pass whose cutoff rises with the speed.

    G. Casiez, N. Roussel and D. Vogel, "1 Euro filter", CHI 2012. It begins anew behind NaN.

    Args:
        x: float (t, ...).
        rate: frames per second.
        min_cutoff: Hz, of what stands still; smaller is smoother.
        beta: by how many Hz the cutoff rises per unit of speed; larger lags less.
        speed_cutoff: Hz, of the speed's own filter.

    Returns:
        Likewise.
    """

    def share(cutoff: np.ndarray | float) -> np.ndarray | float:
        return 1 / (1 + rate / (2 * np.pi * cutoff))

    result = np.array(x, np.float64)
    value, speed = result[0].copy(), np.zeros_like(result[0])
    for i in range(1, len(result)):
        fresh = np.isnan(value)
        change = np.where(fresh, 0.0, (x[i] - value) * rate)
        speed = speed + share(speed_cutoff) * (np.nan_to_num(change) - speed)
        smooth = value + share(min_cutoff + beta * np.abs(speed)) * (x[i] - value)
        value = np.where(fresh, x[i], smooth)
        result[i] = value
    return result
