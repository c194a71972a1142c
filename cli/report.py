"""``contrastill report RUN…``: one page about runs, in one file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from .options import Quiet, json_option, progress

HELP = """
Write one HTML page about runs: what was transferred to what, curves, a table of results, costs, and the commands that make it again.

RUN is a run, a folder of seeds, what contrastill demo or bench wrote, or a folder of any of these. Runs that differ in their seed alone are one row,
mean ± standard deviation. What contrastill evaluate, probe and ensemble diversity left there is shown too. The page holds everything itself and asks
nothing of a network: mail it, print it, open it from a disk.

Examples:

    contrastill report runs/demo --open

    contrastill report runs/untaught runs/kd runs/crd --out comparison.html --latency --embeddings
"""


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command(help=HELP)(report)


def report(
    runs: Annotated[list[str], typer.Argument(metavar="RUN...", help="Run folders, or folders of them.")],
    out: Annotated[
        str | None,
        typer.Option(
            "--out", metavar="FILE", help="The page; left out: report.html in RUN, or in the folder common to all."
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
    path, found, rows = write_report(runs, out, latency=latency, maps=embeddings, say=progress(quiet))
    if as_json:
        print(json.dumps({"report": str(path), "runs": found, "rows": rows}))
    else:
        print(f"report: {path}")
    if opened:
        import webbrowser

        webbrowser.open(path.resolve().as_uri())


def write_report(
    runs: list[str], out: str | None = None, *, latency: bool = False, maps: bool = False, say: Callable[[str], None]
) -> tuple[Path, int, list[dict[str, Any]]]:
    """Write the page about runs, whole or not at all.

    Args:
        runs: Run folders, or folders of them.
        out: The page; None is ``report.html`` in the one folder, or in the one common to all.
        latency: Whether to time a forward of each network.
        maps: Whether to map embeddings.
        say: Told what begins.

    Returns:
        The page, how many runs it is about, and the numbers of its table.

    Raises:
        UsageError: There is no run, or the page cannot be written there.
    """
    from ..core.errors import UsageError
    from ..core.run import write_text
    from ..report.runs import find

    found = find(runs)
    path = Path(out) if out else (Path(runs[0]) if len(runs) == 1 else found.root) / "report.html"
    if path.is_dir():
        raise UsageError(f"--out {out} is a folder: name a file, such as {path / 'report.html'}")
    text, rows = _page(found, latency, maps, say=say)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, text)
    except OSError as error:
        raise UsageError(f"{path} cannot be written ({error.strerror}): name another file with --out") from error
    return path, sum(len(group.runs) for group in found.groups), rows


def _page(found: Any, latency: bool, maps: bool, *, say: Any) -> tuple[str, list[dict[str, Any]]]:
    """The page's text, and the numbers of its table."""
    from datetime import UTC, datetime

    from .. import __version__
    from ..report.comparison import Compared, comparison
    from ..report.markup import element
    from ..report.page import page
    from ..report.reproduce import costs, embeddings, reproduction
    from ..report.results import results
    from ..report.transfers import curves, transfers

    count = sum(len(group.runs) for group in found.groups)
    say(f"{count} run{'s' * (count > 1)} in {found.root}")
    table, rows = comparison(found, Compared(found))
    sections = [transfers(found), table, curves(found), *results(found)]
    say("counting what the networks cost")
    sections.append(costs(found, latency=latency))
    if maps:
        say("looking at embeddings")
        sections.append(embeddings(found))
    sections.append(reproduction(found))
    name = found.groups[0].name if len(found.groups) == 1 else found.root.name
    now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    trainings = f"{count} training run{'s' * (count > 1)}" + (
        f" in {len(found.groups)} settings" if count > len(found.groups) > 1 else ""
    )
    intro = element(
        "p",
        f"What {trainings} came to, from the files in the runs' folders. Every table sorts by a click on a "
        "column's head.",
    )
    text = page(
        f"Report on {name}",
        intro,
        [one for one in sections if one is not None],
        f"Written by contrastill {__version__} on {now}.",
    )
    return text, rows
