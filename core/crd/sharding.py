"""A bank's rows sharded over the ranks: which rank has which, and how anchors are gathered and sums scattered."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn

from ..distributed import all_gather, scatter_sum

Place = TypeVar("Place", int, Tensor)


@dataclass(frozen=True)
class Shard:
    """The rows of one of ``world`` ranks: places rank, rank + world, rank + 2·world, …

    Sharded one by one, any range of places is split evenly: a window of negatives costs all ranks the same. The only
    shard of a single process is the whole bank.

    Example:
        >>> shard = Shard(rank=1, world=3)
        >>> shard.span(0, 8)  # places 1, 4 and 7
        (0, 3)
        >>> shard.span(2, 6)  # place 4
        (1, 2)
    """

    rank: int = 0
    world: int = 1

    def below(self, place: Place) -> Place:
        """How many of its rows lie below a place, or below each of a tensor of places: the first of its rows at or
        behind it.
        """
        return (place - self.rank + self.world - 1) // self.world

    def span(self, low: int, high: int) -> tuple[int, int]:
        """The range of its rows whose places are in [low, high)."""
        return self.below(low), self.below(high)

    def places(self, start: int, stop: int, device: torch.device) -> Tensor:
        """(stop − start,) places of its rows start … stop − 1."""
        return torch.arange(start, stop, device=device) * self.world + self.rank

    def holds(self, place: Tensor) -> Tensor:
        """Whether each of these places is one of its rows."""
        return place % self.world == self.rank


class OwnTensors(nn.Module):
    """A module with tensors of this rank alone, which move with it and are no buffers: DistributedDataParallel
    overwrites all buffers with the first rank's at every step, whatever each rank holds.
    """

    _own: tuple[str, ...] = ()

    def own_tensor(self, name: str, values: Tensor | None) -> None:
        """Set an attribute that moves with the module and is not in its state_dict."""
        setattr(self, name, values)
        self._own = (*dict.fromkeys((*self._own, name)),)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> OwnTensors:
        super()._apply(fn, recurse)
        for name in self._own:
            if (values := getattr(self, name)) is not None:
                setattr(self, name, fn(values))
        return self


class Alone:
    """Each rank has all rows: anchors and sums stay where they are."""

    def __init__(self, index: Tensor) -> None:
        self.index = index

    def gather(self, anchors: Tensor) -> Tensor:
        """The anchors of all ranks: the same."""
        return anchors

    def scatter(self, *sums: Tensor) -> tuple[Tensor, ...]:
        """The sums over all rows for the own anchors: the same."""
        return sums


class Together:
    """Every rank scores the anchors of all ranks against its own rows.

    Args:
        index: (b,) samples of this process; how many may differ from rank to rank.
        capacity: The largest number of them on any rank.

    Attributes:
        index: (world · capacity,) samples of all processes in rank order; a short slice is padded with its first
            sample.
    """

    def __init__(self, index: Tensor, capacity: int) -> None:
        self._own, self._capacity = len(index), capacity
        self.index = self.gather(index[None])[0]

    def gather(self, anchors: Tensor) -> Tensor:
        """The anchors of all ranks: (S, b, …) -> (S, world · capacity, …)."""
        fill = anchors[:, :1].expand(-1, self._capacity - self._own, *anchors.shape[2:])
        return all_gather(torch.cat((anchors, fill), 1).transpose(0, 1)).transpose(0, 1)

    def scatter(self, *sums: Tensor) -> tuple[Tensor, ...]:
        """The sums over all ranks for the own anchors: each (S, world · capacity, …) -> (S, b, …)."""
        flat = torch.cat([part.flatten(2) if part.ndim > 2 else part[..., None] for part in sums], 2)
        own = scatter_sum(flat.transpose(0, 1))[: self._own].transpose(0, 1)
        widths = [part[0, 0].numel() for part in sums]
        return tuple(
            columns.reshape(len(own), self._own, *part.shape[2:])
            for columns, part in zip(own.split(widths, 2), sums, strict=True)
        )
