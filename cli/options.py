"""Options that every command has, said in the same words."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Annotated, Any

import typer

Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")]


def say(text: str) -> None:
    """Tell the user on standard error: standard output is for the answer alone."""
    print(text, file=sys.stderr, flush=True)


def progress(quiet: bool) -> Callable[[str], None]:
    """What is told how far a command is: :func:`say`, or nothing under ``--quiet``."""
    return (lambda text: None) if quiet else say


def json_option(help: str) -> Any:
    """``--json``; ``help`` says what is printed, which differs from command to command."""
    return typer.Option("--json", help=help)
