"""Which records count for which figure, what they say of it, and what is missing."""

import dataclasses
import json

import pytest
from made_records import I21K, LIFTER, accuracy, finetuned, record_of

from experiments.tables.match import cells_of, verdict_of
from experiments.tables.missing import launches
from experiments.tables.recipe import CORE_DAYS, GPU_HOURS, config_of, cost_of, exaflop_of
from experiments.tables.target import TABLES, targets_of
from vit_jax.task import ViTTrainConfig
from vit_jax.vtab import TASKS


def cell(table, row, column, records):
    (found,) = (
        each
        for each in cells_of(table, records)
        if (each.target.row, each.target.column) == (row, column)
    )
    return found


def cifar100(records, column="ViT-L/16 (I21k)"):
    return cell("vit_table2", "CIFAR-100", column, records)


def test_mean_and_deviation_over_seeds_stand_beside_the_published():
    found = cifar100([finetuned(v, seed=i) for i, v in enumerate((0.9320, 0.9330, 0.9316))])
    assert found.mean == pytest.approx(93.22)
    assert found.std == pytest.approx(0.0721, abs=1e-4)
    assert found.difference == pytest.approx(-0.03)
    assert found.verdict == "within noise"
    assert list(found.values) == [0, 1, 2]
    # Nothing of it reaches the model that was pre-trained on JFT.
    assert cifar100([finetuned(0.9322)], "ViT-L/16 (JFT)").verdict == "not run"


@pytest.mark.parametrize(
    ("values", "verdict"),
    [
        # Published are 93.25 ± 0.05.
        ([], "not run"),
        ([93.35], "within noise"),
        ([93.36], "above"),
        ([93.14], "below"),
        # Runs that scatter more than the published ones.
        ([92.8, 93.4], "within noise"),
        ([92.5, 92.6], "below"),
    ],
)
def test_noise_is_twice_the_larger_deviation(values, verdict):
    assert verdict_of(cifar100([]).target, values) == verdict


def test_where_no_deviation_is_printed_that_of_the_table_counts():
    target = cell("vit_table5", "ImageNet-21k: CIFAR-100", "ViT-L/16", []).target
    assert (target.value, target.std, TABLES["vit_table5"].spread) == (93.44, None, 0.15)
    assert verdict_of(target, [93.73]) == "within noise"
    assert verdict_of(target, [93.75]) == "above"
    # A deviation of 0.00 is a rounded one.
    flowers = cell("vit_table2", "Oxford Flowers-102", "ViT-L/16 (JFT)", []).target
    assert (flowers.value, flowers.std) == (99.74, 0.0)
    assert verdict_of(flowers, [99.75]) == "within noise"
    assert verdict_of(flowers, [99.76]) == "above"


def test_the_newest_record_of_a_seed_counts():
    old = finetuned(0.5, time="2026-01-01T00:00:00+00:00")
    new = finetuned(0.93, time="2026-01-02T00:00:00+00:00")
    assert cifar100([new, old]).values == {0: pytest.approx(93.0)}


@pytest.mark.parametrize(
    "change",
    [
        {"total": "500 steps"},
        {"batch_size": 256},
        {"model.dropout": 0.0},
        {"ema_decay": 0.9999},
        {"data.split": "train[:98%]"},
    ],
)
def test_a_run_of_another_recipe_does_not_count(change):
    assert cifar100([finetuned(0.93, **change)]).verdict == "not run"


@pytest.mark.parametrize(
    "change",
    [
        {"schedule.base": 0.03},
        {"model.compute_dtype": "float32"},
        {"accumulate": 8},
        {"init_from": "gs://bucket/run"},
        {"log_every": "1 steps"},
    ],
)
def test_what_decides_nothing_or_is_chosen_by_a_sweep_may_differ(change):
    assert cifar100([finetuned(0.93, **change)]).mean == pytest.approx(93.0)


def test_a_pretraining_rate_is_not_chosen_by_a_sweep():
    found = record_of(
        "experiments/vit/pretrain.py:B/16,imagenet2012",
        accuracy(0.7479),
        examples=50_000,
    )
    row, column = "ViT-B/16", "ImageNet at 224, 300 epochs from scratch"
    assert cell("vit_extra", row, column, [found]).verdict == "within noise"
    trained = json.loads(json.dumps(found.trained))
    trained["schedule"]["base"] *= 2
    other = dataclasses.replace(found, trained=trained)
    assert cell("vit_extra", row, column, [other]).verdict == "not run"


