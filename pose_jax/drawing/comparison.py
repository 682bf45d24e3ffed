"""Predicted people beside measured ones: who is who, and how far off every joint is."""

import dataclasses
from typing import Literal

import numpy as np

from pose_jax.motion import Person, Scene
from pose_jax.skeletons import Layout, joint_map
from train_jax.errors import UserError

#: "root": both poses are moved to have their root at one place first, as in protocol 1; "none":
#: they count where they stand.
Align = Literal["root", "none"]
ALIGNS: tuple[Align, ...] = ("root", "none")

MM = 1000.0


@dataclasses.dataclass(frozen=True)
class Compared:
    """A measured person as seen from a predicted one.

    Attributes:
        poses: float32 (frames, truth joints, 3), metres, moved to the prediction where aligned by
            the root; NaN where not measured.
        errors: float32 (frames, predicted joints), mm; NaN where the truth has no such joint.
    """

    poses: np.ndarray
    errors: np.ndarray


def compare(
    scene: Scene, truth: Scene | None, align: Align = "root"
) -> tuple[Compared | None, ...]:
    """What was measured of every predicted person; None of those without.

    People are paired by name where the names are the same, else by their order.

    Raises:
        UserError: the layouts share no joint.
    """
    if truth is None:
        return (None,) * len(scene.people)
    shared = joint_map(scene.layout, truth.layout)
    if not shared:
        raise UserError(
            f"The truth's layout {truth.layout.name} shares no joint with {scene.layout.name}; "
            "name a truth of the same body."
        )
    by_name = {person.name: person for person in truth.people}
    named = any(person.name in by_name for person in scene.people)
    result: list[Compared | None] = []
    for i, person in enumerate(scene.people):
        other = by_name.get(person.name) if named else (truth.people[i : i + 1] or (None,))[0]
        result.append(
            None if other is None else _compare(scene, person, truth, other, shared, align)
        )
    return tuple(result)


def _compare(
    scene: Scene,
    person: Person,
    truth: Scene,
    other: Person,
    shared: dict[int, int],
    align: Align,
) -> Compared:
    frames = len(person.poses)
    times = np.arange(frames) / scene.frames_per_second
    measured = resample(other.poses, truth.frames_per_second, times)
    if align == "root":
        move = root(person.poses, scene.layout) - root(measured, truth.layout)
        measured = measured + move[:, None]
    errors = np.full(person.poses.shape[:2], np.nan, np.float32)
    mine, theirs = list(shared), list(shared.values())
    errors[:, mine] = MM * np.linalg.norm(person.poses[:, mine] - measured[:, theirs], axis=-1)
    return Compared(measured.astype(np.float32), errors)


def root(poses: np.ndarray, layout: Layout) -> np.ndarray:
    """(frames, 3): the pelvis, or the middle of the hips where a layout has none.

    Raises:
        UserError: it has no hips either.
    """
    if "pelvis" in layout.joints:
        return poses[:, layout.joints.index("pelvis")]
    if "left_hip" in layout.joints and "right_hip" in layout.joints:
        hips = [layout.joints.index(f"{side}_hip") for side in ("left", "right")]
        return poses[:, hips].mean(axis=1)
    raise UserError(f"Layout {layout.name} has no pelvis and no hips; compare with align none.")


def resample(values: np.ndarray, rate: float, times: np.ndarray) -> np.ndarray:
    """Values (frames, ...) of ``rate`` per second at other times, seconds; NaN past their end."""
    at = np.asarray(times) * rate
    nearest = np.rint(at)
    # Rates that only differ in rounding, such as 29.97 and 30000/1001, need no mixing.
    at = np.where(np.abs(at - nearest) < 0.02, nearest, at)
    low = np.floor(at).astype(int)
    share = (at - low).astype(np.float32).reshape(-1, *[1] * (values.ndim - 1))
    known = low < len(values)
    low = np.minimum(low, max(len(values) - 1, 0))
    high = np.minimum(low + 1, max(len(values) - 1, 0))
    mixed = np.where(share > 0, (1 - share) * values[low] + share * values[high], values[low])
    mixed[~known] = np.nan
    return mixed


def mean_error(errors: np.ndarray) -> np.ndarray:
    """(frames, joints) -> (frames,): the mean over the joints that are known, NaN where none is."""
    known = np.isfinite(errors)
    count = known.sum(axis=-1)
    total = np.where(known, errors, 0.0).sum(axis=-1)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)
