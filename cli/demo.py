"""``contrastill demo``: the main job from end to end on rendered data, with no download."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from . import completion
from .options import Quiet, json_option, progress

HELP = """
Try everything with no download: rooms are rendered, a teacher is trained on them, and students with and without it: small ones that
see what it sees, one with a second teacher beside the first, some that see depth alone, and some that see colour alone, taught by one that sees lightness alone.

Takes a few minutes on two cores. Stopped, it goes on where it was when it is given again. OUT holds a run for each network,
comparison.png and comparison.json, and the same of the other transfers under ensemble, rgb_to_depth and luminance_to_chrominance; under
probe, what the representations are worth on rooms they have not seen. report.html is a page about all of it.

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
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            help="key=value for every training, such as train.epochs=3.", autocompletion=completion.overrides
        ),
    ] = None,
    as_json: Annotated[bool, json_option("Print the comparison as JSON on standard output.")] = False,
    quiet: Quiet = False,
) -> None:
    from ..evaluation.compare import compare_compression
    from ..evaluation.compare_ensemble import compare_ensemble
    from ..evaluation.compare_probe import compare_probe
    from ..evaluation.compare_xmodal import compare_colour, compare_depth
    from .report import write_report

    folder, say = Path(out), progress(quiet)
    told: dict[str, Any] = {"say": say, "progress": not quiet}
    results = {"compression": compare_compression(folder, seed, overrides or [], **told)}
    results["ensemble"] = compare_ensemble(
        folder / "ensemble", folder / "teacher", folder / "crd_kd", seed, overrides or [], **told
    )
    results["rgb_to_depth"] = compare_depth(folder / "rgb_to_depth", folder / "teacher", seed, overrides or [], **told)
    results["luminance_to_chrominance"] = compare_colour(
        folder / "luminance_to_chrominance", seed, overrides or [], **told
    )
    runs = {row["name"].rpartition(" (")[0]: Path(row["run"]) for row in results["compression"]["rows"]}
    results["probe"] = compare_probe(folder / "probe", runs, seed, say=say)
    page = write_report([out], maps=True, say=say)[0]
    if as_json:
        print(json.dumps({**results, "report": str(page)}))
        return
    found = results["compression"]
    columns = {"parameters": _number("parameters", ","), "top-1 %": _number("top1", ".2f")}
    columns |= {"of the way to the teacher": _number("way", ".0%"), "s": _number("seconds", ".0f")}
    _show(
        found, columns, f"{found['images']:,} test images: differences below {found['noise']:.1f} points may be chance"
    )
    found = results["ensemble"]
    columns = {
        "top-1 %": _number("top1", ".2f"),
        "NLL, nats": _number("nll", ".3f"),
        "calibration error %": _number("ece"),
    }
    _show(
        found,
        columns,
        f"{found['images']:,} test images; the teachers disagree about {found['disagreement']:.1f} % of them",
    )
    columns = {
        "mIoU %": _number("miou"),
        "pixels %": _number("pixel_accuracy"),
        "main object, linear probe %": _number("top1"),
    }
    for across in ("rgb_to_depth", "luminance_to_chrominance"):
        _show(
            results[across],
            columns,
            f"{results[across]['images']:,} test frames; all frozen under a linear head but the one from its labels",
        )
    found = results["probe"]
    columns = {"top-1 %": _number("top1"), "95 % interval": lambda row: f"{row['low']:.1f} to {row['high']:.1f}"}
    _show(found, columns, f"{found['train_images']:,} labelled frames to learn from, {found['images']:,} to test on")
    print(f"\nAll of it on one page, for a browser: {page.resolve()}")


def _show(result: dict[str, Any], columns: dict[str, Callable[[dict[str, Any]], str]], note: str) -> None:
    """A result's rows as a table, then what its figures are worth and where its picture is.

    Args:
        result: Has ``title``, ``rows``, each with a ``name``, and ``seed``.
        columns: Head of a column after the network's -> what it says of a row.
        note: Behind the seed.
    """
    from rich.table import Table

    from .tables import table_console

    console = table_console()
    table = Table(title=result["title"], title_justify="left")
    table.add_column("network")
    for column in columns:
        table.add_column(column, justify="right")
    for row in result["rows"]:
        table.add_row(row["name"], *(say(row) for say in columns.values()))
    console.print(table)
    console.print(f"one seed ({result['seed']}), {note}", highlight=False)
    if "picture" in result:
        console.print(f"picture: {result['picture']}", highlight=False)


def _number(key: str, form: str = ".1f") -> Callable[[dict[str, Any]], str]:
    """A row's value as text; nothing where there is none."""
    return lambda row: "" if row[key] is None else f"{row[key]:{form}}"
