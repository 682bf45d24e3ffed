"""Directories of motion: what a file's place and name say, archives, and what is missing."""

import zipfile

import numpy as np
import pytest
from acclaim import amc, asf, write_subject

from pose_jax.data import asf_amc, motion_files
from train_jax.errors import UserError

FRAMES = [{"ltibia": [float(degrees)]} for degrees in range(5)]


def test_cmus_recordings_are_found_in_any_folder(tmp_path):
    write_subject(tmp_path / "subjects" / "09", "09", {"01": FRAMES, "12": FRAMES})
    write_subject(tmp_path, "35", {"17": FRAMES[:3]})
    clips, left_out = motion_files.read_directory(tmp_path, fps=120)
    assert {split: list(found) for split, found in clips.items()} == {
        "train": ["running 09_01"],
        "test": ["running 35_17"],
    }
    # Subject 9's twelfth recording is no run and not of the benchmark.
    assert left_out == 1
    whole = asf_amc.read_motion(tmp_path / "35_17.amc", asf_amc.read_skeleton(tmp_path / "35.asf"))
    np.testing.assert_array_equal(clips["test"]["running 35_17"], whole)


def test_recordings_of_120_frames_per_second_are_thinned(tmp_path):
    write_subject(tmp_path, "09", {"01": FRAMES})
    whole, _ = motion_files.read_directory(tmp_path, fps=120)
    half, _ = motion_files.read_directory(tmp_path, fps=60)
    np.testing.assert_array_equal(
        half["train"]["running 09_01"], whole["train"]["running 09_01"][::2]
    )


def test_folders_name_split_and_action_of_other_files(tmp_path):
    folder = tmp_path / "test" / "tai chi"
    folder.mkdir(parents=True)
    (folder / "me.asf").write_text(asf())
    (folder / "morning.amc").write_text(amc(FRAMES))
    clips, left_out = motion_files.read_directory(tmp_path, fps=60)
    assert {split: list(found) for split, found in clips.items()} == {"test": ["tai_chi morning"]}
    assert left_out == 0


def test_an_archive_is_as_good_as_its_directory(tmp_path):
    write_subject(tmp_path / "all" / "09", "09", {"01": FRAMES, "12": FRAMES})
    archive = tmp_path / "all.zip"
    with zipfile.ZipFile(archive, "w") as packed:
        for path in sorted((tmp_path / "all").rglob("*.a*")):
            packed.write(path, path.relative_to(tmp_path))
    motion_files.unpack(archive, tmp_path / "unpacked")
    direct, _ = motion_files.read_directory(tmp_path / "all", fps=60)
    packed, left_out = motion_files.read_directory(tmp_path / "unpacked", fps=60)
    assert left_out == 0
    np.testing.assert_array_equal(
        packed["train"]["running 09_01"], direct["train"]["running 09_01"]
    )


def test_a_damaged_archive_does_not_fit_its_checksum(tmp_path):
    write_subject(tmp_path, "09", {"01": FRAMES})
    archive = tmp_path / "all.zip"
    with zipfile.ZipFile(archive, "w") as packed:
        packed.write(tmp_path / "09.asf", "09.asf")
        packed.write(tmp_path / "09_01.amc", "09_01.amc")
    content = archive.read_bytes()
    archive.write_bytes(content.replace(b"ltibia 3.0", b"ltibia 8.0"))
    with pytest.raises(UserError, match=r"all\.zip is damaged \(Bad CRC-32 .*09_01\.amc"):
        motion_files.unpack(archive, tmp_path / "unpacked")
    archive.write_bytes(content[:-30])
    with pytest.raises(UserError, match=r"all\.zip is damaged .*; fetch it again"):
        motion_files.unpack(archive, tmp_path / "unpacked")
    with pytest.raises(UserError, match=r"none\.zip cannot be read: No such file"):
        motion_files.unpack(tmp_path / "none.zip", tmp_path / "unpacked")


def test_a_skeleton_of_another_subject_is_not_taken(tmp_path):
    write_subject(tmp_path, "09", {"01": FRAMES})
    (tmp_path / "09.asf").rename(tmp_path / "08.asf")
    with pytest.raises(UserError, match=r"09_01\.amc has no skeleton; put 09\.asf beside it"):
        motion_files.read_directory(tmp_path, fps=60)


def test_nothing_to_use(tmp_path):
    with pytest.raises(UserError, match=r"holds neither \.amc nor \.bvh files"):
        motion_files.read_directory(tmp_path, fps=60)
    write_subject(tmp_path, "01", {"01": FRAMES})
    with pytest.raises(UserError, match=r"1 files of motion but none .* \(01_01\.amc is none"):
        motion_files.read_directory(tmp_path, fps=60)


def test_frames_are_not_invented(tmp_path):
    write_subject(tmp_path, "09", {"01": FRAMES})
    with pytest.raises(
        UserError, match=r"has 120 frames per second, less than 240; give --fps=120"
    ):
        motion_files.read_directory(tmp_path, fps=240)


def test_two_files_of_one_name_are_refused(tmp_path):
    write_subject(tmp_path / "a", "09", {"01": FRAMES})
    write_subject(tmp_path / "b", "09", {"01": FRAMES})
    with pytest.raises(UserError, match=r"another file is train 'running 09_01' too"):
        motion_files.read_directory(tmp_path, fps=60)
