"""Motion capture seen through the cameras of Human3.6M, by a simulated detector of keypoints.

It turns free motion into data of the same kind as Human3.6M's: the same cameras, lenses and
joints, and keypoints that are as unsteady as a detector's. What is drawn depends on the seed and
on a clip's own names, not on the other clips.
"""

import dataclasses
import hashlib
from collections.abc import Mapping

import numpy as np

from pose_jax import h36m
from pose_jax.cameras import Camera
from pose_jax.data import framewise
from pose_jax.data.poses import PoseSet, Recording, check
from pose_jax.skeletons import H36M_17
from train_jax.errors import UserError

#: Metres around the middle of the cameras in which the pelvis stays. All four cameras of every
#: subject see a person there whole, from 2 m or more.
RADIUS = 1.5

_FACTORS = {"knee": "middle", "elbow": "middle", "ankle": "end", "wrist": "end"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Detector:
    """How far simulated keypoints are from the true ones, in pixels of x and of y.

    The error of a joint has a standard deviation that wanders (some frames are harder than others)
    and of which the confidence knows; the error itself the confidence does not know. Part of the
    error changes from frame to frame, part slowly, as that of a detector that misjudges a pose
    again in the next frame. Now and then a keypoint is far off for some frames. The defaults give
    a mean distance of about 6 pixels where a person is about 400 pixels tall; they are chosen, not
    fitted to a detector.

    Attributes:
        pixels: standard deviation for hips, shoulders, trunk and head.
        middle: factor on it for knees and elbows.
        end: factor on it for ankles and wrists.
        slow: share of the variance that changes slowly.
        memory: seconds after which a slow part has lost all but 1/e of itself.
        spread: standard deviation of the logarithm of the wandering standard deviation.
        outliers: share of keypoints that are far off.
        outlier_pixels: their standard deviation.
        outlier_seconds: how long one stays off.
        doubt: standard deviation at which the confidence is 1/e; it is exp(-deviation / doubt).

    Raises:
        UserError: a negative number, or a share above 1.
    """

    pixels: float = 3.0
    middle: float = 1.4
    end: float = 2.0
    slow: float = 0.5
    memory: float = 0.2
    spread: float = 0.4
    outliers: float = 0.005
    outlier_pixels: float = 40.0
    outlier_seconds: float = 0.05
    doubt: float = 20.0

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            if not getattr(self, field.name) >= 0:
                raise UserError(f"Detector: {field.name} must not be negative.")
        for name in ("slow", "outliers"):
            if getattr(self, name) > 1:
                raise UserError(f"Detector: {name} is a share; give a number from 0 to 1.")
        if not self.doubt:
            raise UserError("Detector: doubt must be positive.")


def film(
    clips: Mapping[str, Mapping[str, np.ndarray]],
    *,
    cameras_of: Mapping[str, str],
    fps: float,
    name: str,
    source: str,
    detector: Detector | None = Detector(),
    seed: int = 0,
) -> PoseSet:
    """Puts people before the cameras and detects their joints.

    See `place` for where a clip goes. The direction in which a clip is turned is drawn, so that
    people are seen from all sides.

    Args:
        clips: subject -> recording ("walking 3") -> joints of Human3.6M, float32 (T, 17, 3), metres
            in the world, z up.
        cameras_of: subject -> the subject of Human3.6M whose cameras see the clips.
        fps: frames per second.
        name: of the data set.
        source: where the motion comes from.
        detector: the errors; None gives exact keypoints, without confidence.
        seed: of directions and errors.

    Returns:
        Positions, and the keypoints of four cameras, float32 (T, 17, 3): pixels and confidence.

    Raises:
        UserError: a subject without cameras, or clips that are no poses of 17 joints.
    """
    lenses: dict[str, dict[str, Camera]] = {}
    recordings: list[Recording] = []
    for subject, actions in clips.items():
        if subject not in cameras_of:
            raise UserError(f"It is not said whose cameras see {subject}; add it to cameras_of.")
        lenses[subject] = h36m.cameras(cameras_of[subject])
        for action, clip in actions.items():
            if clip.ndim != 3 or clip.shape[1:] != (17, 3) or not len(clip):
                raise UserError(
                    f"{name}: recording {subject} {action!r} is {list(clip.shape)}, not "
                    "[frames, 17, 3]."
                )
            rng = _generator(seed, subject, action)
            positions = place(clip, turn=rng.uniform(0, 2 * np.pi))
            exact = np.stack(
                [framewise.pixels(positions, camera) for camera in lenses[subject].values()]
            )
            views = exact if detector is None else _detected(exact, detector, fps, rng)
            recordings.append(
                Recording(
                    subject, action, positions, dict(zip(lenses[subject], views, strict=True))
                )
            )
    poses = PoseSet(
        name=name,
        fps=fps,
        skeleton=H36M_17.name,
        keypoint_layout=H36M_17.name,
        source=source,
        cameras=lenses,
        recordings=tuple(recordings),
    )
    check(poses, name)
    return poses


def place(clip: np.ndarray, *, turn: float) -> np.ndarray:
    """A clip moved to the middle of the cameras and turned about the vertical.

    The middle of the pelvis's path over the floor comes to the origin. Where the path leads
    further than `RADIUS` from there, it is made smaller: poses and heights stay as they are, but
    a walk makes less way than its steps, as on a treadmill.

    Args:
        clip: float (T, J, 3), metres, z up, joint 0 the pelvis.
        turn: radians, counter-clockwise seen from above.

    Returns:
        float32 (T, J, 3).
    """
    clip = np.asarray(clip, np.float64)
    path = clip[:, :1, :2]
    around = path - (path.min(0) + path.max(0)) / 2
    reach = np.linalg.norm(around, axis=-1).max()
    floor = clip[..., :2] - path + around * min(1.0, RADIUS / max(reach, RADIUS))
    cos, sin = np.cos(turn), np.sin(turn)
    turned = floor @ np.array([[cos, sin], [-sin, cos]])
    return np.concatenate([turned, clip[..., 2:]], axis=-1).astype(np.float32)


def _generator(seed: int, *names: str) -> np.random.Generator:
    digest = hashlib.sha256("/".join(names).encode()).digest()
    return np.random.default_rng([seed, *digest])


def _detected(
    exact: np.ndarray, detector: Detector, fps: float, rng: np.random.Generator
) -> np.ndarray:
    """Keypoints with errors and confidences, float32 (cameras, T, J, 3)."""
    shape = exact.shape
    slow = _wandering(rng, (*shape[:3], 3), detector.memory * fps)
    deviation = _deviations(detector) * np.exp(detector.spread * slow[..., 2])
    fast = rng.standard_normal(shape)
    unit = np.sqrt(detector.slow) * slow[..., :2] + np.sqrt(1 - detector.slow) * fast
    off, astray = _outliers(rng, shape, detector, fps)
    error = deviation[..., None] * unit + off
    deviation = np.hypot(deviation, detector.outlier_pixels * astray)
    confidence = np.exp(-deviation / detector.doubt)
    return np.concatenate([exact + error, confidence[..., None]], axis=-1).astype(np.float32)


def _deviations(detector: Detector) -> np.ndarray:
    """Standard deviation of each joint in pixels, (J,)."""
    factors = []
    for joint in H36M_17.joints:
        kind = _FACTORS.get(joint.rpartition("_")[2])
        factors.append(getattr(detector, kind) if kind else 1.0)
    return detector.pixels * np.array(factors)


def _wandering(rng: np.random.Generator, shape: tuple[int, ...], memory: float) -> np.ndarray:
    """Standard normal numbers along axis 1 whose correlation falls by 1/e in ``memory`` frames."""
    kept = np.exp(-1 / memory) if memory else 0.0
    x = rng.standard_normal(shape)
    for t in range(1, shape[1]):
        x[:, t] = kept * x[:, t - 1] + np.sqrt(1 - kept**2) * x[:, t]
    return x


def _outliers(
    rng: np.random.Generator, shape: tuple[int, ...], detector: Detector, fps: float
) -> tuple[np.ndarray, np.ndarray]:
    """How far keypoints are off, (cameras, T, J, 2) pixels, and which, bool (cameras, T, J)."""
    length = max(1, round(detector.outlier_seconds * fps))
    # Starts that hit a joint already astray are lost, hence not simply outliers / length.
    begin = rng.random(shape[:3]) < 1 - (1 - detector.outliers) ** (1 / length)
    offset = detector.outlier_pixels * rng.standard_normal(shape)
    frame = np.arange(shape[1])[:, None]
    last = np.maximum.accumulate(np.where(begin, frame, -length), axis=1)
    astray = frame - last < length
    held = np.take_along_axis(offset, np.maximum(last, 0)[..., None], axis=1)
    return np.where(astray[..., None], held, 0.0), astray
