"""The softmax criterion between all pairs of a batch, with further rows as candidates of one side."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class ExtraRows:
    """Rows that a batch's samples meet beside the batch.

    Attributes:
        rows: (k, D), normalised.
        excluded: (B, k) bool: rows that are no candidates of a sample.
        count: K, as how many candidates the rows of a sample count together.
    """

    rows: Tensor
    excluded: Tensor
    count: int


def softmax_pair_loss(
    ours: Tensor,
    theirs: Tensor,
    positive: tuple[Tensor, Tensor],
    excluded: Tensor,
    temperature: float,
    extra: ExtraRows | None = None,
) -> Tensor:
    """−log of a positive's share among the candidates of its anchor (InfoNCE: van den Oord et al., 2018, eq. 4), both
    ways; gradients reach all three.

    With s the scores over τ, j the pairs of a row of scores that are not excluded, r the n eligible stored rows:

        ours → theirs    −s⁺ + log( e^{s⁺} + Σ_j e^{s_j} + K/n · Σ_r e^{s_r} )
        theirs → ours    −s⁺ + log( e^{s⁺} + Σ_j e^{s_j} )

    Each is averaged over the positive pairs, and the loss is the mean of both. Where there are no rows yet, n = 0,
    their sum is left out. Memory and time go with N · (N' + k).

    Args:
        ours: (N, D), normalised, sample by sample.
        theirs: (N', D), normalised.
        positive: Place in ours and in theirs of each positive pair, (P,) int64 each.
        excluded: (N, N') bool: pairs that are no negatives; the positives are among them.
        temperature: τ.
        extra: Rows that ours meet too, N/B of ours for each sample.

    Shape:
        - returns a scalar, in float32 at least.
    """
    # Under autocast the product would lose the digits that 1/τ magnifies.
    with torch.autocast(ours.device.type, enabled=False):
        ours, theirs = (side.to(torch.promote_types(side.dtype, torch.float32)) for side in (ours, theirs))
        scaled = ours / temperature
        own = (scaled[positive[0]] * theirs[positive[1]]).sum(1)
        # Not −inf: of an anchor without negatives the gradient would be 0 · NaN.
        least = torch.finfo(scaled.dtype).min
        scores = (scaled @ theirs.T).masked_fill(excluded, least)
        to_theirs, to_ours = [own, scores.logsumexp(1)[positive[0]]], [own, scores.logsumexp(0)[positive[1]]]
        if extra is not None:
            batch, size = extra.excluded.shape
            far = (
                (scaled @ extra.rows.to(scaled.dtype).T)
                .view(batch, -1, size)
                .masked_fill(extra.excluded[:, None], least)
                .logsumexp(2)
            )
            eligible = (size - extra.excluded.sum(1, keepdim=True)).clamp_min(1)
            to_theirs.append((far + (extra.count / eligible.to(far.dtype)).log()).flatten()[positive[0]])
        return (torch.stack((torch.stack(to_theirs).logsumexp(0), torch.stack(to_ours).logsumexp(0))) - own).mean()
