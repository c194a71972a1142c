"""``contrastill data``: make packed files, and say what is in one."""

from __future__ import annotations

import json
import sys
from typing import Annotated, Any

import typer

PACK = """
Pack a data set into one HDF5 file, which trainings keep whole in memory.

SOURCE is NAME:PATH for a data set that contrastill knows, or a folder with train/CLASS/\\*.png and test (or val) beside train.
What follows OUT are options of the data set, as under data in a config. Nothing appears under the name OUT until the file is whole.

Examples:

    contrastill data pack cifar100:data cifar100.h5

    contrastill data pack flowers flowers.h5 --size 64

    contrastill data pack nyu_depth_v2:nyu nyu.h5 size=[240,320] modalities=[rgb,depth,semantics] classes=40

    contrastill data pack stl10:data stl10.h5 train_split=unlabeled size=64
"""

INFO = """
Say what a packed file holds: splits, fields, shapes, ranges, samples a class. It is read to the end, so that damage shows.

Examples:

    contrastill data info cifar100.h5

    contrastill data info cifar100.h5 --json
"""


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    data = typer.Typer(help="Make packed data files, and look into them.", no_args_is_help=True)
    data.command(help=PACK)(pack)
    data.command(help=INFO)(info)
    app.add_typer(data, name="data")


def pack(
    source: Annotated[str, typer.Argument(help="NAME:PATH, such as cifar100:data, or a folder of images sorted into classes.")],
    out: Annotated[str, typer.Argument(help="The file to write, called .h5.")],
    options: Annotated[list[str] | None, typer.Argument(help="key=value for options of the data set: size=[240,320] limit=100.")] = None,
    split: Annotated[list[str] | None, typer.Option("--split", help="train or test: pack this one alone. Left out: both.")] = None,
    size: Annotated[int | None, typer.Option("--size", min=1, help="Side in pixels that a folder's images are resized to: centre square, bicubic.")] = None,
    download: Annotated[bool, typer.Option("--download", help="Fetch the data set into PATH first, if it can be and is not there.")] = False,
    force: Annotated[bool, typer.Option("--force", "-f", help="Replace OUT if it exists.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
) -> None:
    from ..datasets.pack import check_out, source_of, write_packed

    path = check_out(out, force=force)
    described = source_of(source, size=size, download=download, options=options or [], splits=split or [])
    counts = {name: split.num_samples for name, split in described.splits.items()}
    with _progress(quiet) as progress:
        task = progress.add_task(path.name, total=sum(counts.values()))
        write_packed(described, path, force=force, advance=lambda count: progress.advance(task, count))
    if not quiet:
        samples = ", ".join(f"{name} {count}" for name, count in counts.items())
        classes = f", {len(described.classes)} classes" if described.classes else ""
        print(f"done: {path} ({samples}{classes}, {path.stat().st_size / 1e6:.1f} MB)", file=sys.stderr)


def info(
    path: Annotated[str, typer.Argument(help="A packed HDF5 file.")],
    target: Annotated[str, typer.Option("--target", help="The field of classes.")] = "target",
    as_json: Annotated[bool, typer.Option("--json", help="Print it as JSON on standard output.")] = False,
) -> None:
    from ..datasets.inspect_packed import describe_packed

    described = describe_packed(path, target=target)
    if as_json:
        print(json.dumps(described))
    else:
        _show(described)


def _progress(quiet: bool) -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("samples"), TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True), disable=quiet)


def _show(described: dict[str, Any]) -> None:
    from rich.table import Table

    from .tables import table_console

    table = Table(title=f"{described['path']}, {described['bytes'] / 1e6:.1f} MB", title_justify="left")
    for column in ("split", "field", "shape", "dtype", "values", "samples a class"):
        table.add_column(column, overflow="fold")
    for split, held in described["splits"].items():
        for name, field in held["fields"].items():
            values = f"{field['min']:g} … {field['max']:g}" if "min" in field else ""
            each = field.get("per_class")
            few, many = (each["min"], each["max"]) if each else (0, 0)
            spread = f"{few}" if few == many else f"{few} to {many}"
            classes = f"{spread} in {field['classes']} classes" if each else ""
            table.add_row(split, name, " × ".join(map(str, field["shape"])), field["dtype"], values, classes)
        if held["samples"] is None:
            table.add_row(split, "[red]its fields differ in length[/red]")
    console = table_console()
    console.print(table)
    for names, what in ((described["classes"], "classes"), (described["semantic_classes"], "values of the label maps")):
        if names is not None:
            shown = ", ".join(names[:8]) + (", …" if len(names) > 8 else "")
            console.print(f"{len(names)} {what}: {shown}", highlight=False, markup=False)
    if described["depth_unit"] is not None:
        console.print(f"depth is in {described['depth_unit']}", highlight=False, markup=False)
    if described["intrinsics"] is not None:
        values = ", ".join(f"{name} {value:g}" for name, value in zip(("fx", "fy", "cx", "cy"), described["intrinsics"], strict=True))
        console.print(f"intrinsics in pixels: {values}", highlight=False, markup=False)
