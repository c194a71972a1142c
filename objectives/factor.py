"""Factor transfer (Kim et al., NeurIPS 2018)."""

from __future__ import annotations

from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from ..core.arguments import Positive
from ..core.crd.criterion import normalise
from ..core.objective import Objective, Options, Setting
from ..core.registry import OBJECTIVES
from ..core.representation import Representation
from .maps import map_pairs, match_spatial_size
from .precision import full_precision


@OBJECTIVES.register("factor")
class Factor(Objective):
    """Mean absolute difference of the teacher's and the student's factors, each of length 1 (eq. 2–3).

    In the initial stage a paraphraser, a convolutional autoencoder of the teacher's map, learns to reproduce it (mean
    squared error, eq. 1); its code is the teacher's factor. In the training proper it is frozen, and a translator makes
    the student's factor of its map.

    Args:
        student_dim, teacher_dim: Channels of the maps.
        rate: k, channels of a factor as a share of the teacher's.
        pair: (student's map, teacher's map) places.

    Shape:
        - student.maps, teacher.maps: (B, C, H, W) - returns a scalar.

    Raises:
        UsageError: A side has no maps, or not those named.

    Example:
        >>> import torch
        >>> ours, theirs = (Representation(maps=(torch.rand(2, dim, 4, 4),)) for dim in (3, 8))
        >>> factor = Factor(3, 8, pair=(0, 0))
        >>> factor.initial(ours, theirs, {}).shape, factor(ours, theirs, {}).shape
        (torch.Size([]), torch.Size([]))
    """

    class Options(Options):  # type: ignore[misc, unused-ignore]  # of a cold mypy cache
        rate: float = Field(0.5, gt=0, description="k, channels of a factor as a share of the teacher's")
        pair: tuple[int, int] | None = Field(
            None,
            description="[student's map, teacher's map] places, from 0 or from the end; default: the last of each",
        )

    needs = frozenset({"maps"})
    default_weight = 200.0
    initial_epochs = 30

    takes_mixed = True

    def __init__(
        self, student_dim: Positive, teacher_dim: Positive, rate: float = 0.5, pair: tuple[int, int] = (-1, -1)
    ) -> None:
        super().__init__()
        self.pair, self.channels = pair, [(student_dim, teacher_dim)]
        dim = max(1, round(rate * teacher_dim))
        self.paraphraser = _convolutions(teacher_dim, teacher_dim, dim, dim)
        self.decoder = _convolutions(dim, dim, teacher_dim, teacher_dim)
        self.translator = _convolutions(student_dim, student_dim, dim, dim)

    @classmethod
    def build(cls, options: Options, setting: Setting) -> Factor:
        (pair,) = map_pairs("factor", None if options.pair is None else (options.pair,), setting, default=((-1, -1),))
        return cls(
            setting.student.map_shapes[pair[0]][0], setting.require_teacher().map_shapes[pair[1]][0], options.rate, pair
        )

    def student_needs(self, stage: str) -> frozenset[str]:
        return frozenset() if stage == "initial" else self.needs

    def enter(self, stage: str) -> None:
        for module in (self.paraphraser, self.decoder):
            module.requires_grad_(stage == "initial")
        self.translator.requires_grad_(stage == "main")

    def initial(self, student: Representation, teacher: Representation, batch: dict[str, Tensor]) -> Tensor:
        features = teacher.maps[self.pair[1]].detach()
        return F.mse_loss(self.decoder(self.paraphraser(features)), features)

    def per_sample(self, student: Representation, teacher: Representation, batch: dict[str, Tensor]) -> Tensor:
        ours, theirs = match_spatial_size(
            self.translator(student.maps[self.pair[0]]), self.paraphraser(teacher.maps[self.pair[1]])
        )
        return (_unit(ours) - _unit(theirs)).abs().mean(1)


def _convolutions(*dims: int) -> nn.Sequential:
    """3×3 convolutions from channels to channels, a leaky ReLU after each."""
    layers = [
        [nn.Conv2d(in_channels, out_channels, 3, padding=1), nn.LeakyReLU(0.1)]
        for in_channels, out_channels in zip(dims, dims[1:], strict=False)
    ]
    return nn.Sequential(*sum(layers, []))


def _unit(factor: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, C·H·W) of length 1, in float32 at least."""
    with full_precision(factor.flatten(1)) as (rows,):
        return normalise(rows)[0]
