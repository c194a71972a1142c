"""Teacher outputs of views of chosen samples, in the order of the samples and in batches of one size, so that they
depend on nothing else.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..data import ViewLoader
from ..distributed import all_gather_ragged, rank, world_size
from ..errors import UsageError
from ..representation import Representation
from .repeatable import REMEDY, batch_note, depend_on_batch, differ, train_mode_notes
from .source import OutputKey, TeacherSource, check_parts

log = logging.getLogger(__name__)

# Samples in a teacher's batch, at most; without gradients more gain nothing.
_LARGEST_BATCH = 256
# Samples by which outputs are compared with those of another time.
_COMPARED = 8
# Samples that are read twice before outputs of them are cached.
_REREAD = 32
SAMPLE = 2048
"""Samples whose outputs objectives read before the training."""


class TeacherViews:
    """Computes teacher outputs of views.

    Batches begin at multiples of one power of two, whichever samples are asked for and on whichever rank, so that every
    cache holds the same bits.

    Args:
        loader: Its batches are on the teachers' device.
        source: Its teachers are asked.
    """

    def __init__(self, loader: ViewLoader, source: TeacherSource) -> None:
        self.loader, self.source = loader, source

    @property
    def batch_size(self) -> int:
        """The largest power of two that is no more than the loader's batch size and 256."""
        # Read here alone: a loader of a user's own that only trains need not have a batch size.
        return 1 << (min(self.loader.batch_size, _LARGEST_BATCH).bit_length() - 1)

    @torch.no_grad()
    def outputs(
        self, view: int, rows: Tensor, numbers: Sequence[int], needs: Collection[str]
    ) -> Iterator[dict[int, Representation]]:
        """Outputs of a view of some samples, batch by batch.

        Args:
            view: Number of the view.
            rows: Of the samples, (n,): whole batches, but for the last one of the set.
            numbers: The teachers'.
            needs: Parts of the representation.

        Yields:
            By teacher, (B, …).
        """
        for batch in self.loader.in_order(view, rows, self.batch_size):
            yield dict(zip(numbers, self.source.outputs(batch, numbers, frozenset(needs)), strict=True))

    def parts(self, view: int, rows: Tensor, keys: Collection[OutputKey]) -> Iterator[dict[OutputKey, Representation]]:
        """As :meth:`outputs`, by teacher and part."""
        numbers, needs = sorted({key.teacher for key in keys}), {key.part for key in keys}
        for outputs in self.outputs(view, rows, numbers, needs):
            yield {key: outputs[key.teacher].only(key.part) for key in keys}

    def sample_parts(
        self, view: int, rows: range, keys: Collection[OutputKey]
    ) -> tuple[Tensor, dict[OutputKey, Representation]]:
        """A few evenly spaced samples out of ``rows``, (n,), and the teacher outputs of them."""
        chosen = self._compared(rows)
        for number in {key.teacher for key in keys}:
            self.source.teachers[number].to(self.loader.device)
        return chosen, next(self.parts(view, chosen, keys))

    def _compared(self, rows: range) -> Tensor:
        return rows.start + evenly_spaced(len(rows), min(_COMPARED, self.batch_size))

    def unrepeatable(self, view: int, rows: range, keys: Collection[OutputKey]) -> UsageError | None:
        """Why outputs cannot be cached: samples that are others at the next reading, or a teacher whose second forward
        pass gives others; None where there is none.
        """
        if self._rereads_differ(view, rows):
            return UsageError(
                "samples of one view are others each time they are read, so teacher outputs of them cannot be cached: "
                "draw from torch, np.random or random, or seed a generator of one's own by them, as "
                "np.random.default_rng(np.random.randint(2**31)) in __getitem__ (of albumentations: "
                "transform.set_random_seed(np.random.randint(2**31))), or set train.views=null"
            )
        asked = list(keys)

        teachers = {number: self.source.teachers[number] for number in sorted({key.teacher for key in asked})}
        precisions = [self.precision(key) for key in asked]
        chosen = self._compared(rows)
        for teacher in teachers.values():
            teacher.to(self.loader.device)

        def ask(count: int = len(chosen)) -> list[Representation]:
            outputs = next(self.parts(view, chosen[:count], asked))
            return [outputs[key] for key in asked]

        numbers = differ(teachers.values(), ask, precisions)
        if not numbers:
            mixing = depend_on_batch(teachers.values(), ask, len(chosen), precisions)
            for number in sorted({asked[place].teacher for place in mixing}):
                what, teacher = f"teacher {number}", teachers[number]
                for note in train_mode_notes(what, teacher) or [batch_note(what, teacher)]:
                    log.warning("%s", note)
            return None
        key = asked[numbers[0]]
        return UsageError(
            f"teacher {key.teacher} gives other {key.part} of the same samples each time it is asked, so its outputs "
            f"cannot be cached: {REMEDY}, or set train.views=null, by which it is asked at each step"
        )

    def _rereads_differ(self, view: int, rows: range) -> bool:
        """Whether the same samples are read twice as others."""
        chosen = rows.start + evenly_spaced(len(rows), _REREAD)
        size = min(_REREAD, self.batch_size)
        for one, other in zip(*(self.loader.in_order(view, chosen, size) for _ in range(2)), strict=True):
            if not all(_same_values(value, other[name]) for name, value in one.items() if isinstance(value, Tensor)):
                return True
        return False

    def precision(self, key: OutputKey) -> torch.dtype:
        """The one a teacher computes in outside of autocast."""
        return self.source.teachers[key.teacher].precision or torch.float32

    def samples(self, view: int, count: int) -> dict[str, Tensor]:
        """A batch of ``count`` samples, evenly spaced over the set, in a view."""
        rows = evenly_spaced(self.loader.num_samples, count)
        return next(iter(self.loader.in_order(view, rows, len(rows))))


