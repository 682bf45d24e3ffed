"""One HTML page about a run: its curves, where the time went, its budget, results and config.

    python -m train_jax.report runs/pretrain --output=report.html
    python -m train_jax.report runs/finetune-0 runs/scratch-0 gs://bucket/runs/h14

Reads a run's working directory, local or in a bucket, of any task, finished or not; nothing but the
page is written. Several runs are drawn on the same axes, and where their configs differ is listed.
The page is one file that needs no network.
"""

import dataclasses
import datetime
import itertools
import json
import math
import re
import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from etils import epath

from train_jax import command_line, web_page
from train_jax.budget import KINDS, LOST, BudgetConfig, Limit, Spent
from train_jax.config import differences
from train_jax.errors import UserError
from train_jax.ledger_file import LEDGER_FILE, read_sign_of_life
from train_jax.record import DIRECTORY, Record, read_records
from train_jax.stored import as_path, brief, complete_steps, read_meta
from train_jax.writers import METRICS_FILE, duration

#: Points of a curve; longer ones are thinned evenly, and the page says so.
MOST_POINTS = 4000

_PARTS = Path(__file__).with_name("report_page")
# A run that has given no sign for so many log intervals, and seconds, does not run.
_SILENT_INTERVALS, _SILENT_S = 10, 120.0


@dataclasses.dataclass(frozen=True)
class Verdict:
    """How it stands with a run.

    Attributes:
        word: "finished", "running", "stopped", "failed" or "not begun".
        why: a sentence.
    """

    word: str
    why: str


@dataclasses.dataclass(frozen=True, eq=False)
class Run:
    """What a working directory says.

    Attributes:
        workdir: as it was named.
        config: the resolved config; empty where there is none yet.
        lines: the records of metrics.jsonl, in order.
        torn: lines of it that cannot be read.
        spent: what the run has cost.
        step: steps done.
        total: its length, if it is known.
        saved: steps of the checkpoints that are there.
        starts: times at which a process began to log, seconds since the epoch.
        records: of evaluations.
        faults: what could not be read, sentences.
        last_sign: when it was last heard of, seconds since the epoch; None: never.
    """

    workdir: str
    config: Mapping[str, Any]
    lines: Sequence[Mapping[str, Any]]
    torn: int
    spent: Spent
    step: int
    total: int | None
    saved: Sequence[int]
    starts: Sequence[float]
    records: Sequence[Record]
    faults: Sequence[str]
    last_sign: float | None

    @property
    def limit(self) -> Limit | None:
        """The budget; None where there is none."""
        budget = self.config.get("budget") or {}
        known = {field.name for field in dataclasses.fields(BudgetConfig)}
        config = BudgetConfig(**{name: budget[name] for name in known & budget.keys()})
        return None if config.core_days is None and config.hours is None else Limit(config)


def read_run(workdir: str) -> Run:
    """Reads a working directory, as far as it has come.

    Raises:
        UserError: it is not the working directory of a run.
    """
    place, faults = as_path(workdir), list[str]()
    if not place.is_dir():
        raise UserError(f"There is no directory {workdir}; name the working directory of a run.")
    if not any((place / name).exists() for name in ("config.json", METRICS_FILE)):
        raise UserError(
            f"{workdir} is not the working directory of a run (it has no config.json); name the "
            "--workdir of a training command."
        )
    config = _config(place, faults)
    lines, torn = _lines(place, faults)
    sign = read_sign_of_life(place)
    saved = complete_steps(place / "checkpoints")
    meta: Mapping[str, Any] = {}
    records: list[Record] = []
    try:
        meta = read_meta(place) if saved else {}
    except UserError as error:
        faults.append(str(error))
    try:
        if (place / DIRECTORY).is_dir():
            records = [record for _, record in read_records([str(place / DIRECTORY)])]
    except UserError as error:
        faults.append(str(error))
    spent = sign.spent if sign else Spent.from_json(meta["spent"]) if "spent" in meta else Spent()
    step = max([line["step"] for line in lines] + [sign.step if sign else 0, *saved])
    signs = [line["time"] for line in lines[-1:] if _is_number(line.get("time"))]
    if (place / LEDGER_FILE).exists():
        signs.append(float((place / LEDGER_FILE).stat().mtime))
    return Run(
        workdir=workdir,
        config=config,
        lines=lines,
        torn=torn,
        spent=spent,
        step=step,
        total=meta.get("total_steps") or _length(config, lines, records),
        saved=saved,
        starts=_starts(place),
        records=records,
        faults=faults,
        last_sign=max(signs, default=None),
    )


