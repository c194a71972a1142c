"""The pictures of ``contrastill probe``: none where there is nothing to see."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..plots.chart import Chart, series_at_places
from ..plots.heatmaps import Heat, draw_cka, draw_correlation
from ..plots.png import draw_charts
from .probe_inputs import DataName, NetworkName, short_names
from .probe_suite import CkaResult, CorrelationResult, ProbeReport
from .probe_tables import column_keys, in_depth


def draw_all(found: ProbeReport, networks: Sequence[NetworkName], data: Sequence[DataName], folder: Path) -> list[Path]:
    """Draw what was found.

    Returns:
        The pictures: probe_layers.png of several layers, probe_shots.png of several numbers of labels, cka.png,
            correlation.png.
    """
    others = [found.alike[0].other] if found.alike else []
    others += [found.apart[0].teacher] if found.apart else []
    known = {name.text for name in networks}
    every = [*networks, *(NetworkName(text) for text in dict.fromkeys(others) if text not in known)]
    short = short_names(every, short_network) | {one["name"]: one["short"] for one in found.data}
    drawn = []
    layers = [panel for name in data if (panel := _layers(found.rows, name.text, networks, short)) is not None]
    if layers:
        title = "linear probes of every layer; bars: " + (
            "95 % intervals" if any(row.get("low") is not None for row in found.rows) else "± std over folds"
        )
        draw_charts(layers, folder / "probe_layers.png", title=title, legend="shared")
        drawn.append(folder / "probe_layers.png")
    if len(found.rows[0].get("shots", ())) > 1:
        panels = [
            _shots(found.rows, key, networks, short) for key in column_keys(found.rows, [name.text for name in data])
        ]
        title = f"few labels; bars: ± standard deviation over {found.rows[0]['shots'][0]['draws']} draws"
        draw_charts(panels, folder / "probe_shots.png", title=title, legend="shared")
        drawn.append(folder / "probe_shots.png")
    several = len(data) > 1
    if found.alike:
        draw_cka([_alike(one, short, several) for one in found.alike], folder / "cka.png")
        drawn.append(folder / "cka.png")
    if found.apart:
        draw_correlation([_apart(one, short, several) for one in found.apart], folder / "correlation.png")
        drawn.append(folder / "correlation.png")
    return drawn


def short_network(name: NetworkName) -> str:
    """The last part of a run's path, with what it is of the run; a name of a network as it is."""
    path, colon, role = name.text.rpartition(":")
    run = Path(path if colon else name.text)
    return f"{run.name}:{role}" if colon and run.is_dir() else run.name if run.is_dir() else name.text


def _layers(
    rows: Sequence[dict[str, Any]], data: str, networks: Sequence[NetworkName], short: dict[str, str]
) -> Chart | None:
    """The probes of a data set by layer; None where there is but one."""
    here = {(row["network"], row["layer"]): row for row in rows if row["data"] == data}
    layers = in_depth({layer for _, layer in here})
    if len(layers) < 2:
        return None
    lines = []
    for style, name in enumerate(networks):
        values, low, high = zip(*(_ends(here.get((name.text, layer))) for layer in layers), strict=True)
        lines.append(series_at_places(short[name.text], values, low, high, style))
    return Chart(short[data], "layer", "top-1, %", lines, layers, (0, 100), log=False)


def _ends(row: dict[str, Any] | None) -> tuple[float | None, float | None, float | None]:
    """Top-1 and the ends of its bar."""
    if row is None:
        return None, None, None
    return (
        (row["top1"], row["top1"] - row["std"], row["top1"] + row["std"])
        if "std" in row
        else (row["top1"], row["low"], row["high"])
    )


def _shots(
    rows: Sequence[dict[str, Any]], key: tuple[str, str], networks: Sequence[NetworkName], short: dict[str, str]
) -> Chart:
    """The few-shot curves of a layer on a data set."""
    here = {row["network"]: row["shots"] for row in rows if (row["data"], row["layer"]) == key}
    lines = []
    for style, name in enumerate(networks):
        if name.text not in here:
            continue
        means, stds = ([one[part] for one in here[name.text]] for part in ("mean", "std"))
        ends = [[mean + sign * std for mean, std in zip(means, stds, strict=True)] for sign in (-1, 1)]
        lines.append(series_at_places(short[name.text], means, *ends, style))
    counts = [str(one["shots"]) for one in next(iter(here.values()))]
    title = f"{short[key[0]]}, {key[1]}"
    return Chart(title, "labelled samples a class", "top-1, %", lines, counts, (0, 100), log=False)


def _alike(one: CkaResult, short: dict[str, str], several: bool) -> Heat:
    title = f"{short[one.network]} and {short[one.other]}" + (f" on {short[one.data]}" if several else "")
    return Heat(title, np.array(one.values), one.rows, one.columns, short[one.network], short[one.other])


def _apart(one: CorrelationResult, short: dict[str, str], several: bool) -> Heat:
    where = f" on {short[one.data]}" if several else ""
    title = f"{short[one.teacher]} − {short[one.network]}{where}\nmean |difference| {one.found.mean_absolute:.3f}"
    return Heat(title, one.found.difference.cpu().numpy(), one.classes, one.classes, "class", "class")
