"""State that is written once an optimiser step, however many forward passes and processes the step is made of."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from .distributed import Capacity, all_gather, world_size


class DeferredState(nn.Module, ABC):
    """A module whose state moves on, in training mode, once an optimiser step.

    By itself it moves at the end of each forward pass. Held, it waits for :meth:`commit`: so the passes of one
    optimiser step all find what the step before left, as a single pass over the whole batch does.

    Attributes:
        held: Whether the state waits for :meth:`commit`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.held = False

    def hold(self, samples: int, passes: int = 1) -> None:
        """From now on move on :meth:`commit` alone.

        Args:
            samples: The most samples a rank sees in an optimiser step; told, the ranks need not agree upon it at every
                step.
            passes: Forward passes these are split into.
        """
        self.held = True

    def release(self) -> None:
        """Move by itself again, at the end of each forward pass."""
        self.held = False

    @abstractmethod
    def commit(self) -> None:
        """Move on, where a pass in training mode was made since the last time."""

    @abstractmethod
    def discard(self) -> None:
        """Stay, as if the passes since the last time had not been made."""


class DeferredUpdates(DeferredState):
    """A module that, in training mode, writes rows of its own (a bank, a queue) after it has read them."""

    def __init__(self) -> None:
        super().__init__()
        self._pass_room, self._step_room = Capacity(), Capacity()
        self._waiting: list[tuple[Tensor, Tensor]] = []

    def hold(self, samples: int, passes: int = 1) -> None:
        super().hold(samples, passes)
        self._pass_room, self._step_room = Capacity(-(-samples // passes)), Capacity(samples)

    def release(self) -> None:
        super().release()
        self._pass_room, self._step_room = Capacity(), Capacity()

    def write(self, index: Tensor, rows: Tensor) -> None:
        """Take what is to be written: index (B,) int64 and rows (S, B, D)."""
        self._waiting.append((index, rows.detach()))
        if not self.held:
            self.commit()

    @torch.no_grad()
    def commit(self) -> None:
        """Write what waits, on every rank what all ranks collected, in rank order; each rank must have something
        waiting, or none.
        """
        if self._waiting:
            index, rows = zip(*self._waiting, strict=True)
            self._waiting = []
            self._write(*self._everyones(torch.cat(index), torch.cat(rows, 1)))

    def discard(self) -> None:
        """Forget what waits, as if its passes had not been made."""
        self._waiting = []

    @abstractmethod
    def _write(self, index: Tensor, rows: Tensor) -> None:
        """Write (n,) and (S, n, D), of all ranks and passes. An index below zero, ~index, marks a copy of a sample that
        fills up a short share.
        """

    def _everyones(self, index: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Index (b,) and rows (S, b, D) of all ranks in rank order, so that what they write stays bit-identical: one
        all-gather.
        """
        if world_size() == 1:
            return index, rows
        fill = self._step_room.of(len(index), index.device) - len(index)
        index = torch.cat((~index[:1].expand(fill), index)).to(torch.int64)
        rows = torch.cat((rows[:, :1].expand(-1, fill, -1), rows), 1)
        # As bytes: row numbers beyond 2^24 would not survive as float32.
        sides = rows.contiguous().view(torch.uint8)
        packed = all_gather(torch.cat((*sides, index[:, None].view(torch.uint8)), 1))
        *sides, index = packed.split((*(side.shape[1] for side in sides), 8), 1)
        return index.contiguous().view(torch.int64)[:, 0], torch.stack(sides).view(rows.dtype)
