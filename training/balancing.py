"""Class-balanced sampling: every class comes as often as any other in an epoch."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ..core.data import ViewLoader
from ..core.errors import UsageError
from ..core.hashing import hash64
from ..datasets.io.in_memory import padded_slice, rank_slices
from .wrapped_loader import WrappedLoader

Batch = dict[str, Tensor]

_WITHIN, _CLASSES, _SHUFFLED = 21, 22, 23


class BalancedLoader(WrappedLoader):
    """The batches of a loader in an order in which all classes come equally often.

    An epoch has as many samples as before. Of a rare class each sample comes several times, in the epoch's view each
    time; of a frequent one some are left out, others in the next epoch. The order is a function of (seed, epoch).

    Args:
        loader: Of the training samples.
        targets: (N,) int64, their classes.
        seed: Of the run.
        rank, world: This process's rank and the number of ranks.
    """

    def __init__(self, loader: ViewLoader, targets: Tensor, *, seed: int, rank: int, world: int) -> None:
        super().__init__(loader)
        self._targets, self._seed, self._rank, self._world = targets.cpu(), seed, rank, world

    def epoch(self, k: int, start: int = 0) -> Iterator[Batch]:
        """The batches ``start``, ``start + 1``, … of epoch ``k``."""
        order = balanced_order(self._targets, self._seed, k)
        slices = [*rank_slices(len(order), self.batch_size, self._rank, self._world, start)]
        rows = [order[padded_slice(each)] for each in slices]
        done = 0
        # Batches of one length are asked for together, so that workers can read ahead.
        while done < len(rows):
            length = len(rows[done])
            end = next((n for n in range(done, len(rows)) if len(rows[n]) != length), len(rows))
            batches = self._loader.in_order(k, torch.cat(rows[done:end]), length)
            for each, batch in zip(slices[done:end], batches, strict=True):
                padding = each.start == each.stop
                yield batch | ({"is_padding": torch.ones_like(batch["index"], dtype=torch.bool)} if padding else {})
            done = end


def balanced_order(targets: Tensor, seed: int, epoch: int) -> Tensor:
    """N rows in which each class comes N / C times, rounded, and each sample of a class as often as any other of it,
    give or take one.

    Args:
        targets: (N,) int64 on the CPU.
        seed: Of the run.
        epoch: Its number.

    Example:
        >>> targets = torch.tensor([0, 0, 0, 0, 0, 1])
        >>> targets[balanced_order(targets, 0, 0)].bincount().tolist()
        [3, 3]
    """
    count = len(targets)
    present = targets.unique()
    shuffled = hash64(torch.arange(count), _WITHIN, seed, epoch).argsort(stable=True)
    # Which classes have one more, where they do not divide the epoch: others in each.
    present = present[hash64(present, _CLASSES, seed, epoch).argsort(stable=True)]
    each, more = divmod(count, len(present))
    chosen = []
    for place, label in enumerate(present.tolist()):
        rows = shuffled[targets[shuffled] == label]
        number = each + (place < more)
        chosen.append(rows.repeat(-(-number // len(rows)))[:number])
    order = torch.cat(chosen)
    return order[hash64(torch.arange(count), _SHUFFLED, seed, epoch).argsort(stable=True)]


def balanced_partners(targets: Tensor, index: Tensor, classes: Tensor, drawn: Tensor) -> Tensor:
    """A second sample for each of some: of every class as often as of any other, but never the sample itself.

    Args:
        targets: (N,) int64 on the CPU.
        index: (B,) int64, the first samples.
        classes, drawn: (B,) int64, random numbers from 0 on: for the class, and for the sample in it.

    Example:
        >>> targets = torch.tensor([0, 0, 0, 0, 0, 1])
        >>> balanced_partners(targets, torch.tensor([0, 0, 5, 5]), torch.tensor([0, 1, 0, 1]), torch.tensor([7] * 4))
        tensor([4, 5, 2, 2])
    """
    _, labels, counts = targets.unique(return_inverse=True, return_counts=True)
    rows = labels.argsort(stable=True)
    starts = counts.cumsum(0) - counts
    places = rows.argsort() - starts[labels]  # of each sample within its class
    own = labels[index]
    chosen = classes % len(counts)
    # A sample that is alone in its class has partners of the others.
    alone = (chosen == own) & (counts[own] == 1)
    chosen = torch.where(alone, (own + 1 + classes // len(counts) % max(1, len(counts) - 1)) % len(counts), chosen)
    others = (places[index] + 1 + drawn % (counts[own] - 1).clamp_min(1)) % counts[own]
    return rows[starts[chosen] + torch.where(chosen == own, others, drawn % counts[chosen])]


def check_balanced(targets: Tensor | None) -> Tensor:
    """The classes of the training samples.

    Raises:
        UsageError: There are none.
    """
    if targets is None:
        raise UsageError(
            "train.class_balanced needs one class for each training sample, and this data has none: leave it out"
        )
    return targets
