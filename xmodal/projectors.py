"""The student's maps to its embedding of positions."""

from __future__ import annotations

from torch import Tensor, nn

from ..core.crd.criterion import normalise
from ..core.crd.embedding import Embedding


class MLPEmbedding(nn.Sequential):
    """Linear, BatchNorm over the batch, ReLU, Linear and L2 normalisation: (n, dim) -> (n, D); as a projector that is
    not exported it regresses better than a linear one.
    """

    def __init__(self, dim: int, embed_dim: int) -> None:
        hidden = 2 * embed_dim
        # Without running statistics: there are none that ranks could disagree on.
        norm = nn.BatchNorm1d(hidden, track_running_stats=False)
        super().__init__(nn.Linear(dim, hidden, bias=False), norm, nn.ReLU(), nn.Linear(hidden, embed_dim))

    def forward(self, features: Tensor) -> Tensor:
        return normalise(super().forward(features))[0]


PROJECTORS: dict[str, type[nn.Module]] = {"linear": Embedding, "mlp": MLPEmbedding}
