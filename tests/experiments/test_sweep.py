"""Sweeps: every rate is tried on the sweep's part, the best one is trained on everything."""

import json
import types

import commands
import pytest
import tiny

from experiments.sweep import rates as sweep
from experiments.sweep import runs
from experiments.vit import finetune
from train_jax.errors import NotFiniteError, UserError

ARG = "mu/8,cifar10,source=digits,resolution=16"
# Table 4's recipe on the digits, with a model of 10 thousand parameters.
OVERRIDES = {
    "data.data_dir": tiny.DATA_DIR,
    "batch_size": 64,
    "total": "16 steps",
    "schedule.warmup": "0 steps",
    "flip": False,
    "evaluation_batch_size": 360,
    "model.compute_dtype": "float32",
    "model.execution": "unrolled",
    "model.remat": "none",
    "checkpoint.every": "100 percent",
    "evaluate_every": "100 percent",
}


@pytest.fixture
def experiment():
    return runs.Experiment(finetune, ARG, OVERRIDES)


def test_the_best_rate_of_the_held_out_part_makes_the_final_run(experiment, tmp_path):
    def run():
        words = [f"--config=experiments/vit/finetune.py:{ARG}", f"--workdir={tmp_path}"]
        words += [f"--config.{key}={value}" for key, value in OVERRIDES.items()]
        done = commands.shared().run("experiments.sweep", *words, "--rates=1e-6,0.1", "--seeds=1")
        assert done.code == 0, done.stderr
        progress, _, table = done.stdout.partition("\n\n")
        made = [line.partition(f": in {tmp_path}/")[2] for line in progress.splitlines()]
        return table, list(filter(None, made)), progress.count("done before")

    names = ["select/lr=1e-06", "select/lr=0.1", "final/lr=0.1,seed=1"]
    table, made, skipped = run()
    assert (made, skipped) == (names, 0)

    # What was trained on what: the held-out part chooses, the test set is not seen before.
    configs = [json.loads((tmp_path / name / "config.json").read_text()) for name in names]
    assert [(c["schedule"]["base"], c["seed"]) for c in configs] == [(1e-6, 0), (0.1, 0), (0.1, 1)]
    assert {c["batch_size"] for c in configs} == {64}
    assert [c["data"]["split"] for c in configs] == ["train[:98%]"] * 2 + ["train"]
    splits = [{name: e["split"] for name, e in c["evaluations"].items()} for c in configs]
    assert splits == [{"held_out": "train[98%:]"}] * 2 + [{"test": "test"}]

    # The choice and the numbers are those of the runs.
    keys = ("held_out/accuracy", "held_out/accuracy", "test/accuracy")
    low, high, final = (
        100 * list(tiny.records(tmp_path / name, key).values())[-1]
        for name, key in zip(names, keys, strict=True)
    )
    assert high > low + 10
    assert table.splitlines() == [
        "held-out accuracy in %",
        f"  lr 1e-06   {low:>10.2f}",
        f"  lr 0.1     {high:>10.2f}   chosen",
        "final runs on the whole training set, lr 0.1, seeds 1",
        f"  test       {final:>14.2f}   ({final:.2f})",
    ]

    # Nothing is done twice, and the table is the same.
    assert run() == (table, [], 3)
    # A run whose result is lost is evaluated again, from its checkpoint; no other.
    for file in (tmp_path / names[0] / "results").iterdir():
        file.unlink()
    assert run() == (table, names[:1], 2)
    # The result of another config is not that of this one.
    config = experiment.config(lr=0.1, final=False)
    assert runs.finished(config, str(tmp_path / names[1])) is not None
    other = runs.Experiment(finetune, ARG, {**OVERRIDES, "batch_size": 32})
    config = other.config(lr=0.1, final=False)
    assert runs.finished(config, str(tmp_path / names[1])) is None


def test_configs_of_a_sweep(experiment, tmp_path):
    config = experiment.config(lr=0.01, final=False)
    assert runs.finished(config, str(tmp_path)) is None
    # Where the data are is said once.
    assert config.data.data_dir == config.evaluations["held_out"].data_dir == tiny.DATA_DIR
    with pytest.raises(UserError, match="no argument 'task'"):
        experiment.config(task="dtd")


def test_rates_that_diverge_are_passed_over(experiment, monkeypatch, tmp_path):
    def fit(task, config, workdir):
        rate = config.schedule.base
        if rate > 0.05:
            raise NotFiniteError("loss is not finite at step 3. Lower the learning rate.")
        accuracy = 0.5 + config.seed / 100
        metrics = {"held_out/accuracy": 1 - rate, "test/accuracy": accuracy, "test/loss": 1.0}
        return types.SimpleNamespace(preempted=False, over_budget=False, metrics=metrics)

    monkeypatch.setattr(runs, "fit", fit)
    monkeypatch.setattr(runs, "make_task", lambda config: None)
    text = sweep.sweep(experiment, str(tmp_path), rates=(0.1, 0.03, 0.01), seeds=(0, 1, 2))
    assert "  lr 0.1     not finite\n" in text
    assert "  lr 0.01         99.00   chosen\n" in text
    # The sample deviation of 50, 51 and 52.
    assert f"  test       {'51.00 ± 1.00':>14}   (50.00, 51.00, 52.00)\n" in text
    with pytest.raises(UserError, match="at none of the rates"):
        sweep.sweep(experiment, str(tmp_path), rates=(0.1,), seeds=(0,))


def test_a_stop_and_a_spent_budget_end_the_sweep(experiment, monkeypatch, tmp_path):
    monkeypatch.setattr(runs, "make_task", lambda config: None)
    ends = types.SimpleNamespace(preempted=True, over_budget=False, metrics={}, step=3)
    monkeypatch.setattr(runs, "fit", lambda task, config, workdir: ends)
    with pytest.raises(runs.PreemptedError):
        sweep.sweep(experiment, str(tmp_path), rates=(0.1,), seeds=(0,))
    ends.preempted, ends.over_budget = False, True
    with pytest.raises(UserError, match=r"spent config.budget after 3 steps"):
        sweep.sweep(experiment, str(tmp_path), rates=(0.1,), seeds=(0,))


def test_of_equal_rates_the_first_is_chosen():
    assert sweep.choose({0.01: 0.5, 0.03: 0.5, 0.1: 0.4, 0.3: None}) == 0.01


def test_rates_are_those_of_table_4():
    assert sweep.rates_of("L/16,imagenet2012,seed=3") == (0.003, 0.01, 0.03, 0.06)
    assert sweep.rates_of("variant=B/16,dataset=cifar10") == (0.001, 0.003, 0.01, 0.03)
    with pytest.raises(UserError, match="no row for 'mnist'"):
        sweep.rates_of("L/16,mnist")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "--workdir is missing"),
        (("--workdir=x", "--rates=0.1,fast"), "--rates='0.1,fast' must be numbers"),
        (("--workdir=x", "--config=experiments/pose/cmu.py:1"), "not a key that ViTTrainConfig"),
        (("--workdir=x", "--rates=0"), "none below 1e-08"),
        (("--workdir=x", "--seeds=1,1"), "--seeds='1,1' must be different numbers"),
        (("--workdir=x", "--config.evaluations.test.split=train"), "differs between the runs"),
    ],
)
def test_mistakes_on_the_command_line(words, message):
    config = "--config=experiments/vit/finetune.py:B/16,cifar10"
    done = commands.shared().run("experiments.sweep", config, *words)
    assert (done.code, done.stdout) == (2, "")
    assert message in done.stderr