def test_rates_are_not_averaged():
    records = [finetuned(v, seed=i) for i, v in enumerate((0.93, 0.932))]
    found = cifar100([*records, finetuned(0.5, **{"schedule.base": 0.03})])
    assert found.mean == pytest.approx(93.1)
    assert "2 settings" in found.notes[0]


def test_keys_that_are_younger_than_a_record_are_passed_over():
    found = finetuned(0.93)
    trained = dict(found.trained or {})
    trained["model"] = {k: v for k, v in trained["model"].items() if k != "stochastic_depth"}
    assert cifar100([dataclasses.replace(found, trained=trained)]).mean == pytest.approx(93.0)


def test_a_run_that_was_ended_early_does_not_count_and_is_said():
    found = cifar100([dataclasses.replace(finetuned(0.93), step=50)])
    assert found.verdict == "not run"
    assert found.notes == ("CIFAR-100, ViT-L/16 (I21k): 1 runs were not at their end",)


def test_examples_that_were_dropped_are_not_passed_over():
    found = cifar100([finetuned(0.93, examples=9_728)])
    assert found.verdict == "not run"
    assert "counted 9728 examples rather than 10000" in found.notes[0]


def test_another_preprocessing_of_the_test_set_does_not_count():
    found = finetuned(0.93)
    splits = json.loads(json.dumps(found.splits))
    splits["test"]["data"]["preprocess"] = {"name": "resize_small_crop", "resize": 448, "size": 384}
    assert cifar100([dataclasses.replace(found, splits=splits)]).verdict == "not run"


def test_the_users_own_place_of_the_data_counts_by_its_number_of_examples():
    mine = {"data.source": "folder:/data/cifar100"}
    found = finetuned(0.93, **mine)
    splits = json.loads(json.dumps(found.splits))
    splits["test"]["data"]["source"] = "folder:/data/cifar100"
    found = dataclasses.replace(found, splits=splits)
    assert cifar100([found]).mean == pytest.approx(93.0)
    # Without a known number nothing tells one data set from another.
    command = "experiments/vit/vtab.py:L/16,svhn"
    alike = [config_of(name) for name in (command, "experiments/vit/vtab.py:L/16,eurosat")]
    assert all(isinstance(config, ViTTrainConfig) for config in alike)
    assert len({str(config.model) for config in alike}) == 1
    svhn = record_of(command, accuracy(0.8), start=I21K)
    assert cell("vit_table9", "ViT-L/16 (I21k)", "SVHN", [svhn]).mean == pytest.approx(80)
    assert cell("vit_table9", "ViT-L/16 (I21k)", "EuroSAT", [svhn]).verdict == "not run"


@pytest.mark.parametrize(
    ("start", "counts"),
    [
        (I21K, True),
        # 326,740,307 parameters: with the head of ImageNet-21k and its hidden layer.
        (4 * 326_740_307 + 100_000, True),
        # AugReg's file has no hidden layer; that of ImageNet has another head.
        (4 * 325_690_707 + 100_000, False),
        (4 * 304_326_632 + 100_000, False),
        ("experiments/vit/pretrain.py:L/16,jft300m", False),
        ("experiments/vit/pretrain.py:L/16,imagenet21k,epochs=30", False),
        (None, False),
    ],
)
def test_what_a_run_started_from_decides_the_column(start, counts):
    found = cifar100([finetuned(0.93, start=start)])
    assert found.verdict == ("below" if counts else "not run")


def test_jft_is_under_whatever_name_its_owner_gives_it():
    name = "experiments/vit/pretrain.py:L/16,jft300m,source=tfds:my_jft,seed=3"
    assert cifar100([finetuned(0.939, start=name)], "ViT-L/16 (JFT)").verdict == "within noise"


def test_poses_are_compared_with_the_protocol_of_the_figure():
    averaged = record_of(
        LIFTER, {"test": {"mpjpe": 46.9, "mpjpe/action/Eating": 43.1}}, examples=543_344
    )
    single = record_of(
        LIFTER, {"test": {"mpjpe": 47.8}}, evaluated=f"{LIFTER},average=false", examples=543_344
    )
    exact = record_of(
        LIFTER, {"test": {"mpjpe": 42.5}}, evaluated=f"{LIFTER},keypoints=gt", examples=543_344
    )
    records = [averaged, single, exact]
    table1 = cells_of("pose_table1", records)
    assert {(c.target.row, c.target.column): c.mean for c in table1 if c.values} == {
        ("MPJPE: 243 frames", "average"): pytest.approx(46.9),
        ("MPJPE: 243 frames", "Eating"): pytest.approx(43.1),
    }
    found = {c.target.row: c.mean for c in cells_of("pose_ablations", records) if c.values}
    assert found == {
        "243 frames, CPN": pytest.approx(46.9),
        "243 frames, CPN: without averaging in tests": pytest.approx(47.8),
    }
    row = "trained on CPN, tested on ground truth, 243 frames"
    assert cell("pose_readme", row, "MPJPE", records).mean == pytest.approx(42.5)
    assert cell("pose_table3", "ground truth", "MPJPE", records).verdict == "not run"


