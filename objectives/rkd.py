"""Relational knowledge distillation (Park et al., CVPR 2019)."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from ..core.crd.criterion import normalise
from ..core.loss_inputs import check_factors
from ..core.objective import Objective, Options, Setting, check_pass
from ..core.registry import OBJECTIVES
from ..core.representation import Representation
from .embeddings import embedding_dims
from .precision import full_precision


@OBJECTIVES.register("rkd")
class RKD(Objective):
    """Distances between samples, in units of their mean, and angles at every triple, by the Huber loss between the
    sides (Park et al., CVPR 2019).

    Means are taken over all B² pairs and B³ triples, where the paper adds up those of different samples; distance and
    cosine of a sample with itself are 0 on both sides. Duplicates in a batch (closer than 1e-6) have distance 0, no
    direction and no gradient towards each other.

    Args:
        distance_factor: Weight of the distances.
        angle_factor: Weight of the angles.

    Shape:
        - student.embedding: (B, D) - teacher.embedding: (B, D') - returns a scalar.

    Raises:
        UsageError: Both factors are 0; (``build``) A side has no embedding.

    Example:
        >>> student, teacher = (Representation(embedding=torch.randn(4, size)) for size in (8, 16))
        >>> RKD()(student, teacher, {}).shape
        torch.Size([])
    """

    class Options(Options):  # type: ignore[misc, unused-ignore]  # of a cold mypy cache
        distance_factor: float = Field(25.0, ge=0, description="weight of the distances between pairs")
        angle_factor: float = Field(50.0, ge=0, description="weight of the angles of triples")

    needs = frozenset({"embedding"})
    default_weight = 1.0

    takes_mixed = True
    least_samples = 3

    def __init__(self, distance_factor: float = 25.0, angle_factor: float = 50.0) -> None:
        super().__init__()
        check_factors("RKD", distance_factor=distance_factor, angle_factor=angle_factor)
        self.distance_factor, self.angle_factor = distance_factor, angle_factor

    @classmethod
    def build(cls, options: Options, setting: Setting) -> RKD:
        check_pass("rkd", setting, cls.least_samples)
        embedding_dims("rkd", setting)
        return cls(**dict(options))

    def forward(self, student: Representation, teacher: Representation, batch: dict[str, Tensor]) -> Tensor:
        (our_distances, our_angles), (their_distances, their_angles) = (
            relations(side.require_embedding()) for side in (student, teacher)
        )
        return self.distance_factor * F.smooth_l1_loss(
            our_distances, their_distances
        ) + self.angle_factor * F.smooth_l1_loss(our_angles, their_angles)


def relations(features: Tensor) -> tuple[Tensor, Tensor]:
    """Distances (B, B) in units of the mean of those above 0, and cosines (B, B, B) of the angle at i between j and k,
    of rows (B, D); in float32 at least.
    """
    with full_precision(features) as (features,):
        # (B, B, D), from i to j; the norm is infinite where there is no direction.
        directions, norm = normalise(features[None] - features[:, None])
        distances = torch.where(norm.isinf(), 0.0, norm).squeeze(2)
        mean = distances.sum() / (distances > 0).sum().clamp_min(1)
        # If all samples coincide there is no unit to measure in, and the distances are 0 in any.
        return distances / torch.where(mean > 0, mean, 1.0), directions @ directions.transpose(1, 2)
