"""VTAB in one command: every task's config, and two tasks from end to end."""

import dataclasses
import json
import math
import types

import commands
import jax
import pytest
import vtab_data
from configs import parsed

from experiments.sweep import runs
from experiments.vit import bit_vtab
from experiments.vit import vtab as recipe
from experiments.vtab import protocol as command
from train_jax import loop
from train_jax.config import from_config
from train_jax.errors import NotFiniteError, UserError
from train_jax.mesh import make_mesh
from train_jax.optimizers import Sgd
from train_jax.schedules import StepsConfig
from vit_jax.data.preprocess import ResizeCrop, Squash
from vit_jax.evaluate import evaluate
from vit_jax.models.config import ViTConfig
from vit_jax.task import ViTTrainConfig, make_task
from vit_jax.vtab import TASKS

NAME = "lr=0.01,steps=2"


def built(arg):
    return from_config(ViTTrainConfig, recipe.get_config(arg).to_dict())


@pytest.mark.parametrize("name", TASKS)
def test_every_task_has_the_papers_recipe_and_its_exceptions(name):
    task, config = TASKS[name], built(f"L/16,{name}")
    assert (config.batch_size, config.total, config.loss) == (512, "2500 steps", "softmax")
    assert (config.schedule.base, config.schedule.warmup) == (0.01, "200 steps")
    assert config.optimizer == Sgd(momentum=0.9, accumulator_dtype="bfloat16", clip_norm=1.0)
    assert isinstance(config.model, ViTConfig)
    assert (config.model.num_classes, config.model.dropout) == (task.num_classes, 0.1)
    assert config.flip == task.flip
    assert config.data.preprocess == (ResizeCrop(448, 384) if task.crop else Squash(384))
    assert (config.data.source, config.data.split) == (f"vtab:{name}", "train800val200")
    assert {n: (e.source, e.split) for n, e in config.evaluations.items()} == {
        "test": (f"vtab:{name}", "test")
    }
    assert config.evaluations["test"].preprocess == Squash(384)
    selection = built(f"L/16,{name},final=false,lr=0.03,steps=500")
    assert (selection.data.split, selection.data.examples) == ("train800", 800)
    assert {n: e.split for n, e in selection.evaluations.items()} == {"held_out": "val200"}
    assert (selection.schedule.base, selection.schedule.warmup) == (0.03, "100 steps")


@pytest.mark.parametrize("name", TASKS)
def test_bit_fine_tunes_every_task_by_its_rule(name):
    task = TASKS[name]
    config = from_config(ViTTrainConfig, bit_vtab.get_config(f"R50x1,{name}").to_dict())
    assert (config.total, config.mixup, config.flip) == ("500 steps", 0.0, task.flip)
    small = name in ("cifar100", "svhn", "eurosat", "dsprites_location", "dsprites_orientation")
    resize, size = (160, 128) if small else (448, 384)
    assert config.data.preprocess == (ResizeCrop(resize, size) if task.crop else Squash(size))
    assert config.evaluations["test"].preprocess == Squash(size)
    assert config.model.num_classes == task.num_classes
    big = from_config(ViTTrainConfig, bit_vtab.get_config(f"R152x4,{name},final=false").to_dict())
    assert big.evaluations["held_out"].preprocess == Squash(128 if small else 480)
    assert (big.data.split, config.data.split) == ("train800", "train800val200")


def test_settings_are_all_pairs_of_what_is_given():
    one, two = ("lr", 0.01), ("lr", 0.03)
    assert command.settings_of((), ()) == [()]
    assert command.settings_of((0.01,), ()) == [(one,)]
    assert command.settings_of((0.01, 0.03), (500, 2500)) == [
        (lr, ("steps", steps)) for lr in (one, two) for steps in (500, 2500)
    ]


def test_patches_of_14_pixels_tile_the_pictures():
    config = built("H/14,dtd")
    assert config.data.preprocess == ResizeCrop(441, 378)
    assert config.evaluations["test"].preprocess == Squash(378)


