"""``contrastill ensemble``: diversity of teachers, and students by the number of their teachers."""

from __future__ import annotations

from typing import Annotated

import typer

from . import completion
from .options import Quiet, json_option
from .tables import print_json, show

DIVERSITY = """
Measure how networks differ and how good their ensemble is: the ceiling of a student that is to replace them.

PATH is a run with teachers (they, their ensemble, and the student beside them), or a folder of seeds, as contrastill
train … seeds=5 writes it (its runs and their ensemble). The ensemble is the mean of their probabilities. Measured on
the test split of the data, which needs classes; a teacher with other classes takes part with its class_map. Writes
PATH/diversity.json and PATH/diversity.png; of other data or teachers than the run's own PATH/diversity-….json.

Examples:

    contrastill ensemble diversity runs/five

    contrastill ensemble diversity runs/crd_of_five

    contrastill ensemble diversity runs/crd_of_five data.path=other.h5 --json
"""

FIGURE = """
Draw the paper's figure: the error of students against the number of their teachers, mean ± standard deviation over
seeds.

RUN is a run, or a folder of runs, of seeds or not. Students of one architecture have a panel; runs that differ in
nothing but seed and teachers are a line; baselines without a teacher are a dashed line. Where a run holds
diversity.json (see contrastill ensemble diversity), the error of the teachers themselves and of their ensemble is
dotted in.

Examples:

    contrastill ensemble figure runs/baseline runs/kd_of_1 runs/kd_of_3 runs/kd_of_5

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

    result = measure_diversity(path, overrides or ())
    if result is None:
        return
    if as_json:
        print_json(result)
    else:
        show(result)


def figure(
    runs: Annotated[
        list[str],
        typer.Argument(metavar="RUN...", help="Run folders, or folders of them.", autocompletion=completion.runs),
    ],
    out: Annotated[str, typer.Option("--out", help="The PNG to write.")] = "teachers.png",
    as_json: Annotated[bool, json_option("Print the points as JSON on standard output.")] = False,
    quiet: Quiet = False,
) -> None:
    from ..evaluation.ensemble_figure import ensemble_figure

    result = ensemble_figure(runs, out)
    if as_json:
        print_json(result)
    else:
        show(result)
