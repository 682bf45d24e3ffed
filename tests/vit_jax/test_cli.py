"""Whatever is wrong with a command, it ends with exit code 2 and one sentence that helps."""

import json
import re

import commands
import pytest
import tiny

from train_jax.command_line import USER_ERROR_EXIT_CODE
from train_jax.record import read_records

pytestmark = pytest.mark.timeout(300)

TRAIN = ("vit_jax.train", "--config=tests/tiny.py:6")
EVALUATE = ("vit_jax.evaluate", "--config=tests/tiny.py:6")
CONVERT = ("vit_jax.convert",)


@pytest.fixture(scope="module")
def place(tmp_path_factory, request):
    """A directory with all that a command may stumble over."""
    root = tmp_path_factory.mktemp("cli")
    (root / "file").write_text("")
    (root / "no_function.py").write_text("")
    (root / "other_package.py").write_text("\nimport no_such_package\n")
    (root / "typo.py").write_text("def get_config(:\n")
    (root / "plain.py").write_text("def get_config():\n    return None\n")
    foreign = root / "foreign" / "checkpoints" / "5" / "state"
    foreign.mkdir(parents=True)
    (foreign / "manifest.ocdbt").write_text("somebody else's")
    (root / "empty").mkdir()
    published = request.path.parents[1] / "data" / "vit" / "ft_tiny.pretrained.npz"
    (root / "whole.npz").write_bytes(published.read_bytes())
    (root / "truncated.npz").write_bytes(published.read_bytes()[:5000])
    (root / "text.npz").write_text("not an archive")
    return root


@pytest.fixture(scope="module")
def run_of_ours(tmp_path_factory):
    """A finished run of the tiny config."""
    workdir = tmp_path_factory.mktemp("run") / "ours"
    finished = commands.shared().run(*TRAIN, f"--workdir={workdir}")
    assert finished.code == 0, finished.stderr
    return workdir


def complaint(words, **options):
    """What a command that cannot work says."""
    finished = commands.shared().run(*words, **options)
    assert "Traceback" not in finished.stderr, finished.stderr
    assert finished.code == USER_ERROR_EXIT_CODE, finished.stderr
    match = re.search(r"^Error: (.*)", finished.stderr, re.MULTILINE | re.DOTALL)
    assert match, finished.stderr
    return match[1].strip(), finished


def assert_complains(words, pattern, **options):
    """That one sentence comes, and nothing besides."""
    message, finished = complaint(words, **options)
    assert re.search(pattern, message), message
    assert message[-1] in ".?)", message
    assert len(finished.stderr.splitlines()) == 1, finished.stderr


@pytest.mark.parametrize(
    ("words", "pattern"),
    [
        (("vit_jax.train",), "--config is missing; name an experiment file"),
        (TRAIN, "--workdir is missing; name a directory"),
        (EVALUATE, "--checkpoint is missing; name a run"),
        (CONVERT, r"Give SOURCE and DESTINATION; see python -m vit_jax\.convert --help"),
        ((*CONVERT, "a", "b", "c"), "Unexpected argument 'c'"),
        ((*CONVERT, "a", "b", "--names=new"), r"--names=new: value should be one of <original\|"),
        ((*TRAIN, "--workdri=x"), "Unknown command line flag 'workdri'. Did you mean: workdir"),
        ((*TRAIN, "extra"), "Unexpected argument 'extra'; flags are written --name=value"),
        ((*TRAIN, "--config.modle.width=3"), r"config\.modle is no key.*mean config\.model\?"),
        ((*TRAIN, "--config.model.widht=3"), r"model\.widht is no key.*mean config\.model\.width"),
        (
            (*TRAIN, "--config.optimizer.momentum=0"),
            r"momentum is no key.*config\.optimizer has .*b1",
        ),
        ((*TRAIN, "--config.batch_size=1.5"), r"config\.batch_size=1\.5 must be of type int"),
        ((*TRAIN, "--config.model=3"), r"config\.model is a group of keys"),
        ((*TRAIN, "--config.nonfinite=ask"), "'ask'; it must be one of 'skip', 'stop'"),
        (("vit_jax.train", "--config=no/file.py:3"), "there is no file 'no/file.py'"),
        (("vit_jax.train", "--config={}/no_function.py"), "has no function get_config"),
        (("vit_jax.train", "--config={}/other_package.py"), "line 2: ModuleNotFoundError: No mod"),
        (("vit_jax.train", "--config={}/typo.py"), r"cannot be loaded: SyntaxError.*line 1"),
        (("vit_jax.train", "--config={}/plain.py:3"), "takes no arguments; leave out the colon"),
        (("vit_jax.train", "--config=tests/tiny.py:many"), "steps='many' must be of type int"),
        (("vit_jax.train", "--config=tests/tiny.py:3,4"), r"takes 1 arguments \(steps\)"),
        ((*TRAIN, "--coordinator=localhost:1"), "need all three of coordinator"),
    ],
)
def test_mistakes_in_the_command_line(place, words, pattern):
    assert_complains([word.replace("{}", str(place)) for word in words], pattern)


