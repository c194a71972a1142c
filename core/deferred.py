"""State that is written once per optimiser step, however many forward passes and ranks the step is made of."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from .distributed import Capacity, all_gather, world_size


class DeferredState(nn.Module, ABC):
    """A module whose state is updated, in training mode, once per optimiser step.

    By itself it commits at the end of each forward pass. Deferring, it waits for :meth:`commit`: so all passes of one
    optimiser step read the state that the step before left, as a single pass over the whole batch does.

    Attributes:
        deferring: Whether updates wait for :meth:`commit`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.deferring = False

    def defer(self, samples: int, passes: int = 1) -> None:
        """From now on update on :meth:`commit` alone.

        Args:
            samples: The most samples of a rank in an optimiser step, so that the ranks need not agree upon it at every
                step.
            passes: Forward passes these are split into.
        """
        self.deferring = True

    def stop_deferring(self) -> None:
        """Commit at the end of each forward pass again."""
        self.deferring = False

    @abstractmethod
    def commit(self) -> None:
        """Apply the updates of the passes in training mode since the last commit."""

    @abstractmethod
    def rollback(self) -> None:
        """Drop the updates of the passes since the last commit."""


class DeferredUpdates(DeferredState):
    """A module that, in training mode, writes rows of its own (a bank, a queue) after it has read them."""

    def __init__(self) -> None:
        super().__init__()
        self._pass_capacity, self._step_capacity = Capacity(), Capacity()
        self._pending: list[tuple[Tensor, Tensor]] = []

    def defer(self, samples: int, passes: int = 1) -> None:
        super().defer(samples, passes)
        self._pass_capacity, self._step_capacity = Capacity(-(-samples // passes)), Capacity(samples)

    def stop_deferring(self) -> None:
        super().stop_deferring()
        self._pass_capacity, self._step_capacity = Capacity(), Capacity()

    def write(self, index: Tensor, rows: Tensor) -> None:
        """Write rows, or defer it: index (B,) int64 and rows (S, B, D)."""
        self._pending.append((index, rows.detach()))
        if not self.deferring:
            self.commit()

    @torch.no_grad()
    def commit(self) -> None:
        """Write the pending rows of all ranks, on every rank, in rank order; either every rank has pending rows, or
        none.
        """
        if self._pending:
            index, rows = zip(*self._pending, strict=True)
            self._pending = []
            self._write(*self._gathered(torch.cat(index), torch.cat(rows, 1)))

    def rollback(self) -> None:
        """Drop the pending rows."""
        self._pending = []

    @abstractmethod
    def _write(self, index: Tensor, rows: Tensor) -> None:
        """Write (n,) and (S, n, D), of all ranks and passes. An index below zero, ~index, marks a copy of a sample that
        pads a short share.
        """

    def _gathered(self, index: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Index (b,) and rows (S, b, D) of all ranks in rank order, so that their writes stay bit-identical: one
        all-gather.
        """
        if world_size() == 1:
            return index, rows
        padding = self._step_capacity.of(len(index), index.device) - len(index)
        index = torch.cat((~index[:1].expand(padding), index)).to(torch.int64)
        rows = torch.cat((rows[:, :1].expand(-1, padding, -1), rows), 1)
        # As bytes: row numbers beyond 2^24 would not survive as float32.
        sides = rows.contiguous().view(torch.uint8)
        packed = all_gather(torch.cat((*sides, index[:, None].view(torch.uint8)), 1))
        *sides, index = packed.split((*(side.shape[1] for side in sides), 8), 1)
        return index.contiguous().view(torch.int64)[:, 0], torch.stack(sides).view(rows.dtype)
