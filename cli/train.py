"""``contrastill train CONFIG``: every transfer, and a teacher alone."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from . import completion
from .options import Quiet, json_option, print_message
from .tables import print_json

EXAMPLES = """
Examples:

    contrastill train teachers/cifar100 data.path=cifar100.h5 student.model=resnet32x4 out=runs/teacher

    contrastill train compression/cifar100 data.path=cifar100.h5 teachers.0.weights=runs/teacher

    contrastill train compression/cifar100_crd data.path=cifar100.h5 teachers.0.model=resnet56
    teachers.0.weights=runs/resnet56
    student.model=resnet20 objectives.kd.weight=1 train.epochs=60 out=runs/crd_kd

    contrastill train teachers/cifar100 data.path=cifar100.h5 student.model=resnet20 seeds=5 out=runs/five

    contrastill train compression/cifar100_crd data.path=cifar100.h5 teachers.0.model=resnet20
    teachers.0.weights=runs/five

    accelerate launch --num_processes 2 -m contrastill train my_config.yaml

seeds=5 trains five times, in out/seed-0, out/seed-1, …, and measures their diversity. Such a folder under weights
stands for five teachers. A command that was stopped resumes when it is given again.
"""


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command(epilog=None, help=f"Train a student from its teachers, or a network from labels alone.\n\n{EXAMPLES}")(
        train
    )


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
    if dry_run:
        from ..core.config.loading import load_config, to_yaml

        print(to_yaml(load_config(config, overrides or [])), end="")
        return
    from ..evaluation.seeds import SeedsResult
    from ..evaluation.train import train as train_config

    result = train_config(config, overrides or (), progress=not quiet)
    if result is None:
        return
    if as_json:
        print_json(result)
    elif not quiet:
        print_message(
            f"done: {result.summary()}"
            if isinstance(result, SeedsResult)
            else f"done: {result}\n{_next_steps(result.out)}"
        )


def _next_steps(out: Path) -> str:
    """What a run's folder holds, and the commands that use it."""
    from shlex import quote

    from ..core.run import Run

    run, best = quote(str(out)), Run(out).best_student
    named = f"{best.name} (of the best validated epoch), " if best.is_file() else ""
    return (
        f"in it: student.safetensors (contrastill.load_student), {named}metrics.jsonl and curves.png (each epoch), "
        "config.yaml (all settings)\n"
        f"next: contrastill evaluate {run} · contrastill probe {run} --data … · contrastill export {run} · "
        f"contrastill report {run}"
    )