@pytest.mark.parametrize(
    ("word", "pattern"),
    [
        ("--config.data.source=digit", "Unknown data source 'digit', did you mean 'digits'"),
        ("--config.data.source=tfds:nope", "TFDS knows no data set 'nope'"),
        ("--config.data.source=tfds:cifar10", "not prepared in .*: run `.*cifar10"),
        ("--config.data.source=folder:/no/where", "folder /no/where does not exist"),
        ("--config.data.split=trian", "no split 'trian': its splits are train, test"),
        ("--config.data.preprocess.size=18", "18 is not divisible by the patch of 4 pixels"),
        ("--config.model.width=30", "30 is not a multiple of the 4 heads; choose another"),
        (
            "--config.evaluations.test.preprocess.size=20",
            r"evaluations\.test has images of 20x20 .* table is for 16x16",
        ),
        ("--config.model.num_classes=7", r"10 classes .*head 7; set config\.model\.num_classes=10"),
        ("--config.batch_size=18", "18 does not split over 4 devices.*choose a multiple of 4"),
        ("--config.evaluation_batch_size=18", "batch of 18 does not split over 4 devices; choose"),
        ("--config.mesh.fsdp=3", "fsdp=3, tensor=1 does not fit 4 devices; choose sizes"),
        ("--config.total=6 stepz", "'6 stepz' is not a duration; write"),
        ("--config.total=3 steps", "warm-up of 4 steps .* is not shorter than the run of 3"),
    ],
)
def test_configs_that_cannot_work(tmp_path, word, pattern):
    assert_complains([*TRAIN, f"--workdir={tmp_path}", word], pattern, devices=4)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("workdir", "pattern"),
    [
        ("file/below", "file/below cannot be written .*choose another directory"),
        ("gs://bucket/run", "gs://bucket/run is in a bucket, which needs gcsfs; run `pip"),
    ],
)
def test_workdirs_that_cannot_be_used(place, workdir, pattern):
    path = workdir if ":" in workdir else place / workdir
    assert_complains([*TRAIN, f"--workdir={path}"], pattern)


def test_a_workdir_with_somebody_elses_checkpoint(place):
    message, _ = complaint([*TRAIN, f"--workdir={place / 'foreign'}"])
    assert re.search("None of the 1 checkpoints .* or train_jax did not write it", message)


def test_a_workdir_of_another_config(run_of_ours):
    words = [*TRAIN, "--config.model.width=64", "--config.seed=3", f"--workdir={run_of_ours}"]
    pattern = r"another config \(config\.seed: 0 -> 3; config\.model\.width: 32 -> 64\); choose a"
    config = (run_of_ours / "config.json").read_text()
    assert_complains(words, pattern)
    assert (run_of_ours / "config.json").read_text() == config


def test_a_damaged_checkpoint_is_named(run_of_ours, tmp_path):
    """Nothing older is left, so the run cannot go on."""
    copy = tmp_path / "run"
    for path in sorted(run_of_ours.rglob("*")):
        if path.is_file():
            target = copy / path.relative_to(run_of_ours)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    data = [p for p in (copy / "checkpoints").rglob("*") if p.is_file() and p.parent.name == "d"]
    for path in data:
        path.write_bytes(path.read_bytes()[:100])
    message, _ = complaint([*TRAIN, f"--workdir={copy}"])
    assert re.search(r"None of the \d checkpoints .* can be read; .*bytes instead of", message)


