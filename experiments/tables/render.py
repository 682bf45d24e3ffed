"""A table as text: markdown, LaTeX, JSON or CSV."""

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from experiments.tables.match import Cell
from experiments.tables.missing import Launch
from experiments.tables.target import TABLES, Target

JSON_FORMAT_VERSION = 1
"""Raised whenever a key changes its meaning or goes."""

_SIGNS = {"within noise": "=", "above": ">", "below": "<"}
_LEGEND = (
    "measured ± standard deviation [number of runs] = > < published: within noise of it, above, "
    "below (by the rule in experiments/tables/match.py). A published figure alone has not been "
    "run; * is from memory of its source; in brackets: nothing here makes it."
)


def markdown(table: str, cells: Sequence[Cell], missing: Sequence[Launch]) -> str:
    """For people, and for pages."""
    rows, columns, grid = _grid(cells)
    lines = [f"## {TABLES[table].title}", "", f"{_LEGEND}", ""]
    lines += ["| | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for row in rows:
        texts = [_text(grid.get((row, column))) for column in columns]
        lines.append(f"| {row} | " + " | ".join(texts) + " |")
    lines += ["", f"{_units(cells)} {_sources(cells)}", "", _summary(table, cells)]
    notes = [f"* {note}." for note in _notes(cells)]
    lines += ["", *notes] if notes else []
    if missing:
        lines += ["", "To be run:", "", "| command | figures | runs | planned cost of all runs |"]
        lines += ["|---|---|---|---|"]
        for one in missing:
            figures = str(one.figures) if one.figures else "others start from it"
            command = one.command.replace("|", "\\|")
            lines.append(f"| `{command}` | {figures} | {one.runs} | {_cost(one)} |")
        lines += [
            "",
            f"{_total(missing)} The runs of a command differ in the seed (`,seed=1` behind the "
            "colon). How costs are planned: experiments/tables/recipe.py.",
        ]
    return "\n".join(lines).rstrip() + "\n"


def latex(table: str, cells: Sequence[Cell], missing: Sequence[Launch]) -> str:
    """A tabular environment, and in comments what is missing."""
    rows, columns, grid = _grid(cells)
    lines = [f"% {TABLES[table].title}", f"% {_LEGEND}"]
    lines.append(r"\begin{tabular}{l" + "r" * len(columns) + "}")
    lines.append(" & ".join(["", *map(_escaped, columns)]) + r" \\ \hline")
    for row in rows:
        texts = [_escaped(_text(grid.get((row, column)))) for column in columns]
        lines.append(" & ".join([_escaped(row), *texts]) + r" \\")
    lines.append(r"\end{tabular}")
    lines += [f"% {_units(cells)}", f"% {_summary(table, cells)}"]
    lines += [f"% {note}." for note in _notes(cells)]
    lines += [f"% to be run: {one.command} ({one.runs} runs, {_cost(one)})" for one in missing]
    return "\n".join(lines) + "\n"


def as_json(table: str, cells: Sequence[Cell], missing: Sequence[Launch]) -> str:
    """Everything, for programs; the command's docstring lists the keys."""
    value = {
        "format_version": JSON_FORMAT_VERSION,
        "table": table,
        "title": TABLES[table].title,
        "figures": [_fields(cell) for cell in cells],
        "missing": [
            {
                "command": one.command,
                "figures": one.figures,
                "runs": one.runs,
                "exaflop_per_run": one.cost.exaflop,
                "cost_per_run": one.cost.amount,
                "unit": one.cost.unit,
                "printed": one.cost.printed,
            }
            for one in missing
        ],
    }
    return json.dumps(value, indent=1, ensure_ascii=False) + "\n"


def as_csv(table: str, cells: Sequence[Cell], missing: Sequence[Launch]) -> str:
    """A figure a line, for spreadsheets."""
    del missing
    file = io.StringIO()
    fields = [{"table": table, **_fields(cell)} for cell in cells]
    writer = csv.DictWriter(file, list(fields[0]), lineterminator="\n")
    writer.writeheader()
    for line in fields:
        writer.writerow(line | {"notes": "; ".join(line["notes"])})
    return file.getvalue()


FORMATS: Mapping[str, Callable[[str, Sequence[Cell], Sequence[Launch]], str]] = {
    "markdown": markdown,
    "latex": latex,
    "json": as_json,
    "csv": as_csv,
}


def _fields(cell: Cell) -> dict[str, Any]:
    target = cell.target
    return {
        "row": target.row,
        "column": target.column,
        "unit": target.unit,
        "published": target.value,
        "published_std": target.std,
        "source": target.source,
        "status": target.status,
        "measured": cell.mean,
        "measured_std": cell.std,
        "runs": len(cell.values),
        "difference": cell.difference,
        "verdict": cell.verdict,
        "config": target.config,
        "start": target.start,
        "note": target.note,
        "notes": list(cell.notes),
    }


def _grid(cells: Sequence[Cell]) -> tuple[list[str], list[str], dict[tuple[str, str], Cell]]:
    """Rows, columns and cells as printed; a figure a row where most of that would be empty."""
    grid = {(cell.target.row, cell.target.column): cell for cell in cells}
    rows = list(dict.fromkeys(row for row, _ in grid))
    columns = list(dict.fromkeys(column for _, column in grid))
    if 2 * len(cells) < len(rows) * len(columns):
        grid = {(f"{row}: {column}", "figure"): cell for (row, column), cell in grid.items()}
        rows, columns = [row for row, _ in grid], ["figure"]
    return rows, columns, grid


def _text(cell: Cell | None) -> str:
    if cell is None:
        return ""
    published = _published(cell.target)
    if cell.mean is None:
        return f"({published})" if cell.verdict == "not made here" else published
    digits = cell.target.decimals
    spread = "" if cell.std is None else f" ± {cell.std:.{digits}f}"
    runs = f" [{len(cell.values)}]" if "config" not in cell.values else ""
    return f"{cell.mean:.{digits}f}{spread}{runs} {_SIGNS[cell.verdict]} {published}"


def _published(target: Target) -> str:
    digits = target.decimals
    spread = "" if target.std is None else f" ± {target.std:.{digits}f}"
    return f"{target.value:.{digits}f}{spread}{'*' if target.status == 'memory' else ''}"


def _units(cells: Sequence[Cell]) -> str:
    units = dict.fromkeys(cell.target.unit for cell in cells)
    return f"In {', '.join(units)}."


def _sources(cells: Sequence[Cell]) -> str:
    return f"Published: {'; '.join(dict.fromkeys(cell.target.source for cell in cells))}."


def _summary(table: str, cells: Sequence[Cell]) -> str:
    counts = {
        verdict: sum(cell.verdict == verdict for cell in cells)
        for verdict in ("within noise", "above", "below", "not run", "not made here")
    }
    listed = ", ".join(f"{number} {verdict}" for verdict, number in counts.items() if number)
    about = TABLES[table]
    rule = ""
    if any(cell.target.std is None and cell.target.runnable for cell in cells):
        rule = (
            f" Where no deviation is published it is taken to be {about.spread:g}: "
            f"{about.spread_source}."
        )
    return f"Of {len(cells)} figures: {listed}.{rule}"


def _notes(cells: Sequence[Cell]) -> list[str]:
    several = len({cell.target.column for cell in cells}) > 1
    about: dict[str, list[Target]] = {}
    for cell in cells:
        if cell.target.note:
            about.setdefault(cell.target.note, []).append(cell.target)
    notes = []
    for note, targets in about.items():
        rows = dict.fromkeys(target.row for target in targets)
        columns = dict.fromkeys(target.column for target in targets)
        # The only column of a table says nothing.
        where = columns if several and len(columns) < len(rows) else rows
        notes.append(f"{'; '.join(where)}: {note}")
    return [*notes, *(note for cell in cells for note in cell.notes)]


def _cost(one: Launch) -> str:
    if one.cost.amount is None:
        return "not known"
    exaflop = (
        "" if one.cost.exaflop is None else f", {_number(one.cost.exaflop * one.runs)} exaFLOP"
    )
    printed = " (printed)" if one.cost.printed else ""
    return f"{_number(one.cost.amount * one.runs)} {one.cost.unit}{printed}{exaflop}"


def _total(missing: Sequence[Launch]) -> str:
    totals: dict[str, float] = {}
    for one in missing:
        if one.cost.amount is not None:
            totals[one.cost.unit] = totals.get(one.cost.unit, 0.0) + one.cost.amount * one.runs
    listed = ", ".join(f"{_number(amount)} {unit}" for unit, amount in totals.items())
    return f"In all {listed or 'at a cost that is not known'}."


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.2g}"


def _escaped(text: str) -> str:
    for symbol in "%&_#":
        text = text.replace(symbol, f"\\{symbol}")
    return text.replace("±", r"$\pm$").replace("<", "$<$").replace(">", "$>$")
