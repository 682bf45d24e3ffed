"""HumanEva as it exists becomes files that can be joined; what does not fit is said."""

import argparse

import numpy as np
import pytest
import scipy.io

from pose_jax import humaneva
from pose_jax.data import store
from pose_jax.prepare.humaneva import add_arguments, run
from train_jax.errors import UserError


def prepare(**options):
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return run(parser.parse_args([f"--{name}={value}" for name, value in options.items()]))


def array(*shape, seed=0):
    return np.random.default_rng(seed).uniform(0, 480, shape).astype(np.float32)


def original(path, takes):
    np.savez_compressed(path, positions_3d=takes)
    return path


def detections(path, takes, layout="coco"):
    sides = [[1, 3, 5, 7, 9, 11, 13, 15], [2, 4, 6, 8, 10, 12, 14, 16]]
    metadata = {"layout_name": layout, "num_joints": 17, "keypoints_symmetry": sides}
    np.savez_compressed(path, positions_2d=takes, metadata=metadata)
    return path


def views(frames, joints=17):
    return [array(frames, joints, 2, seed=i) for i in range(3)]


def test_the_originals_files_and_what_they_are_together(tmp_path):
    """Chunks fit by name; those without poses, and all that is unlabelled, are kept."""
    three = {
        "Validate/S2": {"Walking 1 chunk0": array(5, 15, 3), "Walking 1 chunk2": array(3, 15, 3)},
        "Train/S1": {"Box 1 chunk0": array(4, 15, 3)},
    }
    two = {
        "Train/S1": {"Box 1 chunk0": views(4)},
        "Validate/S2": {"Walking 1 chunk0": views(5), "Walking 1 chunk2": views(3)},
        "Unlabeled/Validate/S2": {"Walking 1 chunk1": views(2)},
        "Unlabeled/S4": {"Combo 4": views(7)},
    }
    told = prepare(
        source=original(tmp_path / "data_3d_humaneva15.npz", three),
        output=tmp_path / "humaneva15.npz",
    )
    assert told.endswith(
        "humaneva15.npz: 3 train sequences of 12 frames, 6 test sequences of 24 frames; poses "
        "only, the keypoints come from --detections."
    )
    told = prepare(
        detections=detections(tmp_path / "data_2d_humaneva15_detectron_pt_coco.npz", two),
        output=tmp_path / "humaneva15_detectron_pt_coco.npz",
        positions=tmp_path / "humaneva15.npz",
    )
    assert told.endswith(
        "3 train sequences of 12 frames, 6 test sequences of 24 frames, 6 unlabelled sequences of "
        "27 frames; keypoints of the layout coco17."
    )
    positions = store.load(tmp_path / "humaneva15.npz")
    assert (positions.fps, positions.skeleton, positions.keypoint_layout) == (
        60.0,
        "humaneva15",
        None,
    )
    assert "humaneva.is.tue.mpg.de" in positions.source
    assert positions.cameras["Train/S1"] == humaneva.cameras("S1")
    np.testing.assert_array_equal(
        positions.recordings[1].positions, three["Validate/S2"]["Walking 1 chunk0"]
    )
    both = store.join(positions, store.load(tmp_path / "humaneva15_detectron_pt_coco.npz"))
    assert [(r.title, r.positions is not None) for r in both.recordings] == [
        ("Train/S1 'Box 1 chunk0'", True),
        ("Validate/S2 'Walking 1 chunk0'", True),
        ("Validate/S2 'Walking 1 chunk2'", True),
        ("Unlabeled/S4 'Combo 4'", False),
        ("Unlabeled/Validate/S2 'Walking 1 chunk1'", False),
    ]
    np.testing.assert_array_equal(both.recordings[2].views["C3"], views(3)[2])


