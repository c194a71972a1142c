"""``contrastill train CONFIG``: every transfer, and a teacher alone."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from . import completion
from .options import Quiet, json_option, progress, say

EXAMPLES = """
Examples:

    contrastill train teachers/cifar100 data.path=cifar100.h5 student.model=resnet32x4 out=runs/teacher

    contrastill train compression/cifar100 data.path=cifar100.h5 teachers.0.weights=runs/teacher

    contrastill train compression/cifar100_crd data.path=cifar100.h5 teachers.0.model=resnet56 teachers.0.weights=runs/resnet56
    student.model=resnet20 objectives.kd.weight=1 train.epochs=60 out=runs/crd_kd

    contrastill train teachers/cifar100 data.path=cifar100.h5 student.model=resnet20 seeds=5 out=runs/five

    contrastill train compression/cifar100_crd data.path=cifar100.h5 teachers.0.model=resnet20 teachers.0.weights=runs/five

    accelerate launch --num_processes 2 -m contrastill train my_config.yaml

seeds=5 trains five times, in out/seed-0, out/seed-1, …, and says how far apart the five are. Such a folder under weights stands for five teachers.
A command that was stopped goes on where it was when it is given again.
"""


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command(
        epilog=None, help=f"Train a student from its teachers, or a network from its labels alone.\n\n{EXAMPLES}"
    )(train)


def train(
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
            help="key=value for any key of the config: train.epochs=10 objectives.crd=null.",
            autocompletion=completion.overrides,
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check the config, print it resolved, build nothing.")
    ] = False,
    as_json: Annotated[
        bool,
        json_option(
            "Print the last epoch's metrics as JSON on standard output; of several seeds, a list of them under runs."
        ),
    ] = False,
    quiet: Quiet = False,
) -> None:
    from ..core.config.loading import load_config, to_yaml

    resolved = load_config(config, overrides or [])
    if dry_run:
        print(to_yaml(resolved), end="")
        return
    if resolved.seeds:
        _train_seeds(resolved, as_json, quiet)
        return
    from ..training.run import train_run

    row = train_run(resolved, progress=not quiet)
    if row is None:
        return
    if as_json:
        print(json.dumps({"out": resolved.out, **row}))
    elif not quiet:
        top1 = f", top-1 of the last epoch {row['top1']:.2f} %" if "top1" in row else ""
        say(f"done: {resolved.out}{top1}\n{_whats_next(resolved.out)}")


def _whats_next(out: str) -> str:
    """What lies in a run's folder, and what is done with it."""
    from shlex import quote

    return (
        "in it: student.safetensors (contrastill.load_student), metrics.jsonl and curves.png (each epoch), "
        "config.yaml (all settings)\n"
        f"next: contrastill evaluate {quote(out)} · contrastill probe {quote(out)} --data … · contrastill export "
        f"{quote(out)} · contrastill report {quote(out)}"
    )


def _train_seeds(config: Any, as_json: bool, quiet: bool) -> None:
    from ..evaluation.seeds import summary, train_seeds

    result = train_seeds(config, progress=not quiet, say=progress(quiet))
    if result is None:
        return
    if as_json:
        print(json.dumps(result))
    elif not quiet:
        say(f"done: {summary(result)}")
