"""``contrastill cost``: what networks cost, a run's student beside its teacher."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import completion
from .options import Quiet, json_option, say

if TYPE_CHECKING:
    from ..core.config.loading import RunConfig
    from ..core.representation import Network
    from ..evaluation.probe_inputs import NetworkName

HELP = """
Measure what networks cost: parameters, operations, time of a forward, and bytes.

NETWORK is a run (its student, and under it its first teacher), RUN:teacher alone (RUN:teachers.1 is the second), or the name of any network,
which may be followed by @pretrained or by @FILE: timm/resnet18, resnet20@released.pth.

FLOPs are of one image, 2 for each multiply-add, of convolutions and matrix products. Latency is the median of the rounds, with the quartiles,
for a batch of normalised images on this device; the networks take turns, so that they compare.

Examples:

    contrastill cost runs/crd

    contrastill cost runs/crd resnet20 timm/mobilenetv3_small_100 --size 32 --batch-size 64 --threads 1

    contrastill cost runs/crd --device cuda --json
"""

_SIZE = (
    "Side in pixels of the images, for networks without a resolution of their own; left out: that of the run's data."
)
_CLASSES = "Of networks that are named without weights; left out: those of the first run, else 1000."


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
            "--device", help="Where to time, such as cpu or cuda:0; left out: the accelerator, if there is one."
        ),
    ] = None,
    threads: Annotated[
        int | None, typer.Option("--threads", min=1, help="Threads of the CPU within an operation.")
    ] = None,
    as_json: Annotated[bool, json_option("Print the rows as JSON on standard output.")] = False,
    quiet: Quiet = False,
) -> None:
    rows = cost_rows(
        networks, size, classes, {"batch_size": batch_size, "rounds": rounds, "device": device, "threads": threads}
    )
    if as_json:
        print(json.dumps(rows))
    else:
        _show(rows)


def cost_rows(texts: list[str], size: int | None, classes: int | None, options: dict[str, Any]) -> list[dict[str, Any]]:
    """A row for each network, in the order of the command line; a teacher's is after its student's."""
    from dataclasses import asdict

    from accelerate import PartialState

    from ..compress.cost import network_costs
    from ..evaluation.probe_inputs import network_named

    named = [network_named(text) for text in dict.fromkeys(texts)]
    # Runs first: how many classes they tell apart is what a network without weights is given.
    built: dict[str, tuple[Any, NetworkName]] = {}
    for name in sorted(named, key=lambda one: one.run is None):
        contender = name.build(
            classes or next((made.network.recipe["num_classes"] for made, _ in built.values()), None) or 1000, seed=0
        )
        built[name.text] = (contender, name)
    found: list[tuple[str, str | None, Any, Any]] = []
    for name in named:
        contender = built[name.text][0]
        config = _config(name)
        found.append((name.text, None, contender, config))
        if config is not None and name.teacher is None and config.teachers and f"{name.text}:teacher" not in built:
            teacher = _teacher(name)
            found += [(f"{name.text}:teacher", name.text, teacher, config)] if teacher else []
    sizes = [input_size(text, contender.network, config, size) for text, _, contender, config in found]
    options["device"] = options["device"] or PartialState().device
    costs = network_costs([contender.network for _, _, contender, _ in found], sizes, **options)
    rows = [
        {"network": text, "role": contender.role, "model": contender.model, **asdict(cost)}
        for (text, _, contender, _), cost in zip(found, costs, strict=True)
    ]
    places = {text: place for place, (text, *_) in enumerate(found)}
    for row, (text, _, contender, _) in zip(rows, found, strict=True):
        if contender.role == "student" and f"{text}:teacher" in places:
            row["of_teacher"] = costs[places[text]].relative_to(costs[places[f"{text}:teacher"]])
    return rows


def _config(name: NetworkName) -> RunConfig | None:
    from ..core.config.loading import load_config
    from ..core.run import Run

    return None if name.run is None else load_config(str(Run(name.run).config))


def _teacher(name: NetworkName) -> Any | None:
    """The first teacher of a run; None, and said so, where its weights are not at hand."""
    from dataclasses import replace

    from ..core.errors import ContrastillError

    try:
        return replace(name, teacher=0).build(0, seed=0)
    except ContrastillError as error:
        say(f"the teacher of {name.text} is left out: {error}")
        return None


def input_size(text: str, network: Network, config: RunConfig | None, size: int | None) -> int | tuple[int, int]:
    """Of the images that a network takes: its own resolution, what was asked for, or its run's data's.

    Raises:
        UsageError: Nothing says it.
    """
    from ..core.errors import UsageError

    found = network.preprocess.resolution or size or data_size(config, network.modality)
    if found is None:
        raise UsageError(
            f"{text} takes images of any size, and no data at hand says which: give --size, such as --size 32"
        )
    return found


def data_size(config: RunConfig | None, modality: str) -> int | tuple[int, int] | None:
    """Of the images of a run's data: by the config, else by the data themselves; None where they are not at hand."""
    from ..core.errors import ContrastillError
    from ..training.assemble import open_loader, open_split

    if config is None:
        return None
    if size := config.data.options().get("size"):
        return tuple(size) if isinstance(size, list) else size
    try:
        split = open_split(config, "train")
        batch = next(iter(open_loader(split, [modality], batch_size=1, train=False, device="cpu").epoch(0)))
    except ContrastillError:
        return None
    height, width = batch[modality].shape[2:]
    return height, width


def _show(rows: list[dict[str, Any]]) -> None:
    from rich.markup import escape
    from rich.table import Table

    from .tables import table_console

    first = rows[0]
    threads = f", {first['threads']} thread{'s' * (first['threads'] > 1)}" if first["device"] == "cpu" else ""
    batch = f"{first['batch_size']} image{'s' * (first['batch_size'] > 1)}"
    compared = "; beside a value, its share of the teacher's" if any("of_teacher" in row for row in rows) else ""
    table = Table(title=f"on {first['device']}{threads}, batches of {batch}{compared}", title_justify="left")
    for column in ("network", "model", "image", "parameters", "MFLOPs", "latency ms", "quartiles", "images/s", "MB"):
        table.add_column(column, justify="left" if column in ("network", "model") else "right", overflow="fold")
    for row in rows:
        low, high = row["latency_quartiles_ms"]
        shares = {name: f"  {100 * share:.1f} %" for name, share in row.get("of_teacher", {}).items()}
        cells = [
            row["network"],
            row["model"],
            "×".join(map(str, row["input_shape"])),
            f"{row['parameters']:,}{shares.get('parameters', '')}",
            f"{row['flops'] / 1e6:,.1f}{shares.get('flops', '')}",
            f"{row['latency_ms']:.2f}{shares.get('latency', '')}",
            f"{low:.2f} – {high:.2f}",
            f"{row['images_per_second']:,.0f}",
            f"{row['bytes'] / 1e6:,.2f}",
        ]
        table.add_row(*map(escape, cells))
    table_console().print(table)
