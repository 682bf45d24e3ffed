"""The papers' values that are drawn beside measured ones."""

from experiments.tables.target import targets_of


def published(table: str) -> dict[str, dict[str, float]]:
    """A published table: row -> column -> value, in the units of the paper."""
    values: dict[str, dict[str, float]] = {}
    for target in targets_of(table):
        values.setdefault(target.row, {})[target.column] = target.value
    return values
