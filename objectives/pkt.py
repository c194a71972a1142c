"""Probabilistic knowledge transfer (Passalis & Tefas, ECCV 2018)."""

from __future__ import annotations

from torch import Tensor

from ..core.crd.criterion import normalise
from ..core.objective import Objective, Options, Setting, check_pass
from ..core.registry import OBJECTIVES
from ..core.representation import Representation
from .embeddings import embedding_dims
from .precision import full_precision

# Keeps the logarithm finite where two samples point in opposite directions.
EPS = 1e-7


@OBJECTIVES.register("pkt")
class PKT(Objective):
    """Mean of p_teacher log(p_teacher / p_student), p_ij the probability that sample i takes j for its neighbour
    (Passalis & Tefas, ECCV 2018).

    p_ij is (1 + cosine)/2 of the pooled embeddings, each row scaled to sum 1. A sample is its own neighbour too, which
    the paper leaves out, and the divergence is averaged over the B² entries, where the paper adds up: the published
    weight of the CRD paper's table goes with that.

    Shape:
        - student.embedding: (B, D) - teacher.embedding: (B, D') - returns a scalar.

    Raises:
        UsageError: (``build``) A side has no embedding.

    Example:
        >>> import torch
        >>> student, teacher = (Representation(embedding=torch.randn(4, size)) for size in (8, 16))
        >>> PKT()(student, teacher, {}).shape
        torch.Size([])
    """

    needs = frozenset({"embedding"})
    default_weight = 30000.0

    takes_mixed = True
    least_samples = 2

    @classmethod
    def build(cls, options: Options, setting: Setting) -> PKT:
        check_pass("pkt", setting)
        embedding_dims("pkt", setting)
        return cls()

    def forward(self, student: Representation, teacher: Representation, batch: dict[str, Tensor]) -> Tensor:
        ours, theirs = neighbours(student.require_embedding()), neighbours(teacher.require_embedding())
        return (theirs * ((theirs + EPS) / (ours + EPS)).log()).mean()


def neighbours(features: Tensor) -> Tensor:
    """Probabilities (B, B), rows of sum 1, that one sample takes another for its neighbour, of rows (B, D); in float32
    at least.
    """
    with full_precision(features) as (features,):
        unit = normalise(features)[0]
        # Rounding may leave a cosine just below -1, and a probability must not be negative.
        similarity = ((unit @ unit.T + 1) / 2).clamp_min(0)
        return similarity / similarity.sum(1, keepdim=True)
