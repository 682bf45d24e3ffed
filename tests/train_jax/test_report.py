"""The report says what the run's own files say, whatever state it is in."""

import itertools
import json
import re
import time

import chromium
import commands
import pytest
import toy

from train_jax import report
from train_jax.budget import BudgetConfig
from train_jax.errors import NotFiniteError, UserError
from train_jax.loop import fit

NASTY = "</script><img src=x onerror=alert(1)><b>bold"


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The working directory of a run of 20 steps with a budget and two evaluations."""
    workdir = tmp_path_factory.mktemp("runs") / "finished"
    config = toy.make_config(budget=BudgetConfig(core_days=1.0, chip="cpu"))
    fit(toy.make_task(), config, str(workdir))
    return workdir


@pytest.fixture
def begun(tmp_path):
    """A function that makes a directory as a run leaves it that was killed; no checkpoints."""

    def make(lines, *, config=None, ledger=None, name="begun"):
        workdir = tmp_path / name
        workdir.mkdir()
        values = {"total": "100 steps", "batch_size": 8, "nonfinite": "stop"} | (config or {})
        (workdir / "config.json").write_text(json.dumps(values))
        text = "".join(f"{json.dumps(line)}\n" for line in lines)
        (workdir / "metrics.jsonl").write_text(text)
        if ledger is not None:
            (workdir / "ledger.json").write_text(json.dumps(ledger))
        return workdir

    return make


def data_of(page):
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert found
    return json.loads(found[1])


def logged(workdir):
    lines = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return list(lines)


def test_a_finished_run_is_told_with_every_number_of_its_log(finished):
    page = report.page([str(finished)], now=time.time() + 1e6)
    (run,) = data_of(page)["runs"]
    assert (run["verdict"], run["step"], run["total"]) == ("finished", 20, 20)
    for name in ("loss", "learning_rate", "goodput", "val/accuracy", "points_per_second"):
        lines = [line for line in logged(finished) if name in line]
        assert lines
        curve = run["curves"][name]
        assert curve["step"] == [line["step"] for line in lines]
        assert curve["time"] == [line["time"] for line in lines]
        assert curve["value"] == pytest.approx([line[name] for line in lines], rel=1e-6)
    (row,) = run["records"]
    assert (row["split"], row["examples"], row["step"]) == ("val", 100, 20)
    assert row["metrics"]["accuracy"] == logged(finished)[-1]["val/accuracy"]
    assert run["devices"]["platform"] == "cpu"
    assert run["config"] == json.loads((finished / "config.json").read_text())
    assert not run["notes"]


def test_the_money_is_that_of_the_ledger(finished):
    (run,) = data_of(report.page([str(finished)]))["runs"]
    ledger = json.loads((finished / "ledger.json").read_text())
    spent = ledger["core_seconds"]["cpu"]
    assert run["spent"]["chips"]["cpu"] == {kind: x for kind, x in spent.items() if x > 0}
    days = sum(spent.values()) / 86_400
    assert run["spent"]["goodput"] == pytest.approx(spent["train"] / 86_400 / days)
    assert run["budgetText"] == "1 core-days of cpu"
    assert run["budgetShare"] == pytest.approx(days)
    budget = run["budget"]
    assert (budget["unit"], budget["planned"]) == ("core-days of cpu", 1.0)
    steps = [line["step"] for line in logged(finished) if "core_days/cpu" in line]
    assert budget["step"] == [0, *steps, 20]
    assert budget["spent"][-1] == pytest.approx(days)
    assert budget["spent"] == sorted(budget["spent"])


def test_a_budget_in_hours_counts_the_hours_of_the_run(begun):
    lines = [
        {"step": n, "time": 0.0, "core_days/v3": n * 8 / 24, "x_per_second": 8.0,
         "x_per_second_per_core": 1.0} for n in (1, 2)
    ]  # fmt: skip
    workdir = begun(lines, config={"budget": {"hours": 10.0}})
    budget = report.budget_curve(report.read_run(str(workdir)))
    assert (budget["unit"], budget["planned"]) == ("hours", 10.0)
    # Eight cores: a third of a core-day is an hour.
    assert budget["spent"] == pytest.approx([0, 1, 2])


def test_a_run_that_failed_says_at_which_step(tmp_path):
    with pytest.raises(NotFiniteError):
        fit(toy.make_task(poison_step=9), toy.make_config(), str(tmp_path / "bad"))
    (run,) = data_of(report.page([str(tmp_path / "bad")]))["runs"]
    assert run["verdict"] == "failed"
    assert "not finite by step 12 of 20" in run["why"]


def test_what_is_not_finite_is_a_gap_and_not_a_fault_of_the_page(begun):
    lines = [{"step": n, "time": 0.0, "loss": x} for n, x in ((1, 2.0), (2, float("nan")))]
    (run,) = data_of(report.page([str(begun(lines))]))["runs"]
    assert run["curves"]["loss"]["value"] == [2.0, None]
    assert run["verdict"] == "failed"


LEDGER = {"seconds": 50.0, "core_seconds": {"v3": {"train": 300.0, "lost": 100.0}}}


@pytest.mark.parametrize(
    ("age", "word", "sentence"),
    [
        (5, "running", r"Step 40 of 100, last heard of \d+s ago; about 12m00s to go"),
        (9000, "stopped", "Interrupted at step 40 of 100, before the first save"),
    ],
)
def test_signs_of_life_tell_a_run_from_one_that_was_killed(begun, age, word, sentence):
    now = time.time()
    lines = [{"step": n, "time": now - 10 + n / 10, "loss": 1 / n} for n in range(1, 41)]
    lines[-1]["eta_seconds"] = 720.0
    workdir = begun(lines, ledger={"step": 40, **LEDGER})
    with (workdir / "metrics.jsonl").open("a") as file:
        file.write('{"step": 41, "lo')
    found = report.read_run(str(workdir))
    state = report.verdict(found, now=now + age)
    assert state.word == word
    assert re.search(sentence, state.why), state.why
    (run,) = data_of(report.page([str(workdir)]))["runs"]
    assert run["curves"]["loss"]["step"] == list(range(1, 41))
    assert "1 line of metrics.jsonl is torn" in run["notes"][0]


@pytest.mark.parametrize(
    ("budget", "saved", "sentence"),
    [
        (None, 40, "Stopped after step 40 of 100, which is saved"),
        (None, 30, "Interrupted at step 40 of 100, 10 after the last save"),
        (0.004, 40, "The budget of 0.004 core-days of v3 was spent by step 40 of 100"),
        (0.005, 40, "Stopped after step 40 of 100, which is saved"),
    ],
)
def test_a_stopped_run_is_told_by_what_it_saved_and_had_left(begun, budget, saved, sentence):
    now = time.time()
    line = {"step": 40, "time": now, "loss": 1.0}
    config = {"budget": {"core_days": budget, "chip": "v3"}}
    workdir = begun([line], config=config, ledger={"step": 40, **LEDGER})  # 0.00463 core-days
    (workdir / "checkpoints" / str(saved)).mkdir(parents=True)
    state = report.verdict(report.read_run(str(workdir)), now=now + 9000)
    assert state.word == "stopped"
    assert state.why.startswith(sentence)


def test_a_run_that_has_only_begun_has_a_page(begun):
    workdir = begun([])
    (run,) = data_of(report.page([str(workdir)]))["runs"]
    assert run["verdict"] == "not begun"
    assert not run["curves"]


def test_the_log_is_shown_where_nothing_is_recorded_yet(begun):
    lines = [{"step": 5, "time": 0.0, "test/mpjpe": 60.5, "test/examples": 7.0, "core_days/v3": 1}]
    (run,) = data_of(report.page([str(begun(lines))]))["runs"]
    (row,) = run["records"]
    assert (row["split"], row["metrics"], row["examples"]) == ("test", {"mpjpe": 60.5}, 7.0)


def test_long_curves_are_thinned_and_keep_their_end(begun, monkeypatch):
    monkeypatch.setattr(report, "MOST_POINTS", 10)
    workdir = begun([{"step": n, "time": 0.0, "loss": float(n)} for n in range(1, 96)])
    run = report.read_run(str(workdir))
    steps = report.curves(run)["loss"]["step"]
    assert len(steps) <= 10
    assert steps[-1] == 95
    assert len({b - a for a, b in itertools.pairwise(steps)}) == 1


def test_runs_are_compared_by_what_differs(finished, begun):
    other = begun([], config={"total": "99 steps"}, name="other")
    data = data_of(report.page([str(finished), str(other)]))
    assert [run["name"] for run in data["runs"]] == ["finished", "other"]
    (found,) = data["differences"]
    assert found["name"] == "other"
    assert "config.total: '20 steps' -> '99 steps'" in found["lines"]


def test_what_is_no_run_is_one_sentence(tmp_path):
    with pytest.raises(UserError, match="is not the working directory of a run"):
        report.page([str(tmp_path)])
    with pytest.raises(UserError, match="There is no directory"):
        report.page([str(tmp_path / "none")])


def test_the_command_writes_a_page_and_ends_with_a_sentence_where_it_cannot(finished, tmp_path):
    output = tmp_path / "new" / "report.html"
    done = commands.shared().run("train_jax.report", str(finished), f"--output={output}")
    assert done.code == 0, done.stderr
    assert data_of(output.read_text())["runs"][0]["verdict"] == "finished"
    done = commands.shared().run("train_jax.report", str(tmp_path))
    assert done.code == 2
    assert done.stderr.startswith(f"Error: {tmp_path} is not the working directory of a run")


def test_the_page_in_a_browser(finished, begun, tmp_path):
    """Curves of the right values, no request, no complaint, and names that are only text."""
    lines = [
        {"step": n, "time": 1e9 + 3600 * n, "loss": 2.0 / n, f"a/{NASTY}": 0.5} for n in (1, 2, 4)
    ]
    nasty = begun(lines, config={"init_from": NASTY}, ledger={"step": 4, **LEDGER}, name="<b>odd")
    path = tmp_path / "report.html"
    with chromium.browser() as running:
        path.write_text(report.page([str(finished)]))
        with chromium.opened(running, path) as found:
            page = found.page
            assert page.locator("h1 .badge").inner_text() == "finished"
            losses = [line["loss"] for line in logged(finished) if "loss" in line]
            chart = page.locator('.chart[data-name="loss"]')
            chart.locator("svg").focus()
            for loss in losses[:2]:
                page.keyboard.press("ArrowRight")
                shown = chart.locator(".tip .key").first.inner_text().split()[-1]
                assert float(shown) == pytest.approx(loss, rel=1e-4)
            before = chart.locator("path").first.get_attribute("d")
            chart.locator("button").click()
            assert chart.locator("path").first.get_attribute("d") != before
            page.locator("#search").fill("schedule.base")
            assert page.locator("#config .leaf:visible").all_inner_texts() == ["base = 0.1"]
            assert page.locator('#goodput [data-kind="train"]').count() == 1
            assert (found.complaints, found.requests) == ([], [])

        path.write_text(report.page([str(nasty), str(finished)]))
        with chromium.opened(running, path, colours="dark") as found:
            page = found.page
            assert page.evaluate("document.documentElement.dataset.theme") == "dark"
            assert page.locator("main img, main b b").count() == 0
            page.locator("#search").fill("init_from")
            assert NASTY in page.locator("#config .leaf:visible").inner_text()
            # A curve of three points, whose heights are the losses.
            d = page.locator('.chart[data-name="loss"] path').first.get_attribute("d")
            heights = [float(y) for y in re.findall(r"[\d.]+ ([\d.]+)", d)]
            assert len(heights) == 3
            ratio = (heights[1] - heights[0]) / (heights[2] - heights[0])
            assert ratio == pytest.approx((2 - 1) / (2 - 0.5), rel=0.02)
            page.locator('[data-axis="hours"]').click()
            assert (found.complaints, found.requests) == ([], [])
