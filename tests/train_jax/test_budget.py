"""The ledger's arithmetic, by a clock that the test moves, and what a budget is of."""

import time

import jax
import pytest

from train_jax import budget, chips
from train_jax.budget import BudgetConfig, Ledger, SignOfLife, Spent, make_limit
from train_jax.errors import UserError
from train_jax.writers import duration


@pytest.fixture
def now(monkeypatch):
    """The clock: a list of one number, in seconds."""
    clock = [100.0]
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])
    return clock


def spent(seconds, chip="v3", **kinds):
    everything = {**dict.fromkeys((*budget.KINDS, budget.LOST), 0.0), **kinds}
    return Spent(seconds, {chip: everything})


def checked(config, chip):
    limit = make_limit(config, chip)
    assert limit is not None
    return limit


def test_every_second_is_on_the_ledger_once(now):
    ledger = Ledger(4, "v3")
    ledger.carry(spent(300.0, train=1000.0, evaluate=10.0, lost=5.0))
    with ledger.on("compile"):
        now[0] += 6
    now[0] += 12
    ledger.add("input", 2)
    assert ledger.stepping_seconds() == pytest.approx(12)
    assert ledger.shares()["compile"] == pytest.approx(6 / 18)
    found = ledger.spent()
    kinds = found.core_seconds["v3"]
    assert kinds["train"] == pytest.approx(1000 + 4 * 10)
    assert kinds["input"] == pytest.approx(4 * 2)
    assert kinds["lost"] == 5
    assert sum(kinds.values()) == pytest.approx(1015 + 4 * 18)
    assert found.seconds == pytest.approx(318)
    assert found.core_days() == {"v3": pytest.approx((1015 + 72) / 86_400)}
    assert found.goodput() == pytest.approx(1040 / 1087)
    assert Spent.from_json(found.to_json()) == found


def test_a_run_that_moves_to_other_cores_keeps_both_apart(now):
    ledger = Ledger(8, "v5e")
    ledger.carry(spent(100.0, "v3", train=90.0, start=10.0))
    now[0] += 50
    found = ledger.spent()
    assert found.core_seconds["v3"] == spent(0, train=90.0, start=10.0).core_seconds["v3"]
    assert found.core_days() == {
        "v3": pytest.approx(100 / 86_400),
        "v5e": pytest.approx(400 / 86_400),
    }
    assert found.by_kind()["train"] == pytest.approx(490)
    assert found.goodput() == pytest.approx(490 / 500)
    assert "0.001157 core-days of v3, 0.00463 core-days of v5e; goodput 98%" in found.summary()
    # And on more cores of the same kind.
    more = Ledger(16, "v5e")
    more.carry(found)
    now[0] += 1
    assert more.spent().core_seconds["v5e"]["train"] == pytest.approx(400 + 16)


def test_steps_that_are_done_again_are_lost(now):
    saved = spent(100.0, train=60.0, start=10.0, compile=20.0, evaluate=10.0)
    last = spent(150.0, train=90.0, start=10.0, compile=20.0, evaluate=12.0, input=3.0)
    found = saved.after_loss(40, SignOfLife(70, last))
    kinds = found.core_seconds["v3"]
    assert kinds["lost"] == pytest.approx(30 + 2 + 3)
    assert (kinds["train"], kinds["evaluate"], kinds["input"]) == (60, 10, 0)
    assert sum(kinds.values()) == pytest.approx(sum(last.core_seconds["v3"].values()))
    assert found.seconds == 150

    # Killed once more, before it saved: all since the checkpoint is lost, and nothing twice.
    ledger = Ledger(1, "v3")
    ledger.carry(found)
    with ledger.on("compile"):
        now[0] += 7
    now[0] += 25
    again = saved.after_loss(40, SignOfLife(65, ledger.spent()))
    kinds = again.core_seconds["v3"]
    assert kinds["lost"] == pytest.approx(35 + 25)
    assert (kinds["train"], kinds["compile"]) == (60, pytest.approx(27))


