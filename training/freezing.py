"""Parts of a student that do not train."""

from __future__ import annotations

from collections.abc import Sequence

from ..core.errors import unknown_name
from ..core.representation import Network
from .optimizer import require_classifiers


def freeze_modules(student: Network, names: Sequence[str]) -> None:
    """Take modules of a student out of the training for good: no gradient, and always in eval mode.

    Args:
        student: Whose modules they are.
        names: As in ``named_modules()`` of its own module, or ``backbone``: all but its classifier.

    Raises:
        UsageError: There is no such module, or it is not known which the classifier is.
    """
    modules = dict(student.module.named_modules())
    for name in names:
        if name == "backbone" and name not in modules:
            _freeze_all_but(student, require_classifiers(student, "train.freeze=[backbone]"))
        elif not name or name not in modules:
            known = [*filter(None, modules), "backbone"]
            raise unknown_name(f"in {type(student.module).__name__}, the module", name, known)
        else:
            _freeze(student, name)


def _freeze(student: Network, name: str) -> None:
    student.module.get_submodule(name).requires_grad_(False).eval()
    student.frozen_modules += (name,)


def _freeze_all_but(student: Network, classifiers: Sequence[str]) -> None:
    """All modules but the classifiers and those that hold them, of which the parameters beside the modules stay too."""
    for name, module in student.module.named_modules():
        if any(f"{name}.".startswith(f"{classifier}.") for classifier in classifiers):
            continue
        if not name or any(classifier.startswith(f"{name}.") for classifier in classifiers):
            for parameter in module.parameters(recurse=False):
                parameter.requires_grad_(False)
        else:
            _freeze(student, name)
