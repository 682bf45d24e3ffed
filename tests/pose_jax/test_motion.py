"""The file of people in motion."""

import json

import numpy as np
import pytest

from pose_jax import motion
from pose_jax.motion import Person, Scene
from pose_jax.skeletons import layout
from train_jax.errors import UserError

SKELETON = layout("h36m17")


def scene() -> Scene:
    rng = np.random.default_rng(0)
    poses = rng.normal(size=(5, 17, 3)).astype(np.float32)
    poses[3] = np.nan
    keypoints = rng.uniform(0, 100, (5, 33, 2)).astype(np.float32)
    people = (Person("person 1", poses, keypoints, np.ones((5, 33), np.float32)),)
    return Scene(
        (*people, Person("person 2", poses + 1)), SKELETON, layout("blazepose33"), 25, None
    )


def test_what_is_written_is_read_again(tmp_path):
    written = scene()
    motion.write(tmp_path / "poses.npz", written)
    found = motion.read(tmp_path / "poses.npz")
    assert found.layout is SKELETON
    assert found.keypoint_layout is layout("blazepose33")
    assert (found.frames_per_second, found.size, found.num_frames) == (25.0, None, 5)
    for one, other in zip(found.people, written.people, strict=True):
        assert one.name == other.name
        np.testing.assert_array_equal(one.poses, other.poses)
    np.testing.assert_array_equal(found.people[0].keypoints, written.people[0].keypoints)
    assert found.people[1].keypoints is None


@pytest.mark.parametrize("space", ["root", "camera", "world"])
def test_predictions_are_read_and_stand_upright_on_the_floor(tmp_path, space):
    poses = np.zeros((4, 17, 3), np.float32)
    poses[:, 10] = [0.1, -0.7, 3.0]  # the head: above (y down) and behind
    poses[:, 3] = [0, 0.9, 0]
    meta = {
        "format": "pose_jax poses 1",
        "skeleton": "h36m17",
        "fps": 50.0,
        "space": space,
        "sequences": [{"subject": "clip", "action": "video", "camera": "camera"}],
    }
    with (tmp_path / "predicted.npz").open("wb") as stream:
        np.savez(stream, **{"meta": np.array(json.dumps(meta)), "poses/000000": poses})
    (person,) = motion.read(tmp_path / "predicted.npz").people
    assert person.name == "clip video camera"
    if space == "world":
        np.testing.assert_array_equal(person.poses, poses)
    else:
        np.testing.assert_allclose(person.poses[0, 10], [0.1, 3.0, 1.6], atol=1e-6)
        np.testing.assert_allclose(person.poses[0, 3], [0, 0, 0], atol=1e-6)


def test_a_jump_stays_above_the_floor():
    poses = np.full((40, 17, 3), 5.0)
    poses[30:] += 0.4
    np.testing.assert_allclose(motion.on_floor(poses)[-1, :, 2], 0.4)


def test_faulty_files_are_told_in_a_sentence(tmp_path):
    path = tmp_path / "poses.npz"
    with pytest.raises(UserError, match=r"cannot be opened: No such file"):
        motion.read(path)
    path.write_bytes(b"PK\x03\x04 cut")
    with pytest.raises(UserError, match="is damaged"):
        motion.read(path)
    with path.open("wb") as stream:
        np.savez(stream, other=np.zeros(3))
    with pytest.raises(UserError, match="holds no poses"):
        motion.read(path)
    with path.open("wb") as stream:
        np.savez(stream, meta=np.array(json.dumps({"format": "pose_jax 1"})))
    with pytest.raises(UserError, match=r"give a file of python -m pose_jax\.video"):
        motion.read(path)
    with path.open("wb") as stream:
        np.savez(stream, meta=np.array(json.dumps({"format": motion.FORMAT})))
    with pytest.raises(UserError, match="does not fit its arrays"):
        motion.read(path)
