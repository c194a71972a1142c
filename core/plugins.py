"""Packages of a user's own: importing one registers its objectives, data sets, networks, modalities and rules.

Three ways lead to one: ``imports: [my_package]`` in a config, ``--import my_package`` on the command line, and an entry
point of the group ``contrastill.plugins`` in the package's own pyproject.toml, which needs neither.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterable
from importlib import metadata
from keyword import iskeyword
from pathlib import Path
from types import ModuleType
from typing import Any

from .errors import ContrastillError, UsageError
from .user_code import error_text

GROUP = "contrastill.plugins"
"""The group of entry points; the value of each is a module to import."""

_requested: dict[str, None] = {}
_imported: dict[str, None] = {}
_entry_points_imported = False


def module_names(modules: Any) -> list[Any]:
    """Modules as a call or a config names them: one alone or several, by name or as the modules themselves."""
    several = [] if modules is None else modules if isinstance(modules, (list, tuple, set)) else [modules]
    return [module.__name__ if isinstance(module, ModuleType) else module for module in several]


def import_plugins(modules: Iterable[str]) -> None:
    """Import modules that register what they define; a module that has been imported already is not imported again.

    Args:
        modules: Their names, such as ``my_package`` or ``my_package.objectives``.

    Raises:
        UsageError: There is no such module, or it fails as it is imported.
    """
    for name in modules:
        _import(name, f"imports names {name or repr(name)}")
        _imported[name] = None


def request_plugins(modules: Iterable[str]) -> None:
    """:func:`import_plugins`, and every config that is loaded from now on names them under ``imports``, so that a run
    trained with them is evaluated and resumed without them being named again.
    """
    modules = list(modules)
    import_plugins(modules)
    _requested.update(dict.fromkeys(modules))


def requested_plugins() -> list[str]:
    """What :func:`request_plugins` was called with, in this process."""
    return list(_requested)


def imported_plugins() -> list[str]:
    """The modules that were imported by a config, a command or a call, in this process."""
    return list(_imported)


def import_entry_points() -> None:
    """Import the modules of all installed distributions that have an entry point of :data:`GROUP`; once.

    Raises:
        UsageError: One fails as it is imported.
    """
    global _entry_points_imported
    if _entry_points_imported:
        return
    _entry_points_imported = True  # before the imports, as a plug-in may look names up itself
    try:
        for point in metadata.entry_points(group=GROUP):
            distribution = point.dist.name if point.dist else "a distribution"
            _import(point.module, f"the entry point {point.name} ({GROUP}) of {distribution} names {point.module}")
    except ContrastillError:
        _entry_points_imported = False
        raise


def imports_of(run: str | os.PathLike) -> list[str]:
    """The modules that the config of a run names under ``imports``; none where there is no such config."""
    from .config.yaml_values import read_resolved

    file = Path(run) / "config.yaml"
    return module_names(read_resolved(file).get("imports")) if file.is_file() else []


def _import(name: Any, reason: str) -> None:
    if not isinstance(name, str):
        raise UsageError(f"{reason}, which is no name of a module: write it as Python imports it, such as my_package")
    first = name.partition(".")[0]
    if name.endswith(".py") or not all(part.isidentifier() and not iskeyword(part) for part in name.split(".")):
        file = Path(name)
        stem = file.parent.name if file.name == "__init__.py" else file.stem
        plain = stem if stem.isidentifier() and not iskeyword(stem) else "my_package"
        raise UsageError(f"{reason}, which is no name of a module: write it as Python imports it, such as {plain}")
    if first in sys.stdlib_module_names:
        raise UsageError(f"{reason}, which is a module of Python itself: give yours another name, such as my_{first}")
    try:
        importlib.import_module(name)
    except ContrastillError as error:
        raise type(error)(f"{reason}: {error}") from error
    except ModuleNotFoundError as error:
        if error.name is None or not (name == error.name or name.startswith(f"{error.name}.")):
            raise UsageError(f"{reason}, which cannot be imported: {error}; install what it needs") from error
        here = (Path(first).is_dir() or Path(f"{first}.py").is_file()) and str(Path.cwd()) not in sys.path
        way_out = (
            "it is in this folder, which Python does not search: set PYTHONPATH=., or call python -m contrastill"
            if here
            else "install it (pip install -e FOLDER), or set PYTHONPATH to the folder that holds it"
        )
        raise UsageError(f"{reason}, and there is no such module: {way_out}") from error
    except (Exception, SystemExit) as error:
        raise UsageError(f"{reason}, which fails as it is imported: {error_text(error, name)}") from error
