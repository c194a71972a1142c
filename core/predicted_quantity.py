"""Which quantity a network answers with at each position, where that is known: depth, or its logarithm."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .errors import UsageError

if TYPE_CHECKING:
    from .config.schema import RunConfig
    from .representation import Network
    from .term import Term

KEY = "predicts"
"""Of a network's recipe, and the attribute or option of an objective that says so."""
LOG_DEPTH = "log_depth"
_WORDS = {"depth": "depth", LOG_DEPTH: "log depth"}


def quantity_of(recipe: Mapping[str, Any]) -> str | None:
    """What a network of this recipe predicts, ``"depth"`` or ``"log_depth"``; None where no objective said so."""
    return recipe.get(KEY) if recipe.get("num_classes") == 1 and recipe.get(KEY) in _WORDS else None


def note_quantity(terms: Mapping[str, Term], teachers: Sequence[Network], student: Network) -> None:
    """Let the student know what its prediction is: what an objective takes it for, else what the teachers predict whose
    answers it learns, else what its weights were trained to.

    Raises:
        UsageError: Two objectives take it for different quantities, or it is to answer as teachers of another one.
    """
    sources = {f"objective {label}": _of(term.objectives[0]) for label, term in terms.items()}
    for label, term in terms.items():
        if "prediction" in term.teacher_needs:
            sources |= {
                f"teacher {number}, as which objective {label} has it answer": quantity_of(teacher.recipe)
                for number, teacher in enumerate(teachers)
            }
    known = {source: quantity for source, quantity in sources.items() if quantity is not None and quantity in _WORDS}
    first, ours = next(iter(known.items()), ("its weights", quantity_of(student.recipe)))
    for source, quantity in known.items():
        if ours is not None and quantity != ours:
            raise UsageError(
                f"the student would have to predict {_WORDS[ours]} for {first} and {_WORDS[quantity]} for {source}: "
                "set predicts of the objective to what the teacher predicts, or leave one of them out"
            )
    rest = {name: value for name, value in student.recipe.items() if name != KEY}
    student.recipe = rest | ({} if ours is None or rest.get("num_classes", 1) != 1 else {KEY: ours})


def stated_quantity(config: RunConfig, teachers: Iterable[str | None] = ()) -> str | None:
    """The same as a run's config says it, and what its teachers predict."""
    from .registry import OBJECTIVES

    kinds = [(OBJECTIVES[entry.name or label], entry) for label, entry in config.objectives.items()]
    stated = [getattr(kind.Options(**entry.options()), KEY, None) for kind, entry in kinds]
    if any(kind.needs_teacher and "prediction" in kind.needs_with(entry.options()) for kind, entry in kinds):
        stated += teachers
    return next((quantity for quantity in stated if quantity in _WORDS), None)


def scale_note(config: RunConfig) -> str:
    """A sentence about a student whose prediction's scale and shift no objective trains; else empty."""
    from .registry import OBJECTIVES

    reading = [
        (label, entry.options())
        for label, entry in config.objectives.items()
        if (name := entry.name or label) not in OBJECTIVES
        or "prediction" in OBJECTIVES[name].needs_with(entry.options())
    ]
    if config.student.num_classes not in (1, None) or not reading:
        return ""
    if not all(options.get("scale_invariant") is True for _, options in reading):
        return ""
    return (
        f"objective {reading[0][0]} with scale_invariant trains the student's prediction up to a scale and a shift of "
        "each sample, and measures of depth compare it as it is: they say little of what was learnt"
    )


def quantity_in_words(recipe: Mapping[str, Any]) -> str:
    """What the single channel of a prediction is."""
    if quantity_of(recipe) == LOG_DEPTH:
        return "the natural logarithm of depth at each position, whose exponential is depth"
    return "a quantity at each position, such as depth in metres"


def _of(objective: Any) -> str | None:
    quantity = getattr(objective, KEY, None)
    return quantity if isinstance(quantity, str) else None
