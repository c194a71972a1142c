"""Paths that begin with ``~``, which a shell expands at the beginning of a word alone, and Python does not."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any


def expanded(path: Any) -> Any:
    """A path with the home folder in place of its ``~``; any other value as it is.

    Example:
        >>> expanded("~/runs") == os.path.join(os.path.expanduser("~"), "runs"), expanded("resnet8"), expanded(3)
        (True, 'resnet8', 3)
    """
    if not isinstance(path, (str, os.PathLike)):
        return path
    text = os.fspath(path)
    if not isinstance(text, str) or not text.startswith("~"):
        return path
    home = os.path.expanduser(text)
    return home if isinstance(path, str) else Path(home)
