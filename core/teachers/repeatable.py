"""Whether a teacher is a function of its input: the same outputs of the same samples each time it is asked."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.dropout import _DropoutNd

from ..as_before import AsBefore
from ..modes import modes_of, restore_modes
from ..representation import Network, Representation
from .same_outputs import precision_of, same_outputs
from .source import TeacherSource

_SHOWN = 3
# Samples by which a question of fewer is compared: of a single one, batch normalisation refuses to make statistics.
_FEWEST = 3

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
    with _as_before(modules):
        first, before = ask(), _state(modules)
        second = ask()
        moved = not _equal(before, _state(modules))
    return [
        number
        for number, (one, other, precision) in enumerate(zip(first, second, precisions, strict=True))
        if not same_outputs(one, other, precision) or (moved and not _equal(one.tensors(), other.tensors()))
    ]


def depend_on_batch(
    modules: Iterable[nn.Module],
    ask: Callable[[int], Sequence[Representation]],
    count: int,
    precisions: Sequence[torch.dtype],
) -> list[int]:
    """Which of several outputs of a sample are others among fewer samples, beyond the rounding of other kernels.

    Args:
        modules: The networks that are asked.
        ask: Gives the outputs of the first so many samples.
        count: Of the samples that there are.
        precisions: In which each is computed.
    """
    if count < _FEWEST:
        return []
    fewer = max(2, count // 2)
    with _as_before(list(modules)):
        all_, part = ask(count), ask(fewer)
    return [
        number
        for number, (one, other, precision) in enumerate(zip(all_, part, precisions, strict=True))
        if not same_outputs(one.map(lambda values: values[:fewer]), other, precision)
    ]


@contextmanager
def _as_before(modules: Sequence[nn.Module]) -> Iterator[None]:
    """Buffers, plain attributes of a user's own parts and torch's generators are as before afterwards."""
    before = AsBefore(part for module in modules for part in module.modules())
    try:
        with torch.random.fork_rng():
            yield
    finally:
        before.restore()


def batch_note(what: str, network: Network) -> str:
    """What is said of a network that answers of a sample by the others that are asked with it."""
    return (
        f"{what} ({type(network.module).__name__}) gives other outputs of a sample where fewer are asked with it, so "
        "its answers depend on the batch: take out what mixes samples (a mean over dim 0, normalisation by the "
        "batch's own statistics), or keep all batches of one size"
    )


def train_mode_notes(what: str, network: Network) -> list[str]:
    """A line about a network in which ``eval()`` leaves parts in train mode that answer otherwise then.

    Args:
        what: Names it.
        network: After its ``eval()``.
    """
    names = [
        f"{name or 'all of it'} ({type(module).__name__})"
        for name, module in network.module.named_modules()
        if module.training and (isinstance(module, (_NormBase, _DropoutNd)) or _has_own_train(module))
    ]
    if not names:
        return []
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return [
        f"{what} ({type(network.module).__name__}) stays in train mode after eval(): {', '.join(names[:_SHOWN])}"
        f"{more}; so its answers depend on the batch or on chance: let its train(self, mode=True) hand mode on, as "
        "super().train(mode)"
    ]


def _has_own_train(module: nn.Module) -> bool:
    """Whether a class of the user's own says what train and eval mode are."""
    return any(
        "train" in vars(kind) or "eval" in vars(kind)
        for kind in type(module).__mro__
        if kind.__module__.partition(".")[0] not in ("torch", __name__.partition(".")[0])
    )


def unrepeatable_notes(source: TeacherSource, batch: Mapping[str, Tensor], needs: frozenset[str]) -> list[str]:
    """Lines about teachers that give other outputs of samples when they are asked again, or of fewer.

    Args:
        source: Of the outputs.
        batch: Any of its batches.
        needs: Parts of the representation that are read.
    """
    teachers = list(source.teachers)
    if not teachers or not needs:
        return []
    places, count = range(len(teachers)), len(next(iter(batch.values())))
    precisions = [precision_of(teacher, next(iter(batch.values())).device) for teacher in teachers]

    def ask(size: int) -> Sequence[Representation]:
        return source.outputs({name: value[:size] for name, value in batch.items()}, places, needs)

    changing = differ(teachers, lambda: ask(count), precisions)
    mixing = depend_on_batch(teachers, ask, count, precisions)
    notes = []
    for number in sorted({*changing, *mixing}):
        what, network = f"teacher {number}", teachers[number]
        if in_train_mode := train_mode_notes(what, network):
            notes += in_train_mode
        elif number in changing:
            notes.append(
                f"{what} ({type(network.module).__name__}) gives other outputs of the same samples each time it is "
                f"asked, so the student learns from answers that change: {REMEDY}"
            )
        else:
            notes.append(batch_note(what, network))
    return notes


def unrepeatable_student_notes(student: Network, batch: Mapping[str, Tensor], needs: frozenset[str]) -> list[str]:
    """Lines about a student that in eval mode gives other outputs of samples when it is asked again, or of fewer."""
    if not needs:
        return []
    modes = modes_of(student)
    count = len(next(iter(batch.values())))

    def ask(size: int) -> list[Representation]:
        return [student({name: value[:size] for name, value in batch.items()}, needs)]

    try:
        with torch.no_grad():
            precisions = [precision_of(student, next(iter(batch.values())).device)]
            moved = differ([student.eval()], lambda: ask(count), precisions)
            mixing = depend_on_batch([student], ask, count, precisions)
            in_train_mode = train_mode_notes("the student", student)
    finally:
        restore_modes(modes)
    if in_train_mode and (moved or mixing):
        return in_train_mode
    if moved:
        return [
            f"the student ({type(student.module).__name__}) gives other outputs of the same samples each time it is "
            f"asked, in eval mode too, so what is measured of it changes: {REMEDY}"
        ]
    return [batch_note("the student", student)] if mixing else []


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
