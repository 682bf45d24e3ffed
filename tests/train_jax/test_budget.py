import time

import jax
import pytest

from train_jax import budget, chips
from train_jax.writers import duration


def test_every_second_is_on_the_ledger_once(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    ledger = budget.Ledger(cores=4)
    ledger.carry({"train": 1000.0, "evaluate": 10.0})
    with ledger.on("compile"):
        now[0] += 6
    now[0] += 12
    ledger.add("input", 2)
    assert ledger.stepping_seconds() == pytest.approx(12)
    assert ledger.shares()["compile"] == pytest.approx(6 / 18)
    spent = ledger.core_seconds()
    assert spent["train"] == pytest.approx(1000 + 4 * 10)
    assert spent["input"] == pytest.approx(4 * 2)
    assert sum(spent.values()) == pytest.approx(1010 + 4 * 18)
    assert ledger.core_days() == pytest.approx((1010 + 72) / 86_400)


def test_a_v3_device_is_one_core_and_a_v4_device_two():
    class Device:
        platform = "tpu"
        device_kind = "TPU v3"

    assert chips.cores_per_device(Device()) == 1
    Device.device_kind = "TPU v4"
    assert chips.cores_per_device(Device()) == 2
    # Simulated devices share the cores of this machine.
    assert chips.num_cores() == pytest.approx(
        jax.device_count() * chips.cores_per_device(jax.devices()[0])
    )


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (59.6, "1m00s"), (3725, "1h02m"), (90_000, "1d01h")],
)
def test_durations_read_as_people_say_them(seconds, text):
    assert duration(seconds) == text
