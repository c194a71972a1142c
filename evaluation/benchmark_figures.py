"""The files of a benchmark's table: Markdown and figures."""

from __future__ import annotations

from pathlib import Path

from ..compress import results
from ..compress.benchmark import TEACHER
from ..compress.results import Line, Summary
from ..core.atomic import write_text
from ..core.run import writable_folder
from ..plots.benchmark import Ablation, Score, draw_ablation, draw_table


def write_table(summary: Summary, folder: Path, markdown: Path | None) -> list[Path]:
    """Write table.md, table.png and, of an ablation, vary_KEY.png.

    Args:
        summary: The table.
        folder: Where to write.
        markdown: Another file for the table.

    Returns:
        The files.
    """
    files = [folder / "table.md", *([markdown] if markdown else [])]
    for file in files:
        writable_folder(file.parent)
        write_text(file, results.markdown(summary))
    scores = {
        _title(pair): {
            results.label(line): _score(summary, line, pair)
            for line in summary.lines
            if (line, pair) in summary.entries
        }
        for pair in summary.pairs
    }
    if any(scores.values()):
        draw_table(scores, folder / "table.png")
        files.append(folder / "table.png")
    for key in dict.fromkeys(vary[0] for _, vary in summary.lines if vary):
        draw_ablation(_ablations(summary, key), key, folder / f"vary_{key}.png")
        files.append(folder / f"vary_{key}.png")
    return files


def _title(pair: str) -> str:
    return pair.replace(":", " → ", 1)


def _score(summary: Summary, line: Line, pair: str) -> Score:
    entry = summary.entries[line, pair]
    figure = entry.published.top1 if entry.published and summary.comparable else None
    return Score(entry.top1.mean, entry.top1.std, entry.top1.count, figure)


def _ablations(summary: Summary, key: str) -> list[Ablation]:
    """A panel for each pair that an ablation was made with."""
    panels = []
    for pair in summary.pairs:
        curves: dict[str, dict[str, Score]] = {}
        lines: dict[str, Score] = {}
        for objective, vary in [line for line in summary.lines if (line, pair) in summary.entries]:
            if vary is None and objective != TEACHER:
                lines[objective] = _score(summary, (objective, None), pair)
            elif vary and vary[0] == key:
                curves.setdefault(objective, {})[vary[1]] = _score(summary, (objective, vary), pair)
        if curves:
            panels.append(Ablation(_title(pair), curves, lines))
    return panels