def test_the_mean_of_vtab_is_over_runs_of_all_tasks():
    row = "ViT-L/16 (I21k)"
    records = [
        record_of(
            f"experiments/vit/vtab.py:L/16,{task}",
            accuracy(0.7 + seed / 100),
            seed=seed,
            start=I21K,
        )
        for task in TASKS
        for seed in (0, 1)
    ]
    for table, place in (("vit_table9", (row, "mean")), ("vit_table2", ("VTAB (19 tasks)", row))):
        assert cell(table, *place, records).values == {
            0: pytest.approx(70),
            1: pytest.approx(71),
        }
        # A seed of 18 tasks has no mean.
        assert list(cell(table, *place, records[1:]).values) == [1]
        assert cell(table, *place, records[2:]).verdict == "not run"


def test_the_mean_of_vtab_with_bit_needs_no_figures_of_its_tasks():
    row, start = "BiT-L R152x4 (JFT)", "experiments/vit/bit.py:R152x4,jft300m"
    records = [
        record_of(
            f"experiments/vit/bit_vtab.py:R152x4,{task}",
            accuracy(0.7 + i / 100),
            start=start,
        )
        for i, task in enumerate(TASKS)
    ]
    # 70 to 88 %.
    place = ("vit_table2", "VTAB (19 tasks)", row)
    assert cell(*place, records).values == {0: pytest.approx(79)}
    assert cell(*place, records[:-1]).verdict == "not run"
    (command,) = (one for one in launches(cells_of("vit_table2", [])) if "bit_vtab" in one.command)
    assert command.runs == 3 * len(TASKS)
    assert command.command.startswith(
        "python -m experiments.vtab --config=experiments/vit/bit_vtab.py:R152x4 --config.init_from="
    )


def five_shot(record):
    return cell("vit_table8", "2-D learned", "in every layer", [record]).mean


def changed(record, *keys, value):
    """The record with something else where the keys lead in its splits, or in its config."""
    found = dataclasses.asdict(record)
    group = found
    for key in keys[:-1]:
        group = group[key]
    assert group[keys[-1]] != value
    group[keys[-1]] = value
    return type(record)(**found)


def test_a_few_shot_accuracy_counts_on_the_data_and_by_the_protocol_of_the_figure():
    command = "experiments/vit/pretrain.py:B/16,jft300m,fewshot=imagenet2012"
    layers = "--config.model.position=learned2d --config.model.position_at=layers"
    found = record_of(f"{command} {layers}", {"fewshot_imagenet2012": {"5shot": 0.64}})
    assert five_shot(found) == pytest.approx(0.64)
    # At the stem it is another row's.
    assert five_shot(record_of(command, {"fewshot_imagenet2012": {"5shot": 0.64}})) is None
    data = ("splits", "fewshot_imagenet2012", "data")
    assert five_shot(changed(found, *data, "test", "threads", value=3)) is not None
    for keys, value in [
        ((*data, "train", "split"), "train[:100000]"),
        ((*data, "test", "preprocess", "size"), 384),
        ((*data, "test", "source"), "tfds:imagenet_v2"),
        (("config", "fewshot", "seeds"), 1),
        (("config", "fewshot", "l2"), [1.0]),
    ]:
        assert five_shot(changed(found, *keys, value=value)) is None, keys


def test_students_stand_in_the_row_of_their_generation():
    command = "experiments/quickstart/noisy_student.py:student"
    first, second = (
        record_of(f"{command},generation={n}", accuracy(0.8 + n / 100), examples=360)
        for n in (1, 2)
    )
    found = {c.target.row: c.mean for c in cells_of("vit_open", [first, second]) if c.values}
    of = "Noisy Student, ten digits, five labels a class: student"
    assert found == {f"{of} 1": pytest.approx(81), f"{of} 2": pytest.approx(82)}


