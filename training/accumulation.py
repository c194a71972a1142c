"""A process's share of a batch in several passes, each with the weight that makes their sum the loss of the whole
batch.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, distributed

from ..core.distributed import world_size

Chunk = tuple[dict[str, Tensor], int]


def own_samples(batch: Mapping[str, Tensor]) -> int:
    """How many samples of a share count: none where all there is is a ``is_padding``, which stands for the share of a
    process that has none.

    Example:
        >>> padding = {"index": torch.arange(1), "is_padding": torch.ones(1, dtype=torch.bool)}
        >>> own_samples({"index": torch.arange(3)}), own_samples(padding)
        (3, 0)
    """
    return 0 if "is_padding" in batch else len(batch["index"])


def chunks(batch: Mapping[str, Tensor], count: int) -> list[Chunk]:
    """A share cut along dimension 0 into ``count`` parts of nearly one size, each with the number of its samples that
    count.

    One process makes fewer where there are fewer samples. Several all make ``count``, as a pass may exchange something
    between them: a part for which there is no sample is the share's last sample again, with ``is_padding``, and counts
    0. A bank is not changed by it: the row is written twice with one value.

    Example:
        >>> [(chunk["index"].tolist(), counts) for chunk, counts in chunks({"index": torch.arange(5)}, 2)]
        [([0, 1, 2], 3), ([3, 4], 2)]
    """
    counted, size = own_samples(batch), len(batch["index"])
    padding = {"is_padding": torch.ones_like(batch["index"], dtype=torch.bool)}
    fields = {name: values for name, values in batch.items() if name != "is_padding"}
    parts = []
    count = count if world_size() > 1 else min(count, size)
    for number in range(count):
        share, longer = divmod(size, count)
        begin = number * share + min(number, longer)
        end = begin + share + (number < longer)
        rows = slice(begin, end) if begin < end else slice(size - 1, size)
        counts = end - begin if counted else 0
        marked = fields if counts else {**fields, **padding}
        parts.append(({name: values[rows] for name, values in marked.items()}, counts))
    return parts


def batch_samples(counted: int, device: torch.device) -> Tensor | int:
    """Samples of the batch over all processes, of which this one has ``counted``; with several a float64 () on the
    device, so that nothing waits for it.
    """
    if world_size() == 1:
        return counted
    total = torch.full((), counted, dtype=torch.float64, device=device)
    distributed.all_reduce(total)
    return total
