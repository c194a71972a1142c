"""``contrastill evaluate RUN``: what a run's student is worth on a test split, beside its teachers and baselines."""

from __future__ import annotations

import json
import sys
from typing import Annotated, Any

import typer

from . import completion
from .options import Quiet, json_option, progress

HELP = """
Measure a run's student on the test split of its data, or of other data.

evaluation.tasks in the config says what: accuracy of its own logits, where the data has classes of the same names; segmentation, by a head on its
feature maps that is trained on label maps; classification, by a linear probe of its layers on the classes of the data. A run that is
still under way is measured at its newest checkpoint. What was measured is also written to RUN/evaluation.json, and a picture of
segmentations to RUN/predictions.png.

Examples:

    contrastill evaluate runs/crd

    contrastill evaluate runs/untaught runs/kd runs/crd --teachers

    contrastill evaluate runs/crd data.path=other.h5 --json

    contrastill evaluate runs/nyu_crd evaluation.mode=fine_tuned evaluation.label_fractions=[0.05,0.1,1] --baselines random,scratch,teacher
"""

_BASELINES = (
    "Also measure, for segmentation and classification: random (the student's architecture, untaught), "
    "scratch (the same, trained on the labels), teacher."
)


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command(help=HELP)(evaluate)


def evaluate(
    arguments: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN... [KEY=VALUE...]",
            help="Run folders; key=value overrides of their configs, such as data.path=…",
            autocompletion=completion.runs_and_overrides,
        ),
    ],
    teachers: Annotated[bool, typer.Option("--teachers", help="Measure each run's teachers as well.")] = False,
    baselines: Annotated[str, typer.Option("--baselines", metavar="NAME,NAME…", help=_BASELINES)] = "",
    as_json: Annotated[bool, json_option("Print the rows as JSON on standard output.")] = False,
    quiet: Quiet = False,
) -> None:
    from ..core.errors import UsageError
    from ..evaluation.evaluate import measure_runs

    runs = [argument for argument in arguments if "=" not in argument]
    overrides = [argument for argument in arguments if "=" in argument]
    if not runs:
        raise UsageError("name at least one run folder, such as runs/crd")
    names = [name.strip() for name in baselines.split(",") if name.strip()]
    measured = measure_runs(runs, overrides, teachers=teachers, baselines=names, say=progress(quiet))
    if as_json:
        print(json.dumps(measured.rows))
    else:
        _show(measured.rows)
    if measured.picture is not None and not (as_json and quiet):
        print(f"picture: {measured.picture}", file=sys.stderr if as_json else sys.stdout)


def _show(rows: list[dict[str, Any]]) -> None:
    """One table; it has the columns that any row fills."""
    from rich.table import Table

    from .tables import table_console

    lines = [line for row in rows for line in _lines(row)]
    table = Table()
    # What everybody wants of an accuracy; beside the measures of other tasks there is no room for it.
    room = {*_COLUMNS} if all(row["task"] == "accuracy" for row in rows) else {*_COLUMNS} - {"parameters", "images"}
    columns = [name for name in _COLUMNS if name in room and any(line.get(name) for line in lines)]
    for name in columns:
        words = name in ("run", "network", "task", "weights")
        table.add_column(name, justify="left" if words else "right", overflow="fold", no_wrap=not words)
    for line in lines:
        table.add_row(*(line.get(name, "") for name in columns))
    table_console().print(table)


_COLUMNS = (
    "run",
    "network",
    "parameters",
    "task",
    "labels",
    "pixel %",
    "mean %",
    "mIoU %",
    "top-1 %",
    "top-5 %",
    "images",
    "weights",
)


def _lines(row: dict[str, Any]) -> list[dict[str, str]]:
    """The lines of a row by column: one, or of a classification one for each layer."""
    common = {
        "run": row["run"],
        "network": f"{row['role']} {row['model']}",
        "parameters": f"{row['parameters']:,}",
        "images": f"{row['images']:,}",
    }
    if row["task"] == "accuracy":
        top1 = f"{row['top1']:.2f}" if "top1" in row else "other classes"
        return [{**common, "top-1 %": top1, "top-5 %": _percent(row.get("top5")), "weights": row["weights"]}]
    # Where the weights are from takes a column's room; it is said where they are not the finished student's.
    common |= {"weights": row["weights"]} if row["weights"].startswith("checkpoint") else {}
    common |= {"labels": f"{100 * row['labels']:g} % ({row['train_images']:,})"}
    if row["task"] == "segmentation":
        measures = {"pixel %": "pixel_accuracy", "mean %": "mean_accuracy", "mIoU %": "miou"}
        mode = {"scratch": "from scratch"}.get(row["mode"], row["mode"].replace("_", "-"))
        return [
            {
                **common,
                "task": f"segmentation ({row['head']}), {mode}",
                **{name: _percent(row[key]) for name, key in measures.items()},
            }
        ]
    return [
        {
            **common,
            "task": f"linear probe, {layer}",
            "top-1 %": _percent(found["top1"]),
            "top-5 %": _percent(found["top5"]),
        }
        for layer, found in row["layers"].items()
    ]


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"
