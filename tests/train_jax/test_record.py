"""Result records: what they hold, that they are read as they were written, and what is refused."""

import dataclasses
import json
import logging
import subprocess

import pytest
import toy
from etils import epath

from train_jax import hosts
from train_jax.budget import Spent
from train_jax.checkpoint import save_once
from train_jax.config import identity, to_dict
from train_jax.errors import UserError
from train_jax.loop import fit
from train_jax.record import (
    commit_of,
    directory_of,
    hash_of,
    make_record,
    note,
    read_records,
    start_of,
    write,
)
from train_jax.stored import read_meta

RESULTS = {"val": {"accuracy": 0.75, "loss": 0.5, "examples": 100.0}}


def made(config=None, **meta):
    config = config or toy.make_config()
    spent = Spent(7200.0, {"v4": {"train": 86_400.0}, "v3": {"evaluate": 43_200.0}})
    meta = {
        "step": 20,
        "total_steps": 20,
        "seed": 3,
        "config": to_dict(config),
        "identity": {"config": identity(config), "data": "images|by=teacher"},
        "spent": spent.to_json(),
    } | meta
    return make_record("here", config, RESULTS, meta=meta, checkpoint="run/20", multiply_adds=1e15)


def test_a_record_says_what_was_measured_and_what_it_cost():
    record = made()
    assert record.splits["val"]["metrics"] == {"accuracy": 0.75, "loss": 0.5}
    assert record.splits["val"]["examples"] == 100
    assert record.trained_on == "images|by=teacher"
    assert (record.seed, record.step, record.total_steps, record.finished) == (3, 20, 20, True)
    assert record.cost["core_days"] == {"v4": 1.0, "v3": 0.5}
    assert record.cost["hours"] == 2
    # A core of v4 has the peak of 137.5 / 61.5 cores of v3, as budgets convert them.
    assert record.cost["v3_core_days"] == pytest.approx(0.5 + 137.5 / 61.5, rel=1e-2)
    # 6 operations for a multiply-add, 20 steps of 16 examples.
    assert record.cost["exaflop"] == pytest.approx(6 * 1e15 * 20 * 16 / 1e18)
    assert {"python", "jax", "numpy"} <= set(record.versions)
    assert record.devices["platform"] == "cpu"
    assert record.devices["count"] == 8


def test_costs_that_cannot_be_converted_are_not():
    spent = Spent(1.0, {"cpu": {"train": 2.0}})
    assert made(spent=spent.to_json()).cost["v3_core_days"] is None


def test_the_hash_is_of_what_decides_the_numbers():
    base = toy.make_config()
    same = dataclasses.replace(base, log_every="1 steps")
    assert made(base).config_hash == made(same).config_hash
    assert made(base).config_hash != made(dataclasses.replace(base, batch_size=32)).config_hash
    assert hash_of({"a": 1, "b": [2]}) == hash_of({"b": [2], "a": 1})
    # Of weights from elsewhere it is that of the evaluation.
    foreign = make_record("here", base, RESULTS, meta={}, checkpoint="x.npz")
    assert (foreign.trained, foreign.seed, foreign.cost) == (None, None, {})
    assert foreign.config_hash == made(base).config_hash


def test_a_record_is_read_as_it_was_written(tmp_path):
    first, second = made(), made(step=10)
    later = write(second, epath.Path(tmp_path / "b" / "results"))
    earlier = write(first, epath.Path(tmp_path / "a" / "results"))
    assert earlier is not None
    assert read_records([str(tmp_path)]) == [(earlier, first), (later, second)]
    assert not second.finished
    # No draft is left, and none that a kill has left is read.
    assert [path.name for path in (tmp_path / "a" / "results").iterdir()] == [earlier.name]
    (tmp_path / "a" / "results" / f".{earlier.name}").write_text("{")
    (tmp_path / "a" / "checkpoints" / "x").mkdir(parents=True)
    (tmp_path / "a" / "checkpoints" / "x" / "y.result.json").write_text("{")
    assert len(read_records([str(tmp_path / "a"), str(tmp_path / "b")])) == 2


def test_a_record_from_before_it_named_the_training_data_is_read(tmp_path):
    path = write(made(), epath.Path(tmp_path))
    assert path is not None
    values = json.loads(path.read_text()) | {"format_version": 1}
    del values["trained_on"]
    path.write_text(json.dumps(values))
    assert read_records([str(tmp_path)]) == [
        (path, dataclasses.replace(made(), trained_on=None, time=values["time"]))
    ]
    path.write_text(json.dumps(values | {"format_version": 2}))
    with pytest.raises(UserError, match="differ from those of a record by trained_on"):
        read_records([str(tmp_path)])


def test_an_evaluation_without_a_number_of_examples_can_be_recorded(tmp_path):
    results = {"fewshot": {"5-shot": 0.6}}
    data = {"fewshot": {"split": "test"}}
    record = make_record("here", toy.make_config(), results, meta={}, checkpoint=None, data=data)
    write(record, epath.Path(tmp_path))
    ((_, found),) = read_records([str(tmp_path)])
    assert found.splits["fewshot"]["examples"] is None
    assert found.splits["fewshot"]["metrics"] == {"5-shot": 0.6}
    assert found.splits["fewshot"]["data"] == {"split": "test"}
    # Nobody said what it is of.
    record = make_record("here", toy.make_config(), results, meta={}, checkpoint=None)
    assert record.splits["fewshot"]["data"] is None