def test_bad_arguments():
    with pytest.raises(UserError, match="Unknown VTAB task 'clever_count'; did you mean clevr_cou"):
        built("L/16,clever_count")
    with pytest.raises(UserError, match="crop=400 must be 384 or 480"):
        bit_vtab.get_config("R50x1,dtd,crop=400")
    with pytest.raises(UserError, match="steps=-1 must be positive"):
        built("L/16,dtd,steps=-1")
    # Without a task it is the line of the command for all of them, not a run.
    config = parsed(ViTTrainConfig, "vit/vtab.py", "B/16", "--config.seed=3")
    assert config.seed == 3
    with pytest.raises(UserError, match=r"python -m experiments.vtab runs all of them"):
        make_task(config)


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    directory = str(tmp_path_factory.mktemp("vtab"))
    for task in ("svhn", "camelyon"):
        vtab_data.make(TASKS[task].data, directory)
    return directory


@pytest.fixture
def experiment(data_dir, monkeypatch):
    vtab_data.use_few(monkeypatch)
    return runs.Experiment(recipe, "mu/8,resolution=16", {"data.data_dir": data_dir})


def test_two_tasks_from_end_to_end(tmp_path):
    data = tmp_path / "data"
    vtab_data.make("svhn_cropped", str(data), {"train": 2000, "test": 12})
    vtab_data.make("patch_camelyon", str(data), {"train": 800, "validation": 200, "test": 12})
    words = {
        "config": "experiments/vit/vtab.py:mu/8,resolution=16",
        "config.data.data_dir": data,
        "config.batch_size": 8,
        "config.total": "2 steps",
        "config.schedule.warmup": "0 steps",
        "config.model.compute_dtype": "float32",
        "config.model.execution": "unrolled",
        "config.model.remat": "none",
        "config.checkpoint.every": "100 percent",
        "tasks": "camelyon,svhn",
        "seeds": "1",
        "workdir": tmp_path / "runs",
    }

    def run():
        flags = [f"--{key}={value}" for key, value in words.items()]
        done = commands.shared().run("experiments.vtab", *flags)
        assert done.code == 0, done.stderr
        progress, _, table = done.stdout.partition("\n\n")
        return table, progress.count("done before")

    table, skipped = run()
    assert skipped == 0
    lines = ["test accuracy in %, recipe, runs a task: 1"]
    for task, group in (("svhn", "natural"), ("camelyon", "specialized")):
        directory = tmp_path / "runs" / "final" / "recipe" / task / "seed=1"
        config = json.loads((directory / "config.json").read_text())
        assert (config["seed"], config["total"]) == (1, "2 steps")
        assert config["data"]["split"] == "train800val200"
        assert config["model"]["num_classes"] == TASKS[task].num_classes
        [file] = directory.rglob("*.result.json")
        result = json.loads(file.read_text())["splits"]["test"]
        # All twelve images of the test set, and nothing else.
        assert result["examples"] == 12
        shown = f"{100 * result['metrics']['accuracy']:.2f}"
        lines.append(f"  {group:<13}{TASKS[task].title:<14}{shown:>14}")
    # Two tasks have no mean that may stand in Table 9.
    assert table.splitlines() == lines
    assert run() == (table, 2)


def test_bit_has_tasks_that_step_evaluate_and_save(experiment, tmp_path, monkeypatch):
    bit = runs.Experiment(
        bit_vtab, "R50x1", experiment.overrides | {"data.threads": 1, "batch_size": 8}
    )
    for final, count in ((True, 10), (False, 8)):
        task = make_task(bit.config(task="svhn", final=final, seed=1))
        assert task.train_data.examples_per_epoch == count
        assert list(task.evaluations) == ["test" if final else "held_out"]
    config = bit.config(task="svhn", seed=1)
    small = ResizeCrop(40, 32)
    config = dataclasses.replace(
        config,
        model=dataclasses.replace(config.model, stages=(1,), width=32, compute_dtype="float32"),
        data=dataclasses.replace(config.data, preprocess=small),
        evaluations={
            "test": dataclasses.replace(config.evaluations["test"], preprocess=Squash(32))
        },
        total="2 steps",
        schedule=StepsConfig(base=config.schedule.base, boundaries=(), warmup="1 steps"),
    )
    # Compiles in half the time.
    monkeypatch.setattr(loop, "make_mesh", lambda c: make_mesh(c, jax.devices()[:1]))
    result = loop.fit(make_task(config), config, str(tmp_path))
    # A head of zeros has hardly begun to tell ten classes apart.
    assert result.metrics["test/loss"] == pytest.approx(math.log(10), rel=0.1)
    again = evaluate(config, str(tmp_path))["test"]
    assert (result.step, again["examples"]) == (2, 12)
    assert again["loss"] == pytest.approx(result.metrics["test/loss"], rel=1e-5)