def _config(place: epath.Path, faults: list[str]) -> Mapping[str, Any]:
    path = place / "config.json"
    if not path.exists():
        return {}
    try:
        value = json.loads(path.read_text())
        if isinstance(value, dict):
            return value
        faults.append(f"{path} is no JSON object.")
    except (OSError, ValueError) as error:
        faults.append(f"{path} cannot be read ({brief(error)}).")
    return {}


def _lines(place: epath.Path, faults: list[str]) -> tuple[list[dict[str, Any]], int]:
    """The records of the metrics, and how many lines are damaged (torn by a kill, or by a read)."""
    path, lines, torn = place / METRICS_FILE, [], 0
    try:
        text = path.read_text() if path.exists() else ""
    except OSError as error:
        faults.append(f"{path} cannot be read ({brief(error)}).")
        return [], 0
    for line in text.splitlines():
        try:
            value = json.loads(line)
            value["step"] = int(value["step"])
            lines.append(value)
        except (ValueError, KeyError, TypeError):
            torn += 1
    return lines, torn


def _starts(place: epath.Path) -> list[float]:
    """When processes of the run began to log: each opens an event file, whose name says it."""
    board = place / "tensorboard"
    names = [path.name for path in board.iterdir()] if board.is_dir() else []
    found = (re.match(r"events\.out\.tfevents\.(\d+)\.", name) for name in names)
    return sorted(float(match[1]) for match in found if match)


def _length(
    config: Mapping[str, Any], lines: Sequence[Mapping[str, Any]], records: Sequence[Record]
) -> int | None:
    """Steps of the whole run, where no checkpoint says it."""
    for record in records:
        if record.total_steps is not None:
            return record.total_steps
    if match := re.fullmatch(r"\s*(\d+) steps?\s*", str(config.get("total"))):
        return int(match[1])
    for line in reversed(lines):
        rate = next((v for k, v in line.items() if k.endswith("_per_second")), None)
        if rate and _is_number(line.get("eta_seconds")) and config.get("batch_size"):
            return round(line["step"] + line["eta_seconds"] * rate / config["batch_size"])
    return None


def verdict(run: Run, *, now: float) -> Verdict:
    """How it stands with a run.

    Args:
        run: what it has written.
        now: seconds since the epoch.
    """
    if run.total is not None and run.total in run.saved:
        return Verdict("finished", f"All {run.total:,} steps are done and saved.")
    if run.last_sign is None:
        return Verdict("not begun", "Nothing is logged yet.")
    last = next((line for line in reversed(run.lines) if "loss" in line), {})
    of = f" of {run.total:,}" if run.total else ""
    refused = last.get("skipped_updates") or not math.isfinite(last.get("loss", 0.0))
    if refused and run.config.get("nonfinite") == "stop":
        return Verdict(
            "failed",
            f"A value was not finite by step {last['step']:,}{of}: lower the learning rate or clip "
            "the gradient, and start again from the last checkpoint.",
        )
    silent = now - run.last_sign
    ago = duration(max(silent, 0.0))
    if silent < max(_SILENT_S, _SILENT_INTERVALS * _log_interval(run)):
        eta = last.get("eta_seconds")
        left = f"; about {duration(eta)} to go" if _is_number(eta) and eta else ""
        return Verdict("running", f"Step {run.step:,}{of}, last heard of {ago} ago{left}.")
    share = _share(run.limit, run.spent) if run.limit else None
    if share is not None and share >= 1 and run.limit:
        return Verdict(
            "stopped",
            f"The budget of {run.limit.text} was spent by step {run.step:,}{of}; with a higher one "
            "the run goes on.",
        )
    newest = max(run.saved, default=0)
    if newest and newest >= run.step:
        state = f"Stopped after step {run.step:,}{of}, which is saved"
    elif newest:
        state = f"Interrupted at step {run.step:,}{of}, {run.step - newest:,} after the last save"
    else:
        state = f"Interrupted at step {run.step:,}{of}, before the first save"
    return Verdict("stopped", f"{state}, and not heard of for {ago}; the same command goes on.")


def _log_interval(run: Run) -> float:
    """Seconds between two records, in the middle."""
    times = [line["time"] for line in run.lines if _is_number(line.get("time"))]
    gaps = [after - before for before, after in itertools.pairwise(times)]
    return statistics.median(gaps) if gaps else 0.0