def test_nothing_is_lost_without_steps_after_the_checkpoint():
    saved = spent(100.0, train=60.0, checkpoint=1.0)
    # The save itself ends after the ledger is in it.
    last = spent(104.0, train=60.0, checkpoint=5.0)
    assert saved.after_loss(40, SignOfLife(40, last)) == last
    assert saved.after_loss(40, SignOfLife(30, spent(90.0, train=50.0))) == saved
    assert saved.after_loss(40, None) == saved
    assert Spent().after_loss(0, None).goodput() == 0


def test_steps_lost_on_another_machine_are_lost_there():
    saved = spent(100.0, "v3", train=60.0)
    both = Spent(130.0, {**saved.core_seconds, **spent(0, "v5e", train=200.0).core_seconds})
    found = saved.after_loss(10, SignOfLife(20, both))
    assert found.core_seconds["v3"]["lost"] == 0
    assert found.core_seconds["v5e"]["lost"] == 200
    assert found.goodput() == pytest.approx(60 / 260)


def test_a_budget_of_core_days_counts_other_chips_by_their_peak():
    limit = checked(BudgetConfig(core_days=2.0, chip="v3"), "v3")
    assert limit.text == "2 core-days of v3"
    assert limit.share(spent(0, "v3", train=86_400.0)) == pytest.approx(0.5)
    # A v5e core has 197 Tflop/s, a v3 core half of a chip's 123.
    assert limit.share(spent(0, "v5e", train=86_400.0)) == pytest.approx(0.5 * 197 / 61.5)
    left = limit.seconds_left(spent(0, "v3", lost=86_400.0), cores=16, chip="v4")
    assert left == pytest.approx(86_400 / (16 * 137.5 / 61.5))


def test_a_budget_of_hours_is_of_the_clock():
    limit = checked(BudgetConfig(hours=2.0), "anything")
    assert limit.text == "2 hours"
    assert limit.share(spent(1800.0, train=1e9)) == pytest.approx(0.25)
    assert limit.seconds_left(spent(1800.0), cores=512, chip="v5p") == pytest.approx(5400)
    assert make_limit(BudgetConfig(), "v3") is None


@pytest.mark.parametrize(
    ("config", "chip", "message"),
    [
        (BudgetConfig(core_days=1.0, hours=1.0), "v3", "has core_days and hours; set one"),
        (BudgetConfig(core_days=-1.0), "v3", r"budget\.core_days is -1; it must be more than 0"),
        (BudgetConfig(hours=0.0), "v3", r"budget\.hours is 0; it must be more than 0"),
        (BudgetConfig(hours=float("nan")), "v3", r"budget\.hours is nan; it must be more"),
        (BudgetConfig(hours=1.0, reserve=1.0), "v3", r"reserve is 1; it is a share"),
        (BudgetConfig(core_days=1.0, chip="v9"), "v5e", "'v9', which is not known.*v5e, v5p"),
        (BudgetConfig(core_days=1.0), "cpu", "'v3' and the run has been on 'cpu'.*in hours"),
        (BudgetConfig(core_days=1.0, chip="cpu"), "v3", "'cpu' and the run has been on 'v3'"),
    ],
)
def test_a_wrong_budget_is_one_sentence(config, chip, message):
    with pytest.raises(UserError, match=message):
        make_limit(config, chip)


def test_a_gpu_may_be_named_as_jax_names_it():
    name = "NVIDIA H100 80GB HBM3"
    limit = checked(BudgetConfig(core_days=1.0, chip=name), name)
    assert limit.share(spent(0, name, train=43_200.0)) == pytest.approx(0.5)


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


@pytest.mark.parametrize(("kind", "name"), [("TPU v5 lite", "v5e"), ("NVIDIA L4", "NVIDIA L4")])
def test_chips_have_the_names_people_use(monkeypatch, kind, name):
    assert budget.chip_name() == "cpu"

    class Device:
        platform = "accelerator"
        device_kind = kind

    monkeypatch.setattr(jax, "devices", lambda: [Device()])
    assert budget.chip_name() == name


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (59.6, "1m00s"), (3725, "1h02m"), (90_000, "1d01h")],
)
def test_durations_read_as_people_say_them(seconds, text):
    assert duration(seconds) == text
