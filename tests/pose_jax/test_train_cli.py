"""Whatever is wrong with a training command, it ends with exit code 2 and one helpful sentence."""

import re

import commands
import pytest
import tiny_poses

from pose_jax.data import store
from train_jax.command_line import USER_ERROR_EXIT_CODE

pytestmark = pytest.mark.timeout(300)

TRAIN = ("pose_jax.train", "--config=tests/tiny_poses.py")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A directory with data."""
    root = tmp_path_factory.mktemp("cli")
    store.save(root / "tiny.npz", tiny_poses.poses())
    (root / "text.npz").write_text("not an archive")
    return root


@pytest.mark.parametrize(
    ("words", "pattern"),
    [
        ((), r"--workdir is missing; name a directory"),
        (("--config.widht=3",), r"config\.widht is no key"),
        (("--config.model.chanels=3",), r"model\.chanels is no key.*mean config\.model\.channels"),
        (("--config.model.widths=(3,4)",), r"widths must be odd numbers.*got \(3, 4\)"),
        (("--config.model.channels=0",), "channels must be at least 1, got 0"),
        (("--config.chunk=0",), "chunk must be at least 1 frame, got 0"),
        (("--config.order=random",), r"config\.order is 'random'; it must be one of 'device'"),
        (("--config.batch_norm.last=0.0",), r"batch_norm\.first and last must lie in \(0, 1\]"),
        (("--config.data_dir=nowhere",), r"nowhere/tiny\.npz is not there.*pose_jax\.prepare"),
        (("--config.data.keypoints=text.npz",), r"text\.npz is not an \.npz file, or is cut"),
        (('--config.data.subjects=("S2",)',), r"tiny\.npz has no subject S2; it has S1, S11, S9"),
        (('--config.data.actions=("Run",)',), r"tiny\.npz has no action Run; it has Turning"),
        (("--config.model.joints_in=16",), r"set config\.model\.joints_in=17"),
        (("--config.model.features=3",), r"set .* config\.model\.features=2"),
        (("--config.total=0 steps",), "a run takes at least 1 step"),
        (("--config.accumulate=2",), "accumulate must be 1 for poses"),
        (("--config.init_from=nowhere",), "nowhere does not exist; give a run's working directory"),
    ],
)
def test_a_mistake_is_said_in_one_sentence(place, tmp_path, words, pattern):
    given = (f"--config.data_dir={place}", f"--workdir={tmp_path}") if words else ()
    finished = commands.shared().run(*TRAIN, *given, *words)
    assert finished.code == USER_ERROR_EXIT_CODE, finished.stderr
    lines = [line for line in finished.stderr.splitlines() if line.startswith("Error: ")]
    assert len(lines) == 1, finished.stderr
    assert re.search(pattern, lines[0]), lines[0]
    assert lines[0][-1] in ".?)"
    assert "Traceback" not in finished.stderr


def test_a_batch_that_does_not_split_is_said(place, tmp_path):
    words = (f"--config.data_dir={place}", f"--workdir={tmp_path}", "--config.batch_size=3")
    finished = commands.shared().run(*TRAIN, *words, devices=2)
    assert finished.code == USER_ERROR_EXIT_CODE, finished.stderr
    assert "Error: batch_size 3 does not split over 2 devices" in finished.stderr


def test_help_says_how_it_is_used():
    finished = commands.shared().run("pose_jax.train", "--help")
    assert finished.code in (0, 1)
    assert "python -m pose_jax.train --config=experiments/pose/h36m.py" in finished.stdout
