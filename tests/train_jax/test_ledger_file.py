"""The last sign of life: written in one motion, read with care, never a reason to end a run."""

import json
import time

import pytest
from etils import epath

from train_jax import hosts, ledger_file
from train_jax.budget import Ledger
from train_jax.ledger_file import LedgerFile, read_sign_of_life


@pytest.fixture
def now(monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])
    return clock


def test_what_was_noted_is_read(tmp_path, now):
    ledger = Ledger(2, "v3")
    file = LedgerFile(epath.Path(tmp_path), ledger)
    assert read_sign_of_life(epath.Path(tmp_path)) is None
    for step in (10, 20):
        now[0] += 5
        file.note(step)
    found = read_sign_of_life(epath.Path(tmp_path))
    assert found is not None
    assert (found.step, found.spent) == (20, ledger.spent())
    assert found.spent.core_seconds["v3"]["train"] == 20
    assert [path.name for path in tmp_path.iterdir()] == ["ledger.json"]


def test_a_bucket_takes_one_a_second_and_the_last(tmp_path, now, monkeypatch):
    monkeypatch.setattr(ledger_file, "is_remote", lambda path: True)
    file = LedgerFile(epath.Path(tmp_path), Ledger(2, "v3"))

    def noted(step, **options):
        file.note(step, **options)
        return json.loads((tmp_path / "ledger.json").read_text())["step"]

    assert noted(1) == 1
    now[0] += 0.5
    assert noted(2) == 1
    now[0] += 0.5
    assert noted(3) == 3
    assert noted(4, at_once=True) == 4


def test_only_the_main_process_notes(tmp_path, monkeypatch):
    monkeypatch.setattr(hosts, "is_main", lambda: False)
    LedgerFile(epath.Path(tmp_path), Ledger(2, "v3")).note(1)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text", ["", '{"step": 3', "[]", '{"step": 3}', "\xff"])
def test_a_file_that_cannot_be_read_is_named_and_passed_over(tmp_path, caplog, text):
    (tmp_path / "ledger.json").write_bytes(text.encode("latin1"))
    assert read_sign_of_life(epath.Path(tmp_path)) is None
    assert "ledger.json cannot be read" in caplog.text
    assert "work that was lost is not counted" in caplog.text


def test_a_file_that_cannot_be_written_is_named_and_the_run_goes_on(tmp_path, caplog):
    LedgerFile(epath.Path(tmp_path / "gone"), Ledger(2, "v3")).note(1)
    assert "ledger.json cannot be written (" in caplog.text
