"""Which rows count as negatives: all of them, a sample for each anchor, or one window shared by the batch."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .errors import UsageError
from .nce import NegativeSums

MODES = ("auto", "all", "shared", "sampled")
ORIGINS = ("other_class", "other_sample")

# `sampled` scores every row and masks up to this many rows per negative; beyond, it gathers the drawn rows.
DENSE_ROWS_PER_NEGATIVE = 24
GATHERED_FLOATS = 2**18


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


class Negatives(nn.Module):
    """Base of the rules: knows the groups, and the order in which the bank keeps its rows.

    Args:
        targets: (M,) classes, or None: an anchor's negatives are then all other samples.
        num_samples: M.
        num_negatives: K, or None for min(16384, the smallest number of eligible rows).
        seed: Of the order, where it is random, and of every draw.

    Attributes:
        place: (M,) int64, where a sample's row lies inside the bank, or None for sample order.
        label: (M,) int64, the group of each *place*; None if every sample is its own group.
        num_negatives: K.

    Raises:
        UsageError: A class has no eligible row, or K exceeds the eligible rows and the rule cannot weigh.
    """

    mode = ""
    can_weigh = False

    def __init__(self, targets: Tensor | None, num_samples: int, num_negatives: int | None, seed: int) -> None:
        super().__init__()
        self.num_samples = num_samples
        self.seed = seed
        if targets is None:
            counts = torch.ones(1, dtype=torch.int64)
            group = None
        else:
            _, group, counts = torch.unique(targets.cpu(), return_inverse=True, return_counts=True)
        fewest = num_samples - int(counts.max())
        if fewest < 1:
            kind = "all samples are of one class" if targets is not None else "there is only one sample"
            raise UsageError(f"no row is eligible as a negative, because {kind}: use more classes, or negatives_from='other_sample'")
        if num_negatives is not None and num_negatives > fewest and not self.can_weigh:
            raise UsageError(
                f"num_negatives={num_negatives} is more than the {fewest} eligible rows of some anchor: "
                f"take at most {fewest}, or negatives='all', where it is a weight"
            )
        self.num_negatives = min(16384, fewest) if num_negatives is None else num_negatives
        # Every anchor has the same number of eligible rows: draws can then be shared.
        self.balanced = bool((counts == counts[0]).all())
        place = self._order(group)
        label = None
        if group is not None:
            label = group.clone()
            if place is not None:
                label[place] = group
        self.register_buffer("place", place, persistent=False)
        self.register_buffer("label", label, persistent=False)
        self.register_buffer("group_size", None if group is None else counts, persistent=False)
        self.register_buffer("group_start", None if group is None else counts.cumsum(0) - counts, persistent=False)

    def _order(self, group: Tensor | None) -> Tensor | None:
        """Rows of a group lie together, so that leaving it out is one slice."""
        if group is None:
            return None
        place = torch.empty_like(group)
        place[torch.argsort(group, stable=True)] = torch.arange(len(group))
        return place

    def anchors(self, index: Tensor) -> Anchors:
        """Look up the places and groups of a batch of samples."""
        place = index if self.place is None else self.place[index]
        if self.label is None:
            return Anchors(index, place, place, place, torch.ones_like(place))
        label = self.label[place]
        return Anchors(index, place, label, self.group_start[label], self.group_size[label])

    def forward(self, anchors: Anchors, rows: Tensor, sums: NegativeSums, draw: int) -> Tensor | None:
        """Add this batch's negatives to ``sums``.

        Args:
            anchors: The batch.
            rows: (2, M, D), the banks.
            sums: What takes them.
            draw: Number of the draw: everything random is a function of (seed, draw, index).

        Returns:
            (B,) what each anchor's sum must be multiplied with, or None for 1.
        """
        raise NotImplementedError(f"{type(self).__name__} has no forward")

    def _exclude_group(self, cells: Tensor, start: int, stop: int, anchors: Anchors, slices: list | None) -> None:
        """Set (…, B, n) to zero in place where a row in [start, stop) is of the anchor's own group."""
        if slices is not None:
            for anchor, (low, high) in enumerate(slices):
                if low < stop and high > start:
                    cells[..., anchor, max(low, start) - start : min(high, stop) - start].zero_()
            return
        if self.label is None:
            label, own = torch.arange(start, stop, device=cells.device, dtype=cells.dtype), (anchors.label - start).to(cells.dtype)
            label -= start
        else:
            label, own = self.label[start:stop].to(cells.dtype), anchors.label.to(cells.dtype)
        # A comparison that writes 0 and 1 in the scores' dtype is vectorised on a CPU, masked_fill is not.
        mask = torch.ne(label, own[:, None], out=cells.new_empty(len(own), stop - start))
        cells.mul_(mask)

    def _slices(self, anchors: Anchors) -> list[tuple[int, int]] | None:
        """Own group's places as (start, stop) on the host: only where that takes no synchronisation."""
        if anchors.index.device.type != "cpu":
            return None
        return list(zip(anchors.start.tolist(), (anchors.start + anchors.size).tolist(), strict=True))


