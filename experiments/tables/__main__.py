"""Lays result records beside the published tables: what is reproduced, and what is missing.

    python -m experiments.tables                                the names of the tables
    python -m experiments.tables vit_table2                     its figures, and what to launch
    python -m experiments.tables pose_table1 --results=gs://bucket/runs,runs --format=latex

--results: directories in which the records of runs are looked for, at any depth
(train_jax/record.py); --format: markdown (the default), latex, json or csv. For every figure: the
mean and standard deviation over runs beside the published value, and whether they agree; for those
that were not run, the commands and what they are planned to cost.

The JSON object has
    format_version  1; raised whenever a key that is listed here changes its meaning or goes
    table, title
    figures         in the table's order: row, column, unit, published, published_std, source,
                    status, config, start, note (of the figure, see experiments/tables/target.py);
                    measured, measured_std, difference (in its unit; null where there is none),
                    runs, verdict, notes (of the records, see experiments/tables/match.py)
    missing         what to launch, in its order: command, figures (how many of the missing ones it
                    gives), runs, exaflop_per_run, cost_per_run (null: not known), its unit, printed
                    (whether that cost is published)
CSV has the keys of the figures, a figure a line.
"""

import sys
from collections.abc import Sequence

from experiments.tables.target import TABLES, table_named, targets_of
from train_jax import command_line, record

_COMMAND = "python -m experiments.tables"


def tables(arguments: Sequence[str]) -> str:
    """The command's output.

    Args:
        arguments: the words after its name.

    Raises:
        UserError: no such table or format, no such directory, or a damaged record.
    """
    parser = command_line.Parser(_COMMAND, __doc__)
    parser.add_argument("table", nargs="?", help="its name; without it, all names are listed")
    parser.add_argument("--results", default="", help="directories with records, with commas")
    parser.add_argument(
        "--format", default="markdown", choices=["markdown", "latex", "json", "csv"]
    )
    options = parser.parse_args(arguments)
    if options.table is None:
        return _listed()
    table_named(options.table)
    records = record.read_records([place for place in options.results.split(",") if place])
    # Models are needed from here on, which take seconds to import.
    from experiments.tables.match import cells_of
    from experiments.tables.missing import launches
    from experiments.tables.render import FORMATS

    cells = cells_of(options.table, [one for _, one in records])
    return FORMATS[options.format](options.table, cells, launches(cells))


def _listed() -> str:
    width = max(map(len, TABLES))
    return "".join(
        f"{name:<{width}}  {len(targets_of(name)):>4} figures  {table.title}\n"
        for name, table in TABLES.items()
    )


def _command() -> None:
    sys.stdout.write(tables(sys.argv[1:]))


if __name__ == "__main__":
    sys.exit(command_line.exit_code(_command))
