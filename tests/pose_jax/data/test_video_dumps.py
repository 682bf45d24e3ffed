"""What detectors have left of Human3.6M's videos, as poses by recording and camera."""

import tarfile

import h5py
import numpy as np
import pytest

from pose_jax import h36m
from pose_jax.data.video_dumps import read_dump, read_h36m_dumps
from train_jax.errors import UserError

CAMERAS = [camera.name for camera in h36m.CAMERAS]


def array(*shape, seed=0):
    return np.random.default_rng(seed).uniform(0, 1000, shape).astype(np.float32)


def objects(items):
    """An object array of pairs ([], found), as Detectron's dumps hold for every frame."""
    result = np.empty((len(items), 2), dtype=object)
    for i, item in enumerate(items):
        result[i, 0], result[i, 1] = [], item
    return result


def detectron(path, persons, rows=6):
    """A dump with the given number of persons in each frame, of whom the second is the best."""
    boxes = [array(n, 5, seed=i) for i, n in enumerate(persons)]
    for found in boxes:
        found[:, 4] = np.linspace(0.5, 0.1, len(found))
        found[1:2, 4] = 0.9
    keypoints = [array(n, rows, 17, seed=100 + i) for i, n in enumerate(persons)]
    np.savez_compressed(
        path,
        boxes=objects([found if len(found) else [] for found in boxes]),
        keypoints=objects([found if len(found) else [] for found in keypoints]),
        segments=objects([[] for _ in persons]),
        metadata={"w": 1000, "h": 1002},
    )
    return keypoints


def test_the_best_person_by_soft_argmax_and_the_last_pose_where_nobody_is(tmp_path):
    keypoints = detectron(tmp_path / "video.npz", [3, 0, 0, 1])
    poses = read_dump(tmp_path / "video.npz")
    assert (poses.dtype, poses.shape) == (np.float32, (4, 17, 2))
    np.testing.assert_array_equal(poses[0], keypoints[0][1][4:6].T)
    np.testing.assert_array_equal(poses[1], poses[0])
    np.testing.assert_array_equal(poses[2], poses[0])
    np.testing.assert_array_equal(poses[3], keypoints[3][0][4:6].T)


def test_without_soft_argmax_the_maximum_is_taken_and_nobody_at_first_is_no_loss(tmp_path):
    keypoints = detectron(tmp_path / "video.npz", [0, 0, 2], rows=4)
    poses = read_dump(tmp_path / "video.npz")
    np.testing.assert_array_equal(poses[2], keypoints[2][1][:2].T)
    np.testing.assert_array_equal(poses[0], poses[2])


def test_cpn_leaves_one_array(tmp_path):
    keypoints = array(4, 17, 3)
    np.savez(tmp_path / "video.npz", keypoints=keypoints)
    np.testing.assert_array_equal(read_dump(tmp_path / "video.npz"), keypoints[..., :2])


def test_dumps_that_are_none(tmp_path):
    detectron(tmp_path / "video.npz", [0, 0])
    with pytest.raises(UserError, match=r"video\.npz shows nobody in any of its 2 frames"):
        read_dump(tmp_path / "video.npz")
    np.savez(tmp_path / "video.npz", boxes=np.zeros(3))
    with pytest.raises(UserError, match=r"holds boxes, but no keypoints"):
        read_dump(tmp_path / "video.npz")
    np.savez(tmp_path / "video.npz", boxes=np.zeros(3), keypoints=np.zeros(3))
    with pytest.raises(UserError, match=r"video\.npz is damaged or of another kind"):
        read_dump(tmp_path / "video.npz")
    np.savez(tmp_path / "video.npz", keypoints=np.zeros(3))
    with pytest.raises(UserError, match=r"video\.npz is damaged or of another kind"):
        read_dump(tmp_path / "video.npz")


def cpn_dumps(root, subject="S1", actions=("TakingPhoto 1",), cameras=CAMERAS, joints=17):
    (root / subject).mkdir(parents=True, exist_ok=True)
    for action in actions:
        for i, camera in enumerate(cameras):
            keypoints = array(3 + i, joints, 2, seed=i)
            np.savez(root / subject / f"{action}.{camera}.mp4.npz", keypoints=keypoints)
    return root


