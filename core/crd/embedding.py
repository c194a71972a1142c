"""The map of an embedding to a row: linear, then normalised."""

from __future__ import annotations

from torch import Tensor, nn

from ..loss_inputs import usable
from .criterion import normalise


class Embedding(nn.Linear):
    """A linear map and L2 normalisation: (B, in) -> (B, D), in float32 at least; zero stays zero, without a NaN."""

    def forward(self, features: Tensor) -> Tensor:
        return normalise(self.project(features))[0]

    def project(self, features: Tensor) -> Tensor:
        """The linear map alone."""
        return super().forward(usable(features).to(self.weight.dtype))
