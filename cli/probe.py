"""``contrastill probe``: transfer evaluation of frozen representations, by linear probes and other measures."""

from __future__ import annotations

from typing import Annotated

import typer

from . import completion
from .options import Quiet, json_option
from .tables import print_json, show

HELP = """
Evaluate frozen networks on other data: train a linear classifier on the output of a layer, and test it once.

NETWORK is a run (its student), RUN:teacher (its first teacher; RUN:teachers.1 is the second), or the name of any
network, with random weights, or followed by @pretrained or by @FILE: timm/resnet18@pretrained, resnet20@released.pth.

--data, once for each data set, is NAME:PATH, a path that is recognised, or a NAME that needs none, such as rooms;
options follow after commas: tiny_imagenet:FOLDER,size=32. stl10's fold=all repeats the probe on each of its 10 folds
and gives mean ± standard deviation (few shots and LogME take the whole training split). classes=[cat,dog] leaves
other classes out; a name with a comma is written in quotes.

Each network sees the data at its own resolution and with its own normalisation, and in the modality that it reads.
OUT receives probe.json, probe.md and, where there is something to see, probe_layers.png, probe_shots.png, cka.png and
correlation.png.

Examples:

    contrastill probe runs/kd runs/crd runs/crd:teacher --data stl10:data,size=32,fold=all
    --data tiny_imagenet:data,size=32

    contrastill probe runs/crd efficientnet_lite0@pretrained --data cifar100.h5 --layers all --protocol grid --knn 20
    --logme

    contrastill probe runs/crd --data cifar100.h5 --shots 1,5,20 --cka runs/crd:teacher --correlation runs/crd:teacher
"""

_PROTOCOL = (
    "exact: logistic regression to its minimum. grid: SGD, learning rate and weight decay chosen on held-out "
    "training samples. "
    "crd: SGD from 0.1 for 100 epochs, ×0.1 at 30, 60, 90."
)
_LAYERS = "embedding, logits, maps.0, maps.1 …, by commas; all: all but the logits."
_CKA = "Another NETWORK: draw the similarity of its layers and each network's (debiased linear CKA)."
_CORRELATION = "Another NETWORK, the teacher: draw its correlations between class logits minus each network's."


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command(help=HELP)(probe)


def probe(
    networks: Annotated[
        list[str],
        typer.Argument(
            metavar="NETWORK...", help="Runs, teachers of runs, names of networks.", autocompletion=completion.networks
        ),
    ],
    data: Annotated[
        list[str], typer.Option("--data", metavar="DATA", help="NAME:PATH[,key=value…]; may be given several times.")
    ],
    layers: Annotated[str, typer.Option("--layers", metavar="LAYER,…", help=_LAYERS)] = "embedding",
    spatial: Annotated[
        int, typer.Option("--spatial", min=1, help="Maps are averaged to so many positions a side.")
    ] = 1,
    protocol: Annotated[str, typer.Option("--protocol", help=_PROTOCOL)] = "exact",
    shots: Annotated[
        str, typer.Option("--shots", metavar="N,…", help="Also with so few labelled samples per class, in 5 draws.")
    ] = "",
    neighbours: Annotated[
        int | None, typer.Option("--knn", metavar="K", min=1, help="Also by the K most similar training samples.")
    ] = None,
    cka: Annotated[str | None, typer.Option("--cka", metavar="OTHER", help=_CKA)] = None,
    correlation: Annotated[str | None, typer.Option("--correlation", metavar="OTHER", help=_CORRELATION)] = None,
    logme: Annotated[
        bool, typer.Option("--logme", help="Also LogME, an estimate from training samples alone.")
    ] = False,
    cache: Annotated[
        str | None,
        typer.Option("--cache", metavar="FOLDER", help="Store features there for the next time; default: in memory."),
    ] = None,
    out: Annotated[str, typer.Option("--out", help="The folder to write.")] = "runs/probe",
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of held-out parts, draws and random weights.")] = 0,
    as_json: Annotated[bool, json_option("Print probe.json on standard output.")] = False,
    quiet: Quiet = False,
) -> None:
    from ..core.errors import UsageError
    from ..evaluation.probe_report import ProbeSpec
    from ..evaluation.probe_suite import probe_networks

    names = [name.strip() for name in layers.split(",") if name.strip()]
    if not names or ("all" in names and len(names) > 1):
        raise UsageError(f"--layers {layers} names no layers: give some by commas, or all alone")
    spec = ProbeSpec(
        None if names == ["all"] else tuple(dict.fromkeys(names)),
        spatial,
        protocol,
        _counts(shots),
        neighbours,
        logme,
        cka,
        correlation,
        cache,
        seed,
    )
    report = probe_networks(networks, data, spec, out=out, progress=not quiet)
    if report is None:
        return
    if as_json:
        print_json(report)
    else:
        show(report)


def _counts(text: str) -> tuple[int, ...]:
    from ..core.errors import UsageError

    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not all(part.isdecimal() and int(part) for part in parts):
        raise UsageError(f"--shots {text} are no numbers of samples: give integers above 0, such as 1,5,20")
    return tuple(sorted({int(part) for part in parts}))
