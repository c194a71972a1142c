"""Ways to add rows to the sums of the criterion: all with a mask, a few gathered, or those named by hand."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from .criterion import NegativeSums
from .sharding import Shard

# With a draw for each anchor, every row is scored and masked up to this many rows per negative; beyond, rows are
# gathered.
# Measured on one core at B=64, D=128: 0.9 µs a scored row, 24 µs a gathered negative (of all 64 anchors, both sides).
DENSE_ROWS_PER_NEGATIVE = 24
GATHERED_FLOATS = 2**21
# Row numbers that are worked on at a time where (B, K) of them would fill memory.
BLOCK = 2**18


def affords_every_row(total: int, count: int) -> bool:
    """Whether scoring all M rows and masking is faster than gathering K of them for each anchor."""
    return total <= DENSE_ROWS_PER_NEGATIVE * count


def masked_sums(rows: Tensor, mask: Tensor, sums: NegativeSums, repeated: bool = False) -> None:
    """Score every row and keep those that ``mask`` (B, M) marks with 1; if ``repeated``, it counts how often."""
    for start, stop in sums.spans(0, rows.shape[1]):
        part = sums.scratch(stop - start).copy_(mask[:, start:stop])
        if repeated:
            sums.add(rows[:, start:stop], counts=part)
        else:
            sums.add(rows[:, start:stop], exclude=partial(Tensor.mul_, other=part))


def mark(mask: Tensor, places: Tensor) -> None:
    """Set ``mask`` (b, M) to 1 at ``places`` (b, K); with a tensor to scatter, twice as fast as with a number."""
    mask.scatter_(1, places, mask.new_ones(1, 1).expand(places.shape))


def marked(mask: Tensor) -> int:
    """How many ones are in ``mask`` (b, 8·n) uint8: eight bytes at a time, ten times as fast as counting them."""
    return sum(int(part.view(torch.int64).sum(0).view(torch.uint8).sum()) for part in mask.split(255))


def gathered_sums(
    rows: Tensor, places: Callable[[int, int], Tensor], batch: int, sums: NegativeSums, shard: Shard | None = None
) -> None:
    """Gather the rows of a few anchors at a time: for banks much larger than K.

    Args:
        rows: (2, M, D), or the m of them that this process holds.
        places: (low, high) -> (high − low, K) places of these anchors' negatives.
        batch: B.
        sums: What takes them.
        shard: Which of the places these rows are; left out, all.
    """
    shard = shard or Shard()
    sides, _, dim = rows.shape
    size = max(16, (GATHERED_FLOATS if rows.device.type == "cpu" else 2**26) // (sides * dim))
    memory: Tensor | None = None
    for anchor in range(batch):
        one = sums.only(anchor)
        for part in here(places(anchor, anchor + 1)[0], shard).split(size):
            if memory is None or memory.shape[1] < len(part):
                memory = rows.new_empty(sides, len(part), dim)
            gathered = memory[:, : len(part)]
            for side in range(sides):
                torch.index_select(rows[side], 0, part, out=gathered[side])
            one.add(gathered)
        one.finish()


def here(places: Tensor, shard: Shard) -> Tensor:
    """The rows among places (K,) that this process holds; with several processes, how many these are must be asked of
    the device.
    """
    return places if shard.world == 1 else shard.below(places[shard.holds(places)])


def explicit_negative_sums(rows: Tensor, named: Tensor, place: Tensor | None, sums: NegativeSums) -> None:
    """The negatives named by hand.

    Args:
        rows: (2, M, D).
        named: (B, K) samples, each counting as often as it is named.
        place: Where samples lie inside the bank; None is sample order.
        sums: What takes them.
    """

    def places(low: int, high: int) -> Tensor:
        block = named[low:high]
        # index_select is four times as fast as indexing on a CPU.
        return block if place is None else place.index_select(0, block.flatten()).view(block.shape)

    batch, count = named.shape
    total = rows.shape[1]
    if not affords_every_row(total, count):
        gathered_sums(rows, places, batch, sums)
        return
    # Only a CPU can tell without synchronisation, and only there do the logarithms that counting costs matter.
    repeated = named.device.type != "cpu"
    mask = sums.buffer("mask", batch, -(-total // 8) * 8, dtype=torch.uint8).zero_()
    step = max(1, BLOCK // count)
    for low in range(0, batch, step) if not repeated else ():
        mark(mask[low : low + step], places(low, low + step))
    if repeated or marked(mask) != named.numel():
        repeated = True
        mask = torch.zeros(batch, total, dtype=torch.int32, device=named.device)
        for low in range(0, batch, step):
            block = places(low, low + step)
            mask[low : low + step].scatter_add_(1, block, torch.ones_like(block, dtype=torch.int32))
    masked_sums(rows, mask, sums, repeated)
