"""``contrastill doctor``: what is installed, what there is to compute with, and what would stand in a training's
way.
"""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from .options import Quiet, json_option

if TYPE_CHECKING:
    from ..evaluation.environment import Finding

HELP = """
Say what is installed, what there is to compute with, and what would stand in a training's way.

DATA are files and folders, or NAME:PATH, as for contrastill data info: each is read, and what is in it is said. Every line is marked
ok, note (worth knowing) or problem (would stop a training), the last two with the way out. The exit code is 1 where there is a problem.

Examples:

    contrastill doctor

    contrastill doctor cifar100.h5 stl10:FOLDER

    contrastill doctor --json > doctor.json
"""

_LOOKS = {"ok": "green", "note": "yellow", "problem": "bold red"}


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command(help=HELP)(doctor)


def doctor(
    sources: Annotated[
        list[str] | None, typer.Argument(metavar="[DATA...]", help="Files, folders or NAME:PATH to look into.")
    ] = None,
    as_json: Annotated[bool, json_option("Print the findings as JSON on standard output.")] = False,
    quiet: Quiet = False,
) -> None:
    found = list(_findings(sources or []))
    problems = sum(one.mark == "problem" for one in found)
    if as_json:
        print(json.dumps({"problems": problems, "findings": [vars(one) for one in found]}))
    else:
        _show(found)
    if problems:
        raise typer.Exit(1)


def _findings(sources: list[str]) -> list[Finding]:
    """All of them; a check that fails is a finding too."""
    from ..evaluation import environment as checkup

    checks = [
        checkup.versions,
        checkup.extras,
        checkup.devices,
        checkup.environment,
        checkup.room,
        checkup.configs,
        checkup.weights,
    ]
    found: list[Finding] = []
    for check in checks:
        try:
            found += check()
        except Exception as error:  # what is broken is what the command is there to say
            said = f"could not be looked at: {type(error).__name__}: {' '.join(str(error).split())[:200]}"
            found.append(
                checkup.Finding(check.__name__, "", "problem", said, "pip install --force-reinstall contrastill")
            )
    return [*found, *checkup.data(sources)]


def _show(found: list[Finding]) -> None:
    """A table on a terminal, a line a finding elsewhere; the marks are words in both."""
    if sys.stdout.isatty():
        _table(found)
    else:
        for one in found:
            print(f"{one.mark:8}{one.subject}: {one.name}: {one.said}" + (f" -> {one.way}" if one.way else ""))
    counts = {mark: sum(one.mark == mark for one in found) for mark in _LOOKS}
    notes = f"{counts['note']} note{'s' * (counts['note'] != 1)}"
    print(
        f"{counts['problem']} problem{'s' * (counts['problem'] != 1)}, {notes}"
        if counts["problem"]
        else f"nothing stands in a training's way ({notes})"
    )


def _table(found: list[Finding]) -> None:
    from rich.markup import escape
    from rich.table import Table

    from .tables import table_console

    table = Table()
    table.add_column("")
    for column in ("subject", "name", "found", "what to do"):
        table.add_column(column, overflow="fold")
    before = None
    for one in found:
        if before not in (None, one.subject):
            table.add_section()
        style = _LOOKS[one.mark]
        table.add_row(
            f"[{style}]{one.mark}[/{style}]",
            one.subject if one.subject != before else "",
            *map(escape, (one.name, one.said, one.way)),
        )
        before = one.subject
    table_console().print(table)
