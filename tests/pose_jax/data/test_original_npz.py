"""The original's files become arrays by recording; the layout is known or asked for."""

import os

import numpy as np
import pytest

from pose_jax.data.original_npz import infer_layout, read_keypoints, read_positions
from train_jax.errors import UserError

# As the original writes them; MPII in its own, not in mirrored order.
COCO = [[1, 3, 5, 7, 9, 11, 13, 15], [2, 4, 6, 8, 10, 12, 14, 16]]
H36M = [[4, 5, 6, 11, 12, 13], [1, 2, 3, 14, 15, 16]]
MPII = [[3, 4, 5, 13, 14, 15], [0, 1, 2, 10, 11, 12]]
HUMANEVA_15 = [[2, 3, 4, 8, 9, 10], [5, 6, 7, 11, 12, 13]]
HUMANEVA_20 = [[3, 4, 5, 6, 11, 12, 13, 14], [7, 8, 9, 10, 15, 16, 17, 18]]


def array(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def test_positions(tmp_path):
    takes = {"S1": {"Walking 1": array(4, 32, 3), "Sitting": array(2, 32, 3).astype(np.float64)}}
    np.savez_compressed(tmp_path / "data_3d_h36m.npz", positions_3d=takes)
    back = read_positions(tmp_path / "data_3d_h36m.npz")
    assert {subject: list(found) for subject, found in back.items()} == {
        "S1": ["Walking 1", "Sitting"]
    }
    np.testing.assert_array_equal(back["S1"]["Walking 1"], takes["S1"]["Walking 1"])
    assert back["S1"]["Sitting"].dtype == np.float32


def test_keypoints_of_cameras_of_different_lengths(tmp_path):
    views = [array(4, 17, 2), array(6, 17, 2, seed=1)]
    path = tmp_path / "data_2d_h36m_detectron_pt_coco.npz"
    metadata = {"layout_name": "coco", "num_joints": 17, "keypoints_symmetry": COCO}
    np.savez_compressed(path, positions_2d={"S1": {"Walking": views}}, metadata=metadata)
    back, layout = read_keypoints(path)
    assert layout == "coco17"
    for one, other in zip(back["S1"]["Walking"], views, strict=True):
        np.testing.assert_array_equal(one, other)
    assert read_keypoints(path, layout="h36m17")[1] == "h36m17"


@pytest.mark.parametrize(
    ("name", "symmetry", "joints", "layout"),
    [
        ("coco", COCO, 17, "coco17"),
        ("h36m", H36M, 17, "h36m17"),
        ("mpii", MPII, 16, "mpii16"),
        ("humaneva15", HUMANEVA_15, 15, "humaneva15"),
        ("humaneva20", HUMANEVA_20, 20, "humaneva20"),
    ],
)
def test_the_layout_is_that_of_the_name_or_of_the_sides(name, symmetry, joints, layout):
    whole = {"layout_name": name, "num_joints": joints, "keypoints_symmetry": symmetry}
    assert infer_layout(whole, joints, "x.npz") == layout
    assert infer_layout({"layout_name": name}, joints, "x.npz") == layout
    # Files of ground truth and of Stacked Hourglass lack the name.
    del whole["layout_name"]
    assert infer_layout(whole, joints, "x.npz") == layout


def test_the_layout_of_files_that_tell_nothing_is_that_of_their_name():
    for name, joints, layout in (
        ("data_2d_h36m_gt.npz", 17, "h36m17"),
        ("data_2d_humaneva15_gt.npz", 15, "humaneva15"),
        ("data_2d_h36m_sh_pt_mpii.npz", 16, "mpii16"),
        ("data_2d_h36m_sh_ft_h36m.npz", 16, "mpii16"),  # as fine-tuned: still 16 joints
    ):
        assert infer_layout(None, joints, f"some/{name}") == layout


@pytest.mark.parametrize(
    ("metadata", "joints", "path", "message"),
    [
        ({}, 17, "data_2d_h36m_mine.npz", "does not tell the layout of its 17 joints; give --layo"),
        ({}, 15, "mine.npz", "does not tell the layout of its 15 joints"),
        ({"keypoints_symmetry": [[1], [2]]}, 17, "mine.npz", "does not tell the layout"),
        ({"layout_name": "halpe"}, 17, "mine.npz", "does not tell the layout"),
        (
            {"layout_name": "coco", "keypoints_symmetry": H36M},
            17,
            "mine.npz",
            "its 17 joints and their sides are not those of coco17; give --layout, one of h36m17",
        ),
        ({"layout_name": "mpii"}, 17, "mine.npz", "its 17 joints .* not those of mpii16"),
        ({}, 17, "data_2d_h36m_sh_ft_h36m.npz", "its 17 joints .* not those of mpii16"),
    ],
)
def test_an_ambiguous_layout_is_asked_for(metadata, joints, path, message):
    with pytest.raises(UserError, match=message):
        infer_layout(metadata, joints, path)


class Calls:
    def __reduce__(self):
        return os.system, ("true",)


VIEW = array(3, 17, 2)


@pytest.mark.parametrize(
    ("member", "content", "message"),
    [
        ("positions_2d", {"S1": {"A": [VIEW, None]}}, r"S1 'A', camera number 1 is missing"),
        ("positions_2d", {"S1": {"A": []}}, "S1 'A' is an empty list, where a list of cameras"),
        ("positions_2d", {"S1": {"A": ["video"]}}, "camera number 0 is of the type str"),
        ("positions_2d", {"S1": {"A": [VIEW[0]]}}, r"camera number 0 is an array float32\[17, 2\]"),
        ("positions_2d", {"S1": [VIEW]}, "is not sorted by subject and recording"),
        ("positions_2d", {"S1": {"A": [VIEW, VIEW[:, :16]]}}, "keypoints of 16 and 17 joints"),
        ("positions_2d", {"S1": {}}, "keypoints of no joints"),
        ("positions_3d", {"S1": {"A": VIEW}}, r"no positions_2d: .* perhaps a data_3d_\*\.npz"),
        ("positions_2d", {"S1": {"A": Calls()}}, r"holds (posix|nt)\.system.*not loaded"),
    ],
)
def test_what_is_not_so_is_said(tmp_path, member, content, message):
    np.savez(tmp_path / "file.npz", **{member: np.array(content, dtype=object)})
    with pytest.raises(UserError, match=message):
        read_keypoints(tmp_path / "file.npz")


def test_positions_must_be_numbers(tmp_path):
    np.savez(tmp_path / "file.npz", positions_3d={"S1": {"A": np.array(["x"])}})
    with pytest.raises(UserError, match=r"S1 'A' is an array <U1\[1\], where an array of frames"):
        read_positions(tmp_path / "file.npz")
    np.savez(tmp_path / "file.npz", positions_2d={"S1": {"A": [VIEW]}})
    with pytest.raises(UserError, match=r"no positions_3d: .* perhaps a data_2d_\*\.npz"):
        read_positions(tmp_path / "file.npz")