def test_core_days_are_those_of_the_pretraining_run():
    found = record_of(I21K, accuracy(0.499))
    row = "TPUv3-core-days of pre-training"
    assert cell("vit_table2", row, "ViT-L/16 (I21k)", [found]).values == {0: pytest.approx(225)}
    assert cell("vit_table2", row, "ViT-L/16 (JFT)", [found]).verdict == "not run"


def test_operations_and_sizes_follow_from_the_configs():
    for table in ("vit_table6", "pose_table5"):
        computed = [c for c in cells_of(table, []) if "config" in c.values]
        assert len(computed) == {"vit_table6": 18, "pose_table5": 8}[table]
        for found in computed:
            # One hybrid is printed 3 % above its own run of twice the length.
            odd = found.target.row == "R50x1+ViT-L/16, 7 epochs"
            assert found.verdict == ("below" if odd else "within noise"), found.target.name


def test_costs_are_the_printed_ones_or_follow_from_them():
    jft = cost_of("experiments/vit/pretrain.py:L/16,jft300m")
    assert (jft.amount, jft.unit, jft.printed) == (680, CORE_DAYS, True)
    half = cost_of("experiments/vit/pretrain.py:L/16,jft300m,epochs=7")
    assert half.amount == pytest.approx(340, rel=1e-3)
    assert not half.printed
    # 2,500 steps of 512 images at 384 px: 191 GMAC.
    vtab = exaflop_of("experiments/vit/vtab.py:L/16,dtd")
    assert vtab == pytest.approx(6 * 191.1e9 * 2500 * 512 / 1e18, rel=1e-2)
    whole = cost_of(LIFTER)
    assert (whole.amount, whole.unit, whole.printed) == (24, GPU_HOURS, True)
    # 3,047 steps of 1024 windows of 176.28 M multiply-adds, 80 times.
    assert whole.exaflop == pytest.approx(6 * 176.28e6 * 3_119_504 * 80 / 1e18, rel=1e-3)
    assert cost_of(f"{LIFTER},flip=false").amount == pytest.approx(12, rel=1e-2)
    assert cost_of("experiments/pose/humaneva.py:Jog").amount is None


def test_missing_figures_come_with_one_command_per_run():
    found = launches(cells_of("vit_table2", []))
    starts = [one for one in found if "PRETRAINED" in one.command.partition("--workdir=")[2]]
    assert len(starts) == 6
    assert found[: len(starts)] == starts
    assert sum(one.figures for one in found) == sum(
        c.verdict == "not run" for c in cells_of("vit_table2", [])
    )
    # ImageNet and ReaL are of one run; the model that was pre-trained on JFT is another.
    imagenet = [one for one in found if "finetune.py:L/16,imagenet2012" in one.command]
    assert [one.figures for one in imagenet] == [2, 2]
    assert all(",real=true --config.init_from=PRETRAINED_" in one.command for one in imagenet)
    assert all(one.runs == 3 for one in imagenet)
    vtab = [one for one in found if "experiments.vtab" in one.command]
    assert [one.runs for one in vtab] == [57] * 4


def test_missing_figures_of_other_evaluations_have_their_commands():
    found = launches(cells_of("pose_table1", []))
    assert len(found) == 4
    best = f"--config={LIFTER} --workdir=RUN && python -m pose_jax.evaluate --config={LIFTER} --"
    assert [best in one.command for one in found].count(True) == 1
    (crossed,) = [
        one
        for one in launches(cells_of("pose_readme", []))
        if "keypoints=gt --checkpoint" in one.command
    ]
    assert f"train --config={LIFTER} --workdir" in crossed.command


def test_what_was_run_is_not_planned_again():
    records = [finetuned(0.9325, seed=i) for i in range(3)]
    before = launches(cells_of("vit_table2", []))
    after = launches(cells_of("vit_table2", records))
    gone = {one.command for one in before} - {one.command for one in after}
    assert len(gone) == 1
    assert "L/16,cifar100 --config.init_from=PRETRAINED_3" in gone.pop()


def test_every_missing_figure_of_every_table_has_a_command():
    for table in TABLES:
        cells = cells_of(table, [])
        assert len(cells) == len(targets_of(table))
        planned = sum(one.figures for one in launches(cells))
        assert planned == sum(c.verdict == "not run" and bool(c.target.config) for c in cells)
        for found in cells:
            config = found.target.config and config_of(found.target.config)
            if found.verdict == "not run" and isinstance(config, ViTTrainConfig):
                assert cost_of(found.target.config).exaflop is not None
