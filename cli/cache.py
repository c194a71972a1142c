"""``contrastill cache``: the teachers' outputs for every view, written once for all the trainings that read them."""

from __future__ import annotations

from typing import Annotated

import typer

from . import completion
from .options import Quiet, json_option, print_message
from .tables import print_json

HELP = """
Write the outputs of a config's teachers for its views, for trainings that then run without the teachers.

CONFIG and what follows it are as for contrastill train: give both commands the same. The views are train.views
different augmentations of each training sample, which a training takes in turn, one per epoch. The outputs that its
objectives read are written, and those that cache.parts names; cache.logits=8 keeps the 8 largest logits of each
sample, cache.precision=fp16 half of the bytes.

The folder holds a file for each 4096 samples of a view. A command that was stopped writes the files that are missing
when it is given again, and replaces damaged ones. Several processes share the files. A folder serves any number of
teachers and data sets; one written here is read only by trainings, which refuse what is not in it.

Examples:

    contrastill cache compression/cifar100_crd data.path=cifar100.h5 teachers.0.weights=runs/teacher --views 4
    --out outputs

    contrastill train compression/cifar100_crd data.path=cifar100.h5 teachers.0.weights=runs/teacher train.views=4
    train.teacher_cache=outputs

    contrastill cache my_config.yaml --views 4 --out outputs cache.logits=8 cache.precision=fp16 --dry-run

    accelerate launch --num_processes 4 -m contrastill cache my_config.yaml --views 4 --out outputs
"""


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command(help=HELP)(cache)


def cache(
    config: Annotated[
        str,
        typer.Argument(
            help="A YAML file, or a shipped config such as compression/cifar100_crd.",
            autocompletion=completion.config_names,
        ),
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            help="key=value for any key of the config: cache.logits=8 objectives.kd.weight=1.",
            autocompletion=completion.overrides,
        ),
    ] = None,
    views: Annotated[
        int | None, typer.Option("--views", min=1, help="Views of each sample; the same as train.views=.")
    ] = None,
    out: Annotated[
        str | None, typer.Option("--out", help="The folder to write to; the same as train.teacher_cache=.")
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Show the number of views and bytes, and of files that are there; write nothing."
        ),
    ] = False,
    as_json: Annotated[bool, json_option("Print what was written as JSON on standard output.")] = False,
    quiet: Quiet = False,
) -> None:
    from ..evaluation.cache import cache_teachers

    result = cache_teachers(config, overrides or (), out=out, views=views, dry_run=dry_run, progress=not quiet)
    if result is None:
        return
    if as_json:
        print_json(result)
    elif dry_run:
        print(result)
    elif not quiet:
        print_message(f"done: {result.out}, {result.written:,} files written; train with {result.train_with}")
