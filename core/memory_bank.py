"""The memory bank: one row per training sample for each side, in one place."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, distributed, nn

from .errors import UsageError


class MemoryBank(nn.Module):
    """A bank of M rows for each side, drawn from U(−s, s) with s = 1/√(D/3), so that a row's norm is about 1.

    Inside, rows may lie in any order (negatives that are neighbours cost no gather); outside it is always
    sample order: ``student``, ``teacher`` and the state_dict, which therefore moves between orders.

    Args:
        num_samples: M, rows of each bank.
        dim: D, length of a row.
        place: (M,) int64, where each sample's row lies inside; None keeps sample order.
        seed: Of the initial rows, which are the same whatever the order inside.
        sides: Their names, S of them; each is an attribute and a key of the state_dict.

    Attributes:
        rows: (S, M, D): the student's bank, then the teacher's, in inner order.
        radius: An upper bound of the rows' norms, kept by every update; it bounds the scores.
    """

    def __init__(self, num_samples: int, dim: int, *, place: Tensor | None = None, seed: int = 0, sides: Sequence[str] = ("student", "teacher")) -> None:
        super().__init__()
        self.sides = tuple(sides)
        generator = torch.Generator().manual_seed(seed)
        limit = 1 / math.sqrt(dim / 3)
        rows = torch.empty(len(self.sides), num_samples, dim)
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
        return self.side("student")

    @property
    def teacher(self) -> Tensor:
        """(M, D) copy of the teacher's rows, in sample order."""
        return self.side("teacher")

    def side(self, name: str) -> Tensor:
        """(M, D) copy of one side's rows, in sample order."""
        rows = self.rows[self.sides.index(name)].detach()
        return rows.clone() if self.place is None else rows[self.place]

    def places(self, index: Tensor) -> Tensor:
        """Where samples' rows lie inside."""
        return index if self.place is None else self.place[index]

    @torch.no_grad()
    def update(self, place: Tensor, embeddings: Tensor, momentum: float) -> None:
        """Rows ← normalise(momentum · row + (1 − momentum) · embedding).

        Of samples that appear twice the last one counts, on every device: all their positions write the same value.

        Args:
            place: (B,) int64 places of the rows, inner order.
            embeddings: (S, B, D), the student's, then the teacher's; normalised.
            momentum: Share of its old value that a row keeps.
        """
        ordered, origin = torch.sort(place, stable=True)
        last = origin[torch.searchsorted(ordered, place, right=True) - 1]
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
        for name in self.sides:
            destination[prefix + name] = self.side(name)

    def _load_from_state_dict(self, state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs) -> None:
        expected = tuple(self.rows.shape[1:])
        for side, name in enumerate(self.sides):
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
            own = {prefix + name for name in self.sides}
            unexpected_keys.extend(key for key in state_dict if key.startswith(prefix) and key not in own)
        self._bound_norms()


class Assembler:
    """Collects what every rank writes, so that banks stay bit-identical: one all-gather a step, in rank order.

    Shares of the last, short batch may differ in size, so the message has a fixed capacity, agreed upon once (and again
    if a batch outgrows it, which happens on all ranks together when the first batch was a short one).
    """

    def __init__(self) -> None:
        self.capacity = 0

    def __call__(self, index: Tensor, embeddings: Tensor) -> tuple[Tensor, Tensor]:
        """Return (index, embeddings) of all ranks: (B,) and (S, B, D) in, (n,) and (S, n, D) out, in rank order.

        A short share is filled up with copies of its first sample, in front: what is written stays the same.
        """
        if not (distributed.is_available() and distributed.is_initialized()) or distributed.get_world_size() == 1:
            return index, embeddings
        if len(index) > self.capacity:
            size = torch.tensor([len(index)], device=index.device)
            distributed.all_reduce(size, op=distributed.ReduceOp.MAX)
            self.capacity = int(size)
        fill = self.capacity - len(index)
        index = torch.cat((index[:1].expand(fill), index)).to(torch.int64)
        embeddings = torch.cat((embeddings[:, :1].expand(-1, fill, -1), embeddings), 1)
        # As bytes: row numbers beyond 2^24 would not survive as float32.
        sides = embeddings.contiguous().view(torch.uint8)
        packed = torch.cat((*sides, index[:, None].view(torch.uint8)), 1)
        everyone = packed.new_empty(distributed.get_world_size() * len(packed), packed.shape[1])
        distributed.all_gather_into_tensor(everyone, packed)
        *sides, index = everyone.split((*(side.shape[1] for side in sides), 8), 1)
        return index.contiguous().view(torch.int64)[:, 0], torch.stack(sides).view(embeddings.dtype)


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
