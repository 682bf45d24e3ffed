"""Poses written as BVH."""

import numpy as np
import pytest

from pose_jax import bvh_write
from pose_jax.data import bvh
from pose_jax.skeletons import layout
from train_jax.errors import UserError

SKELETON = layout("h36m17")

#: A standing person, metres, z up.
STANDING = np.array(
    [
        *([0, 0, 0.95], [-0.13, 0, 0.95], [-0.13, 0, 0.5], [-0.13, 0, 0.06]),
        *([0.13, 0, 0.95], [0.13, 0, 0.5], [0.13, 0, 0.06]),
        *([0, 0, 1.2], [0, 0, 1.45], [0, 0, 1.58], [0, 0, 1.7]),
        *([0.16, 0, 1.42], [0.3, 0, 1.2], [0.4, 0, 1.0]),
        *([-0.16, 0, 1.42], [-0.3, 0, 1.2], [-0.4, 0, 1.0]),
    ],
    np.float32,
)


def moving() -> np.ndarray:
    """A person whose every bone turns at will: bones of equal length, directions at random."""
    rng = np.random.default_rng(3)
    poses = np.repeat(STANDING[None].astype(np.float64), 12, axis=0)
    for child, parent in SKELETON.bones:
        length = np.linalg.norm(STANDING[child] - STANDING[parent])
        ways = STANDING[child] - STANDING[parent] + rng.normal(size=(12, 3)) * 0.4
        ways *= length / np.linalg.norm(ways, axis=-1, keepdims=True)
        poses[:, child] = poses[:, parent] + ways
    return poses + np.linspace(0, 2, 12)[:, None, None]


def test_forward_kinematics_of_the_file_gives_the_poses_again(tmp_path):
    poses = moving()
    bvh_write.write(tmp_path / "a.bvh", poses, SKELETON, 30)
    motion = bvh.read(tmp_path / "a.bvh")
    assert motion.fps == 30
    placed = bvh.positions(motion)
    for i, joint in enumerate(SKELETON.joints):
        x, y, z = placed[bvh_write.NAMES[joint]].T / 100
        np.testing.assert_allclose(np.stack([x, -z, y], -1), poses[:, i], atol=1e-4)


def test_our_own_reader_knows_its_joints_by_their_names(tmp_path):
    poses = np.repeat(STANDING[None], 5, axis=0)
    bvh_write.write(tmp_path / "a.bvh", poses, SKELETON, 25)
    clip, rate = bvh.read_clip(tmp_path / "a.bvh", metres=0.01)
    assert rate == 25
    np.testing.assert_allclose(clip, poses, atol=1e-4)


def test_bones_get_their_median_length_and_keep_their_direction():
    poses = np.repeat(STANDING[None].astype(np.float64), 3, axis=0)
    knee, ankle = SKELETON.joints.index("left_knee"), SKELETON.joints.index("left_ankle")
    poses[0, ankle] += 0.5 * (poses[0, ankle] - poses[0, knee])
    np.testing.assert_allclose(bvh_write.rigid(poses, SKELETON)[0], STANDING, atol=1e-6)


def test_a_layout_without_bones_cannot_be_written(tmp_path):
    with pytest.raises(UserError, match="no tree of bones"):
        bvh_write.write(tmp_path / "a.bvh", np.zeros((2, 17, 3)), layout("coco17"), 30)