def test_dumps_of_all_videos(tmp_path):
    cpn_dumps(tmp_path, "S1", ("TakingPhoto 1", "_ALL 1"))
    cpn_dumps(tmp_path, "S2")
    cpn_dumps(tmp_path, "S11", ("Directions", "Directions 1"))
    found, layout = read_h36m_dumps(tmp_path, name="h36m_cpn_ft_h36m_dbb")
    assert layout == "h36m17"
    assert {subject: list(takes) for subject, takes in found.items()} == {
        "S1": ["Photo 1"],
        "S2": ["Photo 1"],
        "S11": ["Directions 1"],
    }
    for i, view in enumerate(found["S1"]["Photo 1"]):  # in the order of the cameras
        np.testing.assert_array_equal(view, array(3 + i, 17, 2, seed=i))


@pytest.mark.parametrize(
    ("name", "joints", "layout"),
    [
        ("h36m_detectron_pt_coco", 17, "coco17"),
        ("h36m_detectron_ft_h36m", 17, "h36m17"),
        ("mine_coco", 17, "coco17"),
        ("h36m_cpn", 16, "mpii16"),
    ],
)
def test_the_layout_is_that_of_the_name(tmp_path, name, joints, layout):
    cpn_dumps(tmp_path, joints=joints)
    assert read_h36m_dumps(tmp_path, name=name)[1] == layout
    assert read_h36m_dumps(tmp_path, name=name, layout="openpose25")[1] == "openpose25"


def test_the_name_of_the_data_set_is_not_that_of_the_joints(tmp_path):
    with pytest.raises(UserError, match="17 joints may be of any layout; give --layout"):
        read_h36m_dumps(cpn_dumps(tmp_path), name="h36m_detectron")


def hourglass(root, folder, subject="S1", actions=("Walking", "Walking_1"), cameras=CAMERAS):
    place = root / subject / folder
    place.mkdir(parents=True)
    for action in actions:
        for i, camera in enumerate(cameras):
            with h5py.File(place / f"{action}.{camera}.h5", "w") as file:
                file["poses"] = array(3, 16, 2, seed=i).astype(np.float64)
    return root


@pytest.mark.parametrize("folder", ["StackedHourglass", "StackedHourglassFineTuned240"])
def test_stacked_hourglass_in_a_directory_and_in_its_archive(tmp_path, folder):
    root = hourglass(tmp_path / "h36m", folder)
    hourglass(tmp_path / "h36m", folder, "S11", ("Directions",), CAMERAS[:3])  # 119 files, not 120
    with tarfile.open(tmp_path / "sh.tar.gz", "w:gz") as archive:
        archive.add(root, "h36m")
    for path in (root, tmp_path, tmp_path / "sh.tar.gz"):
        found, layout = read_h36m_dumps(path, name="h36m_sh")
        assert layout == "mpii16"
        assert sorted(found) == ["S1"]
        assert sorted(found["S1"]) == ["Walking", "Walking 1"]
        np.testing.assert_array_equal(found["S1"]["Walking 1"][3], array(3, 16, 2, seed=3))


def test_two_detections_of_one_video(tmp_path):
    hourglass(tmp_path, "StackedHourglass")
    hourglass(tmp_path, "StackedHourglassFineTuned240")
    with pytest.raises(UserError, match="there is another detection of the same video"):
        read_h36m_dumps(tmp_path, name="h36m_sh")


def test_missing_and_unknown_cameras_and_names(tmp_path):
    cpn_dumps(tmp_path / "a", cameras=CAMERAS[1:])
    with pytest.raises(UserError, match="S1 'Photo 1' lacks the camera 54138969"):
        read_h36m_dumps(tmp_path / "a", name="h36m_coco")
    cpn_dumps(tmp_path / "b", cameras=["54138970"])
    with pytest.raises(UserError, match=r"54138970\.mp4\.npz: its name does not tell its record"):
        read_h36m_dumps(tmp_path / "b", name="h36m_coco")
    (tmp_path / "c").mkdir()
    with pytest.raises(UserError, match=r"c holds none of S\*/\*\.mp4\.npz, S\*/StackedHourgl"):
        read_h36m_dumps(tmp_path / "c", name="h36m_coco")
    hourglass(tmp_path / "d", "StackedHourglass")
    with h5py.File(tmp_path / "d/S1/StackedHourglass/Walking.54138969.h5", "w") as file:
        file["other"] = [0]
    with pytest.raises(UserError, match=r"Walking\.54138969\.h5 is damaged or of another kind"):
        read_h36m_dumps(tmp_path / "d", name="h36m_coco")
