"""The command names its sources without loading them, and hands each its own arguments."""

import subprocess
import sys
import types

import pytest

from pose_jax.prepare import __main__ as cli
from train_jax import command_line
from train_jax.errors import UserError


def command(*words):
    return subprocess.run(
        [sys.executable, "-m", "pose_jax.prepare", *words], capture_output=True, text=True
    )


def test_help_says_for_each_source_what_is_needed_and_where_it_comes_from(capsys):
    assert cli.prepare(["--help"]) == 0
    told = capsys.readouterr().out
    for source in cli.SOURCES:
        assert f"pose_jax.prepare {source} " in told
    for place in ("vision.imar.ro/human3.6m", "humaneva.is.tue.mpg.de", "mocap.cs.cmu.edu"):
        assert place in told


def test_help_loads_neither_jax_nor_any_source():
    """Nor does it take the seconds that they would."""
    script = (
        "import sys; from pose_jax.prepare.__main__ import prepare; prepare(['--help']);"
        "loaded = [name for name in sys.modules if name == 'jax' or '.prepare.' in name];"
        "assert loaded == ['pose_jax.prepare.__main__'], loaded"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("source", ["h36m", "humaneva", "cmu"])
def test_a_source_tells_its_exact_commands(source, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.prepare([source, "--help"])
    assert ended.value.code == 0
    told = capsys.readouterr().out
    assert f"    python -m pose_jax.prepare {source} --" in told
    assert "--output" in told


def test_mistakes_are_one_line_and_exit_code_2():
    for words, message in (
        ((), "the source is missing; give one of h36m, humaneva, cmu, custom, or --help."),
        (("coco",), "there is no source 'coco'"),
    ):
        done = command(*words)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith("Error: ")
        assert message in done.stderr
        assert done.stderr.count("\n") == 1


@pytest.fixture
def source(monkeypatch):
    """A source named `custom` that gives back what it is told."""
    module = types.ModuleType("pose_jax.prepare.custom", "Keypoints:\n\n    as they are")
    vars(module).update(
        add_arguments=lambda parser: parser.add_argument("--output", required=True, help="a file"),
        run=lambda options: f"There is {options.output} now.",
    )
    monkeypatch.setitem(sys.modules, "pose_jax.prepare.custom", module)


@pytest.mark.usefixtures("source")
def test_a_source_gets_its_arguments_and_its_report_is_printed(capsys):
    assert cli.prepare(["custom", "--output=poses.npz"]) == 0
    assert capsys.readouterr().out == "There is poses.npz now.\n"


@pytest.mark.usefixtures("source")
def test_the_help_of_a_source_is_its_own_with_its_lines_kept(capsys):
    with pytest.raises(SystemExit) as ended:
        cli.prepare(["custom", "--help"])
    assert ended.value.code == 0
    told = capsys.readouterr().out
    assert "Keypoints:\n\n    as they are" in told
    assert "--output OUTPUT  a file" in told


@pytest.mark.usefixtures("source")
@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "the following arguments are required: --output; see python -m .* custom --help"),
        (["--output=a", "--inptu=b"], "unrecognized arguments: --inptu=b; see"),
        (["--out=a"], "the following arguments are required: --output"),
        (["--output"], "argument --output: expected one argument"),
    ],
)
def test_faulty_arguments_of_a_source(words, message, capsys):
    with pytest.raises(UserError, match=message):
        cli.prepare(["custom", *words])
    assert command_line.exit_code(lambda: cli.prepare(["custom", *words])) == 2
    assert capsys.readouterr().err.count("\n") == 1