def _share(limit: Limit | None, spent: Spent) -> float | None:
    """Of the budget, if the chips of the run can be converted to those of the budget."""
    if limit is None:
        return None
    try:
        return limit.share(spent)
    except UserError:
        return None


def curves(run: Run) -> dict[str, dict[str, list[Any]]]:
    """Every logged number by name.

    Returns:
        ``step``, ``time`` (seconds since the epoch) and ``value`` of each record that has it; at
        most ``MOST_POINTS``, the last one among them.
    """
    found: dict[str, dict[str, list[Any]]] = {}
    for line in run.lines:
        for name, value in line.items():
            if name in ("step", "time") or not _is_number(value):
                continue
            curve = found.setdefault(name, {"step": [], "time": [], "value": []})
            curve["step"].append(line["step"])
            curve["time"].append(line.get("time"))
            curve["value"].append(float(f"{value:.7g}"))
    return {name: _thinned(curve) for name, curve in found.items()}


def _thinned(curve: dict[str, list[Any]]) -> dict[str, list[Any]]:
    length = len(curve["step"])
    every = -(-length // MOST_POINTS)
    keep = [i for i in range(length) if (length - 1 - i) % every == 0]
    return {name: [values[i] for i in keep] for name, values in curve.items()}


def budget_curve(run: Run) -> dict[str, Any]:
    """What was spent by which step, in the unit of the budget, or else in core-days of the chips.

    Returns:
        ``unit``; ``step``, ``time`` and ``spent``, lists; ``planned``, what there is for the whole
        run, or None.
    """
    limit = run.limit
    unit, planned = "core-days", None
    if limit is not None and _share(limit, run.spent) is not None:
        hours = limit.config.core_days is None
        unit = "hours" if hours else f"core-days of {limit.config.chip}"
        planned = limit.config.hours if hours else limit.config.core_days
    began = min(
        [*run.starts[:1], *(line["time"] for line in run.lines[:1] if "time" in line)], default=None
    )
    points = [(0, began, 0.0)]
    for line in run.lines:
        days = {k.partition("/")[2]: v for k, v in line.items() if k.startswith("core_days/")}
        if days:
            amount = _amount(run, line, days, planned=planned)
            points.append((line["step"], line.get("time"), amount))
    if run.spent.core_seconds:
        amount = sum(run.spent.core_days().values())
        if planned is not None:
            amount = (_share(limit, run.spent) or 0.0) * planned
        points.append((run.step, run.last_sign, amount))
    points.sort(key=lambda point: point[0])
    step, moment, spent = (list(values) for values in zip(*points, strict=True))
    kept = _thinned({"step": step, "time": moment, "spent": spent})
    return {"unit": unit, "planned": planned, **kept}


def _amount(
    run: Run, line: Mapping[str, Any], days: Mapping[str, float], *, planned: float | None
) -> float:
    """What had been spent at a record."""
    if planned is None:
        return sum(days.values())
    rates = [line[k] for k in line if k.endswith(("_per_second", "_per_second_per_core"))]
    # Seconds are not logged, but core-days and the number of cores are.
    cores = max(rates) / max(min(rates), 1e-12) if len(rates) == 2 else 1.0
    seconds = sum(days.values()) * 86_400 / max(cores, 1e-12)
    spent = Spent(seconds, {chip: {"train": value * 86_400} for chip, value in days.items()})
    return (_share(run.limit, spent) or 0.0) * planned


def describe(run: Run, name: str, *, now: float) -> dict[str, Any]:
    """A run as the page's script takes it.

    Args:
        run: what it has written.
        name: what to call it.
        now: seconds since the epoch.
    """
    state = verdict(run, now=now)
    newest = run.records[-1] if run.records else None
    core_seconds = run.spent.core_seconds
    share = _share(run.limit, run.spent)
    return {
        "name": name,
        "workdir": run.workdir,
        "verdict": state.word,
        "why": state.why,
        "step": run.step,
        "total": run.total,
        "curves": curves(run),
        "starts": list(run.starts),
        "spent": {
            "kinds": [kind for kind in (*KINDS, LOST) if run.spent.by_kind()[kind] > 0],
            "chips": {
                chip: {kind: seconds for kind, seconds in kinds.items() if seconds > 0}
                for chip, kinds in core_seconds.items()
            },
            "goodput": run.spent.goodput() if core_seconds else None,
            "hours": run.spent.seconds / 3600,
            "coreDays": run.spent.core_days(),
        },
        "budget": budget_curve(run),
        "budgetText": run.limit.text if run.limit else None,
        "budgetShare": share,
        "restarts": max(len(run.starts) - 1, 0),
        "commit": newest.commit if newest else None,
        "versions": dict(newest.versions) if newest else {},
        "devices": dict(newest.devices) if newest else {},
        "records": list(_rows(run.records)) or _logged(run),
        "config": run.config,
        "notes": list(_notes(run)),
    }


def _rows(records: Sequence[Record]) -> Iterator[dict[str, Any]]:
    """A line per split of each record, the newest first."""
    for record in reversed(records):
        moment = datetime.datetime.fromisoformat(record.time)
        for split, result in record.splits.items():
            data = result.get("data") or {}
            yield {
                "time": moment.strftime("%Y-%m-%d %H:%M"),
                "program": record.program,
                "step": record.step,
                "finished": record.finished,
                "split": split,
                "data": " ".join(str(data[key]) for key in ("source", "split") if key in data),
                "examples": result.get("examples"),
                "metrics": dict(result["metrics"]),
            }


def _logged(run: Run) -> list[dict[str, Any]]:
    """The last evaluation in the log, as lines like those of records, which come at the end."""
    for line in reversed(run.lines):
        splits: dict[str, dict[str, Any]] = {}
        for name, value in line.items():
            split, slash, metric = name.rpartition("/")
            if slash and split != "core_days":
                splits.setdefault(split, {})[metric] = value
        if splits:
            when = datetime.datetime.fromtimestamp(line.get("time", 0), datetime.UTC)
            return [
                {
                    "time": when.strftime("%Y-%m-%d %H:%M"),
                    "program": "the log of the run",
                    "step": line["step"],
                    "finished": line["step"] == run.total,
                    "split": split,
                    "data": "",
                    "examples": metrics.pop("examples", None),
                    "metrics": metrics,
                }
                for split, metrics in splits.items()
            ]
    return []


def _notes(run: Run) -> Iterator[str]:
    yield from run.faults
    if run.torn:
        lines = "line of metrics.jsonl is" if run.torn == 1 else "lines of metrics.jsonl are"
        yield f"{run.torn} {lines} torn (by a kill, or because the run was writing) and left out."
    if len(run.lines) > MOST_POINTS:
        yield f"Curves of more than {MOST_POINTS:,} points are thinned evenly."
    if run.limit and run.spent.core_seconds and _share(run.limit, run.spent) is None:
        chips = ", ".join(run.spent.core_seconds)
        yield f"The budget of {run.limit.text} cannot be compared with what was spent on {chips}."


def page(workdirs: Sequence[str], *, now: float | None = None) -> str:
    """The page about some runs.

    Args:
        workdirs: their working directories.
        now: seconds since the epoch; by default it is now.

    Raises:
        UserError: one of them is not the working directory of a run, or named twice.
    """
    now = time.time() if now is None else now
    for workdir in workdirs:
        if workdirs.count(workdir) > 1:
            raise UserError(f"{workdir} is named twice; leave one out.")
    runs = [read_run(workdir) for workdir in workdirs]
    names = _names(workdirs)
    described = [describe(run, name, now=now) for run, name in zip(runs, names, strict=True)]
    moment = datetime.datetime.fromtimestamp(now, datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
    data = {
        "made": moment,
        "runs": described,
        "differences": [
            {"name": name, "lines": differences(runs[0].config, run.config)}
            for name, run in zip(names[1:], runs[1:], strict=True)
        ],
    }
    title = names[0] if len(names) == 1 else f"{len(names)} runs"
    return web_page.compose(f"{title}: report", _PARTS, data)


def _names(workdirs: Sequence[str]) -> list[str]:
    """The shortest ends of the paths that tell the runs apart."""
    parts = [str(as_path(workdir)).rstrip("/").split("/") for workdir in workdirs]
    for length in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-length:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    return list(workdirs)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    parser = command_line.Parser("python -m train_jax.report", __doc__)
    parser.add_argument("workdir", nargs="+", help="working directory of a run")
    parser.add_argument("--output", default="report.html", help="the page (report.html)")

    def command() -> None:
        options = parser.parse_args(arguments)
        text = page(options.workdir)
        written = web_page.write(options.output, text)
        sys.stdout.write(f"{written}: {len(text.encode()) / 1e6:.1f} MB\n")

    return command_line.exit_code(command)


if __name__ == "__main__":
    sys.exit(main())
