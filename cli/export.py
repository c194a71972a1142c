"""``contrastill export RUN``: a run's student as an ONNX file or as torch's exported program."""

from __future__ import annotations

from typing import Annotated

import typer

from . import completion
from .options import Quiet, json_option
from .tables import print_json

HELP = """
Write a run's student as a file that runs without contrastill.

Its input is images, (batch, channels, height, width), normalised float32; with --with-preprocess they are uint8
colours, or other modalities in float32 in the unit of the training (depth in metres, NaN or 0 where nothing was
measured), and normalisation and resizing are inside. Its output is logits, and it holds the names of their classes.
The file is loaded again and compared with PyTorch on images of the run's test split, or on random ones where the data
are not at hand; where its logits differ, no file is written.

The output of a segmenter is prediction, (batch, classes, height, width), whose channel c is class c + 1 of the label
maps. Its file takes images of any height and width, unless --size says which, and is compared at three sizes.

--int8 writes a second file beside an ONNX one, of 8 bits, calibrated on 128 training images (of fewer, on
all), and prints the accuracy of both, or their mIoU.

onnx needs: pip install 'contrastill[export]'

Examples:

    contrastill export runs/crd

    contrastill export runs/crd --format torch --fixed --out student.pt2

    contrastill export runs/crd --with-preprocess --int8 --data stl10:FOLDER
"""

_OUT = "The file, or a folder for student.onnx or student.pt2; default: the run's folder."
_DATA = "NAME:PATH[,key=value…] for check and calibration; default: the run's own."
_SIZE = (
    "Side in pixels of the images that the file takes; default: the student's own resolution, else that of the data, "
    "or any of a segmenter."
)


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command(help=HELP)(export)


def export(
    run: Annotated[str, typer.Argument(metavar="RUN", help="The run's folder.", autocompletion=completion.runs)],
    format: Annotated[str, typer.Option("--format", help="onnx, or torch for an ExportedProgram (.pt2).")] = "onnx",
    out: Annotated[str | None, typer.Option("--out", metavar="FILE", help=_OUT)] = None,
    opset: Annotated[
        int | None, typer.Option("--opset", help="Version of ONNX's operators; default: the exporter's choice.")
    ] = None,
    dynamic: Annotated[
        bool, typer.Option("--dynamic/--fixed", help="Batches of any length, or an image at a time.")
    ] = True,
    with_preprocess: Annotated[
        bool, typer.Option("--with-preprocess", help="Take images as they are: normalisation and resizing inside.")
    ] = False,
    int8: Annotated[bool, typer.Option("--int8", help="Also write a file of 8 bits, and measure both.")] = False,
    data: Annotated[str | None, typer.Option("--data", metavar="DATA", help=_DATA)] = None,
    size: Annotated[int | None, typer.Option("--size", min=1, help=_SIZE)] = None,
    check: Annotated[bool, typer.Option("--check/--no-check", help="Compare the file with PyTorch.")] = True,
    as_json: Annotated[bool, json_option("Print the report as JSON on standard output.")] = False,
    quiet: Quiet = False,
) -> None:
    from ..evaluation.export import export_run

    result = export_run(
        run,
        out,
        format=format,
        opset=opset,
        dynamic=dynamic,
        with_preprocess=with_preprocess,
        int8=int8,
        data=data,
        size=size,
        check=check,
    )
    if as_json:
        print_json(result)
    else:
        print(result)
