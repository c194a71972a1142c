"""The report's first chapters: transfers and training curves."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
from pathlib import Path
from typing import Any

from ..core.config.schema import NetworkConfig, RunConfig
from ..core.epochs import initial_epochs
from ..core.metric_names import ERRORS, METRICS, is_term, measure_name
from ..core.registry import PYTHON_PREFIX
from ..core.run import flatten
from ..core.statistics import mean_std
from ..plots.chart import Chart, Series, series_with_std
from .markup import Markup, element, is_number, join, number
from .page import Section
from .page_parts import Cell, figure, folded, measured, table, warning
from .runs import RunFolders, RunSeries, reads_teacher

_NOT_TERMS = ("stage", "epoch", "step", "seconds", "samples_per_second")
_LABELS = {
    **{
        key: f"{measure_name(key)}{', %' if name in METRICS else ''}"
        for name in (*METRICS, *ERRORS)
        for key in (name, f"validation_{name}")
    },
    "loss": "training loss",
    "lr": "learning rate",
    "gradient_norm": "norm of the gradient before it was clipped",
    "skipped": "optimiser steps that were skipped",
}
_AT_ONCE = 7  # lines in a chart; with more, runs of one folder share one
_TRAINING = (
    "epochs",
    "initial_epochs",
    "batch_size",
    "optimizer",
    "lr",
    "momentum",
    "weight_decay",
    "schedule",
    "precision",
    "views",
)


def transfers(runs: RunFolders) -> Section:
    """Teachers, student, modalities, objectives, data and seeds of every training."""
    rows, details = [], []
    for group in runs.groups:
        config = group.config
        if config is None:
            rows.append(
                [group.name, "not known", None, None, None, None, None, Cell(str(len(group.runs)), len(group.runs))]
            )
        else:
            objectives = ", ".join(f"{label} × {entry.weight:g}" for label, entry in config.objectives.items())
            cells: list[Cell | str] = [
                kind(config),
                teachers_of(config),
                _network(config.student),
                objectives,
                data_of(config),
                _epochs(config),
            ]
            rows.append([group.name, *cells, Cell(_seeds(group), len(group.runs))])
        details.append(_detail(group, alone=len(runs.groups) == 1))
    columns = ["run", "transfer", "teachers", "student", "objectives × weight", "data", "epochs", "seeds"]
    return Section("transfers", "Transfers", join(table("The trainings", columns, rows), details))


def kind(config: RunConfig) -> str:
    """Which transfer a training is."""
    if not config.teachers:
        return "none: labels alone" if _learns_labels(config) else "none"
    if any(teacher.modality != config.student.modality for teacher in config.teachers):
        return "cross-modal"
    return "ensemble" if len(config.teachers) > 1 else "compression"


def data_of(config: RunConfig) -> str:
    """The data in few words: the file or folder, and what kind it is."""
    name = config.data.name or ""
    return f"{Path(config.data.path).name} ({name})" if config.data.path else name


def teachers_of(config: RunConfig) -> str:
    """Teachers in few words: alike ones are counted."""
    names = [_network(teacher) for teacher in config.teachers]
    return ", ".join(
        f"{names.count(name)} × {name}" if names.count(name) > 1 else name for name in dict.fromkeys(names)
    )


def sentence(config: RunConfig) -> str:
    """The transfer in one sentence."""
    student, labels = config.student, _learns_labels(config)
    if not config.teachers:
        return (
            f"{student.model} reads {student.modality} and learns {'from the labels' if labels else ''} of "
            f"{data_of(config)} without a teacher."
        )
    objectives = [_in_words(label) for label, entry in config.objectives.items() if reads_teacher(entry)]
    who = _listed([f"{teacher.model} (reads {teacher.modality})" for teacher in config.teachers])
    return (
        f"{student.model} reads {student.modality} and learns from {who}, by {_listed(objectives)}, "
        f"{'with' if labels else 'without'} the labels of {data_of(config)}."
    )


def _detail(group: RunSeries, *, alone: bool) -> Markup:
    problems = [warning(f"{group.name}: {problem}") for problem in group.problems]
    config = group.config
    if config is None:
        return join(problems)
    parts = [_flow(config), _networks(config), _objectives(config), _settings(config)]
    return join(
        problems,
        [element("p", sentence(config)), *parts] if alone else folded(f"{group.name}: {sentence(config)}", *parts),
    )


def _flow(config: RunConfig) -> Markup:
    """Teachers, objectives and student from left to right."""
    teachers = [
        element(
            "div",
            element("b", teacher.model),
            element("span", f"teacher, reads {teacher.modality}"),
            class_="node teacher",
        )
        for teacher in config.teachers
    ]
    if _learns_labels(config):
        teachers.append(element("div", element("b", "labels"), element("span", f"of {data_of(config)}"), class_="node"))
    objectives = [
        element(
            "div",
            element("b", label),
            element("span", f"weight {entry.weight:g}{_rising(entry.warmup)}"),
            class_="node objective",
        )
        for label, entry in config.objectives.items()
    ]
    student = element(
        "div",
        element("b", config.student.model),
        element("span", f"student, reads {config.student.modality}"),
        class_="node student",
    )
    arrow = element("div", "→", class_="arrow", aria_hidden="true")
    columns = [element("div", teachers), arrow, element("div", objectives), arrow, element("div", student)]
    return element(
        "div",
        columns,
        class_="flow",
        role="group",
        aria_label="From the teachers through the objectives to the student",
    )


def _networks(config: RunConfig) -> Markup:
    named = [
        (f"teacher {place}" if len(config.teachers) > 1 else "teacher", network)
        for place, network in enumerate(config.teachers)
    ]
    rows = [
        [role, network.model, network.modality, weights_text(network), resolution_text(network)]
        for role, network in [*named, ("student", config.student)]
    ]
    return table("Networks", ["role", "network", "reads", "weights it starts from", "resolution"], rows)


def _objectives(config: RunConfig) -> Markup:
    rows = []
    for label, entry in config.objectives.items():
        options = ", ".join(f"{key}={_text(value)}" for key, value in entry.options().items() if value is not None)
        needs_teacher = reads_teacher(entry)
        rule = (entry.rule or config.ensemble.rule) if needs_teacher and len(config.teachers) > 1 else None
        rows.append(
            [
                label,
                "teacher" if needs_teacher else "labels",
                measured(entry.weight, "g"),
                measured(entry.warmup, "g"),
                rule,
                options,
            ]
        )
    columns = ["objective", "compares with", "weight", "warm-up, share", "rule over teachers", "options"]
    return table("Objectives", columns, rows)


def _settings(config: RunConfig) -> Markup:
    settings = {f"train.{key}": getattr(config.train, key) for key in _TRAINING}
    settings |= {f"data.{key}": value for key, value in flatten(config.data.model_dump(mode="json")).items()}
    rows = [[key, _text(value)] for key, value in settings.items() if value is not None]
    return folded("Training and data", table("Training and data", ["setting", "value"], rows))


def curves(runs: RunFolders) -> Section | None:
    """Losses and measures over epochs, the runs of a folder in one chart."""
    there = [group for group in runs.groups if any(group.histories)]
    if not there:
        return None
    folders = dict.fromkeys(group.path.parent.resolve() for group in there) if len(there) > _AT_ONCE else [None]
    parts: list[Markup] = []
    for folder in folders:
        here = [group for group in there if folder in (None, group.path.parent.resolve())]
        if folder is not None:
            parts.append(element("h3", "Runs in " + (runs.name(folder))))
        parts.append(_charts(here))
    note = (
        "Lines are means over seeds, bands their standard deviation. "
        if any(len(group.runs) > 1 for group in there)
        else ""
    )
    if len(there) > 1:
        note += "Losses of different objectives do not compare with each other. "
    return Section(
        "curves",
        "Training curves",
        join(element("p", f"{note}Epoch 1 is the first; the figures are those of metrics.jsonl."), parts),
    )


def _charts(groups: Sequence[RunSeries]) -> Markup:
    styles = {group.name: place for place, group in enumerate(groups)}
    keys = list(
        dict.fromkeys(
            key for group in groups for rows in group.histories for row in rows for key in row if key not in _NOT_TERMS
        )
    )
    charts = {
        key: _chart(key, groups, styles)
        for key in [*(name for name in _LABELS if name in keys), *(key for key in keys if key not in _LABELS)]
    }
    shown = [figure(chart) for key, chart in charts.items() if chart.series and key in ("top1", "loss")]
    others = [figure(chart) for key, chart in charts.items() if chart.series and key not in ("top1", "loss")]
    more = (
        folded("Terms of the loss, learning rate and other measures", element("div", others, class_="charts"))
        if others
        else None
    )
    return join(element("div", shown, class_="charts"), more)


def _chart(key: str, groups: Sequence[RunSeries], styles: dict[str, int]) -> Chart:
    series = [line for group in groups if (line := _series(key, group, styles[group.name])).points]
    label = _LABELS.get(key, key)
    if key in _LABELS:
        # mIoU and δ stay as they are written.
        title = label[0].upper() + label[1:] if label[0].isascii() and not label[1].isupper() else label
    else:
        title = f"{key}, before its weight" if is_term(key) else key
    return Chart(title, "epoch", label, series, limits=(0, 100) if label.endswith("%") else (-inf, inf))


def _series(key: str, group: RunSeries, style: int) -> Series:
    by_epoch: dict[int, list[float]] = {}
    for rows in group.histories:
        for row in rows:
            if is_number(row.get(key)):
                by_epoch.setdefault(row["epoch"] + 1, []).append(row[key])
    measured = {epoch: mean_std(values) for epoch, values in sorted(by_epoch.items())}
    return series_with_std(group.name, [(epoch, value.mean, value.std) for epoch, value in measured.items()], style)


def _epochs(config: RunConfig) -> Cell:
    """Those of the training proper, behind those of an initial stage; of a training that leaves them to the number of
    samples a dash.
    """
    initial, epochs = initial_epochs(config), config.train.epochs
    return Cell(f"{initial} + {epochs}", initial + epochs) if initial and epochs else measured(epochs, "d")


def _learns_labels(config: RunConfig) -> bool:
    return any(not reads_teacher(entry) for entry in config.objectives.values())


def _network(network: NetworkConfig) -> str:
    return f"{network.model} on {network.modality}"


def weights_text(network: NetworkConfig) -> str:
    """The weights that a config says a network starts from."""
    return network.weights or (
        "those of the module that was given" if network.model.startswith(PYTHON_PREFIX) else "random"
    )


def resolution_text(network: NetworkConfig) -> str:
    """The size that a config says a network reads: ``32`` of a square, ``24×32``."""
    if network.resolution is None:
        return "its own or the data's"
    sides = network.resolution if isinstance(network.resolution, tuple) else (network.resolution,)
    return "×".join(map(str, dict.fromkeys(sides) if len({*sides}) == 1 else sides))


def _seeds(group: RunSeries) -> str:
    seeds = [str(config.seed) for config in group.configs if config is not None]
    return f"{len(group.runs)} ({', '.join(seeds)})"


def _rising(warmup: float | None) -> str:
    return f", rising over {number(100 * warmup, 'g')} %" if warmup else ""


def _in_words(label: str) -> str:
    return label.replace("_", " ")


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}" if names else "nothing"


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
