"""Mistakes on the command line of any program: one sentence, exit code 2, no traceback."""

import re

import commands
import program_source
import pytest

# Programs of users; each starts in a fork of a warm process.
PROGRAMS = [
    command.words
    for command in program_source.find()
    if command.words.split(".")[0] not in ("benchmarks", "colabs")
    and not command.words.startswith(("experiments.figures", "experiments.quickstart"))
]


def assert_one_sentence(finished: commands.Finished) -> str:
    """The sentence."""
    assert finished.code == 2, finished.stderr
    assert re.fullmatch(r"Error: [^\n]+\.\n", finished.stderr), finished.stderr
    return finished.stderr


@pytest.mark.parametrize("program", PROGRAMS)
def test_an_unknown_flag_is_named(program):
    # Some have arguments that are missed first.
    said = assert_one_sentence(commands.shared().run(program, "--nonsense=3"))
    assert "nonsense" in said or "required" in said or "source" in said or "Give " in said


@pytest.mark.parametrize(
    ("program", "arguments", "said"),
    [
        ("vit_jax.data.prepare", [], "required: source; see python -m vit_jax.data.prepare --help"),
        ("vit_jax.data.prepare", ["a", "b"], "unrecognized arguments: b"),
        ("vit_jax.data.imagenet21k", ["a", "b", "--shards=x"], "--shards: invalid int value: 'x'"),
        ("experiments.quickstart.motion", ["--file=/proc/x/m.npz"], "/proc/x cannot be made"),
        ("train_jax.report", [], "required: workdir"),
        ("train_jax.report", ["a", "--out=b"], "unrecognized arguments: --out=b"),
    ],
)
def test_a_mistake_in_arguments_is_named(program, arguments, said):
    assert said in assert_one_sentence(commands.shared().run(program, *arguments))


def test_a_file_of_another_kind_is_no_reason_to_unpickle_it(tmp_path):
    (tmp_path / "picture.jpg").write_bytes(b"\xff\xd8\xff\xe0 no poses")
    for program in ("pose_jax.render", "pose_jax.viewer"):
        arguments = (str(tmp_path / "picture.jpg"), f"--output={tmp_path / 'out.mp4'}")
        said = assert_one_sentence(commands.shared().run(program, *arguments))
        assert "picture.jpg is not an .npz file of poses" in said
        assert "pickle" not in said


def test_help_shows_examples_as_they_are_typed_and_defaults_within_the_width():
    shown = commands.shared().run("vit_jax.predict", "--help").stdout
    assert "--top: How many classes. [5]" in shown
    assert max(map(len, shown.splitlines())) <= 100
    shown = commands.shared().run("vit_jax.train", "--help").stdout
    assert "cifar100 \\\n        --config.init_from=DIR --workdir=OTHER" in shown
