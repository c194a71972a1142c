"""The criterion of CRD: sums of softplus over negatives and their gradient, chunk by chunk, in one pass."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import softplus

# Scores of a chunk, (2, B, n), are touched by five kernels in a row: on a CPU they should stay in the L2 caches.
CPU_CELLS = 2**20
CUDA_CELLS = 2**23
# With a draw for each anchor, every row is scored and masked up to this many rows per negative; beyond, rows are gathered.
# Measured on one core at B=64, D=128: 0.9 µs a scored row, 24 µs a gathered negative (of all 64 anchors, both sides).
DENSE_ROWS_PER_NEGATIVE = 24
GATHERED_FLOATS = 2**18
# Row numbers that are worked on at a time where (B, K) of them would fill memory.
BLOCK = 2**18
# Shorter vectors have no direction.
NORM_EPS = 1e-6
# softplus(x) = x to the last bit of float64 from here on.
LINEAR = 40.0


@dataclass(frozen=True)
class Critic:
    """h = sigmoid(score/τ − b), with what is known of its range before any score is taken.

    Attributes:
        temperature: τ.
        bias: b.
        radius: Upper bound of the norm of a bank's row; anchors have norm 1, so |score| ≤ radius.
    """

    temperature: float
    bias: float
    radius: float

    def fits(self, dtype: torch.dtype) -> bool:
        """Whether exp(score/τ) and 1 + exp(score/τ − b) stay finite in this dtype."""
        limit = math.log(torch.finfo(dtype).max) - 4
        reach = self.radius / self.temperature
        return reach < limit and reach - self.bias < limit and -self.bias < limit and self.bias < limit

    def group(self, dtype: torch.dtype) -> int:
        """How many factors 1 + exp(score/τ − b) can be multiplied before a logarithm is due: a power of two ≤ 16."""
        limit = math.log(torch.finfo(dtype).max) - 4
        widest = math.log1p(math.exp(self.radius / self.temperature - self.bias))
        return 2 ** max(0, min(4, int(math.log2(max(1.0, limit / max(widest, 1e-9))))))


class NegativeSums:
    """Σ_j softplus(score_j/τ − b) over chunks of rows, and its gradient with respect to the anchors.

    A plain implementation takes exp, log1p and a division over (B, K) in memory; here each chunk is one product,
    u = exp(score/τ), w = 1 + e^{−b}·u, σ ∝ u/w, one product that adds to the gradient; the logarithm, by far the
    dearest of these, is taken of products of up to 16 w.

    Args:
        anchors: (2, B, D), normalised, in float32 or float64; the rows may be of fewer bits.
        critic: τ, b and the scores' range.
        gradient: Whether the gradient is wanted.
    """

    def __init__(self, anchors: Tensor, critic: Critic, gradient: bool) -> None:
        self.scaled = anchors / critic.temperature
        self.critic = critic
        self.dtype = anchors.dtype
        sides, batch, dim = anchors.shape
        self.sums = torch.zeros(sides, batch, dtype=self.dtype, device=anchors.device)
        self.gradient = torch.zeros(sides, batch, dim, dtype=self.dtype, device=anchors.device) if gradient else None
        self.fits = critic.fits(self.dtype)
        on_cpu = anchors.device.type == "cpu"
        self.group = critic.group(self.dtype) if self.fits and on_cpu else 1
        self.one = torch.ones((), dtype=self.dtype, device=anchors.device)
        cells = CPU_CELLS if on_cpu else CUDA_CELLS
        self.chunk = max(256, cells // (sides * batch) // 16 * 16)
        # Shared with what only() returns, so that a call allocates once.
        self._memory: dict[str, Tensor] = {}

    def only(self, anchor: int) -> NegativeSums:
        """The same sums, seen for one anchor: what is added goes to its row."""
        one = copy.copy(self)
        one.scaled, one.sums = self.scaled[:, anchor : anchor + 1], self.sums[:, anchor : anchor + 1]
        one.gradient = None if self.gradient is None else self.gradient[:, anchor : anchor + 1]
        return one

    def spans(self, start: int, stop: int) -> Iterator[tuple[int, int]]:
        """[start, stop) in equal chunks, multiples of 16 but for the last."""
        pieces = max(1, -(-(stop - start) // self.chunk))
        step = max(16, -(-(stop - start) // (16 * pieces)) * 16)
        for low in range(start, stop, step):
            yield low, min(low + step, stop)

    def _buffer(self, name: str, *shape: int) -> Tensor:
        size = math.prod(shape)
        if name not in self._memory or len(self._memory[name]) < size:
            self._memory[name] = self.sums.new_empty(size)
        return self._memory[name][:size].view(shape)

    def scratch(self, columns: int) -> Tensor:
        """(B, n) uninitialised memory, the same at every call."""
        return self._buffer("scratch", self.sums.shape[1], columns)

    def add(self, rows: Tensor, exclude: Callable[[Tensor], None] | None = None, counts: Tensor | None = None) -> None:
        """Add the rows (2, n, D) of one chunk.

        Args:
            rows: One chunk of each side's bank.
            exclude: Sets to zero, in place, what it is given at the rows that are no negatives: (2, B, n).
            counts: (B, n), how often each row counts.
        """
        columns = rows.shape[1]
        group = 1 if counts is not None else self.group
        padded = -(-columns // group) * group
        scores = self._buffer("scores", *self.sums.shape, columns)
        if rows.dtype == self.dtype:
            torch.bmm(self.scaled, rows.transpose(1, 2), out=scores)
        else:
            scores.copy_(torch.bmm(self.scaled.to(rows.dtype), rows.transpose(1, 2)))
        if self.fits:
            scores.exp_()
            if exclude is not None:
                exclude(scores)
            share = math.exp(-self.critic.bias)
            factors = self._buffer("factors", *self.sums.shape, padded)
            factor = factors if padded == columns else factors[..., :columns]
            torch.add(self.one, scores, alpha=share, out=factor)
            weights = scores.div_(factor) if self.gradient is not None else None
            if padded != columns:
                factors[..., columns:] = 1
            if group > 1:
                factors = factors.unflatten(2, (group, padded // group)).prod(2)
            values = factors.log_()
        else:
            # Scores too wide for exp in this dtype: softplus(x) = x beyond its threshold, sigmoid saturates.
            share = 1.0
            scores.sub_(self.critic.bias)
            values = softplus(scores, threshold=LINEAR)
            weights = scores.sigmoid_() if self.gradient is not None else None
            if exclude is not None:
                exclude(values)
                if weights is not None:
                    exclude(weights)
        if counts is not None:
            values = values * counts
            weights = weights.mul_(counts) if weights is not None else None
        self.sums += values.sum(2)
        if weights is not None:
            if rows.dtype == self.dtype:
                self.gradient.baddbmm_(weights, rows, alpha=share)
            else:
                self.gradient.add_(torch.bmm(weights.to(rows.dtype), rows), alpha=share)


def normalise(values: Tensor) -> tuple[Tensor, Tensor]:
    """Unit vectors along the last axis, in float32 at least, and what they were divided by."""
    values = values.to(torch.promote_types(values.dtype, torch.float32))
    norm = torch.linalg.vector_norm(values, dim=-1, keepdim=True)
    # Dividing by infinity gives zero and a zero gradient, where dividing by a small number would explode.
    norm = torch.where(norm > NORM_EPS, norm, math.inf)
    return values / norm, norm


class Criterion(torch.autograd.Function):
    """Normalisation and loss of both sides; the gradient is computed in the forward, so only (2, B, D) is kept."""

    @staticmethod
    def forward(
        ctx, projected: Tensor, positives: Tensor, critic: Critic, negatives: Callable[[NegativeSums], Tensor | None]
    ) -> tuple[Tensor, Tensor]:
        """Return the (2,) losses and the (2, B, D) anchors, which are the normalised ``projected``.

        Args:
            projected: (2, B, D), what is scored against bank 0, then against bank 1, before normalisation.
            positives: (2, B, D), each anchor's own row in that bank.
            critic: τ, b and the scores' range.
            negatives: Adds every chunk of negatives to a NegativeSums; returns (B,) what an anchor's sum is multiplied
                with, or None for 1.
        """
        with torch.autocast(projected.device.type, enabled=False):
            wanted = ctx.needs_input_grad[0]
            anchors, norm = normalise(projected)
            sums = NegativeSums(anchors, critic, wanted)
            weight = negatives(sums)
            positives = positives.to(sums.dtype)
            # softplus(b − s⁺/τ): large exactly where the positive's probability is small.
            short = critic.bias - (sums.scaled * positives).sum(2)
            total = sums.sums if weight is None else sums.sums * weight
            loss = (softplus(short, threshold=LINEAR) + total).mean(1)
            if wanted:
                slope = sums.gradient if weight is None else sums.gradient.mul_(weight[:, None])
                slope = torch.addcmul(slope, positives, short.sigmoid_().unsqueeze(2), value=-1)
                # Of a normalised vector only what is at right angles to it changes.
                slope.sub_(anchors * (anchors * slope).sum(2, keepdim=True))
                slope.div_(norm * (critic.temperature * anchors.shape[1]))
                ctx.save_for_backward(slope.to(projected.dtype))
            ctx.mark_non_differentiable(anchors)
            return loss, anchors

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor, _: Tensor) -> tuple:
        (slope,) = ctx.saved_tensors
        return slope * grad.to(slope.dtype)[:, None, None], None, None, None


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
            sums.add(rows[:, start:stop], exclude=lambda cells, part=part: cells.mul_(part))


def mark(mask: Tensor, places: Tensor) -> None:
    """Set ``mask`` (b, M) to 1 at ``places`` (b, K); with a tensor to scatter, twice as fast as with a number."""
    mask.scatter_(1, places, mask.new_ones(1, 1).expand(places.shape))


def marked(mask: Tensor) -> int:
    """How many ones are in ``mask`` (b, 8·n) uint8: eight bytes at a time, ten times as fast as counting them."""
    return sum(int(part.view(torch.int64).sum(0).view(torch.uint8).sum()) for part in mask.split(255))


def gathered_sums(rows: Tensor, places: Callable[[int, int], Tensor], batch: int, sums: NegativeSums) -> None:
    """Gather the rows of a few anchors at a time: for banks much larger than K.

    Args:
        rows: (2, M, D).
        places: (low, high) -> (high − low, K) places of these anchors' negatives.
        batch: B.
        sums: What takes them.
    """
    sides, _, dim = rows.shape
    size = max(16, (GATHERED_FLOATS if rows.device.type == "cpu" else 2**26) // (sides * dim))
    memory: Tensor | None = None
    for anchor in range(batch):
        one = sums.only(anchor)
        for part in places(anchor, anchor + 1)[0].split(size):
            memory = rows.new_empty(sides, len(part), dim) if memory is None else memory
            gathered = memory[:, : len(part)]
            for side in range(sides):
                torch.index_select(rows[side], 0, part, out=gathered[side])
            one.add(gathered)


def given_sums(rows: Tensor, named: Tensor, place: Tensor | None, sums: NegativeSums) -> None:
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
    mask = torch.zeros(batch, -(-total // 8) * 8, dtype=torch.uint8, device=named.device)
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
