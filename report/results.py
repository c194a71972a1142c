"""The report's chapters from what other commands left beside the runs: comparisons, ensembles, evaluations, probes,
benchmarks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..core.errors import ContrastillError
from ..core.run import Run, read_json
from ..core.table import Table
from ..plots.chart import Chart, series_at_places
from ..plots.teachers import Panel, Point, teacher_charts
from .diversity import diversity
from .evaluations import evaluation, is_early
from .markup import Markup, element, is_number, join, number
from .page import Section
from .page_parts import Cell, figure, measured, picture, table, warning
from .runs import RunFolders

# Key of a comparison's row -> column, and how its numbers are written.
_COMPARED = {
    "parameters": ("parameters", ",d", 1),
    "top1": ("top-1, %", ".2f", 1),
    "mAP": ("mAP, %", ".2f", 1),
    "miou": ("mIoU, %", ".1f", 1),
    "pixel_accuracy": ("pixels right, %", ".1f", 1),
    "boundary_f": ("boundary F, %", ".1f", 1),
    "nll": ("NLL, nats", ".3f", 1),
    "ece": ("calibration error, %", ".1f", 1),
    "way": ("share of the teacher gap closed, %", ".0f", 100),
    "seconds": ("training, s", ".0f", 1),
}
_ACROSS = ("predictions.png",)


def results(runs: RunFolders) -> list[Section]:
    """Every chapter with content."""
    folders = [
        *runs.folders,
        *(run.path for group in runs.groups for run in group.runs),
        *(group.path for group in runs.groups),
    ]
    folders = list({folder.resolve(): folder for folder in folders}.values())
    titles = (("comparisons", "Comparisons", _comparison), ("ensembles", "Ensembles", diversity),
        ("modalities", "Evaluations", evaluation),
              ("probes", "Transfer evaluation", _probe), ("benchmark", "Benchmark", _benchmark))  # fmt: skip
    sections = []
    for key, title, chapter in titles:
        parts = [_guarded(chapter, folder, runs.name(folder)) for folder in folders]
        if key == "ensembles":
            parts.insert(0, _teachers(runs))
        if any(parts):
            sections.append(Section(key, title, join(parts)))
    return sections


def _guarded(chapter: Callable[[Path, str, list[str]], Markup | None], folder: Path, name: str) -> Markup | None:
    """A chapter of a folder; of a file that holds something else than it should, a sentence."""
    problems: list[str] = []
    try:
        body = chapter(folder, name, problems)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, ContrastillError) as error:
        problems.append(
            f"what was written there cannot be read ({' '.join(str(error).split())[:200]}): make it again with "
            "the command that wrote it."
        )
        body = None
    warnings = [warning(f"{name}: {problem}") for problem in problems]
    return join(warnings, body) if warnings or body else None


def _comparison(folder: Path, name: str, problems: list[str]) -> Markup | None:
    """comparison.json and its picture, as ``contrastill demo`` writes them."""
    comparison = read_json(folder / "comparison.json", problems)
    if comparison is None:
        return None
    rows = comparison["rows"]
    keys = [key for key in _COMPARED if any(is_number(row.get(key)) for row in rows)]
    interval = any(is_number(row.get("low")) and is_number(row.get("high")) for row in rows)
    lines = []
    for row in rows:
        cells: list[Any] = [row["name"]]
        for key in keys:
            _, form, factor = _COMPARED[key]
            cells.append(measured(row[key] * factor if is_number(row.get(key)) else None, form))
        if interval:
            cells.append(
                f"{number(row['low'], '.1f')} to {number(row['high'], '.1f')}" if is_number(row.get("low")) else "–"
            )
        lines.append(cells)
    columns = ["network", *(_COMPARED[key][0] for key in keys), *(["95 % interval"] if interval else [])]
    notes = [f"One seed ({comparison['seed']}), {comparison['images']:,} test images."]
    if is_number(comparison.get("noise")):
        notes.append(f"Differences below {number(comparison['noise'], '.1f')} points may be chance.")
    if is_number(comparison.get("disagreement")):
        notes.append(f"The teachers disagree about {number(comparison['disagreement'], '.1f')} % of the images.")
    drawn = folder / "comparison.png"
    shown = picture(drawn, f"{comparison['title']}: sample images, accuracies and curves") if drawn.is_file() else None
    across = [
        picture(folder / file, f"{comparison['title']}: RGB, depth, truth and predictions of test frames")
        for file in _ACROSS
        if (folder / file).is_file()
    ]
    return join(
        element("h3", comparison["title"]),
        table(f"The networks of {name}", columns, lines, notes=[" ".join(notes)]),
        shown,
        across,
    )


def _teachers(runs: RunFolders) -> Markup | None:
    """Error against the number of teachers, where runs with more than one are among these."""
    from ..evaluation.ensemble_figure import gather

    finished = [
        (run.path, config)
        for group in runs.groups
        for run, config in zip(group.runs, group.configs, strict=True)
        if run.finished and config is not None and any(is_number(row.get("top1")) for row in run.history())
    ]
    if not any(len(config.teachers) > 1 for _, config in finished):
        return None
    try:
        panels = [panel for panel in gather([path for path, _ in finished]) if panel.lines]
    except ContrastillError as error:
        return warning(f"The error against the number of teachers is left out: {error}.")
    rows = [
        [
            label,
            panel.student,
            Cell(str(point.teachers), point.teachers),
            _error(point),
            Cell(str(point.runs), point.runs),
        ]
        for panel in panels
        for label, points in _lines(panel).items()
        for point in points
    ]
    charts = [figure(chart) for chart in teacher_charts(panels)]
    columns = ["objectives", "student", "teachers", "error, %", "n"]
    errors = table(
        "Error of the last epoch by number of teachers: mean ± standard deviation over n runs", columns, rows
    )
    return join(element("h3", "Error against the number of teachers"), element("div", charts, class_="charts"), errors)


def _lines(panel: Panel) -> dict[str, Sequence[Point]]:
    return {
        **{label: [point] for label, point in panel.baselines.items()},
        **panel.lines,
        **panel.teacher_lines,
        **panel.ensemble_lines,
    }


def _error(point: Point) -> Cell:
    return Cell(number(point.error) + ("" if point.std is None else f" ± {number(point.std)}"), point.error)


def _probe(folder: Path, name: str, problems: list[str]) -> Markup | None:
    """probe.json and its pictures, as ``contrastill probe`` writes them."""
    from ..evaluation.probe_tables import in_depth, network_labels, tables_of

    probe = read_json(folder / "probe.json", problems)
    if probe is None:
        return None
    names = _shorten(probe)
    ended = [network for network in probe["networks"] if _ended_since(network, names, folder)]
    for network in ended:
        problems.append(
            f"What probe.json measured of {network['name']} is left out, as it is of a {network['weights']}, before "
            "the training ended: probe it again."
        )
        for key in ("rows", "cka", "correlation"):
            probe[key] = [entry for entry in probe[key] if entry["network"] != network["name"]]
        probe["networks"].remove(network)
    if not probe["rows"]:
        return None
    labels = network_labels(probe)
    parts: list[Markup | None] = [element("h3", f"Probes in {name}")]
    charts = []
    for data in probe["data"]:
        rows = [row for row in probe["rows"] if row["data"] == data["name"]]
        layers = in_depth({row["layer"] for row in rows})
        if len(layers) > 1:
            charts.append(figure(_layers(rows, layers, data["short"], labels)))
    parts.append(element("div", charts, class_="charts") if charts else None)
    parts += [_sortable(shown) for shown in tables_of(probe)]
    alts = {
        "probe_shots": "Accuracy against labelled samples per class",
        "cka": "How alike the layers are (CKA)",
        "correlation": "Correlations between class logits: teacher minus student",
    }
    parts += [
        picture(folder / f"{stem}.png", f"{name}: {alt}")
        for stem, alt in alts.items()
        if (folder / f"{stem}.png").is_file() and not ended  # the pictures have it too
    ]
    return join(parts)


def _ended_since(network: dict[str, Any], names: dict[str, str], folder: Path) -> bool:
    """Whether a network is of a checkpoint of a run that has ended by now."""
    run = Path(names[network["name"]])
    # The folder may have been moved, with what was measured in it.
    run = folder if not Run(run).config.is_file() and run.name == folder.name else run
    return is_early(network) and Run(run).finished


def _shorten(probe: dict[str, Any]) -> dict[str, str]:
    """Call networks by the last part of their run's path, as the pictures do; gives the former name of each."""
    from ..evaluation.probe_figures import short_network
    from ..evaluation.probe_inputs import NetworkName, short_names

    entries = [*probe["rows"], *probe["correlation"], *probe["cka"]]
    texts = [entry["name"] for entry in probe["networks"]] + [
        entry[key] for entry in entries for key in ("network", "teacher", "other") if key in entry
    ]
    short = short_names([NetworkName(text) for text in dict.fromkeys(texts)], short_network)
    for entry in probe["networks"]:
        entry["name"] = short[entry["name"]]
    for entry in entries:
        entry |= {key: short[entry[key]] for key in ("network", "teacher", "other") if key in entry}
    return {name: text for text, name in short.items()}