def test_the_matlab_export_has_keypoints_of_its_own(tmp_path):
    for subject in ("Train/S3", "Validate/S3"):
        (tmp_path / "converted_15j" / subject).mkdir(parents=True)
        scipy.io.savemat(
            tmp_path / "converted_15j" / subject / "Jog_1.mat",
            {"poses_3d": array(4, 15, 3) * 1000.0, "poses_2d": array(3, 4, 15, 2)},
        )
    told = prepare(source=tmp_path / "converted_15j", output=tmp_path / "humaneva15.npz")
    assert told.endswith(
        ": 3 train sequences of 12 frames, 3 test sequences of 12 frames; keypoints of the layout "
        "humaneva15."
    )
    poses = store.load(tmp_path / "humaneva15.npz")
    assert [r.title for r in poses.recordings] == [
        "Train/S3 'Jog 1 chunk0'",
        "Validate/S3 'Jog 1 chunk0'",
    ]
    np.testing.assert_allclose(poses.recordings[0].positions, array(4, 15, 3), rtol=1e-6)
    np.testing.assert_array_equal(poses.recordings[0].views["C2"], array(3, 4, 15, 2)[1])


def test_what_is_licensed_and_missing_is_said_with_what_can_be_run_instead(tmp_path):
    with pytest.raises(
        UserError,
        match=r"no .*3d\.npz: HumanEva-I is licensed, .*humaneva\.is\.tue\.mpg\.de, .*prepare cmu",
    ):
        prepare(source=tmp_path / "3d.npz", output=tmp_path / "out.npz")
    with pytest.raises(UserError, match=r"no .*2d\.npz: detections of HumanEva-I .* VideoPose3D"):
        prepare(detections=tmp_path / "2d.npz", output=tmp_path / "out.npz")


NOT_A_NUMBER = array(3, 15, 3)
NOT_A_NUMBER[1, 0, 0] = np.nan


@pytest.mark.parametrize(
    ("takes", "message"),
    [
        (
            {"Train/S1": {"Box 1 chunk0": array(4, 20, 3)}},
            r"has the 20 joints .* cannot be compared with the 15 .* use data_3d_humaneva15\.npz",
        ),
        ({"Train/S1": {"Box 1 chunk0": array(4, 16, 3)}}, "16 joints, but .* humaneva15 has 15"),
        ({"Train/S1": {"Box 1 chunk0": NOT_A_NUMBER}}, "positions: 1 of 3 .* NaN .* frame 1"),
        ({"Train/S1": {"Box 1 chunk0": array(0, 15, 3)}}, "the sequence has no frames"),
        ({"Train/S5": {"Box 1 chunk0": array(4, 15, 3)}}, "HumanEva has no subject 'Train/S5'"),
    ],
)
def test_faulty_poses_are_one_sentence(tmp_path, takes, message):
    with pytest.raises(UserError, match=message):
        prepare(source=original(tmp_path / "3d.npz", takes), output=tmp_path / "out.npz")
    assert not (tmp_path / "out.npz").exists()


def test_faulty_detections_are_one_sentence(tmp_path):
    path = tmp_path / "2d.npz"
    detections(path, {"Train/S1": {"Box 1 chunk0": views(4)[:2]}})
    with pytest.raises(UserError, match="seen by 2 cameras, where HumanEva-I has C1, C2, C3"):
        prepare(detections=path, output=tmp_path / "out.npz")
    poses = original(tmp_path / "3d.npz", {"Train/S1": {"Box 1 chunk0": array(5, 15, 3)}})
    prepare(source=poses, output=tmp_path / "h.npz")
    detections(path, {"Train/S1": {"Box 1 chunk0": views(4)}})
    with pytest.raises(UserError, match="camera C1: 4 frames of keypoints in out for 5 of posit"):
        prepare(detections=path, output=tmp_path / "out.npz", positions=tmp_path / "h.npz")
    (tmp_path / "dumps").mkdir()
    with pytest.raises(UserError, match=r"dumps: which frames .* give data_2d_humaneva15_\*\.npz"):
        prepare(detections=tmp_path / "dumps", output=tmp_path / "out.npz")
    assert not (tmp_path / "out.npz").exists()
