"""Where tables are printed."""

from __future__ import annotations

import sys
from typing import Any


def table_console() -> Any:
    """A console on standard output; as wide as a table needs where a pipe has no width of its own."""
    from rich.console import Console

    return Console() if sys.stdout.isatty() else Console(width=140)
