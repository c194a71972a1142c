"""The ``contrastill`` command: puts the commands together and turns errors into one sentence and an exit code."""

from __future__ import annotations

import sys
import traceback
from functools import cache as cached
from typing import Any

import typer
from typer.main import get_command

from ..core.errors import ContrastillError, UsageError
from ..core.plugins import request_plugins
from . import bench, cache, cost, data, demo, doctor, ensemble, evaluate, export, probe, report, train

app = typer.Typer(
    name="contrastill",
    help="Transfer what networks know: from a big one to a small one, from many into one, from one modality to "
    "another.",
    epilog="With any command: --debug shows where an error came from, --import MODULE imports a package of your own. "
    "contrastill doctor checks the installation.",
    context_settings={"help_option_names": ["-h", "--help"]},
    no_args_is_help=True,
    add_completion=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)
demo.add_to(app)
train.add_to(app)
cache.add_to(app)
evaluate.add_to(app)
probe.add_to(app)
report.add_to(app)
ensemble.add_to(app)
bench.add_to(app)
cost.add_to(app)
export.add_to(app)
data.add_to(app)
doctor.add_to(app)


@app.callback()
def _commands() -> None:
    """Keeps ``contrastill COMMAND`` a group of commands, however many there are."""


@cached
def _command() -> Any:
    """All commands with their options, put together once in a process that calls :func:`main` again and again."""
    return get_command(app)


def _without_imports(arguments: list[str]) -> tuple[list[str], list[str]]:
    """The arguments without each ``--import MODULE`` or ``--import=MODULE``, and the modules."""
    others: list[str] = []
    modules: list[str] = []
    remaining = iter(arguments)
    for argument in remaining:
        if argument.partition("=")[0] == "--imports":
            raise UsageError("--imports does not exist: did you mean --import, as --import my_package?")
        if argument == "--import":
            module = next(remaining, None)
            if module is None:
                raise UsageError("--import names a module, such as --import my_package")
            modules.append(module)
        elif argument.startswith("--import="):
            modules.append(argument.removeprefix("--import="))
        else:
            others.append(argument)
    return others, modules


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit code: 0 done, 1 failed, 2 wrong usage.

    ``--debug`` anywhere among the arguments shows the traceback of an error as well; ``--import MODULE``, as often as
    needed, imports a module that registers objectives, data sets, networks or modalities.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments
    arguments = [argument for argument in arguments if argument != "--debug"]
    try:
        arguments, plugins = _without_imports(arguments)
        request_plugins(plugins)
        result = _command().main(args=arguments, prog_name="contrastill", standalone_mode=False)
        return result if isinstance(result, int) else 0
    except (typer.Abort, KeyboardInterrupt):
        print(
            "contrastill: stopped; a training goes on from its last checkpoint, a cache with what it lacks, when "
            "the same command is given again",
            file=sys.stderr,
        )
        return 130
    except Exception as error:
        if hasattr(error, "show") and hasattr(error, "exit_code"):
            # click's own errors of usage; recent typers bring a click of their own, so the class cannot be named.
            error.show()
            return error.exit_code
        if debug:
            traceback.print_exc()
        known = isinstance(error, ContrastillError)
        sentence = (
            " ".join(str(error).split())
            if known
            else f"{type(error).__name__}: {' '.join(str(error).split())} (--debug shows where)"
        )
        print(f"contrastill: {sentence}", file=sys.stderr)
        return error.exit_code if isinstance(error, ContrastillError) else 1
