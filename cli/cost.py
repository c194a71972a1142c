"""``contrastill cost``: what networks cost, a run's student beside its teacher."""

from __future__ import annotations

from typing import Annotated

import typer

from . import completion
from .options import Quiet, json_option
from .tables import print_json, show

HELP = """
Measure what networks cost: parameters, operations, time of a forward, and bytes.

NETWORK is a run (its student, and under it its first teacher), RUN:teacher alone (RUN:teachers.1 is the second), or
the name of any network, which may be followed by @pretrained or by @FILE: timm/resnet18, resnet20@released.pth.

FLOPs are of one image, 2 for each multiply-add, of convolutions and matrix products; of a segmenter they are also
given for a million pixels, as they grow with the image. Latency is the median of the
rounds, with the quartiles, for a batch of normalised images on this device; the networks take turns, so that they
compare.

Examples:

    contrastill cost runs/crd

    contrastill cost runs/crd resnet20 timm/mobilenetv3_small_100 --size 32 --batch-size 64 --threads 1

    contrastill cost runs/crd --device cuda --json
"""

_SIZE = "Side in pixels of the images, for networks without a resolution of their own; default: that of the run's data."
_CLASSES = "Of networks that are named without weights; default: those of the runs where these agree, else 1000."


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command(help=HELP)(cost)


def cost(
    networks: Annotated[
        list[str],
        typer.Argument(
            metavar="NETWORK...", help="Runs, teachers of runs, names of networks.", autocompletion=completion.networks
        ),
    ],
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="Images in a batch that is timed.")] = 1,
    size: Annotated[int | None, typer.Option("--size", min=1, help=_SIZE)] = None,
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="Timed forwards of each network.")] = 30,
    classes: Annotated[int | None, typer.Option("--classes", min=1, help=_CLASSES)] = None,
    device: Annotated[
        str | None,
        typer.Option(
            "--device", help="Where to time, such as cpu or cuda:0; default: the accelerator, if there is one."
        ),
    ] = None,
    threads: Annotated[
        int | None, typer.Option("--threads", min=1, help="Threads of the CPU within an operation.")
    ] = None,
    as_json: Annotated[bool, json_option("Print the rows as JSON on standard output.")] = False,
    quiet: Quiet = False,
) -> None:
    from ..evaluation.cost import measure_cost

    result = measure_cost(
        networks,
        size=size,
        classes=classes,
        batch_size=batch_size,
        rounds=rounds,
        device=device,
        threads=threads,
    )
    if as_json:
        print_json(result)
    else:
        show(result)