def _same_values(one: Tensor, other: Tensor) -> bool:
    """Whether values that were read twice are equal, but for rounding; NaN, where depth was not measured, is equal to
    NaN.
    """
    if one.shape != other.shape or not one.is_floating_point():
        return torch.equal(one, other)
    rounding = 1e-4 * float(one.nan_to_num(0.0, 0.0, 0.0).abs().amax())
    return torch.allclose(one, other, rtol=1e-4, atol=rounding, equal_nan=True)


class LiveTeacherOutputs:
    """A teacher's outputs of the first view, computed when they are read, by each rank for its share;
    ``TeacherOutputs`` of :mod:`..objective`.

    Args:
        views: Of the training samples.
        number: The teacher's.
    """

    cached = False

    def __init__(self, views: TeacherViews, number: int) -> None:
        self.views, self.number = views, number

    def sample(self, needs: Collection[str]) -> Representation:
        """Of ``SAMPLE`` evenly spaced samples."""
        rows = evenly_spaced(self.views.loader.num_samples, SAMPLE)
        return joined([outputs for _, outputs in self._batches(rows, check_parts(needs))])

    def all(self, needs: Collection[str]) -> Iterator[tuple[Tensor, Representation]]:
        """Of all samples, in their order."""
        return self._batches(torch.arange(self.views.loader.num_samples), check_parts(needs))

    def _batches(self, rows: Tensor, needs: Collection[str]) -> Iterator[tuple[Tensor, Representation]]:
        if not hasattr(self.views.loader, "in_order"):
            raise UsageError(
                "an objective looks at samples before the training, and the loader of this data cannot show "
                "those it is asked for: "
                "give it a method in_order(view, rows, batch_size), or take out the objective"
            )
        batches, world = rows.split(self.views.batch_size), world_size()
        # A rank without a batch computes one as well, to know the shapes of the others' outputs.
        own_batches = batches[rank() :: world] or batches[:1]
        computed = self.views.outputs(0, torch.cat(own_batches), (self.number,), needs)
        outputs: Representation | None = None
        for first in range(0, len(batches), world):
            count = len(batches[first + rank()]) if first + rank() < len(batches) else 0
            if count or outputs is None:
                outputs = next(computed)[self.number]
            yield torch.cat(batches[first : first + world]), outputs.map(partial(gathered, count=count))


def unmixed(loader: Any) -> Any:
    """A loader of the same training samples, none mixed with another."""
    return getattr(loader, "unmixed", loader)


def evenly_spaced(total: int, count: int) -> Tensor:
    """(count,) samples, evenly spaced over ``total``; all of them where there are no more."""
    count = min(total, count)
    return torch.arange(count) * total // count


def joined(batches: Sequence[Representation]) -> Representation:
    """Representations of several batches as one."""
    whole = (torch.cat(values) for values in zip(*(batch.tensors() for batch in batches), strict=True))
    return batches[0].map(lambda _: next(whole))


def gathered(rows: Tensor, count: int) -> Tensor:
    """The first ``count`` rows (n, …) of all ranks, one rank after the other; as bytes, which every backend takes."""
    rows = rows[:count]
    if world_size() == 1:
        return rows
    flat = rows.reshape(len(rows), rows.shape[1:].numel())
    return (
        all_gather_ragged(flat.contiguous().view(torch.uint8), rows.device).view(rows.dtype).view(-1, *rows.shape[1:])
    )
