"""Motion from formulas: a rigid body that moves smoothly, upright, over the floor."""

import numpy as np
import pytest

from pose_jax.data import motion
from pose_jax.skeletons import H36M_17
from train_jax.errors import UserError

FPS = 50
NAMES = [*motion.ACTIONS, None]


def lengths(clip):
    return np.stack([np.linalg.norm(clip[:, c] - clip[:, p], axis=-1) for c, p in H36M_17.bones], 1)


@pytest.mark.parametrize("action", NAMES)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_person_of_constant_bones_on_the_floor(action, seed):
    clip = motion.generate(seed, frames=500, fps=FPS, action=action)
    assert clip.shape == (500, 17, 3)
    assert clip.dtype == np.float32
    bones = lengths(clip)
    np.testing.assert_allclose(bones, np.broadcast_to(bones[:1], bones.shape), atol=5e-6)
    assert bones.min() > 0.05
    assert bones.max() < 0.55
    # One foot is on the floor, and nothing is below it.
    feet = clip[:, [3, 6], 2].min(axis=1)
    np.testing.assert_allclose(feet, 0.087, atol=0.008)
    assert clip[..., 2].min() > 0
    assert clip[..., 2].max() < 2.4
    assert (clip[:, 10, 2] > clip[:, [3, 6], 2].max(axis=1)).all()
    np.testing.assert_allclose(clip[0, 0, :2], 0, atol=1e-6)


@pytest.mark.parametrize("action", NAMES)
def test_smooth_at_human_speeds(action):
    clip = motion.generate(5, frames=1000, fps=FPS, action=action)
    velocity = np.diff(clip, axis=0) * FPS
    acceleration = np.diff(velocity, axis=0) * FPS
    assert np.linalg.norm(velocity, axis=-1).max() < 7
    assert np.linalg.norm(acceleration, axis=-1).max() < 120
    # And it does move.
    assert np.linalg.norm(velocity, axis=-1).mean() > 0.1


@pytest.mark.parametrize("action", NAMES)
def test_it_stays_in_a_room(action):
    clip = motion.generate(3, frames=2000, fps=FPS, action=action)
    assert np.linalg.norm(clip[:, 0, :2], axis=-1).max() < 3


def test_walking_goes_where_the_body_faces():
    clip = motion.generate(7, frames=300, fps=FPS, action="Walking")
    right = clip[:, 1] - clip[:, 4]
    forward = np.cross([0.0, 0.0, 1.0], right)
    velocity = np.gradient(clip[:, 0], 1 / FPS, axis=0)
    forward /= np.linalg.norm(forward, axis=-1, keepdims=True)
    ahead = (velocity * forward).sum(axis=-1)
    assert 0.8 < ahead.mean() < 1.7
    # Knees bend backwards, elbows forwards.
    knee = clip[:, 2] - (clip[:, 1] + clip[:, 3]) / 2
    elbow = clip[:, 15] - (clip[:, 14] + clip[:, 16]) / 2
    assert (knee * forward).sum(axis=-1).min() > -0.005
    assert (elbow * forward).sum(axis=-1).max() < 0.005


def test_the_left_is_on_the_left():
    clip = motion.generate(2, frames=100, fps=FPS, action="Squatting")
    right = clip[:, 1] - clip[:, 4]
    for left_joint, right_joint in zip(H36M_17.left, H36M_17.right, strict=True):
        assert ((clip[:, right_joint] - clip[:, left_joint]) * right).sum(axis=-1).min() > 0


def test_actions_differ():
    clips = {name: motion.generate(1, frames=600, fps=FPS, action=name) for name in motion.ACTIONS}
    moved = {
        n: np.linalg.norm(np.diff(c[:, 0, :2], axis=0), axis=-1).sum() for n, c in clips.items()
    }
    assert min(moved["Walking"], moved["Jogging"]) > 8 > 2 > moved["Squatting"]
    assert np.ptp(clips["Squatting"][:, 0, 2]) > 0.2 > 0.1 > np.ptp(clips["Reaching"][:, 0, 2])
    hands = {name: clip[:, [13, 16], 2].max() for name, clip in clips.items()}
    assert min(hands["Reaching"], hands["Waving"]) > 1.2 > hands["Walking"]


def test_seeds_fix_motion():
    first = motion.generate(4, frames=50, fps=FPS)
    np.testing.assert_array_equal(first, motion.generate(4, frames=50, fps=FPS))
    assert np.abs(first - motion.generate(5, frames=50, fps=FPS)).max() > 0.05


@pytest.mark.parametrize("action", NAMES)
def test_longer_and_finer_clips_are_the_same_motion(action):
    short = motion.generate(6, frames=40, fps=FPS, action=action)
    long = motion.generate(6, frames=1700, fps=FPS, action=action)
    fine = motion.generate(6, frames=79, fps=2 * FPS, action=action)
    np.testing.assert_allclose(long[:40], short, atol=1e-6)
    np.testing.assert_allclose(fine[::2], short, atol=2e-3)


def test_a_single_frame():
    assert motion.generate(0, frames=1, fps=FPS).shape == (1, 17, 3)


def test_clips_of_every_action():
    made = motion.clips(0, per_action=2, frames=5, fps=FPS)
    assert list(made)[:3] == ["Walking 0", "Walking 1", "Jogging 0"]
    assert list(made)[-1] == "Mixed 1"
    assert len(made) == 2 * (len(motion.ACTIONS) + 1)
    assert np.abs(made["Walking 0"] - made["Walking 1"]).max() > 0.01
    other = motion.clips(1, per_action=2, frames=5, fps=FPS)
    assert np.abs(made["Walking 0"] - other["Walking 0"]).max() > 0.01


def test_what_cannot_be_made():
    with pytest.raises(UserError, match="Unknown action 'Flying'; there are Walking, Jogging"):
        motion.generate(0, frames=5, fps=FPS, action="Flying")
    with pytest.raises(UserError, match="0 frames at 50 fps cannot be made"):
        motion.generate(0, frames=0, fps=FPS)
