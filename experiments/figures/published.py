"""The papers' values that are drawn beside measured ones: ``experiments/tables/targets``."""

import csv
from pathlib import Path

_TARGETS = Path(__file__).parents[1] / "tables" / "targets"


def published(table: str) -> dict[str, dict[str, float]]:
    """A published table: row -> column -> value, in the units of the paper."""
    values: dict[str, dict[str, float]] = {}
    with (_TARGETS / f"{table}.csv").open(newline="", encoding="utf-8") as stream:
        for line in csv.DictReader(stream):
            values.setdefault(line["row"], {})[line["column"]] = float(line["value"])
    return values
