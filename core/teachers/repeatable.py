"""Whether a teacher is a function of its input: the same outputs of the same samples each time it is asked."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..representation import Network, Representation
from .same_outputs import precision_of, same_outputs
from .source import TeacherSource

REMEDY = (
    "turn off what is random in it (dropout that is active in eval mode, say) and what its forward changes (a running "
    "mean, a counter)"
)


def differ(
    modules: Iterable[nn.Module],
    ask: Callable[[], Sequence[Representation]],
    precisions: Sequence[torch.dtype],
) -> list[int]:
    """Which of several outputs are others when they are asked for again.

    Rounding alone is no difference, but where a forward pass changes something in the networks the least one is.
    Buffers and torch's generators are as before afterwards.

    Args:
        modules: The networks that are asked.
        ask: Gives the outputs.
        precisions: In which each is computed.
    """
    modules = list(modules)
    buffers = [(buffer, buffer.clone()) for module in modules for buffer in module.buffers()]
    with torch.random.fork_rng():
        first, before = ask(), _state(modules)
        second = ask()
        moved = not _equal(before, _state(modules))
    with torch.no_grad():
        for buffer, value in buffers:
            if not torch.equal(buffer, value):
                buffer.copy_(value)
    return [
        number
        for number, (one, other, precision) in enumerate(zip(first, second, precisions, strict=True))
        if not same_outputs(one, other, precision) or (moved and not _equal(one.tensors(), other.tensors()))
    ]


def unrepeatable_notes(source: TeacherSource, batch: Mapping[str, Tensor], needs: frozenset[str]) -> list[str]:
    """A line about each teacher that gives other outputs of a batch when it is asked again.

    Args:
        source: Of the outputs.
        batch: Any of its batches.
        needs: Parts of the representation that are read.
    """
    teachers = list(source.teachers)
    if not teachers or not needs:
        return []
    numbers = differ(
        teachers,
        lambda: source.outputs(batch, range(len(teachers)), needs),
        [precision_of(teacher, next(iter(batch.values())).device) for teacher in teachers],
    )
    return [
        f"teacher {number} ({type(teachers[number].module).__name__}) gives other outputs of the same samples each "
        f"time it is asked, so the student learns from answers that change: {REMEDY}"
        for number in numbers
    ]


def unrepeatable_student_notes(student: Network, batch: Mapping[str, Tensor], needs: frozenset[str]) -> list[str]:
    """A line about a student that gives other outputs of a batch when it is asked again in eval mode."""
    if not needs:
        return []
    flags = [(module, module.training) for module in student.modules()]
    try:
        with torch.no_grad():
            precision = precision_of(student, next(iter(batch.values())).device)
            moved = differ([student.eval()], lambda: [student(batch, needs)], [precision])
    finally:
        for module, training in flags:
            module.training = training
    return [
        f"the student ({type(student.module).__name__}) gives other outputs of the same samples each time it is asked, "
        f"in eval mode too, so what is measured of it changes: {REMEDY}"
        for _ in moved
    ]


def _state(modules: Iterable[nn.Module]) -> list[object]:
    """Buffers, and the numbers and tensors among the attributes, of all modules."""
    values: list[object] = []
    for module in (inner for outer in modules for inner in outer.modules()):
        own = (*vars(module).values(), *module.buffers(recurse=False))
        values += [
            value.detach().clone() if isinstance(value, Tensor) else value
            for value in own
            if isinstance(value, (int, float, Tensor))
        ]
    return values


def _equal(ours: Sequence[object], theirs: Sequence[object]) -> bool:
    return len(ours) == len(theirs) and all(map(_same, ours, theirs))


def _same(one: Any, other: Any) -> bool:
    """Whether two values are equal; NaN is equal to NaN."""
    if not (isinstance(one, Tensor) and isinstance(other, Tensor)):
        return one is other or bool(one == other) or (one != one and other != other)
    if torch.equal(one, other):
        return True
    floats = one.is_floating_point() and one.shape == other.shape and one.dtype == other.dtype
    return floats and bool(((one == other) | (one.isnan() & other.isnan())).all())