def _layers(rows: list[dict[str, Any]], layers: list[str], data: str, labels: dict[str, str]) -> Chart:
    """Accuracy of the linear probe along the layers."""
    series = []
    for style, network in enumerate(dict.fromkeys(row["network"] for row in rows)):
        by_layer = {row["layer"]: _interval(row) for row in rows if row["network"] == network}
        values, low, high = zip(*(by_layer.get(layer, (None, None, None)) for layer in layers), strict=True)
        series.append(series_at_places(labels[network], values, low, high, style))
    title = f"Linear probes along the layers, on {data}"
    return Chart(title, "layer", "top-1, %", series, layers, (0, 100), log=False)


def _interval(row: dict[str, Any]) -> tuple[float, float | None, float | None]:
    """Top-1 with the ends of its interval, or one standard deviation over folds from it."""
    if is_number(row.get("std")):
        return row["top1"], row["top1"] - row["std"], row["top1"] + row["std"]
    return row["top1"], row.get("low"), row.get("high")


def _sortable(shown: Table) -> Markup:
    """A table whose columns sort by the number that a cell begins with."""
    rows = [[row[0], *(Cell(cell, _leading(cell or "")) for cell in row[1:])] for row in shown.rows]
    return table(shown.title, shown.columns, rows, notes=shown.notes)


def _leading(cell: str) -> float | None:
    """The number that a cell begins with."""
    try:
        return float(cell.split()[0])
    except (ValueError, IndexError):
        return None


def _benchmark(folder: Path, name: str, problems: list[str]) -> Markup | None:
    """results.jsonl and its pictures, as ``contrastill bench`` writes them."""
    if not (folder / "results.jsonl").is_file():
        return None
    from ..compress.benchmark import BENCHMARKS
    from ..compress.results import read_rows, summarise, tables_of

    summary = summarise(read_rows(folder / "results.jsonl").values(), BENCHMARKS["cifar100"])
    parts = [element("h3", f"Benchmark in {name}")]
    parts += [_sortable(shown) for shown in tables_of(summary)]
    parts.append(element("ul", [element("li", f"{note[0].upper()}{note[1:]}.") for note in summary.notes]))
    if (folder / "table.png").is_file():
        parts.append(picture(folder / "table.png", f"{name}: top-1 by objective and pair"))
    parts += [
        picture(path, f"{name}: top-1 against {path.stem.removeprefix('vary_')}")
        for path in sorted(folder.glob("vary_*.png"))
    ]
    return join(parts)
