"""The criterion of CRD: sums of softplus over negatives and their gradient, chunk by chunk, in one pass."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import softplus

from .sharding import Alone, Together

# Scores of a chunk, (2, B, n), are touched by five kernels in a row: on a CPU they should stay in the L2 caches.
CPU_CELLS = 2**20
CUDA_CELLS = 2**23
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


class Workspace:
    """Memory that stays between calls: fresh pages would cost a call more than its logarithms do.

    It holds nothing between calls, so a copy of it is empty. On a GPU the allocator keeps memory by itself.
    """

    def __init__(self) -> None:
        self._memory: dict[str, Tensor] = {}

    def __deepcopy__(self, memo: dict) -> Workspace:
        return Workspace()

    def __reduce__(self) -> tuple:
        return Workspace, ()

    def buffer(self, name: str, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
        """Uninitialised memory, the same for the same name."""
        size = math.prod(shape)
        memory = self._memory.get(name)
        if memory is None or len(memory) < size or memory.dtype != dtype or memory.device != device:
            memory = torch.empty(size, dtype=dtype, device=device)
            if device.type == "cpu":
                self._memory[name] = memory
        return memory[:size].view(shape)


class NegativeSums:
    """Σ_j softplus(score_j/τ − b) over chunks of rows, and its gradient with respect to the anchors.

    A plain implementation takes exp, log1p and a division over (B, K) in memory; here each chunk is one product,
    u = exp(score/τ), w = 1 + e^{−b}·u, σ ∝ u/w, one product that adds to the gradient; the logarithm, by far the
    dearest of these, is taken of products of up to 16 w.

    Args:
        anchors: (2, B, D), normalised, in float32 or float64; the rows may be of fewer bits.
        critic: τ, b and the scores' range.
        gradient: Whether the gradient is computed.
        workspace: Where scores lie meanwhile.
    """

    def __init__(self, anchors: Tensor, critic: Critic, gradient: bool, workspace: Workspace) -> None:
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
        self._workspace = workspace
        self._products = 0

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

    def buffer(self, name: str, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        """Uninitialised memory of the workspace, by default of the scores' dtype."""
        return self._workspace.buffer(name, shape, dtype or self.dtype, self.sums.device)

    def scratch(self, columns: int) -> Tensor:
        """(B, n) uninitialised memory, the same at every call."""
        return self.buffer("scratch", self.sums.shape[1], columns)

    def add(
        self, rows: Tensor, exclude: Callable[[Tensor], object] | None = None, counts: Tensor | None = None
    ) -> None:
        """Add the rows (2, n, D) of one chunk.

        Args:
            rows: One chunk of each side's bank.
            exclude: Sets to zero, in place, what it is given at the rows that are no negatives: (2, B, n).
            counts: (B, n), how often each row counts.
        """
        if rows.device != self.scaled.device or (rows.dtype != self.dtype and rows.device.type == "cpu"):
            # From the host's memory; and a CPU multiplies half precision in software, many times slower than it
            # converts.
            rows = self.buffer(
                "rows", *rows.shape, dtype=self.dtype if self.scaled.device.type == "cpu" else rows.dtype
            ).copy_(rows, non_blocking=True)
        same = rows.dtype == self.dtype
        scores = self.buffer("scores", *self.sums.shape, rows.shape[1])
        if same:
            torch.bmm(self.scaled, rows.transpose(1, 2), out=scores)
        else:
            scores.copy_(torch.bmm(self.scaled.to(rows.dtype), rows.transpose(1, 2)))
        weights, share = self._narrow(scores, exclude, counts) if self.fits else self._wide(scores, exclude, counts)
        if self.gradient is None:
            return
        if counts is not None:
            weights.mul_(counts)
        if same:
            self.gradient.baddbmm_(weights, rows, alpha=share)
        else:
            self.gradient.add_(torch.bmm(weights.to(rows.dtype), rows), alpha=share)

    def _narrow(
        self, scores: Tensor, exclude: Callable[[Tensor], object] | None, counts: Tensor | None
    ) -> tuple[Tensor, float]:
        """Add the values of scores whose exp is finite; return what the rows are weighted with, up to a number."""
        columns = scores.shape[2]
        group = 1 if counts is not None else self.group
        padded = -(-columns // group) * group
        factors = self.buffer("factors", *self.sums.shape, padded)
        factor = factors if padded == columns else factors[..., :columns]
        share = math.exp(-self.critic.bias)
        scores.exp_()
        if exclude is not None:
            exclude(scores)
        torch.add(self.one, scores, alpha=share, out=factor)
        if self.gradient is not None:
            scores.div_(factor)
        if padded != columns:
            factors[..., columns:] = 1
        if group > 1:
            self._multiply(factors.unflatten(2, (group, padded // group)))
        else:
            values = factors.log_()
            self.sums += (values if counts is None else values.mul_(counts)).sum(2)
        return scores, share

    def _wide(
        self, scores: Tensor, exclude: Callable[[Tensor], object] | None, counts: Tensor | None
    ) -> tuple[Tensor, float]:
        """The same where exp would overflow: softplus(x) = x beyond its threshold, and sigmoid saturates."""
        scores.sub_(self.critic.bias)
        values, weights = softplus(scores, threshold=LINEAR), scores.sigmoid_()
        if exclude is not None:
            exclude(values)
            exclude(weights)
        self.sums += (values if counts is None else values.mul_(counts)).sum(2)
        return weights, 1.0

    def _multiply(self, factors: Tensor) -> None:
        """Put by the products over axis 2 of (2, B, group, n); logarithms are taken of many of them at a time."""
        width = factors.shape[3]
        if self._products + width > self.chunk:
            self.finish()
        if width > self.chunk:  # of a large batch's chunks, which are narrow, those that one anchor gathers are not
            self.sums += torch.prod(factors, 2).log_().sum(2)
            return
        slab = self.buffer("products", *self.sums.shape, self.chunk)
        torch.prod(factors, 2, out=slab[..., self._products : self._products + width])
        self._products += width

    def finish(self) -> Tensor:
        """Return the (2, B) sums."""
        if self._products:
            slab = self.buffer("products", *self.sums.shape, self.chunk)
            self.sums += slab[..., : self._products].log_().sum(2)
            self._products = 0
        return self.sums


def widened(values: Tensor) -> Tensor:
    """In float32 at least."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def normalise(values: Tensor) -> tuple[Tensor, Tensor]:
    """Unit vectors along the last axis, in float32 at least, and what they were divided by."""
    values = widened(values)
    norm = torch.linalg.vector_norm(values, dim=-1, keepdim=True)
    # Dividing by infinity gives zero and a zero gradient, where dividing by a small number would explode.
    norm = torch.where(norm > NORM_EPS, norm, math.inf)
    return values / norm, norm


class Criterion(torch.autograd.Function):
    """Normalisation and loss of both sides; the gradient is computed in the forward, so only (2, B, D) is kept."""

    @staticmethod
    def forward(
        ctx: Any,
        projected: Tensor,
        positives: Tensor,
        critic: Critic,
        workspace: Workspace,
        exchange: Alone | Together,
        negatives: Callable[[NegativeSums], Tensor | None],
    ) -> tuple[Tensor, Tensor]:
        """Return the (2, B) losses and the (2, B, D) anchors, which are the normalised ``projected``.

        Args:
            projected: (2, B, D), what is scored against bank 0, then against bank 1, before normalisation.
            positives: (2, B, D), each anchor's own row in that bank; with a sharded bank, of all ranks' anchors and
                this rank's rows.
            critic: τ, b and the scores' range.
            workspace: Where scores lie meanwhile.
            exchange: Which processes score an anchor.
            negatives: Adds every chunk of negatives to a NegativeSums; returns (B,) what an anchor's sum is multiplied
                with, or None for 1.
        """
        with torch.autocast(projected.device.type, enabled=False):
            anchors, norm = normalise(projected)
            sums = NegativeSums(exchange.gather(anchors), critic, ctx.needs_input_grad[0], workspace)
            weight = negatives(sums)
            total = sums.finish() if weight is None else sums.finish() * weight
            gradient = [] if sums.gradient is None else [sums.gradient]
            if weight is not None:
                gradient = [slope.mul_(weight[:, None]) for slope in gradient]
            total, positives, *gradient = exchange.scatter(total, positives.to(sums.dtype), *gradient)
            # softplus(b − s⁺/τ): large exactly where the positive's probability is small.
            short = critic.bias - (anchors / critic.temperature * positives).sum(2)
            loss = softplus(short, threshold=LINEAR) + total
            for slope in gradient:
                slope = torch.addcmul(slope, positives, short.sigmoid_().unsqueeze(2), value=-1)
                # Of a normalised vector only what is at right angles to it changes.
                slope.sub_(anchors * (anchors * slope).sum(2, keepdim=True))
                slope.div_(norm * critic.temperature)
                ctx.save_for_backward(slope.to(projected.dtype))
            ctx.mark_non_differentiable(anchors)
            return loss, anchors

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple:
        (slope,) = ctx.saved_tensors
        return slope * grad.to(slope.dtype)[:, :, None], None, None, None, None, None


def pair_loss(
    ours: Tensor,
    theirs: Tensor,
    positive: tuple[Tensor, Tensor],
    excluded: Tensor,
    critic: Critic,
    num_negatives: float,
) -> Tensor:
    """The criterion between all pairs of a batch, both ways, where both sides are live: gradients reach both.

    Each of ours is an anchor to theirs, and each of theirs one to ours. An anchor's loss is the mean over its positives
    of softplus(b − s⁺/τ) plus K/|negatives| · Σ softplus(s⁻/τ − b): the expectation over all of them, whichever side
    has more, as b belongs to one K. Anchors are averaged, both ways added.

    Args:
        ours: (N, D), normalised.
        theirs: (N', D), normalised.
        positive: Place in ours and in theirs of each positive pair, (P,) int64 each; anchors without any have no part.
        excluded: (N, N') bool: pairs that are no negatives; the positives are among them.
        critic: τ and b.
        num_negatives: K, weight of an anchor's negatives.

    Shape:
        - returns a scalar, in float32 at least.
    """
    # Under autocast the product would lose the digits that 1/τ magnifies.
    with torch.autocast(ours.device.type, enabled=False):
        ours, theirs = (side.to(torch.promote_types(side.dtype, torch.float32)) for side in (ours, theirs))
        scaled = ours / critic.temperature
        near = softplus(critic.bias - (scaled[positive[0]] * theirs[positive[1]]).sum(1), threshold=LINEAR)
        scores = torch.addmm(scaled.new_full((1,), -critic.bias), scaled, theirs.T)
        if critic.fits(scores.dtype):
            # softplus is three times as dear; exp(−inf) leaves out what is no negative.
            far = (1 + scores.masked_fill(excluded, -math.inf).exp()).log()
        else:
            far = softplus(scores, threshold=LINEAR).masked_fill(excluded, 0.0)
        total = scores.new_zeros(())
        for axis, place in enumerate(positive):
            size, other = scores.shape[axis], 1 - axis
            hits = scores.new_zeros(size).index_add(0, place, torch.ones_like(near))
            nearest = scores.new_zeros(size).index_add(0, place, near) / hits.clamp_min(1)
            weight = num_negatives / (scores.shape[other] - excluded.sum(other)).clamp_min(1).to(scores.dtype)
            losses = nearest + weight * far.sum(other)
            total = total + (losses * (hits > 0)).sum() / (hits > 0).sum().clamp_min(1)
        return total
