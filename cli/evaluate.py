"""``contrastill evaluate RUN``: a run's student on a test split, beside its teachers and baselines."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from ..core.home import expanded
from . import completion
from .options import Quiet, json_option, print_message
from .tables import print_json, show

HELP = """
Measure a run's student on the test split of its data, or of other data.

evaluation.tasks in the config names the tasks: accuracy of its own logits, where the data has classes of the same
names; segmentation, by a head on its feature maps that is trained on label maps; classification, by a linear probe of
its layers on the classes of the data; retrieval, by the student's embedding in its teacher's space. The last needs a
run with objectives.agglomerate, as does --head-of teacher: there the heads of segmentation and classification are
trained on the teacher's features and run unchanged on the student. A run that is still under way is measured at its
newest checkpoint. The rows are also written to RUN/evaluation.json, and a picture of segmentations to
RUN/predictions.png.

Examples:

    contrastill evaluate runs/crd

    contrastill evaluate runs/baseline runs/kd runs/crd --teachers

    contrastill evaluate runs/crd data.path=other.h5 --json

    contrastill evaluate runs/nyu_crd evaluation.mode=fine_tuned evaluation.label_fractions=[0.05,0.1,1]
    --baselines random,scratch,teacher

    contrastill evaluate runs/depth evaluation.tasks=[segmentation,retrieval] --head-of teacher
"""

_BASELINES = (
    "Also measure: for segmentation and classification random (the student's architecture, untrained) and teacher; "
    "for segmentation scratch (the student's architecture, trained on the labels)."
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
    teachers: Annotated[
        bool,
        typer.Option(
            "--teachers",
            help="Measure each run's teachers as well; one that several runs share is measured once, beside the first.",
        ),
    ] = False,
    baselines: Annotated[str, typer.Option("--baselines", metavar="NAME,NAME…", help=_BASELINES)] = "",
    head_of: Annotated[
        str | None,
        typer.Option(
            "--head-of",
            metavar="TEACHER",
            help="Train the heads on this teacher's features and run them unchanged on the student: teacher, or of "
            "several teachers.0, teachers.1, …",
        ),
    ] = None,
    as_json: Annotated[bool, json_option("Print the rows as JSON on standard output.")] = False,
    quiet: Quiet = False,
) -> None:
    from ..evaluation.evaluate import evaluate_runs

    # A folder may have = in its name, as lr=0.1/run.
    runs = [argument for argument in arguments if "=" not in argument or os.path.isdir(expanded(argument))]
    overrides = [argument for argument in arguments if argument not in runs]
    result = evaluate_runs(
        runs,
        [*overrides, *([] if head_of is None else [f"evaluation.head_of={head_of}"])],
        teachers=teachers,
        baselines=[name.strip() for name in baselines.split(",") if name.strip()],
        progress=not quiet,
    )
    if as_json:
        print_json(result)
        if result.picture is not None and not quiet:
            print_message(f"picture: {result.picture}")
    else:
        show(result)
