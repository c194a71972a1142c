"""``contrastill demo``: every transfer on rendered rooms, with no download."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from . import completion
from .options import Quiet, json_option
from .tables import show

HELP = """
Try every transfer with no download, on rendered rooms: a teacher and smaller students with and without it, a student
of two teachers, depth students of an RGB teacher, colour students of a teacher that reads lightness, and a depth
segmenter of an RGB segmenter.

Takes two to four minutes on two cores. A command that was stopped resumes when it is given again. OUT holds a run for
each network, comparison.png and comparison.json, and the same of the other transfers under ensemble, rgb_to_depth,
luminance_to_chrominance and segmentation; under probe, transfer to rooms that they have not seen.
report.html is a page about all of it.

Examples:

    contrastill demo

    contrastill demo --out /tmp/demo --seed 1
"""


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command(help=HELP)(demo)


def demo(
    out: Annotated[str, typer.Option("--out", help="The folder to write.")] = "runs/demo",
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of weights, order and views.")] = 0,
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            help="key=value for every training, such as train.epochs=3.", autocompletion=completion.overrides
        ),
    ] = None,
    jobs: Annotated[
        int | None,
        typer.Option(
            "--jobs",
            min=1,
            max=2,
            help="Processes: 2 by default where there are two cores and no GPU.",
            show_default=False,
        ),
    ] = None,
    as_json: Annotated[bool, json_option("Print the comparison as JSON on standard output.")] = False,
    quiet: Quiet = False,
) -> None:
    from ..evaluation.demo import run_demo
    from ..report.write import write_report

    result = run_demo(out, seed, overrides or (), jobs=jobs, progress=not quiet)
    page = write_report([out], embeddings=True, progress=not quiet).path
    if as_json:
        print(json.dumps({**result.to_dict(), "report": str(page)}))
        return
    show(result)
    print(f"\nAll of it on one page, for a browser: {page.resolve()}")