def test_only_the_main_process_writes(tmp_path, monkeypatch):
    monkeypatch.setattr(hosts, "is_main", lambda: False)
    assert write(made(), epath.Path(tmp_path / "results")) is None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ("", "Expecting value"),
        ("[]", "no JSON object"),
        ("{}", "no format_version"),
        ({"splits": 3}, "its splits is 3"),
        ({"splits": {"val": {"metrics": {"accuracy": "high"}, "examples": 1}}}, "its split val"),
        ({"splits": {"val": {"metrics": {}}}}, "its split val has no metrics and examples"),
        ({"step": "20"}, "its step is '20'"),
        ({"time": "now"}, "Invalid isoformat"),
        ({"more": 1}, "differ from those of a record by more"),
    ],
)
def test_a_damaged_record_is_named(tmp_path, change, fault):
    path = write(made(), epath.Path(tmp_path))
    assert path is not None
    text = change
    if not isinstance(change, str):
        text = json.dumps(json.loads(path.read_text()) | change)
    path.write_text(text)
    with pytest.raises(UserError, match=rf"Damaged .*{path.name} \(.*{fault}.*remove them"):
        read_records([str(tmp_path)])


def test_what_cannot_be_read_at_all_is_said(tmp_path):
    with pytest.raises(UserError, match=r"no directory .*nowhere; name one"):
        read_records([str(tmp_path / "nowhere")])
    path = write(made(), epath.Path(tmp_path))
    assert path is not None
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format_version": 99}))
    with pytest.raises(UserError, match="format 99 and this train_jax reads up to 2"):
        read_records([str(tmp_path)])


def test_a_place_that_cannot_be_written_is_named(tmp_path, caplog):
    (tmp_path / "file").write_text("")
    place = epath.Path(tmp_path / "file" / "results")
    with pytest.raises(UserError, match=r"cannot be written .*name another directory"):
        write(made(), place)
    with caplog.at_level(logging.WARNING):
        note(made(), place)
    assert "cannot be written" in caplog.text


def test_the_commit_is_that_of_the_code_or_unknown(tmp_path, monkeypatch):
    def git(*words):
        who = ("-c", "user.name=x", "-c", "user.email=x@x")
        done = subprocess.run(
            ("git", "-C", str(tmp_path), *who, *words), check=True, capture_output=True, text=True
        )
        return done.stdout.strip()

    code = tmp_path / "code.py"
    code.write_text("1")
    git("init", "-q")
    # Code that lies in somebody's repository without being part of it has no commit there.
    assert commit_of(code) is None
    git("add", "code.py")
    git("commit", "-q", "-m", "one")
    assert commit_of(code) == git("rev-parse", "HEAD")
    code.write_text("2")
    assert commit_of(code) == git("rev-parse", "HEAD") + "+"
    monkeypatch.setenv("PATH", "")
    assert commit_of(code) is None


def test_the_end_of_a_run_is_recorded_with_what_it_started_from(tmp_path):
    first = fit(toy.make_task(), toy.make_config(), str(tmp_path / "first"))
    ((path, record),) = read_records([str(tmp_path)])
    assert path.parent == tmp_path / "first" / "results"
    meta = read_meta(tmp_path / "first")
    assert (record.program, record.finished, record.step) == ("train_jax.loop", True, 20)
    assert (record.trained, record.total_steps) == (meta["identity"]["config"], 20)
    assert record.config == meta["config"]
    metrics = record.splits["val"]["metrics"]
    assert {f"val/{name}": value for name, value in metrics.items()} == {
        name: value for name, value in first.metrics.items() if name != "val/examples"
    }
    assert record.splits["val"]["examples"] == toy.NUM_EXAMPLES
    assert record.cost["core_days"]["cpu"] > 0
    # 20 steps of 16 points.
    assert record.cost["exaflop"] == pytest.approx(6 * toy.DIM * toy.CLASSES * 20 * 16 / 1e18)
    assert record.start is None
    assert directory_of(str(tmp_path / "first")) == path.parent
    start = start_of(str(tmp_path / "first"))
    assert start is not None
    assert (start["step"], start["config"]) == (20, record.trained)


def test_a_start_is_described_as_far_as_it_can_be_read(tmp_path, caplog):
    file = tmp_path / "B_16.npz"
    file.write_bytes(b"1234")
    assert start_of(None) is None
    assert start_of(str(file)) == {"path": str(file), "bytes": 4}
    assert start_of(f"{file}:img") == {"path": f"{file}:img", "bytes": 4}
    with caplog.at_level(logging.WARNING):
        assert start_of(str(tmp_path / "gone")) == {"path": str(tmp_path / "gone")}
    assert "cannot be described" in caplog.text


def test_a_checkpoint_outside_of_a_run_has_no_place_for_records(tmp_path):
    save_once(tmp_path / "alone", {"params": {}}, {"step": 0})
    assert directory_of(str(tmp_path / "alone")) is None
