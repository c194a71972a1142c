"""How every figure looks, and how it comes onto the disk; loads matplotlib when it is first used."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe and Ito's colours, which people with any kind of colour vision tell apart.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_STYLE: Any = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "figure.dpi": 130,
}


@contextmanager
def figure(path: str | os.PathLike, width: float, height: float, *, constrained: bool = True) -> Iterator[Figure]:
    """A figure of ``width`` × ``height`` inches that is written to ``path`` as PNG at the end, whole or not at all.

    ``constrained`` makes room for all texts, which takes most of the time; without it the caller sets the margins. No
    window is ever opened and no global state of matplotlib's is changed.
    """
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    path = Path(path)
    with rc_context(_STYLE):
        drawn = Figure(figsize=(width, height), layout="constrained" if constrained else None)
        FigureCanvasAgg(drawn)
        yield drawn
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            drawn.savefig(temporary, format="png")
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
