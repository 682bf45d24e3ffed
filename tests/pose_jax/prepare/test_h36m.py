"""Human3.6M in every form that exists becomes the same file; what does not fit is said."""

import argparse
import os
import sys
import zipfile

import h5py
import numpy as np
import pytest
import scipy.io
from cdflib import cdfwrite

from pose_jax import h36m
from pose_jax.data import store
from pose_jax.prepare.h36m import add_arguments, run
from train_jax.errors import UserError

SUBJECTS = (*h36m.SUBJECTS_TRAIN, *h36m.SUBJECTS_TEST)
CAMERAS = [camera.name for camera in h36m.CAMERAS]

# The raw files name two actions otherwise, and number takes as they like.
RAW = {literature: raw for raw, literature in h36m.RAW_NAMES.items()}
FILES = [
    (action, f"{RAW.get(action, action)}{take}")
    for action in h36m.ACTIONS
    for take in (("", " 1") if action != "Walking" else (" 2", " 3"))
]


def prepare(**options):
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return run(parser.parse_args([f"--{name}={value}" for name, value in options.items()]))


def positions(frames=2, seed=0):
    """Standing somewhere near the middle of the room, metres, 32 joints."""
    generator = np.random.default_rng(seed)
    return generator.uniform((-1, -1, 0), (1, 1, 2), (frames, 32, 3)).astype(np.float32)


def original(path, takes, **extra):
    np.savez_compressed(path, positions_3d=takes, **extra)
    return path


def detections(path, takes, layout="h36m"):
    sides = {
        "h36m": [[4, 5, 6, 11, 12, 13], [1, 2, 3, 14, 15, 16]],
        "coco": [[1, 3, 5, 7, 9, 11, 13, 15], [2, 4, 6, 8, 10, 12, 14, 16]],
    }
    metadata = {"layout_name": layout, "num_joints": 17, "keypoints_symmetry": sides[layout]}
    np.savez_compressed(path, positions_2d=takes, metadata=metadata)
    return path


def views(*lengths, joints=17):
    generator = np.random.default_rng(1)
    return [generator.uniform(0, 1000, (t, joints, 2)).astype(np.float32) for t in lengths]


def test_the_original_file_becomes_17_joints_and_what_the_cameras_see(tmp_path):
    take = positions(frames=1030)
    take[1, :2] = (0.1, -0.2, 0.9), (0.4, 0.3, 1.5)
    source = original(tmp_path / "data_3d_h36m.npz", {"S1": {"WalkingDog 1": take}})
    output = tmp_path / "pose" / "h36m.npz"
    told = prepare(source=source, output=output)
    assert told == (f"{output}: 4 train sequences of 4,120 frames; keypoints of the layout h36m17.")
    poses = store.load(output)
    assert (poses.name, poses.fps, poses.skeleton) == ("h36m", 50.0, "h36m17")
    assert "vision.imar.ro/human3.6m" in poses.source
    (recording,) = poses.recordings
    assert (recording.subject, recording.action) == ("S1", "WalkDog 1")
    kept = [0, 1, 2, 3, 6, 7, 8, 12, 13, 14, 15, 17, 18, 19, 25, 26, 27]
    np.testing.assert_array_equal(recording.positions, take[:, kept])
    assert list(recording.views) == CAMERAS
    # Golden numbers of the original, camera 54138969 of S1.
    np.testing.assert_allclose(
        recording.views["54138969"][1, :2], [(408.767, 438.351), (380.774, 312.761)], atol=2e-3
    )
    assert poses.cameras == {"S1": h36m.cameras("S1")}


def test_of_s11_exactly_the_first_directions_are_left_out(tmp_path):
    takes = {"Directions": positions(), "Directions 1": positions(), "Discussion": positions()}
    source = original(tmp_path / "3d.npz", {"S9": takes, "S11": takes})
    prepare(source=source, output=tmp_path / "h36m.npz")
    found = detections(
        tmp_path / "data_2d_h36m_x.npz", {"S11": dict.fromkeys(takes, views(2, 2, 2, 2))}
    )
    prepare(detections=found, output=tmp_path / "2d.npz")
    for path in ("h36m.npz", "2d.npz"):
        names = [r.action for r in store.load(tmp_path / path).recordings if r.subject == "S11"]
        assert names == ["Directions 1", "Discussion"]
    names = [r.action for r in store.load(tmp_path / "h36m.npz").recordings if r.subject == "S9"]
    assert names == ["Directions", "Directions 1", "Discussion"]


def truth(subject, name):
    """Millimetres, float32 (2, 96), of a raw file."""
    seed = SUBJECTS.index(subject) * len(FILES) + [raw for _, raw in FILES].index(name)
    return positions(seed=seed).reshape(2, 96) * 1000


def write_cdf(path, array):
    file = cdfwrite.CDF(str(path))
    spec = {
        "Variable": "Pose",
        "Data_Type": file.CDF_REAL4,
        "Num_Elements": 1,
        "Rec_Vary": True,
        "Dim_Sizes": list(array.shape),
    }
    file.write_var(spec, var_data=array[None])
    file.close()


def write_mat(path, array):
    cell = np.empty((1, 1), dtype=object)  # cdfread of MATLAB makes a cell
    cell[0, 0] = array
    scipy.io.savemat(path, {"data": cell}, appendmat=False)


def write_new_mat(path, array):
    with h5py.File(path, "w", userblock_size=512) as file:
        file["#refs#/a"] = array.T  # MATLAB's axes run the other way
        cell = file.create_dataset("data", (1, 1), dtype=h5py.ref_dtype)
        cell[0, 0] = file["#refs#/a"].ref
    with open(path, "r+b") as file:
        file.write(b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(124) + b"\x00\x02IM")


def write_h5(path, array):
    with h5py.File(path, "w") as file:
        file["3D_positions"] = array.T.astype(np.float64)


RAW_KINDS = {
    "cdf": (write_cdf, "MyPoseFeatures/D3_Positions", ".cdf"),
    "mat": (write_mat, "MyPoseFeatures/D3_Positions", ".cdf.mat"),
    "new mat": (write_new_mat, "MyPoseFeatures/D3_Positions", ".cdf.mat"),
    "h5": (write_h5, "MyPoses/3D_positions", ".h5"),
}


def raw_data(root, kind):
    write, folder, end = RAW_KINDS[kind]
    for subject in SUBJECTS:
        (root / subject / folder).mkdir(parents=True)
        for _, name in FILES:
            write(root / subject / folder / f"{name}{end}", truth(subject, name))
        (root / subject / folder / f"_ALL 1{end}").write_text("all of them, in one")
    return root


def test_all_raw_files_give_what_the_original_file_gives(tmp_path):
    """And that is what the literature counts: 600 sequences to train on, 236 to test on."""
    takes = {
        subject: {name: truth(subject, name).reshape(-1, 32, 3) / 1000 for _, name in FILES}
        for subject in SUBJECTS
    }
    told = prepare(source=original(tmp_path / "3d.npz", takes), output=tmp_path / "h36m.npz")
    assert "600 train sequences of 1,200 frames, 236 test sequences of 472 frames;" in told
    expected = (tmp_path / "h36m.npz").read_bytes()
    for kind in RAW_KINDS:
        source = raw_data(tmp_path / kind, kind)
        output = tmp_path / kind / "h36m.npz"
        prepare(source=source, output=output)
        assert output.read_bytes() == expected, kind


def archived(root, name, prefix):
    with zipfile.ZipFile(root.parent / name, "w") as archive:
        for file in sorted(root.rglob("*.*")):
            archive.write(file, f"{prefix}{file.relative_to(root)}")
            archive.writestr(f"__MACOSX/{prefix}{file.parent.relative_to(root)}/._x.h5", "notes")
    return root.parent / name


@pytest.mark.parametrize(("kind", "prefix"), [("h5", "h36m/"), ("cdf", "")])
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_archives_are_read_without_being_unpacked(tmp_path, kind, prefix):
    root = raw_data(tmp_path / kind, kind)
    prepare(source=root, output=tmp_path / "one" / "h36m.npz")
    prepare(source=archived(root, "h36m.zip", prefix=prefix), output=tmp_path / "two" / "h36m.npz")
    assert (tmp_path / "one" / "h36m.npz").read_bytes() == (
        tmp_path / "two" / "h36m.npz"
    ).read_bytes()
    # A directory above them will do, too.
    (tmp_path / "above").mkdir()
    root.rename(tmp_path / "above" / "h36m")
    prepare(source=tmp_path / "above", output=tmp_path / "three.npz")


