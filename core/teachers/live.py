"""Teachers look at the views of all samples, in the order of the samples and in batches of one size, so that what they
say depends on nothing else.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from ..data import ViewLoader
from ..distributed import all_gather_ragged, rank, world_size
from ..errors import UsageError
from ..objective import TeacherOutputs
from ..representation import Representation
from ..transfer import Transfer, teacher_fields, teacher_representation
from .same_outputs import near

Key = tuple[int, str]
"""A teacher's number and a part of what it says."""

# Samples a teacher is shown at once, at most; without gradients more gain nothing.
_AT_ONCE = 256
# Samples by which outputs are compared with those of another time.
_COMPARED = 8
SAMPLE = 2048
"""Samples whose outputs objectives are shown before the training."""


class LiveTeachers:
    """Asks the teachers of a transfer about views.

    Batches begin at multiples of one power of two, whichever samples are asked for and whichever process asks, so that
    every way to keep what was said holds the same bits.

    Args:
        loader: Its batches are on the teachers' device.
        transfer: Whose teachers look.

    Attributes:
        batch: Samples in a batch: the largest power of two that is no more than the loader's batch and 256.
    """

    def __init__(self, loader: ViewLoader, transfer: Transfer) -> None:
        self.loader, self.transfer = loader, transfer

    @property
    def batch(self) -> int:
        # Asked for by those that look: a loader of a user's own that only trains need not have it.
        return 1 << (min(self.loader.batch_size, _AT_ONCE).bit_length() - 1)

    @torch.no_grad()
    def said(self, view: int, rows: Tensor, keys: Collection[Key]) -> Iterator[dict[Key, dict[str, Tensor]]]:
        """What teachers say of a view of some samples, batch by batch.

        Args:
            view: Number of the view.
            rows: Of the samples, (n,): whole batches, but for the last one of the set.
            keys: Whose and which parts.

        Yields:
            Of each key the fields ``logits``, ``embedding`` or ``maps.0``, ``maps.1`` …, each (B, …).
        """
        numbers, needs = sorted({number for number, _ in keys}), frozenset(part for _, part in keys)
        teachers = [self.transfer.teachers[number] for number in numbers]
        for batch in self.loader.in_order(view, rows, self.batch):
            fields = teacher_fields(dict(zip(numbers, self.transfer.look(teachers, batch, needs), strict=True)))
            yield {key: _of(fields, key) for key in keys}

    def some(self, view: int, rows: range, keys: Collection[Key]) -> tuple[Tensor, dict[Key, dict[str, Tensor]]]:
        """A few evenly spaced samples out of ``rows``, (n,), and what the teachers say of them."""
        chosen = rows.start + evenly(len(rows), min(_COMPARED, self.batch))
        for number in {number for number, _ in keys}:
            self.transfer.teachers[number].to(self.loader.device)
        return chosen, next(self.said(view, chosen, keys))

    def unrepeatable(self, view: int, rows: range, keys: Collection[Key]) -> UsageError | None:
        """Why outputs cannot be cached: a teacher that gives others the second time; None where there is no such
        one.
        """
        (_, once), (_, again) = (self.some(view, rows, keys) for _ in range(2))
        for key in keys:
            if not all(near(once[key][name], again[key][name], self.precision(key)) for name in once[key]):
                return UsageError(
                    f"teacher {key[0]} gives other {key[1]} of the same samples each time it is asked, so its "
                    "outputs cannot be cached: "
                    "turn off what is random in it (dropout that is active in eval mode, say), or set "
                    "train.views=null, by which it is asked at each step"
                )
        return None

    def precision(self, key: Key) -> torch.dtype:
        """In which a teacher computes where nothing around it says otherwise."""
        return self.transfer.teachers[key[0]].precision or torch.float32

    def glimpse(self, view: int, count: int) -> dict[str, Tensor]:
        """A batch of ``count`` samples, evenly spaced over the set, in a view."""
        count = min(count, self.loader.num_samples)
        return next(iter(self.loader.in_order(view, torch.arange(count) * self.loader.num_samples // count, count)))


class LiveTeacherOutputs:
    """A live teacher's outputs of the first view; ``TeacherOutputs`` of :mod:`.objective`. Each process looks at its
    share.

    Args:
        looking: At the training samples.
        number: The teacher's.
    """

    cached = False

    def __init__(self, looking: LiveTeachers, number: int) -> None:
        self.looking, self.number = looking, number

    def sample(self, needs: Collection[str]) -> Representation:
        """Of ``SAMPLE`` evenly spaced samples."""
        return joined([one for _, one in self._batches(evenly(self.looking.loader.num_samples, SAMPLE), needs)])

    def all(self, needs: Collection[str]) -> Iterator[tuple[Tensor, Representation]]:
        """Of all samples, in their order."""
        return self._batches(torch.arange(self.looking.loader.num_samples), needs)

    def _batches(self, rows: Tensor, needs: Collection[str]) -> Iterator[tuple[Tensor, Representation]]:
        if not hasattr(self.looking.loader, "in_order"):
            raise UsageError(
                "an objective looks at samples before the training, and the loader of this data cannot show "
                "those it is asked for: "
                "give it a method in_order(view, rows, batch_size), or take out the objective"
            )
        batches, world = rows.split(self.looking.batch), world_size()
        # A process that has no batch looks at one as well, to know what to expect of the others.
        mine = batches[rank() :: world] or batches[:1]
        outputs = self.looking.said(0, torch.cat(mine), [(self.number, part) for part in sorted(needs)])
        fields: dict[str, Tensor] = {}
        for first in range(0, len(batches), world):
            own = batches[first + rank()] if first + rank() < len(batches) else rows[:0]
            if len(own) or not fields:
                fields = {
                    f"teachers.{self.number}.{name}": values
                    for each in next(outputs).values()
                    for name, values in each.items()
                }
            everyone = {name: gathered(values[: len(own)]) for name, values in fields.items()}
            yield torch.cat(batches[first : first + world]), teacher_representation(everyone, self.number)


def first_view(loader: Any, transfer: Transfer, number: int) -> TeacherOutputs:
    """What a teacher says of the training samples in their first view: from what the loader keeps, or asked now;
    nothing is looked at before an objective asks.

    Args:
        loader: Of the training samples.
        transfer: Whose teacher it is.
        number: The teacher's.
    """
    cached = getattr(loader, "first_view", None)
    return LiveTeacherOutputs(LiveTeachers(loader, transfer), number) if cached is None else cached(number)


def prepare(transfer: Transfer, loader: Any) -> None:
    """Show a transfer's objectives what its teachers say of the training samples, as :func:`~contrastill.fit` does
    before the first step.
    """
    transfer.prepare([first_view(loader, transfer, number) for number in range(len(transfer.teachers))])


def evenly(total: int, count: int) -> Tensor:
    """(count,) samples, evenly spaced over ``total``; all of them where there are no more."""
    count = min(total, count)
    return torch.arange(count) * total // count


def joined(parts: Sequence[Representation]) -> Representation:
    """Representations of several batches as one."""
    first = parts[0]
    logits, embedding = (
        None if getattr(first, name) is None else torch.cat([getattr(one, name) for one in parts])
        for name in ("logits", "embedding")
    )
    return Representation(
        logits, embedding, tuple(torch.cat(maps) for maps in zip(*(one.maps for one in parts), strict=True))
    )


def gathered(rows: Tensor) -> Tensor:
    """The rows (n, …) of all processes, one rank after the other; as bytes, which every backend takes."""
    if world_size() == 1:
        return rows
    flat = rows.reshape(len(rows), rows.shape[1:].numel())
    return (
        all_gather_ragged(flat.contiguous().view(torch.uint8), rows.device).view(rows.dtype).view(-1, *rows.shape[1:])
    )


def _of(fields: dict[str, Tensor], key: Key) -> dict[str, Tensor]:
    """The fields of one teacher's part, by their names without the teacher's number."""
    number, part = key
    own = {
        name.removeprefix(f"teachers.{number}."): values
        for name, values in fields.items()
        if name.startswith(f"teachers.{number}.{part}")
    }
    return {name: values for name, values in own.items() if name.partition(".")[0] == part}


def width(values: dict[str, Tensor]) -> int:
    """C of logits; 0 of other parts."""
    return values["logits"].shape[1] if "logits" in values else 0
