"""What several processes hold, put together."""

from __future__ import annotations

import torch
from torch import Tensor, distributed


def world_size() -> int:
    """How many processes work together; 1 where none were set up to."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def everyones(rows: Tensor, device: torch.device | str = "cpu") -> Tensor:
    """The rows of all processes, one rank after the other, on every rank; those of a single process as they are.

    Args:
        rows: How many there are may differ from rank to rank; a rank that has none need not know how long they are, but of which dtype.
        device: Where they are exchanged: the ranks' own devices, where the backend is NCCL.

    Shape:
        - rows: (n, D), or (0, 0)
        - returns (sum of n, D), on the device of ``rows``.

    Example:
        >>> everyones(torch.ones(3, 2)).shape
        torch.Size([3, 2])
    """
    world = world_size()
    if world == 1:
        return rows
    shapes = torch.empty(world, 2, dtype=torch.int64, device=device)
    distributed.all_gather_into_tensor(shapes, torch.tensor([rows.shape], device=device))
    counts, (most, width) = shapes[:, 0].tolist(), shapes.amax(0).tolist()
    # The backends gather equal shares: shorter ones are filled up.
    share = torch.zeros(most, width, dtype=rows.dtype, device=device)
    share[: rows.shape[0], : rows.shape[1]] = rows.to(device)
    gathered = torch.empty(world * most, width, dtype=rows.dtype, device=device)
    distributed.all_gather_into_tensor(gathered, share)
    return torch.cat([part[:count] for part, count in zip(gathered.split(most), counts, strict=True)] if most else [gathered]).to(rows.device)
