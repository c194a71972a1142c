"""Which rows count as negatives: all of them, a sample for each anchor, or one window shared by the batch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from ..errors import UsageError
from ..hashing import hash64, mix, shifted
from ..loss_labels import check_counted_from_0
from .criterion import NegativeSums
from .negative_sums import BLOCK, affords_every_row, gathered_sums, mark, masked_sums
from .sharding import OwnTensors, Shard

MODES = ("auto", "all", "shared", "sampled")
ORIGINS = ("other_class", "other_sample")


@dataclass
class Anchors:
    """What a rule must know of a batch: places are positions inside the bank.

    Attributes:
        index: (B,) samples.
        place: (B,) where their own rows lie.
        label: (B,) the group (class, or the sample itself) whose rows are no negatives.
        start: (B,) where that group begins, if groups are kept together.
        size: (B,) rows of that group.
    """

    index: Tensor
    place: Tensor
    label: Tensor
    start: Tensor
    size: Tensor

    def __len__(self) -> int:
        return len(self.index)


class Groups:
    """Which samples are each other's kind, and no negatives: those of a class, or each sample for itself.

    Args:
        targets: (M,) classes, or None: every sample is a group of its own.
        num_samples: M.

    Attributes:
        label: (M,) int64 group of each sample, 0 … groups − 1, or None.
        size: (groups,) rows of each; one entry where ``label`` is None.
        eligible: The smallest number of negatives that an anchor has.

    Raises:
        UsageError: Some class has no eligible row, or a number below 0.
    """

    def __init__(self, targets: Tensor | None, num_samples: int) -> None:
        self.num_samples = num_samples
        self.label, self.size = None, torch.ones(1, dtype=torch.int64)
        if targets is not None:
            check_counted_from_0(targets)
            _, self.label, self.size = torch.unique(targets.cpu().long(), return_inverse=True, return_counts=True)
        self.eligible = num_samples - int(self.size.max())
        if self.eligible < 1:
            if num_samples == 1:
                raise UsageError("no row is eligible as a negative, because there is only one sample: use more samples")
            raise UsageError(
                "no row is eligible as a negative, because all samples are of one class: use more classes, or "
                "negatives_from='other_sample'"
            )

    def together(self) -> Tensor | None:
        """(M,) the place of each sample if groups lie together; None is sample order."""
        if self.label is None:
            return None
        place = torch.empty_like(self.label)
        place[torch.argsort(self.label, stable=True)] = torch.arange(self.num_samples)
        return place


class NegativeSampler(OwnTensors, ABC):
    """Base of the rules.

    Args:
        groups: Who is no negative of whom.
        num_negatives: K, or None for min(16384, the smallest number of eligible rows).
        seed: Of the bank's order, where it is random, and of every draw.
        shard: Which of the bank's rows this process holds.

    Attributes:
        num_negatives: K.

    Raises:
        UsageError: K exceeds the eligible rows of an anchor and the rule cannot weigh.
    """

    mode = ""
    can_weigh = False
    random_order = False  # whether the bank's order depends on the seed
    label: Tensor | None
    group_size: Tensor
    group_start: Tensor

    def __init__(self, groups: Groups, num_negatives: int | None, seed: int, shard: Shard | None = None) -> None:
        super().__init__()
        self.shard = shard or Shard()
        if num_negatives is not None and num_negatives > groups.eligible and not self.can_weigh:
            raise UsageError(
                f"num_negatives={num_negatives} is more than the {groups.eligible} eligible rows of some anchor: "
                f"take at most {groups.eligible}, or negatives='all', where it is a weight"
            )
        self.num_negatives = min(16384, groups.eligible) if num_negatives is None else num_negatives
        self.num_samples, self.seed = groups.num_samples, seed
        labelled = groups.label is not None
        self.register_buffer("label", groups.label if labelled else None, persistent=False)
        self.register_buffer("group_size", groups.size if labelled else None, persistent=False)
        self.register_buffer("group_start", groups.size.cumsum(0) - groups.size if labelled else None, persistent=False)

    @staticmethod
    def order(groups: Groups, seed: int) -> Tensor | None:
        """(M,) where the bank is to keep each sample's row; None is sample order. By default a group lies together."""
        return groups.together()

    def anchors(self, index: Tensor, place: Tensor) -> Anchors:
        """Look up the groups of a batch of samples (B,) whose rows lie at ``place``."""
        if self.label is None:
            return Anchors(index, place, place, place, torch.ones_like(place))
        label = self.label[index]
        return Anchors(index, place, label, self.group_start[label], self.group_size[label])

    @abstractmethod
    def forward(self, anchors: Anchors, rows: Tensor, sums: NegativeSums, draw: int) -> Tensor | None:
        """Add those of this batch's negatives that this process holds to ``sums``.

        Args:
            anchors: The batch.
            rows: (2, m, D), the banks, or the part of them that is here.
            sums: What takes them.
            draw: Number of the draw: everything random is a function of (seed, draw, index).

        Returns:
            (B,) what each anchor's sum must be multiplied with, or None for 1.
        """


