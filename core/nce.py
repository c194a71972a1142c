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
CPU_CELLS = 2**19
CUDA_CELLS = 2**25
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
    slowest of these on a CPU, is taken of products of up to 16 w.

    Args:
        anchors: (2, B, D), normalised.
        critic: τ, b and the scores' range.
        gradient: Whether the gradient is wanted.
    """

    def __init__(self, anchors: Tensor, critic: Critic, gradient: bool) -> None:
        self.scaled = anchors / critic.temperature
        self.critic = critic
        half = anchors.dtype in (torch.float16, torch.bfloat16)
        self.dtype = torch.float32 if half else anchors.dtype
        sides, batch, dim = anchors.shape
        self.sums = torch.zeros(sides, batch, dtype=self.dtype, device=anchors.device)
        self.gradient = torch.zeros(sides, batch, dim, dtype=self.dtype, device=anchors.device) if gradient else None
        self.fits = critic.fits(self.dtype)
        on_cpu = anchors.device.type == "cpu"
        self.group = critic.group(self.dtype) if self.fits and on_cpu else 1
        self.one = torch.ones((), dtype=self.dtype, device=anchors.device)
        cells = CPU_CELLS if on_cpu else CUDA_CELLS
        self.chunk = max(256, cells // (sides * batch) // 16 * 16)
        self._buffers: tuple[Tensor, Tensor] | None = None

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

    def _views(self, columns: int, padded: int) -> tuple[Tensor, Tensor]:
        sides, batch = self.sums.shape
        if self._buffers is None or self._buffers[1].numel() < sides * batch * padded:
            size = sides * batch * padded
            self._buffers = (self.scaled.new_empty(size, dtype=self.dtype), self.scaled.new_empty(size, dtype=self.dtype))
        scores, factors = self._buffers
        cells = sides * batch
        return scores[: cells * columns].view(sides, batch, columns), factors[: cells * padded].view(sides, batch, padded)

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
        scores, factors = self._views(columns, padded)
        if rows.dtype == self.dtype:
            torch.bmm(self.scaled, rows.transpose(1, 2), out=scores)
        else:
            scores.copy_(torch.bmm(self.scaled, rows.transpose(1, 2)))
        if self.fits:
            scores.exp_()
            if exclude is not None:
                exclude(scores)
            share = math.exp(-self.critic.bias)
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
            values, weights = softplus(scores, threshold=LINEAR), scores.sigmoid_()
            if exclude is not None:
                exclude(values)
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


class Criterion(torch.autograd.Function):
    """Loss of both sides; the gradient with respect to the anchors is computed in the forward, so only (2, B, D) is kept."""

    @staticmethod
    def forward(ctx, anchors: Tensor, positives: Tensor, critic: Critic, negatives: Callable[[NegativeSums], Tensor | None]) -> Tensor:
        """Return the (2,) losses.

        Args:
            anchors: (2, B, D), normalised: what is scored against bank 0, then against bank 1.
            positives: (2, B, D), each anchor's own row in that bank.
            critic: τ, b and the scores' range.
            negatives: Adds every chunk of negatives to a NegativeSums; returns (B,) what an anchor's sum is multiplied
                with, or None for 1.
        """
        with torch.autocast(anchors.device.type, enabled=False):
            gradient = ctx.needs_input_grad[0]
            sums = NegativeSums(anchors, critic, gradient)
            weight = negatives(sums)
            dtype = sums.dtype
            positives = positives.to(dtype)
            # softplus(b − s⁺/τ): large exactly where the positive's probability is small.
            short = critic.bias - (sums.scaled.to(dtype) * positives).sum(2)
            total = sums.sums if weight is None else sums.sums * weight
            loss = (softplus(short, threshold=LINEAR) + total).mean(1)
            if gradient:
                pull = sums.gradient if weight is None else sums.gradient * weight[:, None]
                pull = torch.addcmul(pull, positives, short.sigmoid_().unsqueeze(2), value=-1)
                ctx.save_for_backward(pull.mul_(1 / (critic.temperature * anchors.shape[1])).to(anchors.dtype))
            return loss

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        (pull,) = ctx.saved_tensors
        return pull * grad.to(pull.dtype)[:, None, None], None, None, None