def test_a_missing_raw_file_is_named(tmp_path):
    root = raw_data(tmp_path / "raw", "h5")
    folder = root / "S7" / "MyPoses" / "3D_positions"
    (folder / "TakingPhoto.h5").rename(folder / "Cooking.h5")
    with pytest.raises(
        UserError,
        match=r"has 30 recordings of S7, .* but 1 of Photo, 1 of Cooking; unpack .*_S7\.tgz from "
        r"vision\.imar",
    ):
        prepare(source=root, output=tmp_path / "h36m.npz")
    for file in folder.iterdir():
        file.unlink()
    with pytest.raises(UserError, match=r"has 0 recordings of S7, .* 0 of Directions, 0 of Disc"):
        prepare(source=root, output=tmp_path / "h36m.npz")


@pytest.mark.parametrize("kind", RAW_KINDS)
def test_damaged_raw_files_are_one_sentence(tmp_path, kind):
    write, folder, end = RAW_KINDS[kind]
    place = tmp_path / "S1" / folder
    place.mkdir(parents=True)
    (place / f"Walking{end}").write_bytes(b"<html>" * 200)
    with pytest.raises(UserError, match=rf"Walking\{end} is damaged or of another kind"):
        prepare(source=tmp_path, output=tmp_path / "h36m.npz")
    (place / f"Walking{end}").unlink()
    write(place / f"Walking{end}", np.zeros((2, 51), np.float32))
    with pytest.raises(UserError, match=r"\[(1, )?2, 51\], where \[frames, 96\] belongs"):
        prepare(source=tmp_path, output=tmp_path / "h36m.npz")


@pytest.mark.parametrize(("kind", "name"), [("cdf", "cdflib"), ("mat", "scipy"), ("h5", "h5py")])
def test_a_missing_package_is_named(tmp_path, kind, name, monkeypatch):
    write, folder, end = RAW_KINDS[kind]
    (tmp_path / "S1" / folder).mkdir(parents=True)
    write(tmp_path / "S1" / folder / f"Walking{end}", np.zeros((2, 96), np.float32))
    monkeypatch.setitem(sys.modules, "scipy.io" if name == "scipy" else name, None)
    with pytest.raises(UserError, match=rf"package {name}, .* 'vit-pose-jax\[pose-data\]'"):
        prepare(source=tmp_path, output=tmp_path / "h36m.npz")


def test_what_is_licensed_and_missing_is_said_with_what_can_be_run_instead(tmp_path):
    with pytest.raises(
        UserError,
        match=r"There is no .*3d\.npz: .* licensed, .*vision\.imar\.ro/human3\.6m, or run the open "
        r"benchmark instead \(python -m pose_jax\.prepare cmu, experiments/pose/cmu\.py\)",
    ):
        prepare(source=tmp_path / "3d.npz", output=tmp_path / "h36m.npz")
    with pytest.raises(UserError, match=r"no .*2d\.npz: detections .* VideoPose3D, .* dl\.fb"):
        prepare(detections=tmp_path / "2d.npz", output=tmp_path / "h36m.npz")


def test_detections_of_the_original(tmp_path):
    """Subjects without poses stay; a detector may run on; the poses are compared at once."""
    takes = {
        "S1": {"Walking": views(6, 6, 5, 6)},
        "S2": {"Walking": views(3, 3, 3, 3)},
        "S11": {"Walking 1": views(2, 2, 2, 2)},
    }
    path = detections(tmp_path / "data_2d_h36m_detectron_pt_coco.npz", takes, "coco")
    truth = original(tmp_path / "3d.npz", {"S1": {"Walking": positions(5)}})
    prepare(source=truth, output=tmp_path / "h36m.npz")
    output = tmp_path / "h36m_detectron_pt_coco.npz"
    told = prepare(detections=path, output=output, positions=tmp_path / "h36m.npz")
    assert told.endswith(
        ": 4 train sequences of 23 frames, 4 test sequences of 8 frames, 4 unlabelled sequences of "
        "12 frames; keypoints of the layout coco17."
    )
    poses = store.load(output)
    assert (poses.name, poses.keypoint_layout) == ("h36m_detectron_pt_coco", "coco17")
    assert poses.skeleton is None
    assert [r.subject for r in poses.recordings] == ["S1", "S2", "S11"]
    np.testing.assert_array_equal(poses.recordings[0].views["58860488"], takes["S1"]["Walking"][2])
    assert poses.cameras["S1"] == h36m.cameras("S1")
    assert poses.cameras["S2"]["54138969"].orientation is None
    both = store.join(store.load(tmp_path / "h36m.npz"), poses)
    assert both.recordings[0].views["54138969"].shape == (5, 17, 2)