def zero_slices(cells: Tensor, slices: list[tuple[int, int]], start: int, stop: int) -> None:
    """Set (2, B, n), the rows [start, stop), to zero in place in each anchor's own slice of rows, on a CPU."""
    # NumPy's view of the same memory: a hundred small writes, each in a fifth of the time that PyTorch's dispatch
    # takes.
    view = cells.numpy()
    for anchor, (low, high) in enumerate(slices):
        if low < stop and high > start:
            view[:, anchor, max(low - start, 0) : high - start] = 0


class AllRows(NegativeSampler):
    """The expectation over every eligible row, weighted K/|eligible|: no draw, no noise of a draw."""

    mode = "all"
    can_weigh = True

    def forward(self, anchors: Anchors, rows: Tensor, sums: NegativeSums, draw: int) -> Tensor:
        on_cpu = rows.device.type == "cpu"
        begin, end = self.shard.below(anchors.start), self.shard.below(anchors.start + anchors.size)
        # Slices on the host are a hundred small writes; elsewhere asking for them would synchronise.
        slices = list(zip(begin.tolist(), end.tolist(), strict=True)) if on_cpu else []
        begin, end = begin[:, None], end[:, None]

        def exclude(cells: Tensor, start: int, stop: int) -> None:
            if on_cpu:
                return zero_slices(cells, slices, start, stop)
            row = torch.arange(start, stop, device=cells.device)
            cells.mul_((row < begin) | (row >= end))

        for start, stop in sums.spans(0, rows.shape[1]):
            sums.add(rows[:, start:stop], exclude=partial(exclude, start=start, stop=stop))
        return self.num_negatives / (self.num_samples - anchors.size).to(sums.dtype)


class SharedWindow(NegativeSampler):
    """One set of K rows for the whole batch: a window at a random offset of a fixed random order, in which the bank is
    kept.

    Every row is in the window with probability K/M, so a sum over the eligible ones among them, times M/|eligible|,
    expects (K/|eligible|) · Σ over all eligible rows.
    """

    mode, random_order = "shared", True
    label_at: Tensor | None

    def __init__(self, groups: Groups, num_negatives: int | None, seed: int, shard: Shard | None = None) -> None:
        super().__init__(groups, num_negatives, seed, shard)
        placed = None
        if groups.label is not None:
            placed = torch.empty_like(groups.label)
            placed[self.order(groups, seed)] = groups.label
            placed = placed[self.shard.rank :: self.shard.world].contiguous()
        self.own_tensor("label_at", placed)

    @staticmethod
    def order(groups: Groups, seed: int) -> Tensor:
        return torch.randperm(groups.num_samples, generator=torch.Generator().manual_seed(mix(seed, 1)))

    def forward(self, anchors: Anchors, rows: Tensor, sums: NegativeSums, draw: int) -> Tensor:
        offset = mix(self.seed, 2, draw) % self.num_samples
        end = offset + self.num_negatives
        for low, high in ((offset, min(end, self.num_samples)), (0, max(0, end - self.num_samples))):
            for start, stop in sums.spans(*self.shard.span(low, high)):
                sums.add(
                    rows[:, start:stop],
                    exclude=partial(self._exclude, anchors=anchors, start=start, stop=stop, sums=sums),
                )
        return self.num_samples / (self.num_samples - anchors.size).to(sums.dtype)

    def _exclude(self, cells: Tensor, anchors: Anchors, start: int, stop: int, sums: NegativeSums) -> None:
        """Set (2, B, n), the rows [start, stop), to zero in place where a row is of the anchor's group."""
        if self.label_at is None:
            # Relative to the first of them: float32 cannot tell large places apart.
            first = start * self.shard.world + self.shard.rank
            at, own = self.shard.places(start, stop, cells.device) - first, anchors.place - first
        else:
            at, own = self.label_at[start:stop], anchors.label
        # A comparison that writes 0 and 1 in the scores' dtype is vectorised on a CPU; masked_fill is not.
        keep = torch.ne(at.to(sums.dtype), own.to(sums.dtype)[:, None], out=sums.scratch(stop - start))
        cells.mul_(keep)


