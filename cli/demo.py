"""``contrastill demo``: the main job from end to end on rendered data, with no download."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

HELP = """
Try everything with no download: rooms are rendered, a teacher is trained on them, and students with and without it: small ones that
see what it sees, one with a second teacher beside the first, and some that see depth alone.

Takes a few minutes on two cores. Stopped, it goes on where it was when it is given again. OUT holds a run for each network,
comparison.png and comparison.json, and the same of the other transfers under ensemble and rgb_to_depth; under probe, what the
representations are worth on rooms they have not seen.

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
    from .compare_ensemble import compare_ensemble
    from .compare_probe import compare_probe
    from .compare_xmodal import compare_xmodal

    def say(text: str) -> None:
        print(text, file=sys.stderr)

    folder = Path(out)
    results = {"compression": compare_compression(folder, seed, overrides or [], say=say)}
    results["ensemble"] = compare_ensemble(folder / "ensemble", folder / "teacher", folder / "crd_kd", seed, overrides or [], say=say)
    results["rgb_to_depth"] = compare_xmodal(folder / "rgb_to_depth", folder / "teacher", seed, overrides or [], say=say)
    runs = {row["name"].rpartition(" (")[0]: Path(row["run"]) for row in results["compression"]["rows"]}
    results["probe"] = compare_probe(folder / "probe", runs, seed, say=say)
    if as_json:
        print(json.dumps(results))
        return
    _show(results["compression"])
    _show_ensemble(results["ensemble"])
    _show_xmodal(results["rgb_to_depth"])
    _show_probe(results["probe"])


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


def _show_ensemble(result: dict[str, Any]) -> None:
    from rich.table import Table

    from .tables import table_console

    console = table_console()
    table = Table(title=result["title"], title_justify="left")
    for column in ("network", "top-1 %", "NLL, nats", "calibration error %"):
        table.add_column(column, justify="left" if column == "network" else "right")
    for row in result["rows"]:
        table.add_row(row["name"], *("" if row[key] is None else f"{row[key]:{form}}" for key, form in (("top1", ".2f"), ("nll", ".3f"), ("ece", ".1f"))))
    console.print(table)
    console.print(
        f"one seed ({result['seed']}), {result['images']:,} test images; the teachers disagree about {result['disagreement']:.1f} % of them", highlight=False
    )
    console.print(f"picture: {result['picture']}", highlight=False)


def _show_xmodal(result: dict[str, Any]) -> None:
    from rich.table import Table

    from .tables import table_console

    console = table_console()
    table = Table(title=result["title"], title_justify="left")
    for column in ("network", "mIoU %", "pixels %", "main object, linear probe %"):
        table.add_column(column, justify="left" if column == "network" else "right")
    for row in result["rows"]:
        table.add_row(row["name"], *("" if row[key] is None else f"{row[key]:.1f}" for key in ("miou", "pixel_accuracy", "top1")))
    console.print(table)
    console.print(f"one seed ({result['seed']}), {result['images']:,} test frames; all frozen under a linear head but the one from its labels", highlight=False)
    console.print(f"picture: {result['picture']}", highlight=False)


def _show_probe(result: dict[str, Any]) -> None:
    from rich.table import Table

    from .tables import table_console

    console = table_console()
    table = Table(title=result["title"], title_justify="left")
    for column in ("network", "top-1 %", "95 % interval"):
        table.add_column(column, justify="left" if column == "network" else "right")
    for row in result["rows"]:
        table.add_row(row["name"], f"{row['top1']:.1f}", f"{row['low']:.1f} to {row['high']:.1f}")
    console.print(table)
    console.print(f"one seed ({result['seed']}), {result['train_images']:,} labelled frames to learn from, {result['images']:,} to test on", highlight=False)
