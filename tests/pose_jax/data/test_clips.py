"""Clips: what the file says, its rate, and what it may not be."""

import numpy as np
import pytest

from pose_jax.data import clips
from pose_jax.skeletons import H36M_17
from train_jax.errors import UserError


def clip(frames=4, start=0.0):
    return np.arange(frames * 51, dtype=np.float32).reshape(frames, 17, 3) / 100 + start


def write(path, **changes):
    arrays = {
        "fps": np.float32(60),
        "joint_names": np.array(H36M_17.joints),
        "parents": np.array(H36M_17.parents),
        "train/walking/walking_1": clip(),
        "train/walking/walking_12": clip(5),
        "test/wash window/take": clip(2, 1.0),
    } | changes
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})
    return path


def test_clips_are_named_by_action_and_number(tmp_path):
    found, fps = clips.read_clips(write(tmp_path / "clips.npz"))
    assert fps == 60
    assert {split: list(one) for split, one in found.items()} == {
        "train": ["walking 1", "walking 12"],
        # One word, since the action of a recording is its first.
        "test": ["wash_window 1"],
    }
    np.testing.assert_array_equal(found["train"]["walking 12"], clip(5))
    np.testing.assert_array_equal(found["test"]["wash_window 1"], clip(2, 1.0))
    assert found["train"]["walking 1"].dtype == np.float32


def test_clips_of_one_number_are_both_kept(tmp_path):
    path = write(tmp_path / "clips.npz", **{"train/walking/stroll_1": clip(3)})
    found, _ = clips.read_clips(path)
    assert {name: len(one) for name, one in found["train"].items()} == {
        "walking 1": 4,
        "walking 12": 5,
        "walking 2": 3,
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fps": None}, "is no file of clips: it lacks the array fps"),
        ({"fps": np.float32(0)}, "fps must be one number"),
        ({"fps": np.array([60.0, 50.0])}, "fps must be one number"),
        ({"parents": np.arange(17) - 1}, "not the 17 of Human3.6M with their tree"),
        ({"train/walking/walking_1": clip()[:, :16]}, r"is float32\[4, 16, 3\], not float32"),
        ({"validation/walking/walking_1": clip()}, "not named SPLIT/ACTION/CLIP"),
        ({"walking": clip()}, "not named SPLIT/ACTION/CLIP"),
    ],
)
def test_another_content_is_refused(tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        clips.read_clips(write(tmp_path / "clips.npz", **changes))


def test_other_files_are_refused(tmp_path):
    with pytest.raises(UserError, match="cannot be opened: No such file"):
        clips.read_clips(tmp_path / "missing.npz")
    np.save(tmp_path / "one.npy", clip())
    with pytest.raises(UserError, match=r"one array and no \.npz"):
        clips.read_clips(tmp_path / "one.npy")
    (tmp_path / "text.npz").write_text("walking")
    with pytest.raises(UserError, match=r"no \.npz file of plain arrays"):
        clips.read_clips(tmp_path / "text.npz")
    cut = write(tmp_path / "cut.npz").read_bytes()[:-200]
    (tmp_path / "cut.npz").write_bytes(cut)
    with pytest.raises(UserError, match=r"no \.npz file of plain arrays"):
        clips.read_clips(tmp_path / "cut.npz")
    empty = {name: None for name in ("train/walking/walking_1", "train/walking/walking_12")}
    with pytest.raises(UserError, match="holds no clips"):
        clips.read_clips(write(tmp_path / "none.npz", **empty, **{"test/wash window/take": None}))


def test_a_pickle_is_not_read(tmp_path):
    class Trap:
        def __reduce__(self):
            return (pytest.fail, ("unpickled",))

    path = write(tmp_path / "trap.npz", **{"train/walking/w_3": np.array([Trap()], dtype=object)})
    with pytest.raises(UserError, match=r"no \.npz file of plain arrays"):
        clips.read_clips(path)


@pytest.mark.parametrize("frames", [1, 2, 3, 119, 120, 121])
def test_half_the_rate_is_every_other_frame(frames):
    x = np.random.default_rng(0).normal(size=(frames, 17, 3)).astype(np.float32)
    np.testing.assert_array_equal(clips.resample(x, 120, 60), x[::2])


@pytest.mark.parametrize("to", [50, 24, 29.97, 100])
def test_another_rate_samples_the_same_motion(to):
    """A motion of constant speed is the same at every rate."""
    at = np.arange(61) / 60
    x = at[:, None, None] * np.ones((1, 17, 3))
    y = clips.resample(x, 60, to)
    assert len(y) == int(to + 1e-6) + 1
    np.testing.assert_allclose(y[:, 3, 1], np.arange(len(y)) / to, atol=1e-6)
    np.testing.assert_array_equal(clips.resample(x, 60, 60), x.astype(np.float32))
