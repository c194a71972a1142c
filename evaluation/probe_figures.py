"""The pictures of ``contrastill probe``: none where there is nothing to see."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from ..plots.chart import Chart, series_at_places
from ..plots.heatmaps import Heat, draw_cka, draw_correlation
from ..plots.png import draw_charts
from .probe_inputs import DataName, NetworkName, short_names
from .probe_report import CkaResult, CorrelationResult, ProbeReport, ProbeRow
from .probe_tables import column_keys, in_depth, label_of


def draw_all(
    report: ProbeReport, networks: Sequence[NetworkName], data: Sequence[DataName], folder: Path
) -> list[Path]:
    """Draw a report.

    Args:
        report: What was measured.
        networks: Those that were probed.
        data: The data sets.
        folder: Where to write.

    Returns:
        The pictures: probe_layers.png of several layers, probe_shots.png of several numbers of labels, cka.png,
        correlation.png.
    """
    others = [result.other for result in report.cka[:1]] + [result.teacher for result in report.correlation[:1]]
    known = {name.text for name in networks}
    every = [*networks, *(NetworkName(text) for text in dict.fromkeys(others) if text not in known)]
    short = short_names(every, short_network)
    short |= {network.name: label_of(short[network.name], network.weights) for network in report.networks}
    short |= {source.name: source.short for source in report.data}
    drawn = []
    layers = [panel for name in data if (panel := _layers(report.rows, name.text, networks, short)) is not None]
    if layers:
        bars = {short[name.text]: _bars(report.rows, name.text) for name in data}
        title = "linear probes of every layer"
        if len({bars[panel.title] for panel in layers}) == 1:
            title += f"; bars: {bars[layers[0].title]}"
        else:  # data with folds beside data without
            layers = [replace(panel, title=f"{panel.title}; bars: {bars[panel.title]}") for panel in layers]
        draw_charts(layers, folder / "probe_layers.png", title=title, legend="shared")
        drawn.append(folder / "probe_layers.png")
    shots = report.rows[0].shots
    if len(shots) > 1:
        columns = column_keys([row.to_dict() for row in report.rows], [name.text for name in data])
        panels = [_shots(report.rows, key, networks, short) for key in columns]
        title = f"few labels; bars: ± standard deviation over {shots[0].draws} draws"
        draw_charts(panels, folder / "probe_shots.png", title=title, legend="shared")
        drawn.append(folder / "probe_shots.png")
    several = len(data) > 1
    if report.cka:
        draw_cka([_cka_heat(result, short, several) for result in report.cka], folder / "cka.png")
        drawn.append(folder / "cka.png")
    if report.correlation:
        heats = [_correlation_heat(result, short, several) for result in report.correlation]
        draw_correlation(heats, folder / "correlation.png")
        drawn.append(folder / "correlation.png")
    return drawn


def short_network(name: NetworkName) -> str:
    """The last part of a run's path, with what it is of the run; a name of a network as it is."""
    path, colon, role = name.text.rpartition(":")
    run = Path(path if colon else name.text)
    return f"{run.name}:{role}" if colon and run.is_dir() else run.name if run.is_dir() else name.text


def _layers(
    rows: Sequence[ProbeRow], data: str, networks: Sequence[NetworkName], short: dict[str, str]
) -> Chart | None:
    """The probes of a data set by layer; None where there is but one."""
    here = {(row.network, row.layer): row for row in rows if row.data == data}
    layers = in_depth({layer for _, layer in here})
    if len(layers) < 2:
        return None
    lines = []
    for style, name in enumerate(networks):
        values, low, high = zip(*(_ends(here.get((name.text, layer))) for layer in layers), strict=True)
        lines.append(series_at_places(short[name.text], values, low, high, style))
    return Chart(short[data], "layer", "top-1, %", lines, layers, (0, 100), log=False)


def _bars(rows: Sequence[ProbeRow], data: str) -> str:
    """What the bars of a data set are."""
    folds = any(row.accuracy.std is not None for row in rows if row.data == data)
    return "± standard deviation over folds" if folds else "95 % intervals"


def _ends(row: ProbeRow | None) -> tuple[float | None, float | None, float | None]:
    """Top-1 and the ends of its bar."""
    if row is None:
        return None, None, None
    accuracy = row.accuracy
    if accuracy.std is None:
        return accuracy.top1, accuracy.low, accuracy.high
    return accuracy.top1, accuracy.top1 - accuracy.std, accuracy.top1 + accuracy.std


def _shots(
    rows: Sequence[ProbeRow], key: tuple[str, str], networks: Sequence[NetworkName], short: dict[str, str]
) -> Chart:
    """The few-shot curves of a layer on a data set."""
    here = {row.network: row.shots for row in rows if (row.data, row.layer) == key}
    lines = []
    for style, name in enumerate(networks):
        if name.text not in here:
            continue
        scores = here[name.text]
        low, high = ([score.mean + sign * score.std for score in scores] for sign in (-1, 1))
        means = [score.mean for score in scores]
        lines.append(series_at_places(short[name.text], means, low, high, style))
    counts = [str(score.shots) for score in next(iter(here.values()))]
    title = f"{short[key[0]]}, {key[1]}"
    return Chart(title, "labelled samples per class", "top-1, %", lines, counts, (0, 100), log=False)


def _cka_heat(result: CkaResult, short: dict[str, str], several: bool) -> Heat:
    network, other = short[result.network], short[result.other]
    title = f"{network} and {other}" + (f" on {short[result.data]}" if several else "")
    return Heat(title, np.array(result.values), result.rows, result.columns, network, other)


def _correlation_heat(result: CorrelationResult, short: dict[str, str], several: bool) -> Heat:
    where = f" on {short[result.data]}" if several else ""
    title = (
        f"{short[result.teacher]} − {short[result.network]}{where}\n"
        f"mean |difference| {result.difference.mean_absolute:.3f}"
    )
    matrix = result.difference.difference.cpu().numpy()
    return Heat(title, matrix, result.classes, result.classes, "class", "class")