class AllRows(Negatives):
    """The expectation over every eligible row, weighted K/|eligible|: no draw, no noise of a draw."""

    mode = "all"
    can_weigh = True

    def forward(self, anchors: Anchors, rows: Tensor, sums: NegativeSums, draw: int) -> Tensor:
        slices = self._slices(anchors)
        for start, stop in sums.spans(0, self.num_samples):
            sums.add(
                rows[:, start:stop],
                exclude=lambda cells, start=start, stop=stop: self._exclude_group(cells, start, stop, anchors, slices),
            )
        return self.num_negatives / (self.num_samples - anchors.size).to(sums.dtype)


class SharedWindow(Negatives):
    """One set of K rows for the whole batch: a window at a random offset of a fixed random order, in which the bank is kept.

    Every row is in the window with probability K/M, so a sum over the eligible ones among them, times M/|eligible|,
    expects (K/|eligible|) · Σ over all eligible rows.
    """

    mode = "shared"

    def _order(self, group: Tensor | None) -> Tensor:
        return torch.randperm(self.num_samples, generator=torch.Generator().manual_seed(mix(self.seed, 1)))

    def forward(self, anchors: Anchors, rows: Tensor, sums: NegativeSums, draw: int) -> Tensor:
        offset = mix(self.seed, 2, draw) % self.num_samples
        end = offset + self.num_negatives
        for low, high in ((offset, min(end, self.num_samples)), (0, max(0, end - self.num_samples))):
            for start, stop in sums.spans(low, high):
                sums.add(
                    rows[:, start:stop],
                    exclude=lambda cells, start=start, stop=stop: self._exclude_group(cells, start, stop, anchors, None),
                )
        return self.num_samples / (self.num_samples - anchors.size).to(sums.dtype)


class SampledRows(Negatives):
    """K distinct rows for each anchor, each eligible row with probability K/|eligible|, never one of its own group."""

    mode = "sampled"

    def forward(self, anchors: Anchors, rows: Tensor, sums: NegativeSums, draw: int) -> None:
        if self.num_samples <= DENSE_ROWS_PER_NEGATIVE * self.num_negatives:
            mask = rows.new_zeros(len(anchors), self.num_samples, dtype=torch.uint8)
            for block in torch.arange(len(anchors)).split(8):
                low, high = int(block[0]), int(block[-1]) + 1
                mask[low:high].scatter_(1, self.drawn(anchors, draw, low, high), 1)
            masked_sums(rows, mask, sums)
            return
        gathered_sums(rows, lambda low, high: self.drawn(anchors, draw, low, high), len(anchors), sums)

    def drawn(self, anchors: Anchors, draw: int, low: int, high: int) -> Tensor:
        """The places (b, K) drawn for anchors low…high: stratified on the circle of eligible rows, then rotated.

        The circle of n eligible rows is cut in K strata of ⌊n/K⌋ or ⌈n/K⌉ and one row is taken of each: distinct, and
        sorted, which makes what follows several times faster. A uniform rotation for each anchor makes every row's
        probability exactly K/n. Rotations also make the anchors' sets uncorrelated, so that all anchors can share the
        picks within strata. They are a function of (seed, draw, index): the same on whatever rank the anchor is.
        """
        device, count, total = anchors.index.device, self.num_negatives, self.num_samples
        eligible = (total - anchors.size[low:high, None]).to(torch.int64)
        generator = torch.Generator(device).manual_seed(mix(self.seed, 3, draw))
        picks = torch.rand(count, generator=generator, device=device, dtype=torch.float64)
        step = torch.arange(count + 1, device=device)
        circle = eligible[:1] if self.balanced else eligible
        bounds = step * circle // count
        widths = bounds[:, 1:] - bounds[:, :-1]
        position = bounds[:, :-1] + (picks * widths).to(torch.int64).clamp_max(widths - 1)
        turn = scramble(anchors.index[low:high], mix(self.seed, 4, draw))[:, None] % eligible
        position = position + turn
        position = torch.where(position >= eligible, position - eligible, position)
        # The circle begins behind the anchor's own group, so that it never reaches it.
        position = position + (anchors.start + anchors.size)[low:high, None]
        return torch.where(position >= total, position - total, position)


