"""Which data sets say that a path is their own."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from .errors import UsageError
from .registry import DATASETS
from .user_code import error_text, is_own, origin
from .value_scale import note_once


def recognised(path: str, leaving_out: str | None = None) -> list[str]:
    """Names of the data sets that recognise a path; one of a user's own that fails at it, as a line says, does not.

    Args:
        path: Of a file or folder.
        leaving_out: Name of a data set that is not asked.
    """
    return [name for name, entry in DATASETS.items() if name != leaving_out and _recognises(name, entry, path)]


def check_path_given(source: str, name: str, given: bool) -> None:
    """Refuse the bare name of a data set that is read from a path, and a path of one that is not.

    Args:
        source: What was written, for the message.
        name: A registered data set.
        given: Whether a path stands beside its name.

    Raises:
        UsageError: It is one of both.
    """
    field = DATASETS[name].Options.model_fields.get("path")
    if not given and field is not None and field.is_required():
        raise UsageError(f"{source}: {name} is read from a file or folder; write {name}:PATH")
    if given and field is None:
        raise UsageError(f"{source}: {name} is not read from a file or folder; write {name}")


def unknown_layout(path: str) -> str:
    """That no data set recognises a path, and where in it lies one that is recognised, as in what an archive holds."""
    folders: list[Path] = []
    with suppress(OSError):  # a file, or a folder that may not be read
        folders = sorted(each for each in Path(path).iterdir() if each.is_dir() and not each.name.startswith("."))
    inside = next((str(each) for each in folders[:8] if len(recognised(str(each))) == 1), None)
    return "is of no known layout" + ("" if inside is None else f", but {inside} is (name that folder)")


def _recognises(name: str, entry: object, path: str) -> bool:
    ask = getattr(entry, "recognises", None)
    if ask is None:
        return False
    what = f"dataset {name} ({origin(entry)}): recognises"
    try:
        answer = ask(path)
    except Exception as error:  # a user's own code may raise anything, and other data sets may know the path
        if is_own(entry):
            raise
        reason = error_text(error, getattr(entry, "__module__", ""))
        note_once(f"{what} fails for {path}, which is not taken for its data: {reason}")
        return False
    if answer is None:
        note_once(f"{what} returns None for {path}, which is not taken for its data: return True or False")
    return bool(answer)
