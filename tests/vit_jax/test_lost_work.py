"""What a killed process had done since its last checkpoint is on the ledger of the run."""

import json
import signal
import time

import commands
import pytest

from train_jax.budget import Spent, spent_of
from train_jax.checkpoint import Checkpoints, read_meta

pytestmark = pytest.mark.timeout(300)

STEPS = 40
COMMAND = (
    "vit_jax.train",
    f"--config=tests/tiny.py:{STEPS}",
    "--config.checkpoint.every=15 steps",
)


def ledger(workdir):
    """The last sign of life: steps done, and what was spent."""
    path = workdir / "ledger.json"
    if not path.exists():
        return 0, Spent()
    value = json.loads(path.read_text())
    return value["step"], Spent.from_json(value)


def test_steps_that_a_killed_command_did_in_vain_are_lost(tmp_path):
    command = commands.shared().start(*COMMAND, f"--workdir={tmp_path}")
    command.wait_until(lambda: ledger(tmp_path)[0] >= 20)
    command.send(signal.SIGKILL)
    assert command.finish().code == -signal.SIGKILL
    step, died = ledger(tmp_path)
    saved_at = Checkpoints(tmp_path / "checkpoints").latest_step()
    saved = Spent() if saved_at is None else spent_of(read_meta(tmp_path))
    assert (saved_at or 0) < step < STEPS
    done_again = sum(
        died.by_kind()[kind] - saved.by_kind()[kind] for kind in ("train", "input", "evaluate")
    )
    assert done_again > 0

    began = time.perf_counter()
    finished = commands.shared().run(*COMMAND, f"--workdir={tmp_path}")
    took = time.perf_counter() - began
    assert finished.code == 0, finished.stderr
    step, spent = ledger(tmp_path)
    assert step == STEPS
    assert spent.by_kind()["lost"] == pytest.approx(done_again)
    assert died.seconds < spent.seconds < died.seconds + took
    for kind in ("start", "compile"):
        assert spent.by_kind()[kind] > died.by_kind()[kind]
    said = [line for line in finished.stderr.splitlines() if f"Spent by step {STEPS}: " in line]
    assert len(said) == 1
    assert f"{spent.core_days()['cpu']:.2g}"[:3] in said[0]
    assert ", lost " in said[0]
    assert "goodput" in finished.stderr.split(f"step {STEPS}/{STEPS}")[1].splitlines()[0]
