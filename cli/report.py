"""``contrastill report RUN…``: one HTML page about runs."""

from __future__ import annotations

from typing import Annotated

import typer

from .options import Quiet, json_option
from .tables import print_json

HELP = """
Write one HTML page about runs: what was transferred to what, curves, a table of results, costs, and the commands that
repeat it.

RUN is a run, a folder of seeds, what contrastill demo or bench wrote, or a folder of any of these. Runs of a folder
of seeds that differ in their seed alone are one row, mean ± standard deviation. The results of contrastill evaluate,
probe and ensemble diversity in these folders are shown too. The page is one file that needs no network: mail it, print
it, open it from a disk.

Examples:

    contrastill report runs/demo --open

    contrastill report runs/baseline runs/kd runs/crd --out comparison.html --latency --embeddings
"""


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command(help=HELP)(report)


def report(
    runs: Annotated[list[str], typer.Argument(metavar="RUN...", help="Run folders, or folders of them.")],
    out: Annotated[
        str | None,
        typer.Option(
            "--out", metavar="FILE", help="The page; default: report.html in RUN, or in the folder common to all."
        ),
    ] = None,
    opened: Annotated[bool, typer.Option("--open", help="Show it in the browser.")] = False,
    latency: Annotated[bool, typer.Option("--latency", help="Also time a forward of each network.")] = False,
    embeddings: Annotated[
        bool, typer.Option("--embeddings", help="Also map each student's embeddings of a few hundred test samples.")
    ] = False,
    as_json: Annotated[
        bool, json_option("Print the page's path and the table's numbers as JSON on standard output.")
    ] = False,
    quiet: Quiet = False,
) -> None:
    from ..report.write import write_report

    result = write_report(runs, out, latency=latency, embeddings=embeddings, progress=not quiet)
    if as_json:
        print_json(result)
    else:
        print(result)
    if opened:
        import webbrowser

        webbrowser.open(result.path.resolve().as_uri())
