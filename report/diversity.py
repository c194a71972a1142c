"""The report's chapter from what ``contrastill ensemble diversity`` left in runs and folders of seeds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..core.config.loading import load_config
from ..core.run import Run, read_json
from ..core.seeds import members
from .evaluations import is_early
from .markup import Markup, element, join, number
from .page_parts import measured, picture, table

_COLUMNS = ["network", "top-1, %", "NLL, nats", "calibration error, %", "differs from the others, %"]


def diversity(folder: Path, name: str, problems: list[str]) -> Markup | None:
    """Every diversity.json: teachers, their ensemble and the student; those of other data or networks too."""
    files = sorted(folder.glob("diversity*.json"), key=lambda file: (len(file.stem), file.stem))
    parts = [_part(file, name, problems) for file in files]
    return join(element("h3", f"Networks of {name} beside each other"), *parts) if any(parts) else None


def _part(file: Path, name: str, problems: list[str]) -> Markup | None:
    measures = read_json(file, problems)
    if measures is None:
        return None
    suffix = file.stem.removeprefix("diversity")
    if not suffix and (why := _foreign(file.parent, measures)):
        problems.append(
            f"what {file.name} measured is left out, as {why}: measure it again with contrastill ensemble diversity."
        )
        return None
    notes = [
        f"{measures['samples']:,} test samples; at least one network is right on {number(measures['oracle'])} %.",
        *(f"{note[0].upper()}{note[1:]}." for note in measures.get("notes", ())),
    ]
    drawn = file.with_suffix(".png")
    alt = f"{name}: how often networks differ, their accuracies, and reliability"
    shown = picture(drawn, alt) if drawn.is_file() else None
    student = measures.get("student")
    if student and is_early(student) and Run(file.parent).finished:
        notes.append(
            f"What {file.name} measured of the student is left out, with the picture, as it is of a "
            f"{student['weights']}, before the training ended: measure it again with contrastill ensemble diversity."
        )
        student = shown = None
    networks = [(network["name"], network, network.get("disagreement")) for network in measures["networks"]]
    if len(networks) > 1:
        networks.append(("their ensemble", measures["ensemble"], None))
    if student:
        beside = measures["student_disagreement"][:-1]
        networks.append((_named(student), student, sum(beside) / len(beside)))
    lines = [
        [
            title,
            measured(network["top1"]),
            measured(network["nll"], ".4f"),
            measured(100 * network["ece"], ".2f"),
            measured(differs),
        ]
        for title, network, differs in networks
    ]
    caption = f"{name}{f' ({suffix[1:]})' if suffix else ''}: networks and their ensemble"
    return join(table(caption, _COLUMNS, lines, notes=[" ".join(notes)]), shown)


def _named(student: dict[str, Any]) -> str:
    """Its name, with the checkpoint that it is of; a file of an earlier version has that beside the name alone."""
    name, weights = student["name"], student.get("weights")
    return f"{name}, {weights}" if is_early(student) and weights not in name else name


def _foreign(folder: Path, measures: dict[str, Any]) -> str:
    """Why measures are not those of a run or of the seeds in a folder; empty where they are."""
    from ..evaluation.diversity_file import foreign_measures
    from ..evaluation.evaluation_data import evaluation_data

    is_run = Run(folder).config.is_file()
    run = Run(folder) if is_run else next((Run(path) for path in members(folder)), None)
    if run is None or not run.config.is_file():
        return ""
    config = load_config(str(run.config), trains=False)
    return foreign_measures(run, config, evaluation_data(config).data, measures, of_teachers=is_run)