def test_one_setting_is_chosen_by_the_mean_over_tasks(experiment, tmp_path, monkeypatch):
    made = []

    def fit(task, config, workdir):
        made.append(str(workdir).removeprefix(f"{tmp_path}/"))
        name, rate = config.data.source.partition(":")[2], config.schedule.base
        # The lower rate is better on one task by more than it is worse on the other.
        held_out = {("svhn", 0.01): 0.9, ("svhn", 0.03): 0.5, ("camelyon", 0.03): 0.8}
        accuracy = held_out.get((name, rate), 0.7)
        metrics = {"held_out/accuracy": accuracy, "test/accuracy": 0.5 + config.seed / 100}
        if rate > 0.03:
            raise NotFiniteError("loss is not finite")
        return types.SimpleNamespace(preempted=False, over_budget=False, metrics=metrics)

    monkeypatch.setattr(runs, "fit", fit)
    monkeypatch.setattr(runs, "make_task", lambda config: None)
    text = command.vtab(
        experiment,
        str(tmp_path),
        settings=command.settings_of((0.1, 0.03, 0.01), (2,)),
        seeds=(0, 1),
        tasks=("svhn", "camelyon"),
    )
    tasks = ("svhn", "camelyon")
    assert made == [
        "select/lr=0.1,steps=2/svhn",
        *(f"select/lr={rate},steps=2/{task}" for rate in (0.03, 0.01) for task in tasks),
        *(f"final/{NAME}/{task}/seed={seed}" for task in tasks for seed in (0, 1)),
    ]
    assert text.splitlines()[1:] == [
        "mean accuracy on the 200 held-out examples of 2 tasks, in %",
        "  lr=0.1,steps=2: not finite",
        "  lr=0.03,steps=2: 65.00",
        "  lr=0.01,steps=2: 80.00   chosen",
        "test accuracy in %, lr=0.01,steps=2, runs a task: 2",
        "  natural      SVHN            50.50 ± 0.71",
        "  specialized  Camelyon        50.50 ± 0.71",
    ]


def test_what_is_missing_is_said_before_the_first_run(experiment, tmp_path):
    with pytest.raises(UserError) as caught:
        command.vtab(
            experiment,
            str(tmp_path),
            settings=[()],
            seeds=(0,),
            tasks=("svhn", "dtd", "clevr_count", "clevr_distance"),
        )
    lines = str(caught.value).splitlines()
    assert len(lines) == 2
    assert "vit_jax.data.prepare tfds:dtd" in lines[0]
    assert "vit_jax.data.prepare tfds:clevr" in lines[1]
    assert not list(tmp_path.iterdir())


def test_the_table_is_that_of_the_paper():
    row = (
        "95.3 85.5 75.2 99.7 97.2 65.0 88.9 | 83.3 96.7 91.4 76.6 | "
        "91.7 63.8 53.1 79.4 63.3 84.5 33.2 51.2"
    )
    scores = dict(zip(TASKS, (float(x) / 100 for x in row.replace("| ", "").split()), strict=True))
    text = command.table({name: [x, x + 0.01, x - 0.01] for name, x in scores.items()})
    # H/14 pre-trained on JFT: 77.6 in Table 9, 77.63 in Table 2.
    assert text.splitlines()[-1] == f"as Table 9: {row} | 77.6"
    assert "  all          mean            77.63 ± 1.00" in text
    assert "  natural      Caltech101      95.30 ± 1.00" in text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "--workdir is missing"),
        (("--workdir=x", "--tasks=dtd,snorb"), "Unknown VTAB task 'snorb'"),
        (
            ("--workdir=x", "--rates=0.1", "--config=experiments/vit/bit_vtab.py:R50x1"),
            "no argument 'lr'",
        ),
        (("--workdir=x", "--steps=0"), "--steps='0' must be different numbers, none below 1"),
    ],
)
def test_mistakes_on_the_command_line(words, message):
    done = commands.shared().run(
        "experiments.vtab", "--config=experiments/vit/vtab.py:L/16", *words
    )
    assert (done.code, done.stdout) == (2, "")
    assert message in done.stderr


def test_tasks_are_in_the_order_of_table_9():
    assert command.tasks_of("svhn,dtd") == ("dtd", "svhn")
    assert command.tasks_of(None) == tuple(TASKS)