@pytest.mark.parametrize(
    ("start", "pattern"),
    [
        ("truncated.npz", r"truncated\.npz is truncated.*fetch it again"),
        ("text.npz", r"text\.npz"),
        ("missing.npz", r"missing\.npz cannot be opened"),
        ("missing", "missing does not exist; give a run's working directory"),
        ("empty", "empty holds no complete checkpoint"),
        ("foreign", "foreign.* is damaged|train_jax did not write it"),
    ],
)
def test_checkpoints_that_cannot_be_started_from(place, tmp_path, start, pattern):
    words = [*TRAIN, f"--config.init_from={place / start}", f"--workdir={tmp_path}"]
    assert_complains(words, pattern)
    assert_complains([*EVALUATE, f"--checkpoint={place / start}"], pattern)


def test_a_head_of_another_size(run_of_ours):
    """Fine-tuning replaces the head; an evaluation needs the one that was trained."""
    words = [f"--config.{key}.classes=(0,1,2,3)" for key in ("data", "evaluations.test")]
    words += ["--config.model.num_classes=4", f"--checkpoint={run_of_ours}"]
    message, _ = complaint([*EVALUATE, *words])
    assert re.search(r"head/kernel: does not fit .*\(32, 10\).*\(32, 4\)", message)
    assert "set model.num_classes to the checkpoint's" in message


def test_a_missing_package_is_named_with_what_installs_it(tmp_path):
    words = [*TRAIN, f"--config.data.data_dir={tmp_path}/data", f"--workdir={tmp_path}/run"]
    pattern = r"come with scikit-learn: pip install vit-pose-jax\[quickstart\]"
    assert_complains(words, pattern, missing=["sklearn.datasets"])


@pytest.mark.parametrize(
    ("module", "flags"),
    [
        ("vit_jax.train", ["--config", "--workdir", "--coordinator"]),
        ("vit_jax.evaluate", ["--config", "--checkpoint"]),
        ("vit_jax.convert", ["--names", "--grid"]),
        ("experiments.quickstart", ["--workdir"]),
    ],
)
def test_help_says_what_a_command_is_for(module, flags):
    finished = commands.shared().run(module, "--help")
    assert finished.code == 0
    assert finished.stderr == ""
    assert f"python -m {module}" in finished.stdout
    for flag in flags:
        assert re.search(rf"^  {flag}: \S", finished.stdout, re.MULTILINE)
    # Not the hundreds of flags of the libraries.
    assert len(finished.stdout.splitlines()) < 40


def test_evaluate_prints_what_the_run_measured(run_of_ours):
    finished = commands.shared().run(*EVALUATE, f"--checkpoint={run_of_ours}")
    assert finished.code == 0, finished.stderr
    last = tiny.records(run_of_ours, "test/accuracy")[6]
    assert finished.stdout.startswith(f"test: accuracy {last:.2%}  ")
    results, cost = finished.stdout.splitlines()
    assert results.endswith("examples 360")
    assert re.fullmatch(r"cost: [\d.e-]+ core-days of cpu; goodput \d+% \(start .*\)", cost)


def test_evaluate_records_where_it_is_told_to(run_of_ours, tmp_path):
    words = (*EVALUATE, f"--checkpoint={run_of_ours}", f"--record={tmp_path}/new")
    finished = commands.shared().run(*words)
    assert finished.code == 0, finished.stderr
    ((_, record),) = read_records([str(tmp_path)])
    assert (record.program, record.step, record.finished) == ("vit_jax.evaluate", 6, True)
    result = record.splits["test"]
    assert result["metrics"]["accuracy"] == pytest.approx(
        tiny.records(run_of_ours, "test/accuracy")[6]
    )
    assert (result["examples"], result["data"]["split"]) == (360, "test")
    assert result["data"]["preprocess"]["name"] == "squash"
    assert record.cost["exaflop"] > 0


def test_a_run_says_what_it_is(run_of_ours):
    config = json.loads((run_of_ours / "config.json").read_text())
    assert config["model"]["width"] == 32
    assert config["total"] == "6 steps"
