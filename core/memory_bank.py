"""The memory bank: one row per training sample for each side, in one place."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from .errors import UsageError


class MemoryBank(nn.Module):
    """Two banks of M rows, drawn from U(−s, s) with s = 1/√(D/3), so that a row's norm is about 1.

    Inside, rows may lie in any order (negatives that are neighbours cost no gather); outside it is always
    sample order: ``student``, ``teacher`` and the state_dict, which therefore moves between orders.

    Args:
        num_samples: M, rows of each bank.
        dim: D, length of a row.
        place: (M,) int64, where each sample's row lies inside; None keeps sample order.
        seed: Of the initial rows, which are the same whatever the order inside.

    Attributes:
        rows: (2, M, D): the student's bank, then the teacher's, in inner order.
        radius: An upper bound of the rows' norms, kept by every update; it bounds the scores.
    """

    def __init__(self, num_samples: int, dim: int, *, place: Tensor | None = None, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        limit = 1 / math.sqrt(dim / 3)
        rows = torch.empty(2, num_samples, dim)
        for side in rows:
            drawn = torch.empty(num_samples, dim).uniform_(-limit, limit, generator=generator)
            if place is None:
                side.copy_(drawn)
            else:
                side[place] = drawn
        self.register_buffer("rows", rows, persistent=False)
        self.register_buffer("place", place, persistent=False)
        self.radius = 1.0
        self._bound_norms()

    @property
    def student(self) -> Tensor:
        """(M, D) copy of the student's rows, in sample order."""
        return self._in_sample_order(0)

    @property
    def teacher(self) -> Tensor:
        """(M, D) copy of the teacher's rows, in sample order."""
        return self._in_sample_order(1)

    def _in_sample_order(self, side: int) -> Tensor:
        rows = self.rows[side].detach()
        return rows.clone() if self.place is None else rows[self.place]

    @torch.no_grad()
    def update(self, place: Tensor, embeddings: Tensor, momentum: float) -> None:
        """Rows ← normalise(momentum · row + (1 − momentum) · embedding).

        Of samples that appear twice the last one counts, on every device: all their positions write the same value.

        Args:
            place: (B,) int64 places of the rows, inner order.
            embeddings: (2, B, D), the student's, then the teacher's; normalised.
            momentum: Share of its old value that a row keeps.
        """
        batch = len(place)
        same = place[:, None] == place[None, :]
        last = (same * torch.arange(1, batch + 1, device=place.device)).argmax(1)
        old = self.rows.index_select(1, place)
        new = torch.lerp(embeddings.index_select(1, last).to(old.dtype), old, momentum)
        norm = torch.linalg.vector_norm(new, dim=2, keepdim=True)
        # Opposite vectors cancel out: such a row stays as it was instead of turning into NaN.
        new = torch.where(norm > 1e-6, new / norm.clamp_min(1e-6), old)
        self.rows.index_copy_(1, place, new)

    def _bound_norms(self) -> None:
        widest = torch.linalg.vector_norm(self.rows, dim=2, dtype=torch.promote_types(self.rows.dtype, torch.float32)).max()
        self.radius = max(1.0, float(widest)) * 1.001

    def _save_to_state_dict(self, destination: dict, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[prefix + "student"] = self.student
        destination[prefix + "teacher"] = self.teacher

    def _load_from_state_dict(self, state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs) -> None:
        expected = tuple(self.rows.shape[1:])
        for side, name in enumerate(("student", "teacher")):
            key = prefix + name
            if key not in state_dict:
                missing_keys.append(key)
                continue
            given = state_dict[key]
            if tuple(given.shape) != expected:
                error_msgs.append(f"{key} has shape {tuple(given.shape)}, this bank {expected}")
                continue
            with torch.no_grad():
                given = given.to(self.rows)
                if self.place is None:
                    self.rows[side].copy_(given)
                else:
                    self.rows[side].index_copy_(0, self.place, given)
        if strict:
            own = {prefix + "student", prefix + "teacher"}
            unexpected_keys.extend(key for key in state_dict if key.startswith(prefix) and key not in own)
        self._bound_norms()


def check_index(index: Tensor, num_samples: int, what: str) -> None:
    """Refuse row numbers outside [0, M): at once on a CPU, by a device-side assertion (no synchronisation) elsewhere.

    Raises:
        UsageError: On a CPU, or for a tensor that holds no integers.
    """
    if index.dtype not in (torch.int64, torch.int32):
        raise UsageError(f"{what} must be int64 row numbers, not {index.dtype}: pass the samples' positions in the training set")
    if index.device.type == "cpu":
        low, high = (int(value) for value in torch.aminmax(index))
        if low < 0 or high >= num_samples:
            outside = low if low < 0 else high
            raise UsageError(f"{what} {outside} is out of range: the bank has rows 0 … {num_samples - 1}, one per training sample")
    else:
        torch._assert_async(((index >= 0) & (index < num_samples)).all(), f"{what} is out of range of the bank's {num_samples} rows")
