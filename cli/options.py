"""Options that several commands have, in the same words."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from ..evaluation.messages import print_message as print_message

Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")]


def json_option(help: str) -> Any:
    """``--json``; ``help`` names what is printed, which differs from command to command."""
    return typer.Option("--json", help=help)