def test_detections_that_do_not_fit_the_poses_are_refused(tmp_path):
    truth = original(tmp_path / "3d.npz", {"S1": {"Walking": positions(5)}})
    prepare(source=truth, output=tmp_path / "h36m.npz")
    for number, (takes, message) in enumerate(
        (
            ({"Walking": views(5, 5, 4, 5)}, "camera 58860488: 4 frames .* for 5 of positions"),
            ({"Sitting": views(5, 5, 5, 5)}, "nothing for S1 'Walking'"),
        )
    ):
        path = detections(tmp_path / f"data_2d_h36m_{number}.npz", {"S1": takes})
        with pytest.raises(UserError, match=message):
            prepare(detections=path, output=tmp_path / "out.npz", positions=tmp_path / "h36m.npz")
    assert not (tmp_path / "out.npz").exists()


NOT_A_NUMBER = positions(3)
NOT_A_NUMBER[2, 0, 0] = np.nan


@pytest.mark.parametrize(
    ("takes", "message"),
    [
        ({"S1": {"Walking": positions()[:, :17]}}, r"\[2, 17, 3\], where \[frames, 32, 3\] bel"),
        ({"S1": {"Walking": NOT_A_NUMBER}}, "S1 'Walking', positions: 1 of 3 .* NaN .* frame 2"),
        ({"S1": {"Walking": positions(0)}}, "S1 'Walking', positions: the sequence has no frames"),
        ({"S10": {"Walking": positions()}}, "Human3.6M has no subject 'S10' to use"),
        ({"S2": {"Walking": positions()}}, "Human3.6M publishes none of S2"),
        ({}, "holds no recordings"),
        ({"S1": {"Photo": positions(), "TakingPhoto": positions()}}, "S1 has a recording twice"),
    ],
)
def test_faulty_poses_are_one_sentence(tmp_path, takes, message):
    with pytest.raises(UserError, match=message):
        prepare(source=original(tmp_path / "3d.npz", takes), output=tmp_path / "h36m.npz")
    assert not (tmp_path / "h36m.npz").exists()


@pytest.mark.parametrize(
    ("takes", "message"),
    [
        ({"S1": {"Walking": views(2, 2, 2)}}, "seen by 3 cameras, where Human3.6M has 54138969"),
        ({"S1": {"Walking": [*views(2, 2, 2), None]}}, "camera number 3 is missing"),
        ({"S10": {"Walking": views(2, 2, 2, 2)}}, "no subject 'S10'"),
        ({"S1": {"Walking": views(2, 2, 2, 0)}}, "camera 60457274: the sequence has no frames"),
        ({"S1": {"Walking": views(2, 2, 2, 2, joints=16)}}, "16 joints and their sides are not"),
    ],
)
def test_faulty_detections_are_one_sentence(tmp_path, takes, message):
    path = detections(tmp_path / "data_2d_h36m_x.npz", takes)
    with pytest.raises(UserError, match=message):
        prepare(detections=path, output=tmp_path / "h36m.npz")


class Calls:
    def __reduce__(self):
        return os.system, ("echo > trap",)


def test_other_files_and_other_commands(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    source = original(tmp_path / "3d.npz", {"S1": {"Walking": positions()}})
    prepare(source=source, output=tmp_path / "h36m.npz")
    with pytest.raises(UserError, match=r"h36m\.npz exists already"):
        prepare(source=tmp_path / "none.npz", output=tmp_path / "h36m.npz")
    output = tmp_path / "out.npz"
    with pytest.raises(UserError, match="no positions_2d"):
        prepare(detections=source, output=output)
    with pytest.raises(UserError, match="--layout is for --detections"):
        prepare(source=source, output=output, layout="coco17")
    with pytest.raises(UserError, match="no layout 'coco18'"):
        prepare(detections=source, output=output, layout="coco18")
    (tmp_path / "cut.npz").write_bytes(source.read_bytes()[:300])
    with pytest.raises(UserError, match=r"cut\.npz is damaged"):
        prepare(source=tmp_path / "cut.npz", output=output)
    original(tmp_path / "bad.npz", {"S1": {"Walking": Calls()}})
    with pytest.raises(UserError, match=r"bad\.npz holds (posix|nt)\.system.*not loaded"):
        prepare(source=tmp_path / "bad.npz", output=output)
    assert not (tmp_path / "trap").exists()
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"empty holds none of .*cdf.*unpack Poses_D3_Positions"):
        prepare(source=tmp_path / "empty", output=output)
    (tmp_path / "page.zip").write_text("<html>")
    with pytest.raises(UserError, match=r"page\.zip is neither a directory nor a \.zip"):
        prepare(source=tmp_path / "page.zip", output=output)
