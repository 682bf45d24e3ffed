"""The MATLAB export of HumanEva becomes chunks without gaps, numbered as the original's."""

import h5py
import numpy as np
import pytest
import scipy.io

from pose_jax.data.humaneva_files import chunks, read_matlab_export
from train_jax.errors import UserError


def poses(valid):
    """Millimetres (T, 15, 3) and pixels (3, T, 15, 2); NaN where a letter is X."""
    generator = np.random.default_rng(len(valid))
    three = generator.uniform(-1000, 1000, (len(valid), 15, 3))
    two = generator.uniform(0, 480, (3, len(valid), 15, 2))
    gone = [letter == "X" for letter in valid]
    three[gone], two[:, gone] = np.nan, np.nan
    return three, two


@pytest.mark.parametrize(
    ("valid", "expected"),
    [
        ("012", {0: (0, 3)}),
        ("012XX567X9", {0: (0, 3), 2: (5, 8), 4: (9, 10)}),  # the original's own example
        ("XX23", {1: (2, 4)}),
        ("XX", {}),
        ("", {}),
    ],
)
def test_gaps_are_left_out_but_counted(valid, expected):
    assert chunks(poses(valid)[0]) == expected


def test_one_joint_without_a_place_is_a_gap():
    three, _ = poses("0123")
    three[1, 14, 2] = np.inf
    assert chunks(three) == {0: (0, 1), 2: (2, 4)}


def write(path, three, two, *, newest=False):
    path.parent.mkdir(parents=True, exist_ok=True)
    if not newest:
        scipy.io.savemat(path, {"poses_3d": three, "poses_2d": two}, appendmat=False)
        return
    with h5py.File(path, "w", userblock_size=512) as file:
        file["poses_3d"], file["poses_2d"] = three.T, two.T  # MATLAB's axes run the other way
    with open(path, "r+b") as file:
        file.write(b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(124) + b"\x00\x02IM")


@pytest.mark.parametrize("newest", [False, True])
def test_an_export(tmp_path, newest):
    three, two = poses("01XX4")
    write(tmp_path / "Train/S1/Walking_1.mat", three, two, newest=newest)
    write(tmp_path / "Validate/S2/Box_1.mat", *poses("0123"), newest=newest)
    positions, keypoints = read_matlab_export(tmp_path)
    assert {subject: list(takes) for subject, takes in positions.items()} == {
        "Train/S1": ["Walking 1 chunk0", "Walking 1 chunk2"],
        "Validate/S2": ["Box 1 chunk0"],
    }
    last = positions["Train/S1"]["Walking 1 chunk2"]
    assert (last.dtype, last.shape) == (np.float32, (1, 15, 3))
    np.testing.assert_allclose(last, three[4:] / 1000, rtol=1e-6)
    for i, view in enumerate(keypoints["Train/S1"]["Walking 1 chunk2"]):
        np.testing.assert_array_equal(view, two[i, 4:].astype(np.float32))


def test_exports_that_are_none(tmp_path):
    with pytest.raises(UserError, match=r"holds no poses in Train/S\*/\*\.mat .*ConvertHumanEva"):
        read_matlab_export(tmp_path)
    path = tmp_path / "Train/S1/Walking_1.mat"
    write(path, np.zeros((2, 20, 3)), np.zeros((3, 2, 20, 2)))
    with pytest.raises(
        UserError,
        match=r"Walking_1\.mat has the 20 joints .* cannot be compared with the 15 .*N_JOINTS = 15",
    ):
        read_matlab_export(tmp_path)
    write(path, np.zeros((2, 15, 3)), np.zeros((2, 2, 15, 2)))
    with pytest.raises(UserError, match=r"poses_2d \[2, 2, 15, 2\], where .* \[3, frames, 15, 2\]"):
        read_matlab_export(tmp_path)
    scipy.io.savemat(path, {"poses_3d": np.zeros((2, 15, 3))})
    with pytest.raises(UserError, match=r"Walking_1\.mat is damaged or of another kind"):
        read_matlab_export(tmp_path)
