"""``contrastill probe``: what frozen representations are worth on other data, by linear probes and other measures of
transfer.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import completion
from .options import Quiet, json_option, progress

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..evaluation.probe_inputs import NetworkName
    from ..evaluation.probe_suite import ProbeSpec

HELP = """
Measure what frozen networks are worth on other data: train a linear classifier on what a layer says, and test it once.

NETWORK is a run (its student), RUN:teacher (its first teacher; RUN:teachers.1 is the second), or the name of any network, with
random weights, or followed by @pretrained or by @FILE: timm/resnet18@pretrained, resnet20@released.pth.

--data, once for each data set, is NAME:PATH, a path that is recognised, or a NAME that needs none, such as rooms; options follow after
commas: tiny_imagenet:FOLDER,size=32. stl10's fold=all repeats the probe on each of its 10 folds and gives mean ± standard deviation
(few shots and LogME take the whole training split). classes=[cat,dog] leaves other classes out.

Each network sees the data at its own resolution and with its own normalisation, and in the modality that it reads. OUT receives probe.json,
probe.md and, where there is something to see, probe_layers.png, probe_shots.png, cka.png and correlation.png.

Examples:

    contrastill probe runs/kd runs/crd runs/crd:teacher --data stl10:data,size=32,fold=all --data tiny_imagenet:data,size=32

    contrastill probe runs/crd efficientnet_lite0@pretrained --data cifar100.h5 --layers all --protocol grid --knn 20 --logme

    contrastill probe runs/crd --data cifar100.h5 --shots 1,5,20 --cka runs/crd:teacher --correlation runs/crd:teacher
"""

_PROTOCOL = (
    "exact: logistic regression to its minimum. grid: SGD, learning rate and weight decay chosen on held-out "
    "training samples. "
    "crd: SGD from 0.1 for 100 epochs, ×0.1 at 30, 60, 90."
)
_LAYERS = "embedding, logits, maps.0, maps.1 …, by commas; all: all but the logits."
_CKA = "Another NETWORK: draw how alike its layers and each network's are (linear CKA)."
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
        str, typer.Option("--shots", metavar="N,…", help="Also with so few labelled samples a class, in 5 draws.")
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
        typer.Option("--cache", metavar="FOLDER", help="Keep features there for the next time; left out: in memory."),
    ] = None,
    out: Annotated[str, typer.Option("--out", help="The folder to write.")] = "runs/probe",
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of held-out parts, draws and random weights.")] = 0,
    as_json: Annotated[bool, json_option("Print probe.json on standard output.")] = False,
    quiet: Quiet = False,
) -> None:
    from ..core.errors import UsageError, unknown_name
    from ..evaluation.probe_inputs import data_named, network_named
    from ..probe.linear import PROTOCOLS

    if protocol not in PROTOCOLS:
        raise unknown_name("protocol", protocol, PROTOCOLS)
    names = [name.strip() for name in layers.split(",") if name.strip()]
    if not names or ("all" in names and len(names) > 1):
        raise UsageError(f"--layers {layers} names no layers: give some by commas, or all alone")
    named = [network_named(text) for text in dict.fromkeys(networks)]
    sources = [data_named(text) for text in dict.fromkeys(data)]

    from ..evaluation.probe_suite import ProbeSpec

    wanted = ProbeSpec(
        None if names == ["all"] else tuple(dict.fromkeys(names)),
        spatial,
        protocol,
        _counts(shots),
        neighbours,
        logme,
        network_named(cka) if cka else None,
        network_named(correlation) if correlation else None,
        cache,
        seed,
    )
    result = _probe(named, sources, wanted, out, progress(quiet))
    if result is None:
        return
    if as_json:
        print(json.dumps(result))
    else:
        _show(result)


def _counts(text: str) -> tuple[int, ...]:
    from ..core.errors import UsageError

    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not all(part.isdecimal() and int(part) for part in parts):
        raise UsageError(f"--shots {text} are no numbers of samples: give whole ones above 0, such as 1,5,20")
    return tuple(sorted({int(part) for part in parts}))


def _probe(
    named: list[NetworkName], sources: list[Any], wanted: ProbeSpec, out: str, say: Callable[[str], None]
) -> dict[str, Any] | None:
    """Measure, write and draw; None on a process that is not the main one."""

    from accelerate import Accelerator

    from ..core.atomic import write_text
    from ..core.run import writable_folder
    from ..evaluation.probe_figures import draw_all
    from ..evaluation.probe_suite import probe_networks
    from ..evaluation.probe_tables import markdown

    folder = writable_folder(out)
    accelerator = Accelerator()
    found = probe_networks(named, sources, wanted, accelerator=accelerator, say=say)
    if not accelerator.is_main_process:
        return None
    result = {
        "protocol": wanted.protocol,
        "spatial": wanted.spatial,
        "seed": wanted.seed,
        "networks": found.networks,
        "data": found.data,
        "rows": found.rows,
        "cka": [vars(one) for one in found.alike],
        "correlation": [
            {
                "network": one.network,
                "teacher": one.teacher,
                "data": one.data,
                "mean_absolute_difference": one.found.mean_absolute,
            }
            for one in found.apart
        ],
        "pictures": [str(path) for path in draw_all(found, named, sources, folder)],
    }
    write_text(folder / "probe.json", json.dumps(result, indent=1) + "\n")
    write_text(folder / "probe.md", markdown(result))
    result["written"] = str(folder / "probe.json"), str(folder / "probe.md")
    return result


def _show(result: dict[str, Any]) -> None:
    from rich.markup import escape
    from rich.table import Table

    from ..evaluation.probe_tables import tables_of
    from .tables import table_console

    console = table_console()
    for title, columns, lines in tables_of(result):
        table = Table(title=title, title_justify="left")
        for number, column in enumerate(columns):
            table.add_column(escape(column), justify="right" if number else "left", overflow="fold")
        for line in lines:
            table.add_row(*map(escape, line))
        console.print(table)
    for path in (*result["written"], *result["pictures"]):
        console.print(f"written: {path}", highlight=False, markup=False, soft_wrap=True)
