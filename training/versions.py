"""What a run was made with, so that its figures can be made again."""

from __future__ import annotations

import platform
from datetime import UTC, datetime

import torch


def versions() -> dict[str, str]:
    """Versions of contrastill, torch and Python, the platform, and the time now (UTC, ISO 8601).

    Example:
        >>> list(versions())
        ['contrastill', 'torch', 'python', 'platform', 'date']
    """
    from .. import __version__

    return {
        "contrastill": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }
