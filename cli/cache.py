"""``contrastill cache``: what the teachers say about every view, written once for all the trainings that read it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import completion
from .options import Quiet, json_option, say

if TYPE_CHECKING:
    from ..core.config.schema import RunConfig
    from ..core.teachers.cache import CachedTeachers

HELP = """
Write what the teachers of a config say about its views, for trainings that then run without them.

CONFIG and what follows it are as for contrastill train: give both commands the same. The views are train.views different augmentations of each training sample, which a
training takes in turn, one an epoch. What its objectives read is written, and what cache.parts names beside it; cache.logits=8 keeps the 8 largest logits of each sample,
cache.precision=fp16 half of the bytes.

The folder holds a file for each 4096 samples of a view. A command that was stopped goes on with the files that are missing when it is given again, and makes damaged ones
anew. Several processes share the files. A folder serves any number of teachers and data sets; one written here is read only by trainings, which refuse what is not in it.

Examples:

    contrastill cache compression/cifar100_crd data.path=cifar100.h5 teachers.0.weights=runs/teacher --views 4 --out said

    contrastill train compression/cifar100_crd data.path=cifar100.h5 teachers.0.weights=runs/teacher train.views=4 train.teacher_cache=said

    contrastill cache my_config.yaml --views 4 --out said cache.logits=8 cache.precision=fp16 --dry-run

    accelerate launch --num_processes 4 -m contrastill cache my_config.yaml --views 4 --out said
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
            "--dry-run", help="Say how many views and bytes it would be, and how much of it is there; write nothing."
        ),
    ] = False,
    as_json: Annotated[bool, json_option("Print what was written as JSON on standard output.")] = False,
    quiet: Quiet = False,
) -> None:
    from ..core.config.loading import load_config
    from ..core.errors import UsageError
    from ..core.teachers.cache import CachedTeachers
    from ..training.assemble import assemble

    resolved = load_config(config, [*(overrides or []), *([f"train.views={views}"] if views else [])])
    resolved.train.teacher_cache = out or resolved.train.teacher_cache
    _check(resolved)
    parts = assemble(resolved, filling=True)
    cache = parts.transfer.source
    if not isinstance(cache, CachedTeachers):
        raise UsageError(
            f"none of {', '.join(resolved.objectives)} reads a teacher: add an objective that does, such as "
            "objectives.kd.weight=1"
        )
    main = parts.accelerator.is_main_process
    device = parts.accelerator.device
    # As in a training, so that the numbers are the same.
    for teacher in parts.transfer.teachers:
        teacher.to(device).to(memory_format=_channels_last())
    plan = _plan(resolved, cache)
    if main and not as_json:
        if dry_run:
            print(_sentence(plan))
        elif not quiet:
            say(_sentence(plan))
    if not dry_run:
        plan["written"] = _fill(cache, quiet=quiet or not main)
    if main:
        _end(plan, dry_run=dry_run, as_json=as_json, quiet=quiet)


def _channels_last() -> Any:
    import torch

    return torch.channels_last


def _check(config: RunConfig) -> None:
    """Complain about what was left out."""
    from ..core.errors import UsageError

    if not config.teachers:
        raise UsageError(
            "the config has no teachers, so there is nothing to keep: add teachers.0.model=… teachers.0.weights=…"
        )
    if config.train.views is None:
        raise UsageError(
            "how many views of each sample the teachers look at is not said: add --views, such as --views 4 (or "
            "train.views=4)"
        )
    if config.train.teacher_cache is None:
        raise UsageError("where to write is not said: add --out FOLDER (or train.teacher_cache=FOLDER)")
    if config.seeds:
        raise UsageError(
            "seeds trains several times, and each seed has views of its own: give one seed, such as seeds=null seed=0"
        )


def _plan(config: RunConfig, cache: CachedTeachers) -> dict[str, Any]:
    """What there is to do, in numbers."""
    store, views = cache.store, cache.loader.views
    assert store is not None, "--out was checked"
    parts = sorted({key.part for key in store.shards(0)})
    folders = {shard.folder: shard for view in range(views) for shard in store.shards(view).values()}
    return {
        "out": config.train.teacher_cache,
        "views": views,
        "samples": cache.loader.num_samples,
        "teachers": len(config.teachers),
        "parts": {part: store.codec_name(part) for part in parts},
        "train_with": " ".join(
            [f"train.views={views}", f"train.teacher_cache={config.train.teacher_cache}", *_changed(config)]
        ),
        "bytes": store.size(),
        "files": sum(shard.count for shard in folders.values()),
        "missing": sum(len(shard.missing(damaged=True)) for shard in folders.values()),
    }


def _changed(config: RunConfig) -> list[str]:
    """How values are kept, as overrides, where it is not the default way."""
    defaults = type(config.cache)()
    return [
        f"cache.{name}={value}"
        for name in ("logits", "precision")
        if (value := getattr(config.cache, name)) != getattr(defaults, name)
    ]


def _sentence(plan: dict[str, Any]) -> str:
    kept = ", ".join(f"{part} ({how})" for part, how in plan["parts"].items())
    views, teachers = (f"{plan[name]:,} {name[:-1]}{'s' * (plan[name] > 1)}" for name in ("views", "teachers"))
    there = plan["files"] - plan["missing"]
    return (
        f"{views} of {plan['samples']:,} samples, {teachers}: {kept}; {plan['bytes'] / 1e6:,.1f} MB in "
        f"{plan['files']:,} files in {plan['out']}" + (f", of which {there:,} are there" if there else "")
    )


def _fill(cache: CachedTeachers, *, quiet: bool) -> int:
    """Write what is missing under a bar that counts this process's share of the samples; returns how many files were
    written.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("views of a sample"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), disable=quiet) as progress:
        task = progress.add_task("the teachers look", total=cache.store.own_samples() if cache.store else None)
        return cache.fill(lambda count: progress.advance(task, count))


def _end(plan: dict[str, Any], *, dry_run: bool, as_json: bool, quiet: bool) -> None:
    """Say what came of it."""
    if as_json:
        print(json.dumps(plan))
    elif not (quiet or dry_run):
        say(f"done: {plan['out']}, {plan['written']:,} files written; train with {plan['train_with']}")