def masked_sums(rows: Tensor, mask: Tensor, sums: NegativeSums, repeated: bool = False) -> None:
    """Score every row and keep those that ``mask`` (B, M) uint8 marks; if ``repeated``, it counts."""
    for start, stop in sums.spans(0, rows.shape[1]):
        part = mask[:, start:stop].to(sums.dtype)
        if repeated:
            sums.add(rows[:, start:stop], counts=part)
        else:
            sums.add(rows[:, start:stop], exclude=lambda cells, part=part: cells.mul_(part))


def gathered_sums(rows: Tensor, places, batch: int, sums: NegativeSums) -> None:
    """Gather the rows of a few anchors at a time: for banks much larger than K.

    Args:
        rows: (2, M, D).
        places: (low, high) -> (high − low, K) places of these anchors' negatives.
        batch: B.
        sums: What takes them.
    """
    dim = rows.shape[2]
    for anchor in range(batch):
        one = sums.only(anchor)
        for part in places(anchor, anchor + 1)[0].split(max(16, GATHERED_FLOATS // (2 * dim))):
            one.add(rows.index_select(1, part))


def given_sums(rows: Tensor, places: Tensor, sums: NegativeSums) -> None:
    """The negatives named by hand: ``places`` (B, K), a row as often as it is named."""
    batch, count = places.shape
    total = rows.shape[1]
    if total > DENSE_ROWS_PER_NEGATIVE * count:
        gathered_sums(rows, lambda low, high: places[low:high], batch, sums)
        return
    counts = torch.zeros(batch, total, dtype=torch.uint8, device=places.device)
    counts.scatter_(1, places, 1)
    on_cpu = places.device.type == "cpu"
    # Only a CPU can tell without synchronisation, and only there do the logarithms that counting costs matter.
    repeated = not on_cpu or int(torch.count_nonzero(counts)) != places.numel()
    if repeated:
        counts = torch.zeros(batch, total, dtype=torch.int32, device=places.device)
        counts.scatter_add_(1, places, torch.ones_like(places, dtype=torch.int32))
    masked_sums(rows, counts, sums, repeated)


RULES: dict[str, type[Negatives]] = {rule.mode: rule for rule in (AllRows, SharedWindow, SampledRows)}


def mix(*numbers: int) -> int:
    """Hash whole numbers to 63 bits (splitmix64), the same on every machine."""
    state = 0
    for number in numbers:
        state = (state + number + 0x9E3779B97F4A7C15) & (2**64 - 1)
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & (2**64 - 1)
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & (2**64 - 1)
        state ^= state >> 31
    return state >> 1


def scramble(index: Tensor, key: int) -> Tensor:
    """Hash row numbers to 62 bits, elementwise: ``mix`` for tensors, wrapping as int64 does."""
    state = index.to(torch.int64) + key
    for shift, factor in ((30, -0x40A7B892E31B1A47), (27, -0x6B2FB644ECCEEE15)):
        state = (state ^ ((state >> shift) & (2 ** (64 - shift) - 1))) * factor
    return (state ^ ((state >> 31) & (2**33 - 1))) & (2**62 - 1)