class SampledRows(NegativeSampler):
    """K distinct rows for each anchor, each eligible row with probability K/|eligible|, never one of its own group.

    The n eligible rows of an anchor lie on a circle that begins behind its own group. The circle is cut in K strata of
    ⌊n/K⌋ or ⌈n/K⌉ rows and one row is taken of each; then the circle is turned by a random angle, which makes every
    row's probability exactly K/n. Turns also make the anchors' sets uncorrelated, so all anchors share the picks
    within strata. Circles that differ by less than 1 % in n share them too: the larger has a gap at its seam.
    """

    mode = "sampled"
    circle: Tensor

    def __init__(self, groups: Groups, num_negatives: int | None, seed: int, shard: Shard | None = None) -> None:
        super().__init__(groups, num_negatives, seed, shard)
        eligible = groups.num_samples - groups.size
        self.circles: list[int] = []
        for size in eligible.unique().tolist():
            if not self.circles or size > 1.01 * self.circles[-1]:
                self.circles.append(size)
        circle = torch.searchsorted(torch.tensor(self.circles), eligible, right=True) - 1
        self.register_buffer("circle", circle, persistent=False)

    def forward(self, anchors: Anchors, rows: Tensor, sums: NegativeSums, draw: int) -> None:
        picks = self._picks(draw, rows.device)
        turns = self._turns(anchors, draw)
        if not affords_every_row(self.num_samples, self.num_negatives):
            gathered_sums(
                rows, lambda low, high: self._places(anchors, picks, turns, low, high), len(anchors), sums, self.shard
            )
            return
        mask = sums.buffer("mask", len(anchors), self.num_samples, dtype=torch.uint8).zero_()
        if rows.device.type == "cpu":
            self._copy_strips(mask, anchors, picks, turns)
        else:
            step = max(1, BLOCK // self.num_negatives)
            for low in range(0, len(anchors), step):
                mark(mask[low : low + step], self._places(anchors, picks, turns, low, low + step))
        masked_sums(rows, mask[:, self.shard.rank :: self.shard.world], sums)

    def draw(self, anchors: Anchors, draw: int) -> Tensor:
        """The places (B, K) of draw number ``draw``."""
        return self._places(
            anchors, self._picks(draw, anchors.index.device), self._turns(anchors, draw), 0, len(anchors)
        )

    def _turns(self, anchors: Anchors, draw: int) -> Tensor:
        """(B,) uniform positions on each anchor's circle; a function of the sample, so the same on whatever rank it
        is.
        """
        return shifted(hash64(anchors.index, self.seed, 4, draw), 2) % (self.num_samples - anchors.size)

    def _picks(self, draw: int, device: torch.device) -> Tensor:
        """(circles, K): one position in each stratum of each circle, sorted."""
        generator = torch.Generator(device).manual_seed(mix(self.seed, 3, draw))
        inside = torch.rand(self.num_negatives, generator=generator, device=device, dtype=torch.float64)
        step = torch.arange(self.num_negatives + 1, device=device)
        picks = []
        for size in self.circles:
            bounds = step * size // self.num_negatives
            widths = bounds[1:] - bounds[:-1]
            picks.append(bounds[:-1] + (inside * widths).to(torch.int64).clamp_(max=widths - 1))
        return torch.stack(picks)

    def _which(self, anchors: Anchors) -> Tensor:
        return torch.zeros_like(anchors.label) if self.label is None else self.circle[anchors.label]

    def _places(self, anchors: Anchors, picks: Tensor, turns: Tensor, low: int, high: int) -> Tensor:
        """(b, K) places of anchors low…high."""
        total, size = self.num_samples, anchors.size[low:high, None]
        position = picks[self._which(anchors)[low:high]] + turns[low:high, None]
        position = torch.where(position >= total - size, position - (total - size), position)
        position = position + (anchors.start[low:high, None] + size)
        return torch.where(position >= total, position - total, position)

    def _copy_strips(self, mask: Tensor, anchors: Anchors, picks: Tensor, turns: Tensor) -> None:
        """The same places as ones in ``mask`` (B, M): a turned circle is two or three pieces of memory to copy."""
        strips = []
        for size, pick in zip(self.circles, picks, strict=True):
            strips.append(torch.zeros(size, dtype=mask.dtype).index_fill_(0, pick, 1).numpy())
        total, lines = self.num_samples, mask.numpy()
        own = zip(
            self._which(anchors).tolist(), turns.tolist(), anchors.start.tolist(), anchors.size.tolist(), strict=True
        )
        for anchor, (circle, position, start, size) in enumerate(own):
            strip, line, done = strips[circle], lines[anchor], 0
            while done < len(strip):
                place = (start + size + position) % total
                length = min(len(strip) - done, total - size - position, total - place)
                line[place : place + length] = strip[done : done + length]
                done, position = done + length, (position + length) % (total - size)


SAMPLERS: dict[str, type[NegativeSampler]] = {rule.mode: rule for rule in (AllRows, SharedWindow, SampledRows)}
