"""``contrastill evaluate RUN``: the accuracy of a run's student, and of its teachers, on a test split."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

HELP = """
Measure a run's student on the test split of its data, or of other data with the same classes.

A run that is still under way is measured at its newest checkpoint. What was measured is also written to RUN/evaluation.json.

Examples:

    contrastill evaluate runs/crd

    contrastill evaluate runs/untaught runs/kd runs/crd --teachers

    contrastill evaluate runs/crd data.path=other.h5 --json
"""


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command(help=HELP)(evaluate)


def evaluate(
    arguments: Annotated[list[str], typer.Argument(metavar="RUN... [KEY=VALUE...]", help="Run folders; key=value overrides of their configs, such as data.path=…")],
    teachers: Annotated[bool, typer.Option("--teachers", help="Measure each run's teachers as well.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the rows as JSON on standard output.")] = False,
) -> None:
    from ..core.errors import UsageError
    from .measure import measure_run

    runs = [argument for argument in arguments if "=" not in argument]
    overrides = [argument for argument in arguments if "=" in argument]
    if not runs:
        raise UsageError("name at least one run folder, such as runs/crd")
    rows = [row for run in runs for row in measure_run(run, overrides, teachers=teachers)]
    if as_json:
        print(json.dumps(rows))
    else:
        _show(rows)


def _show(rows: list[dict[str, Any]]) -> None:
    from rich.table import Table

    from .tables import table_console

    table = Table()
    for column in ("run", "network", "parameters", "top-1 %", "top-5 %", "images", "weights"):
        table.add_column(column, justify="left" if column in ("run", "network", "weights") else "right", overflow="fold")
    for row in rows:
        top1 = f"{row['top1']:.2f}" if "top1" in row else "other classes"
        top5 = f"{row['top5']:.2f}" if "top5" in row else ""
        table.add_row(row["run"], f"{row['role']} {row['model']}", f"{row['parameters']:,}", top1, top5, f"{row['images']:,}", row["weights"])
    table_console().print(table)
