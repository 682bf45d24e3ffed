"""Human motion from formulas: an articulated body whose joint angles are smooth functions of time.

No recording is needed, so tests and the quick start have motion wherever they run. The body has
the Human3.6M joints and bones of constant length; it walks, jogs, turns on the spot, squats,
reaches and waves, or blends these. The gait curves are coarse (harmonics of the step phase), which
is enough to learn from and not a model of how people move: figures measured on it say nothing
about figures on recordings.

Angles in radians; the body's own axes are x to its right, y forward, z up.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np

from pose_jax.skeletons import H36M_17
from train_jax.errors import UserError

# Metres from the parent, of a body of 1.7 m that stands with hanging arms; order of H36M_17.
_OFFSETS = np.array(
    [
        [0.0, 0.0, 0.0],  # pelvis
        [0.132, 0.0, 0.0],  # right hip
        [0.0, 0.0, -0.44],
        [0.0, 0.0, -0.44],
        [-0.132, 0.0, 0.0],  # left hip
        [0.0, 0.0, -0.44],
        [0.0, 0.0, -0.44],
        [0.0, -0.01, 0.235],  # spine
        [0.0, 0.0, 0.255],  # thorax
        [0.0, 0.04, 0.11],  # neck
        [0.0, -0.02, 0.115],  # head
        [-0.15, 0.0, -0.02],  # left shoulder
        [0.0, 0.0, -0.28],
        [0.0, 0.0, -0.25],
        [0.15, 0.0, -0.02],  # right shoulder
        [0.0, 0.0, -0.28],
        [0.0, 0.0, -0.25],
    ]
)
_ANKLE_HEIGHT = 0.08
_LEG = 0.88
_ROOM = 0.8  # metres around the middle in which people walk as they like

# The channels of a motion: angles, then the two rates that move the body over the floor.
_LIMBS = ("hip_flex", "hip_out", "hip_turn", "knee", "arm_flex", "arm_out", "arm_turn", "elbow")
_CHANNELS = (
    *("lean", "tilt", "bend", "side", "twist", "nod", "look"),
    *(f"{side}_{name}" for side in ("right", "left") for name in _LIMBS),
    *("speed", "turn"),  # metres and radians per second
)
_INDEX = MappingProxyType({name: i for i, name in enumerate(_CHANNELS)})
_Curves = dict[str, np.ndarray]


def generate(seed: int, *, frames: int, fps: float, action: str | None = None) -> np.ndarray:
    """One clip of one person.

    A longer clip of the same seed begins as a shorter one, and another frame rate samples the same
    motion (up to the integration of the path over the floor).

    Args:
        seed: fixes person and motion.
        frames: length, at least 1.
        fps: frames per second.
        action: one of `ACTIONS`; None blends all of them, changing every few seconds.

    Returns:
        Joint positions, float32 (frames, 17, 3), in metres, z up, the floor at 0, the first pelvis
        above the origin.

    Raises:
        UserError: no frames, or an unknown action.
    """
    if frames < 1 or fps <= 0:
        raise UserError(f"A clip of {frames} frames at {fps} fps cannot be made; ask for more.")
    if action is not None and action not in ACTIONS:
        raise UserError(f"Unknown action {action!r}; there are {', '.join(ACTIONS)}.")
    body, idle, mixture, *streams = (
        np.random.default_rng(s) for s in np.random.SeedSequence(seed).spawn(3 + len(ACTIONS))
    )
    time = np.arange(frames) / fps
    size = body.uniform(0.92, 1.08)
    proportions = np.exp(body.normal(0, 0.03, size=17))
    proportions[[4, 5, 6, 11, 12, 13]] = proportions[[1, 2, 3, 14, 15, 16]]
    offsets = _OFFSETS * (size * proportions)[:, None]

    channels = _idle(idle, time)
    if action is None:
        weights = _blend(mixture, time, len(ACTIONS))
        for rng, weight, make in zip(streams, weights, ACTIONS.values(), strict=True):
            _add(channels, make(rng, time), weight)
    else:
        chosen = list(ACTIONS).index(action)
        _add(channels, ACTIONS[action](streams[chosen], time), np.ones(frames))
    heading = body.uniform(-np.pi, np.pi)
    return _place(channels, offsets, fps=fps, heading=heading).astype(np.float32)


def clips(seed: int, *, per_action: int, frames: int, fps: float) -> dict[str, np.ndarray]:
    """Clips of every action and of their mixture.

    Args:
        seed: clips of different seeds have nothing in common.
        per_action: how many of each.
        frames: length of each.
        fps: frames per second.

    Returns:
        "ACTION NUMBER" ("Walking 0", ..., "Mixed 0", ...) to float32 (frames, 17, 3), in metres.
    """
    names: list[str | None] = [*ACTIONS, None]
    seeds = np.random.SeedSequence(seed).generate_state(len(names) * per_action)
    return {
        f"{name or 'Mixed'} {i}": generate(
            int(seeds[n * per_action + i]), frames=frames, fps=fps, action=name
        )
        for n, name in enumerate(names)
        for i in range(per_action)
    }


def _add(channels: np.ndarray, curves: _Curves, weight: np.ndarray) -> None:
    for name, curve in curves.items():
        channels[_INDEX[name]] += weight * curve


def _walking(rng: np.random.Generator, time: np.ndarray) -> _Curves:
    return _gait(rng, time, cadence=rng.uniform(0.75, 1.0), swing=rng.uniform(0.32, 0.45), lift=1.0)


def _jogging(rng: np.random.Generator, time: np.ndarray) -> _Curves:
    return _gait(rng, time, cadence=rng.uniform(1.1, 1.3), swing=rng.uniform(0.38, 0.48), lift=1.4)


def _gait(
    rng: np.random.Generator, time: np.ndarray, *, cadence: float, swing: float, lift: float
) -> _Curves:
    """Steps along a winding path; ``cadence`` counts double steps per second."""
    phase = 2 * np.pi * cadence * time + rng.uniform(0, 2 * np.pi) + _wander(rng, time, 0.3)
    arms = rng.uniform(0.5, 1.2) * swing
    # The foot on the floor goes back as fast as the body goes forward.
    speed = 4 * _LEG * np.sin(swing) * cadence
    circle = rng.choice([-1.0, 1.0]) * speed / rng.uniform(1.0, 1.8)
    curves = {
        "lean": np.full_like(time, 0.06 * lift),
        "tilt": 0.04 * np.sin(phase),
        "twist": 0.12 * np.sin(phase),
        "speed": speed + np.zeros_like(time),
        "turn": circle + _wander(rng, time, 0.2),
    }
    for side, shift in (("right", 0.0), ("left", np.pi)):
        angle = phase + shift
        curves[f"{side}_hip_flex"] = 0.1 * lift + swing * np.sin(angle)
        # Bent most while the leg swings forward, slightly as it takes the weight.
        bend = np.exp(1.3 * (np.cos(angle) - 1))
        curves[f"{side}_knee"] = 0.15 * lift + 0.85 * lift * bend + 0.1 * np.sin(angle) ** 2
        curves[f"{side}_arm_flex"] = -arms * np.sin(angle)
        curves[f"{side}_elbow"] = 0.35 * lift**2 - 0.5 * arms * np.sin(angle)
    return curves


def _turning(rng: np.random.Generator, time: np.ndarray) -> _Curves:
    """Small steps on the spot, to one side and the other, and looks over the shoulder."""
    phase = 2 * np.pi * rng.uniform(0.7, 1.0) * time + rng.uniform(0, 2 * np.pi)
    turn = _poses(rng, time, [-1.6], [1.6])[0]
    curves = {"turn": turn, "twist": 0.25 * turn, "look": 0.3 * turn}
    for side, shift in (("right", 0.0), ("left", np.pi)):
        step = np.exp(2 * (np.cos(phase + shift) - 1))
        curves[f"{side}_hip_flex"] = 0.35 * step
        curves[f"{side}_knee"] = 0.7 * step
    return curves


def _squatting(rng: np.random.Generator, time: np.ndarray) -> _Curves:
    """Knee bends and bows of varying depth, arms forward for balance."""
    depth, bow = _poses(rng, time, [0.0, -0.3], [1.0, 0.7])
    bow = np.maximum(bow, 0) ** 2
    curves = {"lean": 0.7 * depth + 0.5 * bow, "bend": 0.3 * depth + 0.9 * bow}
    for side in ("right", "left"):
        # The pelvis leans too, and the thigh starts from it.
        curves[f"{side}_hip_flex"] = 1.75 * depth + 0.5 * bow
        curves[f"{side}_knee"] = 2.0 * depth
        curves[f"{side}_hip_out"] = 0.25 * depth
        curves[f"{side}_arm_flex"] = 1.3 * depth + 1.2 * bow
    return curves


def _reaching(rng: np.random.Generator, time: np.ndarray) -> _Curves:
    """Both hands move from one place within reach to another, and the trunk follows."""
    names = ("arm_flex", "arm_out", "arm_turn", "elbow")
    low, high = [-0.5, 0.0, -0.6, 0.1], [2.6, 1.1, 0.6, 1.9]
    curves: _Curves = {}
    for side in ("right", "left"):
        moved = _poses(rng, time, low, high)
        curves |= {f"{side}_{name}": curve for name, curve in zip(names, moved, strict=True)}
    trunk = _poses(rng, time, [0.0, -0.2, -0.5, -0.3, -0.4], [0.5, 0.2, 0.5, 0.3, 0.4])
    curves |= dict(zip(("bend", "side", "twist", "nod", "look"), trunk, strict=True))
    return curves


def _waving(rng: np.random.Generator, time: np.ndarray) -> _Curves:
    """A raised hand swings to and fro; the other changes place now and then."""
    side, other = rng.permutation(["right", "left"])
    raised, resting = _poses(rng, time, [0.0, 0.0], [1.0, 1.0])
    swing = np.sin(2 * np.pi * rng.uniform(1.0, 1.8) * time + rng.uniform(0, 2 * np.pi))
    return {
        f"{side}_arm_out": 0.9 + 0.7 * raised,
        f"{side}_arm_flex": 0.4 * raised,
        f"{side}_elbow": 1.3 + 0.45 * swing,
        f"{side}_arm_turn": 1.2 + 0.2 * swing,
        f"{other}_elbow": 1.4 * resting,
        f"{other}_arm_flex": 0.3 * resting,
        "look": 0.4 * (raised - 0.5),
    }


ACTIONS: Mapping[str, Callable[[np.random.Generator, np.ndarray], _Curves]] = MappingProxyType(
    {
        "Walking": _walking,
        "Jogging": _jogging,
        "Turning": _turning,
        "Squatting": _squatting,
        "Reaching": _reaching,
        "Waving": _waving,
    }
)
"""Every named action, with the function that makes its curves."""


def _idle(rng: np.random.Generator, time: np.ndarray) -> np.ndarray:
    """Standing is never still: every angle wanders a little, about a relaxed posture."""
    channels = np.stack([_wander(rng, time, 0.04) for _ in _CHANNELS])
    channels[_INDEX["speed"]] = channels[_INDEX["turn"]] = 0
    stance = {"hip_out": (0.02, 0.12), "knee": (0.04, 0.1), "arm_out": (0.05, 0.2)}
    for name, (low, high) in stance.items():
        for side in ("right", "left"):
            channels[_INDEX[f"{side}_{name}"]] += rng.uniform(low, high)
    return channels


def _wander(rng: np.random.Generator, time: np.ndarray, size: float) -> np.ndarray:
    """A smooth random curve of standard deviation ``size``, slower than 0.5 Hz."""
    rates = 2 * np.pi * rng.uniform(0.05, 0.5, size=6)
    phases = rng.uniform(0, 2 * np.pi, size=6)
    return size * np.sqrt(2 / 6) * np.sin(rates[:, None] * time + phases[:, None]).sum(axis=0)


def _poses(
    rng: np.random.Generator, time: np.ndarray, low: list[float], high: list[float]
) -> np.ndarray:
    """(channels, frames): random poses, with minimum-jerk moves of 0.5 to 1.4 s between them."""
    # How many numbers are drawn depends on the clip's length; what is drawn afterwards must not.
    (rng,) = rng.spawn(1)
    drawn = np.empty((0, 1 + len(low)))
    while drawn[:, 0].sum() <= time[-1] + 1:
        drawn = np.concatenate([drawn, rng.uniform(size=(16, 1 + len(low)))])
        drawn[-16:, 0] = 0.5 + 0.9 * drawn[-16:, 0]
    ends = np.cumsum(drawn[:, 0])
    poses = np.asarray(low) + drawn[:, 1:] * (np.asarray(high) - np.asarray(low))
    move = np.searchsorted(ends, time, side="right")
    left = np.clip((ends[move] - time) / drawn[move, 0], 0, 1)
    eased = _ease(1 - left)[:, None]
    start = poses[np.maximum(move - 1, 0)]
    return (start + eased * (poses[move] - start)).T


def _ease(x: np.ndarray) -> np.ndarray:
    """From 0 to 1 with vanishing speed and acceleration at both ends."""
    return x**3 * (10 - 15 * x + 6 * x**2)


def _blend(rng: np.random.Generator, time: np.ndarray, actions: int) -> np.ndarray:
    """(actions, frames): shares that sum to 1; one or two actions rule for some seconds."""
    # Slower than single moves by a factor of four.
    wishes = _poses(rng, time / 4, [0.0] * actions, [1.0] * actions) ** 4 + 1e-3
    return wishes / wishes.sum(axis=0)


def _place(channels: np.ndarray, offsets: np.ndarray, *, fps: float, heading: float) -> np.ndarray:
    """Forward kinematics, (T, 17, 3): limbs from the angles, the path from the two rates."""
    angle = dict(zip(_CHANNELS, channels, strict=True))
    path, facing = _walk(angle["speed"], angle["turn"], fps=fps, heading=heading)
    rotations = _joint_rotations(angle, facing)
    # From the root outwards: a joint is moved by the rotations of all above it.
    frames = len(facing)
    turned = [rotations[0]]
    positions = np.zeros((frames, 17, 3))
    for joint in range(1, 17):
        parent = _PARENTS[joint]
        positions[:, joint] = positions[:, parent] + turned[parent] @ offsets[joint]
        own = rotations.get(joint)
        turned.append(turned[parent] if own is None else turned[parent] @ own)
    positions[:, :, :2] += path[:, None]
    # The lower foot is on the floor; softly, since the support changes from foot to foot.
    softness = 0.02
    feet = positions[:, [3, 6], 2]
    lowest = -softness * np.log(np.exp(-(feet - feet.min(axis=1, keepdims=True)) / softness).sum(1))
    positions[:, :, 2] += (_ANKLE_HEIGHT - feet.min(axis=1) - lowest)[:, None]
    return positions


_PARENTS = H36M_17.parents or ()


def _walk(
    speed: np.ndarray, turn: np.ndarray, *, fps: float, heading: float
) -> tuple[np.ndarray, np.ndarray]:
    """The path (T, 2) and the direction faced (T,): steered back when it leads out of the room."""
    path, facing = np.zeros((len(speed), 2)), np.full(len(speed), heading)
    x = y = 0.0
    for frame in range(1, len(speed)):
        step = (speed[frame - 1] + speed[frame]) / (2 * fps)
        outside = _ease(np.clip(np.hypot(x, y) - _ROOM, 0, 1))
        # The sine of the angle from straight ahead to the middle of the room.
        aside = (x * np.cos(heading) + y * np.sin(heading)) / max(np.hypot(x, y), 1e-9)
        curve = (turn[frame - 1] + turn[frame]) / (2 * fps) + 2.0 * step * outside * aside
        x -= np.sin(heading + curve / 2) * step
        y += np.cos(heading + curve / 2) * step
        heading += curve
        path[frame], facing[frame] = (x, y), heading
    return path, facing


def _joint_rotations(angle: Mapping[str, np.ndarray], facing: np.ndarray) -> dict[int, np.ndarray]:
    """(T, 3, 3) of every joint that turns, relative to its parent; the pelvis in the world."""
    trunk = (
        _about("z", angle["twist"] / 2)
        @ _about("y", angle["side"] / 2)
        @ _about("x", -angle["bend"] / 2)
    )
    rotations = {
        0: _about("z", facing) @ _about("x", -angle["lean"]) @ _about("y", angle["tilt"]),
        7: trunk,
        8: trunk,
        9: _about("z", angle["look"]) @ _about("x", -angle["nod"]),
    }
    # Outwards is to opposite sides.
    for side, hip, shoulder, sign in (("right", 1, 14, 1.0), ("left", 4, 11, -1.0)):
        for joint, name in ((hip, "hip"), (shoulder, "arm")):
            rotations[joint] = (
                _about("x", angle[f"{side}_{name}_flex"])
                @ _about("y", -sign * angle[f"{side}_{name}_out"])
                @ _about("z", sign * angle[f"{side}_{name}_turn"])
            )
        rotations[hip + 1] = _about("x", -angle[f"{side}_knee"])
        rotations[shoulder + 1] = _about("x", angle[f"{side}_elbow"])
    return rotations


def _about(axis: str, angle: np.ndarray) -> np.ndarray:
    """Rotation matrices (T, 3, 3) about one axis, right-handed."""
    first, second = {"x": (1, 2), "y": (2, 0), "z": (0, 1)}[axis]
    matrices = np.tile(np.eye(3), (len(angle), 1, 1))
    matrices[:, first, first] = matrices[:, second, second] = np.cos(angle)
    matrices[:, second, first] = np.sin(angle)
    matrices[:, first, second] = -matrices[:, second, first]
    return matrices
