"""Positions of a frozen teacher's maps as stored rows, and one scale for them and for a batch's positions."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..core.crd.teacher_map import finite_samples
from ..core.crd.teacher_rows import TeacherRows
from ..core.errors import UsageError
from ..core.hashing import hash64

# That of BatchNorm.
_EPS = 1e-5


class PositionRows(TeacherRows):
    """A few positions of each sample's map: row ``sample · row_positions + k`` is the k-th.

    Which positions is a function of (seed, sample), so rows that are filled at once are those that would have come one
    after another. Memory: M · row_positions · C numbers of 4 bytes, and as much in a checkpoint where they were not
    filled at once.

    Args:
        num_samples: M.
        row_positions: Positions of a sample that are stored; no more than its map has.
        dim: C, channels.
        seed: Of the positions, of the rows' order and of every draw.

    Example:
        >>> rows = PositionRows(10, 2, 4)
        >>> rows.store(*rows.choose(torch.tensor([7, 3]), torch.ones(2, 4, 3, 3)))
        >>> places, row, drawn = rows.draw(5)
        >>> rows.sample_of(row[drawn]).unique().tolist()
        [3, 7]
    """

    def __init__(self, num_samples: int, row_positions: int, dim: int, *, seed: int = 0) -> None:
        super().__init__(num_samples * row_positions, dim, seed=seed)
        self.row_positions = row_positions

    def choose(self, index: Tensor, maps: Tensor) -> tuple[Tensor, Tensor]:
        """Of samples (B,) and their maps (B, C, H, W), the numbers (B · row_positions,) and values (B · row_positions,
        C) of their rows.
        """
        positions = maps.flatten(2).transpose(1, 2)
        index = index.to(positions.device, torch.int64)[:, None]
        # Each position of a sample draws a number, and those with the smallest are kept.
        numbers = hash64(
            index * positions.shape[1] + torch.arange(positions.shape[1], device=index.device), self.seed, 6
        )
        chosen = numbers.argsort(1)[:, : self.row_positions]
        values = positions.gather(1, chosen[:, :, None].expand(-1, -1, positions.shape[2]))
        return (
            index * self.row_positions + torch.arange(self.row_positions, device=index.device)
        ).flatten(), values.flatten(0, 1)

    def sample_of(self, row: Tensor) -> Tensor:
        """The sample of each row."""
        return row // self.row_positions

    def hold(self, samples: int, passes: int = 1) -> None:
        super().hold(samples * self.row_positions, passes)


class ChannelScale(nn.Module):
    """(x − mean) / deviation of each channel, measured once: (n, C) -> (n, C). Unmeasured, it changes nothing."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("deviation", torch.ones(dim))

    @torch.no_grad()
    def measure(self, maps: Tensor) -> None:
        """Take mean and deviation over all positions of those of the maps (n, C, H, W) that are finite numbers."""
        maps = finite_samples(maps)
        variance, mean = torch.var_mean(
            maps.to(torch.promote_types(maps.dtype, self.mean.dtype)), (0, 2, 3), correction=0
        )
        self.mean.copy_(mean)
        self.deviation.copy_((variance + _EPS).sqrt())

    def forward(self, positions: Tensor) -> Tensor:
        return (positions - self.mean) / self.deviation


def check_rows(criterion: str, pairing: str, grids: Any, num_samples: int | None) -> None:
    """Refuse stored rows where they cannot be used."""
    if criterion != "softmax":
        raise UsageError("num_rows of dense_crd are candidates of the softmax: take criterion=softmax, or num_rows=0")
    if pairing == "local_global":
        raise UsageError(
            "num_rows of dense_crd are met by positions, which pairing=local_global does not compare: take "
            "local_local or both, or num_rows=0"
        )
    if grids is None or num_samples is None:
        raise UsageError(
            "num_rows of dense_crd needs grids and num_samples: one height and width for rows and batches, and "
            "how many samples there are"
        )
