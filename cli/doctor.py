"""``contrastill doctor``: what is installed, what there is to compute with, and what would stop a training."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from .options import Quiet, json_option

HELP = """
Check what is installed, what there is to compute with, and what would stop a training.

DATA are files and folders, or NAME:PATH, as for contrastill data info: each is read and described. Every line is
marked ok, note (worth knowing) or problem (would stop a training), the last two with advice. The exit code is 1 where
there is a problem.

Examples:

    contrastill doctor

    contrastill doctor cifar100.h5 stl10:FOLDER

    contrastill doctor --json > doctor.json
"""

_STYLES = {"ok": "green", "note": "yellow", "problem": "bold red"}


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command(help=HELP)(doctor)


def doctor(
    sources: Annotated[
        list[str] | None, typer.Argument(metavar="[DATA...]", help="Files, folders or NAME:PATH to check.")
    ] = None,
    as_json: Annotated[bool, json_option("Print the findings as JSON on standard output.")] = False,
    quiet: Quiet = False,
) -> None:
    from ..evaluation.environment import check_environment
    from .tables import print_json, show

    report = check_environment(sources or [])
    if as_json:
        print_json(report)
    elif sys.stdout.isatty():
        show(report, styles=_STYLES)
    else:
        print(report)
    if report.problems:
        raise typer.Exit(1)
