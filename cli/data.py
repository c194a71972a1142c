"""``contrastill data``: make packed files, and say what is in one."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from .options import Quiet, json_option, say

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
Say what data hold: splits, fields, shapes, samples a class; of a packed file the ranges of values too, as it is read to the end, so that damage shows.

DATA is a packed file, a folder whose layout is known, or NAME:PATH[,key=value…], such as stl10:FOLDER,fold=0. Of a folder one sample of each split is read.

Examples:

    contrastill data info cifar100.h5

    contrastill data info flowers

    contrastill data info cifar100.h5 --json
"""


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    data = typer.Typer(help="Make packed data files, and look into them.", no_args_is_help=True)
    data.command(help=PACK)(pack)
    data.command(help=INFO)(info)
    app.add_typer(data, name="data")


def pack(
    source: Annotated[
        str, typer.Argument(help="NAME:PATH, such as cifar100:data, or a folder of images sorted into classes.")
    ],
    out: Annotated[str, typer.Argument(help="The file to write, called .h5.")],
    options: Annotated[
        list[str] | None, typer.Argument(help="key=value for options of the data set: size=[240,320] limit=100.")
    ] = None,
    split: Annotated[
        list[str] | None, typer.Option("--split", help="train or test: pack this one alone. Left out: both.")
    ] = None,
    size: Annotated[
        int | None,
        typer.Option(
            "--size", min=1, help="Side in pixels that a folder's images are resized to: centre square, bicubic."
        ),
    ] = None,
    download: Annotated[
        bool, typer.Option("--download", help="Fetch the data set into PATH first, if it can be and is not there.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", "-f", help="Replace OUT if it exists.")] = False,
    as_json: Annotated[bool, json_option("Print what was written as JSON on standard output.")] = False,
    quiet: Quiet = False,
) -> None:
    from ..datasets.io.pack import check_out, source_of, write_packed

    path = check_out(out, force=force)
    described = source_of(source, size=size, download=download, options=options or [], splits=split or [])
    counts = {name: split.num_samples for name, split in described.splits.items()}
    with _progress(quiet) as progress:
        task = progress.add_task(path.name, total=sum(counts.values()))
        write_packed(described, path, force=force, advance=lambda count: progress.advance(task, count))
    if as_json:
        print(
            json.dumps(
                {"path": str(path), "bytes": path.stat().st_size, "samples": counts, "classes": described.classes}
            )
        )
    elif not quiet:
        samples = ", ".join(f"{name} {count}" for name, count in counts.items())
        classes = f", {len(described.classes)} classes" if described.classes else ""
        say(f"done: {path} ({samples}{classes}, {path.stat().st_size / 1e6:.1f} MB)")


def info(
    source: Annotated[str, typer.Argument(metavar="DATA", help="A packed HDF5 file, a folder, or NAME:PATH.")],
    target: Annotated[str, typer.Option("--target", help="The field of classes, of a packed file.")] = "target",
    as_json: Annotated[bool, json_option("Print it as JSON on standard output.")] = False,
    quiet: Quiet = False,
) -> None:
    described = describe(source, target=target)
    if as_json:
        print(json.dumps(described))
    else:
        _show(described)


def describe(source: str, *, target: str = "target") -> dict[str, Any]:
    """What is in data, as plain values: of a packed file what
    :func:`~contrastill.datasets.io.inspect_packed.describe_packed` says, of others the same keys.

    Raises:
        UsageError: There are no such data, or of no known layout.
        ContrastillError: They are damaged.
    """
    from pathlib import Path

    from ..datasets.io.hdf5 import SUFFIXES

    if Path(source).suffix.lower() in SUFFIXES and ":" not in source:
        from ..datasets.io.inspect_packed import describe_packed

        return describe_packed(source, target=target)
    from ..core.registry import DATASETS
    from ..evaluation.probe_inputs import data_named

    named = data_named(source)
    dataset = DATASETS[named.name](named.options)
    splits = {name: split for name in ("train", "test") if (split := dataset.open(name)) is not None}
    first = next(iter(splits.values()))
    camera = getattr(first, "camera", None)
    return {
        "path": source,
        "bytes": None,
        "classes": first.classes,
        "semantic_classes": getattr(first, "semantic_classes", None),
        "depth_unit": camera and camera.unit,
        "intrinsics": camera and camera.intrinsics and list(camera.intrinsics),
        "splits": {name: {"samples": split.num_samples, "fields": _fields(split)} for name, split in splits.items()},
    }


def _fields(split: Any) -> dict[str, Any]:
    """The fields of an open split; a sample is read, so that a folder that cannot be shows."""
    from ..training.assemble import open_loader

    batch = next(iter(open_loader(split, [*split.modalities], batch_size=1, train=False, device="cpu").epoch(0)))
    fields: dict[str, Any] = {}
    for name in split.modalities:
        channels, height, width = batch[name].shape[1:]
        fields[name] = {
            "shape": [split.num_samples, height, width, channels],
            "dtype": str(batch[name].dtype).removeprefix("torch."),
        }
    if split.targets is not None:
        counts = split.targets.unique(return_counts=True)[1]
        fields["target"] = {
            "shape": [split.num_samples],
            "dtype": "int64",
            "classes": len(counts),
            "per_class": {"min": int(counts.min()), "max": int(counts.max())},
        }
    return fields


def in_words(described: dict[str, Any]) -> str:
    """What data hold, in a line."""
    splits = []
    for name, held in described["splits"].items():
        images = [
            f"{field} {'×'.join(map(str, value['shape'][1:]))}"
            for field, value in held["fields"].items()
            if len(value["shape"]) > 1
        ]
        classes = [f"{value['classes']} classes" for value in held["fields"].values() if "classes" in value]
        splits.append(
            f"{name} {held['samples']}" + (f" ({', '.join([*images, *classes])})" if images or classes else "")
        )
    return ", ".join(splits) or "no splits"


def _progress(quiet: bool) -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("samples"),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=Console(stderr=True), disable=quiet)


def _show(described: dict[str, Any]) -> None:
    from rich.markup import escape
    from rich.table import Table

    from .tables import table_console

    size = "" if described["bytes"] is None else f", {described['bytes'] / 1e6:.1f} MB"
    table = Table(title=escape(f"{described['path']}{size}"), title_justify="left")
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
        unit = described["depth_unit"]
        console.print(
            f"depth is in {unit if isinstance(unit, str) else f'steps of {unit:g} m'}", highlight=False, markup=False
        )
    if described["intrinsics"] is not None:
        values = ", ".join(
            f"{name} {value:g}" for name, value in zip(("fx", "fy", "cx", "cy"), described["intrinsics"], strict=True)
        )
        console.print(f"intrinsics in pixels: {values}", highlight=False, markup=False)
