"""Collective operations on tensors of several ranks."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, distributed

from .errors import UsageError

# Their older names are deprecated in the newest torch, the newer ones unknown to older ones.
_all_gather: Any = getattr(distributed, "all_gather_single", None) or getattr(
    distributed, "all_gather_into_tensor", None
)
_reduce_scatter: Any = getattr(distributed, "reduce_scatter_single", None) or getattr(
    distributed, "reduce_scatter_tensor", None
)


def world_size() -> int:
    """How many processes work together; 1 where none were set up to."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def all_gather_ragged(rows: Tensor, device: torch.device | str = "cpu") -> Tensor:
    """The rows of all processes, one rank after the other, on every rank; those of a single process as they are.

    Args:
        rows: How many there are may differ from rank to rank; a rank that has none need not know how long they are, but
            of which dtype.
        device: Where they are exchanged: the ranks' own devices, where the backend is NCCL.

    Shape:
        - rows: (n, D), or (0, 0)
        - returns (sum of n, D), on the device of ``rows``.

    Example:
        >>> all_gather_ragged(torch.ones(3, 2)).shape
        torch.Size([3, 2])
    """
    world = world_size()
    if world == 1:
        return rows
    shapes = torch.empty(world, 2, dtype=torch.int64, device=device)
    _all_gather(shapes, torch.tensor([rows.shape], device=device))
    counts, (most, width) = shapes[:, 0].tolist(), shapes.amax(0).tolist()
    # The backends gather equal lengths: shorter ones are padded.
    share = torch.zeros(most, width, dtype=rows.dtype, device=device)
    share[: rows.shape[0], : rows.shape[1]] = rows.to(device)
    gathered = torch.empty(world * most, width, dtype=rows.dtype, device=device)
    _all_gather(gathered, share)
    return torch.cat(
        [part[:count] for part, count in zip(gathered.split(most), counts, strict=True)] if most else [gathered]
    ).to(rows.device)


def rank() -> int:
    """The number of this process; 0 where it is alone."""
    return distributed.get_rank() if world_size() > 1 else 0


def all_gather(share: Tensor) -> Tensor:
    """The equal shares (n, …) of all processes, one rank after the other: (world · n, …)."""
    share = share.contiguous()
    gathered = share.new_empty(world_size() * len(share), *share.shape[1:])
    _all_gather(gathered, share)
    return gathered


def scatter_sum(shares: Tensor) -> Tensor:
    """Of (world · n, …) on every rank, the sum over ranks of the own n rows: (n, …)."""
    own = shares.new_empty(len(shares) // world_size(), *shares.shape[1:])
    _reduce_scatter(own, shares.contiguous())
    return own


class Capacity:
    """The number of rows of a message on every rank, as the slices of a short batch differ in length.

    Args:
        rows: The most rows of a rank; None: the ranks agree upon it at every message, which waits for the device.
    """

    def __init__(self, rows: int | None = None) -> None:
        self.rows = rows

    def of(self, count: int, device: torch.device) -> int:
        """The capacity for ``count`` rows of this rank and for those of the others.

        Raises:
            UsageError: There are more than ``rows``.
        """
        if self.rows is None:
            most = torch.tensor([count], device=device)
            distributed.all_reduce(most, op=distributed.ReduceOp.MAX)
            return int(most)
        if count > self.rows:
            raise UsageError(
                f"a rank has {count} samples in a step that was to have {self.rows} at most: all shares of a "
                "batch must be of one size, the last one shorter"
            )
        return self.rows


def sum_of_ranks(share: Tensor) -> Tensor:
    """The sum over ranks of tensors of one shape, on every rank."""
    share = share.contiguous()
    distributed.all_reduce(share)
    return share


class AllGather(torch.autograd.Function):
    """:func:`all_gather` with a gradient: what the other ranks' losses owe to a rank's rows is added to what its
    own does.
    """

    @staticmethod
    def forward(ctx: Any, share: Tensor) -> Tensor:
        return all_gather(share)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return scatter_sum(grad)
