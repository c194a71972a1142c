"""``contrastill data``: make packed files, and describe data."""

from __future__ import annotations

from typing import Annotated

import typer

from .options import Quiet, json_option, print_message
from .tables import print_json, show

PACK = """
Pack a data set into one HDF5 file, which trainings keep in memory.

SOURCE is NAME:PATH for a data set that contrastill knows, NAME alone for one without files, such as rooms, or a folder
with train/CLASS/\\*.png and test (or val) beside train. What follows OUT are options of the data set, as under data in
a config. OUT appears when the file is complete.

Examples:

    contrastill data pack cifar100:data cifar100.h5

    contrastill data pack flowers flowers.h5 --size 64

    contrastill data pack nyu_depth_v2:nyu nyu.h5 size=[240,320] modalities=[rgb,depth,semantics] classes=40

    contrastill data pack stl10:data stl10.h5 train_split=unlabeled size=64
"""

INFO = """
Describe data: splits, fields, shapes, samples per class; of a packed file the ranges of values too: it is read to its
end, so that damage shows.

DATA is a packed file, a folder whose layout is known, or NAME:PATH[,key=value…], such as stl10:FOLDER,fold=0. Of a
folder one sample of each split is read.

Examples:

    contrastill data info cifar100.h5

    contrastill data info flowers

    contrastill data info cifar100.h5 --json
"""


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    data = typer.Typer(help="Make packed data files, and describe data.", no_args_is_help=True)
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
        list[str] | None, typer.Option("--split", help="train or test: pack this split alone; default: both.")
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
    from ..evaluation.data import pack_data

    result = pack_data(
        source,
        out,
        options=options or (),
        splits=split or (),
        size=size,
        download=download,
        force=force,
        progress=not quiet,
    )
    if as_json:
        print_json(result)
    elif not quiet:
        print_message(f"done: {result}")


def info(
    source: Annotated[
        str,
        typer.Argument(metavar="DATA", help="A packed HDF5 file, a folder, NAME:PATH, or NAME of data without files."),
    ],
    target: Annotated[str, typer.Option("--target", help="The field of classes, of a packed file.")] = "target",
    as_json: Annotated[bool, json_option("Print it as JSON on standard output.")] = False,
    quiet: Quiet = False,
) -> None:
    from ..evaluation.data import describe_data

    description = describe_data(source, target=target)
    if as_json:
        print_json(description)
    else:
        show(description)
