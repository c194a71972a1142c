"""``contrastill ensemble``: how far apart teachers are, what they are worth together, and what their number does for
students.
"""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from . import completion
from .options import Quiet, json_option, say

DIVERSITY = """
Measure how far apart networks are and what they are worth together: the ceiling of a student that is to replace them.

PATH is a run with teachers (they, their ensemble, and the student beside them), or a folder of seeds, as contrastill train … seeds=5 writes
it (its runs and their ensemble). The ensemble is the mean of their probabilities. Measured on the test split of the data, which
needs classes; a teacher with other classes takes part with its class_map. Writes PATH/diversity.json and PATH/diversity.png.

Examples:

    contrastill ensemble diversity runs/five

    contrastill ensemble diversity runs/crd_of_five

    contrastill ensemble diversity runs/crd_of_five data.path=other.h5 --json
"""

FIGURE = """
Draw the paper's figure: the error of students against the number of their teachers, mean ± standard deviation over seeds.

RUN is a run, or a folder of runs, of seeds or not. Students of one architecture have a panel; runs that differ in nothing but seed and teachers
are a line; untaught ones are a dashed line. Where a run holds diversity.json (see contrastill ensemble diversity), the error of the
teachers themselves and of their ensemble is dotted in.

Examples:

    contrastill ensemble figure runs/untaught runs/kd_of_1 runs/kd_of_3 runs/kd_of_5

    contrastill ensemble figure runs --out error.png

    contrastill ensemble figure runs --json
"""


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    ensemble = typer.Typer(
        help="Compare teachers with each other, and students by how many teachers they had.", no_args_is_help=True
    )
    ensemble.command(help=DIVERSITY)(diversity)
    ensemble.command(help=FIGURE)(figure)
    app.add_typer(ensemble, name="ensemble")


def diversity(
    path: Annotated[
        str,
        typer.Argument(
            metavar="PATH", help="A run that has teachers, or a folder of seeds.", autocompletion=completion.runs
        ),
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="KEY=VALUE", help="Changes of its config, such as data.path=…", autocompletion=completion.overrides
        ),
    ] = None,
    as_json: Annotated[bool, json_option("Print the numbers as JSON on standard output.")] = False,
    quiet: Quiet = False,
) -> None:
    from ..evaluation.diversity import measure_diversity

    found = measure_diversity(path, overrides or [], say=say)
    if found is None:
        return
    if as_json:
        print(json.dumps(found))
    else:
        _show_diversity(found)


def figure(
    runs: Annotated[
        list[str],
        typer.Argument(metavar="RUN...", help="Run folders, or folders of them.", autocompletion=completion.runs),
    ],
    out: Annotated[str, typer.Option("--out", help="The PNG to write.")] = "teachers.png",
    as_json: Annotated[bool, json_option("Print the points as JSON on standard output.")] = False,
    quiet: Quiet = False,
) -> None:
    from pathlib import Path

    from ..core.errors import UsageError
    from ..core.run import writable_folder
    from ..evaluation.ensemble_figure import gather
    from ..plots.teachers import draw_teachers

    path = Path(out)
    if path.suffix.lower() != ".png":
        raise UsageError(f"--out {out} is no PNG: give a name that ends in .png")
    panels = gather(runs, warn=say)
    writable_folder(path.parent)
    draw_teachers(panels, path)
    rows = [row for panel in panels for row in _rows(panel)]
    if as_json:
        print(json.dumps({"points": rows, "picture": str(path)}))
    else:
        _show_figure(rows, str(path))


def _show_diversity(found: dict[str, Any]) -> None:
    from rich.table import Table

    from .tables import table_console

    table = Table()
    table.add_column("network", overflow="fold")
    for column in ("top-1 %", "NLL, nats", "ECE", "differs from the others, %"):
        table.add_column(column, justify="right")
    networks, student, beside = found["networks"], found["student"], found["student_disagreement"]
    for row in networks:
        table.add_row(row["name"], *_measures(row), _number(row["disagreement"]))
    if len(networks) > 1:
        table.add_row("their ensemble", *_measures(found["ensemble"]), "", style="bold")
    if student:
        table.add_row(student["name"], *_measures(student), _number(sum(beside[:-1]) / len(networks)))
    console = table_console()
    console.print(table)
    mean = sum(row["top1"] for row in networks) / len(networks)
    line = (
        f"{len(networks)} network{'s' * (len(networks) > 1)}, {found['samples']:,} test samples: mean top-1 "
        f"{mean:.2f} %"
    )
    if len(networks) > 1:
        line += (
            f", their ensemble {found['ensemble']['top1']:.2f} %, at least one right {found['oracle']:.2f} %; "
            f"two differ on {found['mean_disagreement']:.2f} %"
        )
    console.print(line, highlight=False, markup=False, soft_wrap=True)
    if student:
        whom = "the ensemble" if len(networks) > 1 else "its teacher"
        gap = student["top1"] - found["ensemble"]["top1"]
        console.print(
            f"the student: {student['top1']:.2f} %, {gap:+.2f} points to {whom}, and differs from it on "
            f"{beside[-1]:.2f} %",
            highlight=False,
            soft_wrap=True,
        )
    console.print(f"picture: {found['picture']}", highlight=False, markup=False, soft_wrap=True)


def _measures(row: dict[str, Any]) -> tuple[str, str, str]:
    return f"{row['top1']:.2f}", f"{row['nll']:.4f}", f"{row['ece']:.4f}"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _rows(panel: Any) -> list[dict[str, Any]]:
    """A panel's points, one after the other."""
    named = [
        *((label, "untaught", [point]) for label, point in panel.baselines.items()),
        *((label, "taught", points) for label, points in panel.lines.items()),
        ("the teachers, mean", "teachers", panel.teachers),
        ("the teachers' ensemble", "ensemble", panel.ensembles),
    ]
    return [
        {
            "student": panel.student,
            "label": label,
            "kind": kind,
            "teachers": point.teachers,
            "error": point.error,
            "std": point.std,
            "n": point.runs,
        }
        for label, kind, points in named
        for point in points
    ]


def _show_figure(rows: list[dict[str, Any]], picture: str) -> None:
    from rich.table import Table

    from .tables import table_console

    table = Table(title="error of the last epoch, mean ± standard deviation over n runs", title_justify="left")
    for column in ("student", "objectives", "teachers", "error %", "n"):
        table.add_column(column, justify="left" if column in ("student", "objectives") else "right", overflow="fold")
    for row in rows:
        spread = "" if row["std"] is None else f" ± {row['std']:.2f}"
        table.add_row(row["student"], row["label"], str(row["teachers"]), f"{row['error']:.2f}{spread}", str(row["n"]))
    console = table_console()
    console.print(table)
    console.print(f"picture: {picture}", highlight=False, markup=False, soft_wrap=True)
