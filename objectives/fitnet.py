"""Hints (FitNets: Romero et al., ICLR 2015)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import Tensor, nn

from ..core.arguments import Positive
from ..core.objective import Objective, Options, Setting
from ..core.registry import OBJECTIVES
from ..core.representation import Representation
from .embeddings import embedding_dims
from .maps import Pairs, map_pairs, match_spatial_size


@OBJECTIVES.register("fitnet")
class FitNet(Objective):
    """Mean squared distance between the teacher's features and a linear map of the student's (eq. 3).

    On maps the regressor is a 1×1 convolution, and the student's map is first averaged, or the teacher's, to the
    smaller size. With ``standardize`` each of the teacher's channels has mean 0 and deviation 1 over the batch, so that
    no loud one drowns the rest.

    Args:
        student_dim, teacher_dim: Channels of what is compared.
        pair: (student's map, teacher's map) places; None compares the pooled embeddings.
        standardize: Whether the teacher's channels are brought to one scale.

    Shape:
        - maps (B, C, H, W), or embeddings (B, D), of either side - returns a scalar.

    Raises:
        UsageError: A side has no maps, or not those named.

    Example:
        >>> import torch
        >>> outputs = Representation(embedding=torch.randn(4, 8))
        >>> FitNet(8, 16)(outputs, Representation(embedding=torch.randn(4, 16)), {}).shape
        torch.Size([])
    """

    class Options(Options):  # type: ignore[misc, unused-ignore]  # of a cold mypy cache
        features: Literal["maps", "embedding"] = Field(
            "maps", description="what is compared: feature maps, or the pooled embeddings"
        )
        pair: tuple[int, int] | None = Field(
            None, description="[student's map, teacher's map] places, from 0 or from the end; default: the middle ones"
        )
        standardize: bool = Field(
            False, description="bring each of the teacher's channels to mean 0 and deviation 1 over the batch"
        )

    needs = frozenset({"maps", "embedding"})
    default_weight = 100.0

    takes_mixed = True

    def __init__(
        self,
        student_dim: Positive,
        teacher_dim: Positive,
        pair: tuple[int, int] | None = None,
        standardize: bool = False,
    ) -> None:
        super().__init__()
        self.pair, self.channels = pair, [(student_dim, teacher_dim)]
        self.least_samples = 2 if standardize and pair is None else 1
        self.needs = frozenset({"embedding"} if pair is None else {"maps"})
        self.regressor: nn.Module = (
            nn.Linear(student_dim, teacher_dim) if pair is None else nn.Conv2d(student_dim, teacher_dim, 1)
        )
        self.scale: nn.Module = nn.Identity()
        if standardize:
            self.scale = (nn.BatchNorm1d if pair is None else nn.BatchNorm2d)(
                teacher_dim, affine=False, track_running_stats=False
            )

    @classmethod
    def build(cls, options: Options, setting: Setting) -> FitNet:
        if options.features == "embedding":
            return cls(*embedding_dims("fitnet", setting), None, options.standardize)
        middle: Pairs = ((len(setting.student.map_shapes) // 2, len(setting.require_teacher().map_shapes) // 2),)
        (pair,) = map_pairs("fitnet", None if options.pair is None else (options.pair,), setting, default=middle)
        return cls(
            setting.student.map_shapes[pair[0]][0],
            setting.require_teacher().map_shapes[pair[1]][0],
            pair,
            options.standardize,
        )

    def per_sample(self, student: Representation, teacher: Representation, batch: dict[str, Tensor]) -> Tensor:
        if self.pair is None:
            ours, theirs = student.require_embedding(), teacher.require_embedding()
        else:
            ours, theirs = match_spatial_size(student.maps[self.pair[0]], teacher.maps[self.pair[1]])
        return (self.regressor(ours) - self.scale(theirs)).square().flatten(1).mean(1)
