"""Messages and progress bars on standard error: standard output is for results alone."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Say = Callable[[str], None]
"""Takes a line of progress."""


def print_message(text: str) -> None:
    """Print a line on standard error."""
    print(text, file=sys.stderr, flush=True)


def printer(progress: bool) -> Say:
    """:func:`print_message`, or a function that prints nothing."""
    return print_message if progress else _ignore


def _ignore(text: str) -> None:
    pass


@contextmanager
def progress_bar(description: str, total: int, unit: str, *, progress: bool) -> Iterator[Callable[[int], None]]:
    """A bar on standard error; yields the function that advances it.

    Args:
        description: Text before the bar.
        total: Where it ends.
        unit: What is counted.
        progress: Whether to draw it.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), disable=not progress) as bar:
        task = bar.add_task(description, total=total)
        yield lambda count: bar.advance(task, count)
