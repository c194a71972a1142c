"""``contrastill demo``: the main job from end to end on rendered data, with no download."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

HELP = """
Try everything with no download: rooms are rendered, a teacher is trained on them, and students with and without it.

Takes a few minutes on two cores. Stopped, it goes on where it was when it is given again. OUT holds a run for each network,
comparison.png and comparison.json.

Examples:

    contrastill demo

    contrastill demo --out /tmp/demo --seed 1
"""


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command(help=HELP)(demo)


def demo(
    out: Annotated[str, typer.Option("--out", help="The folder to write.")] = "runs/demo",
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the networks, the order and the views.")] = 0,
    overrides: Annotated[list[str] | None, typer.Argument(help="key=value for every training, such as train.epochs=3.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the comparison as JSON on standard output.")] = False,
) -> None:
    from .compare import compare_compression

    result = compare_compression(Path(out), seed, overrides or [], say=lambda text: print(text, file=sys.stderr))
    if as_json:
        print(json.dumps(result))
        return
    _show(result)


def _show(result: dict[str, Any]) -> None:
    from rich.table import Table

    from .tables import table_console

    console = table_console()
    table = Table(title=result["title"], title_justify="left")
    for column in ("network", "parameters", "top-1 %", "of the way to the teacher", "s"):
        table.add_column(column, justify="left" if column == "network" else "right")
    for row in result["rows"]:
        way = "" if row["way"] is None else f"{100 * row['way']:.0f} %"
        table.add_row(row["name"], f"{row['parameters']:,}", f"{row['top1']:.2f}", way, f"{row['seconds']:.0f}")
    console.print(table)
    console.print(
        f"one seed ({result['seed']}), {result['images']:,} test images: differences below {result['noise']:.1f} points may be chance", highlight=False
    )
    console.print(f"picture: {result['picture']}", highlight=False)
