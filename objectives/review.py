"""Distilling knowledge via knowledge review (Chen et al., CVPR 2021)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from operator import add

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from ..core.arguments import Positive
from ..core.errors import UsageError
from ..core.objective import Objective, Options, Setting
from ..core.registry import OBJECTIVES
from ..core.representation import Representation
from .embeddings import embedding_dims
from .maps import Pairs, last_pairs, map_pairs, resize_map

MOST_MID_DIM = 512
POOLED_SIZES = (4, 2, 1)


@OBJECTIVES.register("review")
class Review(Objective):
    """Each of the teacher's maps is met by the student's map of that level together with all deeper ones (ReviewKD:
    Chen et al., CVPR 2021).

    From the deepest level, the pooled embedding as a 1×1 map, to the shallowest: an :class:`AttentionFusion` joins the
    student's map with what came from below, and its answer is compared with the teacher's by
    :func:`hierarchical_context`; the levels' losses are added. The published weight differs from pair to pair of
    networks (0.6 for resnet20, 5 for resnet8x4): the default of 1 is only where to start from.

    Args:
        student_dims, teacher_dims: Channels of each level, the maps of ``pairs`` in their order, then the embedding.
        pairs: (student's map, teacher's map) places, from the shallowest to the deepest.

    Shape:
        - student.maps, teacher.maps: (B, C_i, H_i, W_i), any channels and sizes - embeddings: (B, D) of either side -
          returns a scalar.

    Raises:
        UsageError: (``build``) a side has no embedding, no maps, or not those named; in training, a batch of one
            sample.

    Example:
        >>> student, teacher = (
        ...     Representation(maps=(torch.randn(2, d, 8, 8),), embedding=torch.randn(2, 2 * d)) for d in (4, 6)
        ... )
        >>> Review((4, 8), (6, 12), pairs=((0, 0),))(student, teacher, {}).shape
        torch.Size([])
    """

    class Options(Options):  # type: ignore[misc, unused-ignore]  # of a cold mypy cache
        pairs: Pairs | None = Field(
            None,
            description="[student's map, teacher's map] places, shallow to deep, from 0 or from the end; "
            "default: the last three of each",
        )

    needs = frozenset({"maps", "embedding"})
    default_weight = 1.0
    # 20 of the paper's 240 epochs.
    default_warmup = 1 / 12

    takes_mixed = True

    def __init__(self, student_dims: Sequence[Positive], teacher_dims: Sequence[Positive], pairs: Pairs) -> None:
        super().__init__()
        if not len(student_dims) == len(teacher_dims) == len(pairs) + 1:
            raise UsageError(
                f"student_dims has {len(student_dims)} numbers, teacher_dims {len(teacher_dims)}, pairs {len(pairs)}: "
                "give the channels of each pair's maps, then the length of the embedding"
            )
        self.pairs, self.channels = pairs, [*zip(student_dims, teacher_dims, strict=True)]
        mid_dim = min(MOST_MID_DIM, student_dims[-1])
        deepest = len(pairs)
        self.fusions = nn.ModuleList(
            AttentionFusion(ours, mid_dim, theirs, with_deeper=level < deepest)
            for level, (ours, theirs) in enumerate(zip(student_dims, teacher_dims, strict=True))
        )

    @classmethod
    def build(cls, options: Options, setting: Setting) -> Review:
        pairs = map_pairs("review", options.pairs, setting, default=last_pairs(setting, 3))
        embeddings = embedding_dims("review", setting)
        ours = [setting.student.map_shapes[place][0] for place, _ in pairs]
        theirs = [setting.require_teacher().map_shapes[place][0] for _, place in pairs]
        return cls([*ours, embeddings[0]], [*theirs, embeddings[1]], pairs)

    def per_sample(self, student: Representation, teacher: Representation, batch: dict[str, Tensor]) -> Tensor:
        """The loss of each sample (B,); in training BatchNorm mixes the samples, so one alone would have another
        loss.
        """
        if self.training and len(student.require_embedding()) < 2:
            raise UsageError(
                "objective review normalises over the batch, and this one has one sample: use another train.batch_size"
            )
        ours = [student.maps[pair[0]] for pair in self.pairs] + [student.require_embedding()[:, :, None, None]]
        theirs = [teacher.maps[pair[1]] for pair in self.pairs] + [teacher.require_embedding()[:, :, None, None]]
        losses, deeper = [], None
        for fusion, features, target in zip(reversed(self.fusions), reversed(ours), reversed(theirs), strict=True):
            answer, deeper = fusion(features, deeper, target.shape[2:])
            losses.append(hierarchical_context(answer, target))
        return torch.stack(losses).sum(0)


class AttentionFusion(nn.Module):
    """Joins a student's map with what came from the deeper levels (ABF of ReviewKD).

    A 1×1 convolution brings the map to the channels that all levels share; two attention maps, from both inputs, say at
    each position how much of either to take; a 3×3 convolution answers in the teacher's channels.

    Args:
        student_dim: C, channels of the student's map.
        mid_dim: M, channels that all levels share.
        teacher_dim: C', channels of the teacher's map.
        with_deeper: Whether there is a deeper level.

    Shape:
        - features: (B, C, H, W) - deeper: (B, M, h, w), or None without a deeper level - size: (H', W') of the
          teacher's map.
        - returns the answer (B, C', H', W'), and (B, M, H', W') for the next level.

    Example:
        >>> fusion = AttentionFusion(4, 8, 6, with_deeper=True)
        >>> answer, deeper = fusion(torch.randn(2, 4, 8, 8), torch.randn(2, 8, 4, 4), (8, 8))
        >>> answer.shape, deeper.shape
        (torch.Size([2, 6, 8, 8]), torch.Size([2, 8, 8, 8]))
    """

    def __init__(self, student_dim: int, mid_dim: int, teacher_dim: int, *, with_deeper: bool) -> None:
        super().__init__()
        self.enter = nn.Sequential(nn.Conv2d(student_dim, mid_dim, 1, bias=False), nn.BatchNorm2d(mid_dim))
        self.attention = nn.Conv2d(2 * mid_dim, 2, 1) if with_deeper else None
        self.leave = nn.Sequential(
            nn.Conv2d(mid_dim, teacher_dim, 3, padding=1, bias=False), nn.BatchNorm2d(teacher_dim)
        )

    def forward(self, features: Tensor, deeper: Tensor | None, size: Sequence[int]) -> tuple[Tensor, Tensor]:
        fused = self.enter(features)
        if self.attention is not None and deeper is not None:
            deeper = nearest(deeper, fused.shape[2:])
            share = self.attention(torch.cat((fused, deeper), 1)).sigmoid()
            fused = fused * share[:, :1] + deeper * share[:, 1:]
        fused = nearest(fused, size)
        return self.leave(fused), fused


def nearest(features: Tensor, size: Sequence[int]) -> Tensor:
    """A map (B, C, H, W) at another height and width, each cell that of its nearest neighbour."""
    return (
        features if tuple(features.shape[2:]) == tuple(size) else F.interpolate(features, tuple(size), mode="nearest")
    )


def hierarchical_context(ours: Tensor, theirs: Tensor) -> Tensor:
    """HCL of ReviewKD: the mean squared difference of two maps at full size and averaged to 4×4, 2×2 and 1×1, weights
    1, ½, ¼, ⅛ over their sum.

    Of the averages only those that are smaller than the map count, with the first of these weights.

    Args:
        ours, theirs: (B, C, H, W).

    Returns:
        (B,), in float32 at least.

    Example:
        >>> hierarchical_context(torch.ones(2, 3, 8, 8), torch.zeros(2, 3, 8, 8))
        tensor([1., 1.])
    """
    # Averaging is linear: the difference may as well be averaged.
    difference = ours.to(torch.promote_types(ours.dtype, torch.float32)) - theirs
    height, width = difference.shape[2:]
    sizes = [(min(size, height), min(size, width)) for size in POOLED_SIZES]
    grids = [difference] + [resize_map(difference, size) for size in sizes if size != (height, width)]
    weights = [0.5**level for level in range(len(grids))]
    return reduce(
        add, (weight * grid.square().flatten(1).mean(1) for weight, grid in zip(weights, grids, strict=True))
    ) / sum(weights)
