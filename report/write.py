"""Writes the page about runs."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from .. import __version__
from ..core.arguments import Paths, checked, path_list
from ..core.atomic import write_text
from ..core.errors import UsageError
from ..evaluation.messages import Say, printer
from .comparison import Compared, comparison
from .markup import element
from .page import page
from .reproduce import costs, embeddings, reproduction
from .results import results
from .runs import RunFolders, find
from .transfers import curves, transfers


@dataclass(frozen=True)
class ReportResult:
    """A page about runs.

    Attributes:
        path: The page.
        runs: How many runs it is about.
        rows: The numbers of its table, one mapping per row.
        incomplete: A line for each run whose numbers are not of its last epoch.
    """

    path: Path
    runs: int
    rows: tuple[dict[str, Any], ...]
    incomplete: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as ``contrastill report --json`` prints them."""
        return {"report": str(self.path), "runs": self.runs, "rows": list(self.rows), "incomplete": [*self.incomplete]}

    def __str__(self) -> str:
        return "\n".join([*self.incomplete, f"report: {self.path}"])


@checked
def write_report(
    runs: Paths,
    out: str | os.PathLike | None = None,
    *,
    latency: bool = False,
    embeddings: bool = False,
    progress: bool = True,
) -> ReportResult:
    """Write one HTML page about runs; a failed call leaves nothing.

    Args:
        runs: Run folders, or folders of them.
        out: The page; None is ``report.html`` in the one folder, or in the one common to all.
        latency: Whether to time a forward of each network.
        embeddings: Whether to map each student's embeddings of a few hundred test samples.
        progress: Whether to show progress on standard error.

    Raises:
        UsageError: There is no run, the page's name does not end in .html, or it cannot be written there.
    """
    paths = path_list(runs, "runs", "run folder", "runs/crd")
    folders = find(paths)
    path = Path(out) if out else (Path(paths[0]) if len(paths) == 1 else folders.root) / "report.html"
    if not path.is_dir() and path.suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"--out {out} does not end in .html, by which a browser knows a page: name {path.stem}.html")
    if path.is_dir():
        raise UsageError(f"--out {out} is a folder: name a file, such as {path / 'report.html'}")
    text, rows = _page(folders, latency, embeddings, printer(progress))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, text)
    except OSError as error:
        raise UsageError(f"{path} cannot be written ({error.strerror}): name another file with --out") from error
    incomplete = tuple(line for group in folders.groups for line in group.incomplete)
    return ReportResult(path, sum(len(group.runs) for group in folders.groups), tuple(rows), incomplete)


def _page(folders: RunFolders, latency: bool, maps: bool, say: Say) -> tuple[str, list[dict[str, Any]]]:
    """The page's text, and the numbers of its table."""
    count = sum(len(group.runs) for group in folders.groups)
    say(f"{count} run{'s' * (count > 1)} in {folders.root}")
    table, rows = comparison(folders, Compared(folders))
    sections = [transfers(folders), table, curves(folders), *results(folders)]
    say("counting what the networks cost")
    sections.append(costs(folders, latency=latency))
    if maps:
        say("mapping embeddings")
        sections.append(embeddings(folders))
    sections.append(reproduction(folders))
    name = folders.groups[0].name if len(folders.groups) == 1 else folders.root.name
    now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    several = count > len(folders.groups) > 1
    trainings = f"{count} training run{'s' * (count > 1)}" + (f" in {len(folders.groups)} settings" if several else "")
    intro = element(
        "p",
        f"Results of {trainings}, from the files in the runs' folders. Every table sorts by a click on a "
        "column's head.",
    )
    text = page(
        f"Report on {name}",
        intro,
        [section for section in sections if section is not None],
        f"Written by contrastill {__version__} on {now}.",
    )
    return text, rows
