"""The report's chapter from what ``contrastill evaluate`` left in the runs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ..core.metric_names import SCALED
from ..core.run import read_json
from ..core.weights import STUDENT
from ..evaluation.retrieval_scores import retrieval_tasks
from .markup import Markup, element, is_number, join
from .page_parts import Cell, measured, picture, table

# Key of a row -> column, and how its numbers are written.
_MEASURES = {
    "miou": ("mIoU, %", ".2f"),
    "pixel_accuracy": ("pixels right, %", ".2f"),
    "boundary_f": ("boundary F, %", ".2f"),
    "abs_rel": ("abs. rel.", ".4f"),
    "rmse": ("RMSE", ".4f"),
    "delta1": ("δ < 1.25, %", ".2f"),
    "top1": ("top-1, %", ".2f"),
    "mAP": ("mAP, %", ".2f"),
    "recall_1": ("R@1, %", ".2f"),
    "recall_5": ("R@5, %", ".2f"),
    "recall_10": ("R@10, %", ".2f"),
    "share_of_teacher": ("of the teacher's, %", ".2f"),
}


def is_early(row: dict[str, Any]) -> bool:
    """Whether a row is of a checkpoint of a training that went on."""
    return str(row.get("weights", "")).startswith("checkpoint")


def evaluation(folder: Path, name: str, problems: list[str]) -> Markup | None:
    """Every evaluation.json of a run, those of a teacher's head and of other data too, and their pictures."""
    parts = [_part(file, name, problems) for file in sorted(folder.glob("evaluation*.json"), key=_place)]
    # A picture of the run's own data may be there without the rows, and is another's beside a comparison.
    drawn = None
    if not (folder / "evaluation.json").is_file() and not (folder / "comparison.json").is_file():
        drawn = _picture(folder / "predictions.png", name)
    return join(element("h3", f"Evaluation of {name}"), *parts, drawn) if any(parts) or drawn else None


def _place(file: Path) -> tuple[int, str]:
    """That of the run's own data and heads comes first."""
    return len(file.stem), file.stem


def _part(file: Path, name: str, problems: list[str]) -> Markup | None:
    contents = read_json(file, problems)
    if contents is None:
        return None
    rows = contents["rows"]
    lines = [line for row, network in zip(rows, _names(rows), strict=True) for line in _lines(row, network)]
    suffix = file.stem.removeprefix("evaluation")
    columns = ["network", "task", "labels", *(column for column, _ in _MEASURES.values()), "test images"]
    columns = [column for column in columns if any(line.get(column) is not None for line in lines)]
    caption = f"{name}{f' ({suffix[1:]})' if suffix else ''}: measured on its test split"
    cells = [[line.get(column) for column in columns] for line in lines]
    drawn = None
    if not (file.parent / "comparison.json").is_file():
        drawn = _picture(file.parent / f"predictions{suffix}.png", name)
    return join(table(caption, columns, cells) if cells else None, drawn)


def _picture(file: Path, name: str) -> Markup | None:
    return picture(file, f"{name}: RGB, depth, truth and predictions of test frames") if file.is_file() else None


def _names(rows: Sequence[dict[str, Any]]) -> list[str]:
    """The network of each row, with its weights where these tell it from another teacher, or where they are no finished
    student's.
    """
    teachers: dict[str, set[str]] = {}
    for row in rows:
        if row["role"] == "teacher":
            teachers.setdefault(row["model"], set()).add(str(row.get("weights")))

    def named(row: dict[str, Any]) -> str:
        student = row["role"] == "student" and row.get("weights", STUDENT) != STUDENT
        one_of = row["role"] == "teacher" and len(teachers[row["model"]]) > 1
        return f"{row['role']} {row['model']}" + (f", {row['weights']}" if student or one_of else "")

    return [named(row) for row in rows]


def _lines(row: dict[str, Any], network: str) -> Iterable[dict[str, Any]]:
    """The lines of a row of an evaluation, by column."""
    common: dict[str, Any] = {"network": network, "test images": measured(row["images"], ",d")}
    if is_number(row.get("labels")):
        common["labels"] = measured(100 * row["labels"], "g", " %")
    task, mode = row["task"], str(row.get("mode", "")).replace("_", "-")
    if task == "segmentation":
        yield {**common, "task": f"segmentation ({row['head']}), {mode}", **_cells(row)}
    elif task == "classification":
        for layer, result in row["layers"].items():
            suffix = f", {mode}" if mode not in ("", "frozen") else ""
            yield {**common, "task": f"linear probe, {layer}{suffix}", **_cells({**row, **result})}
    elif task == "retrieval":
        yield from _retrieval(row, common)
    elif cells := _cells(row):
        named = "mean average precision" if "mAP" in row else "accuracy" if "top1" in row else "prediction"
        named += "" if row.get("align") in (None, "none") else f", {SCALED}"
        yield {**common, "task": named, **cells}


def _retrieval(row: dict[str, Any], common: dict[str, Any]) -> Iterable[dict[str, Any]]:
    """A line a direction, and one of chance."""
    tasks = retrieval_tasks(row["modalities"], row["number"])
    lines = [(common["network"], task, key) for task, key in zip(tasks, ("recall", "reverse"), strict=True)]
    for network, task, key in [*lines, ("chance", "retrieval", "chance")]:
        cells = _cells({f"recall_{k}": value for k, value in row[key].items()})
        yield {**common, "network": network, "task": task, **cells}


def _cells(values: dict[str, Any]) -> dict[str, Cell]:
    """Those measures that are numbers, by column."""
    return {
        column: measured(values[key], form) for key, (column, form) in _MEASURES.items() if is_number(values.get(key))
    }
