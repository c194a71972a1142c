"""The memory bank: one row per training sample for each side, on one rank or sharded over all."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal

import torch
from torch import Tensor

from ..distributed import all_gather
from ..errors import UsageError
from .criterion import normalise
from .sharding import OwnTensors, Shard

# Rows that are drawn or copied at a time, so that no copy of a bank is made on the way.
_BLOCK = 2**16


class MemoryBank(OwnTensors):
    """A bank of M rows for each side, drawn from U(−s, s) with s = 1/√(D/3), so that a row's norm is about 1.

    Inside, rows may lie in any order (negatives that are neighbours cost no gather) and on several ranks; outside it is
    always sample order: ``student``, ``teacher`` and the state_dict, which therefore moves between orders and numbers
    of ranks.

    Args:
        num_samples: M, rows of each bank.
        dim: D, length of a row.
        place: (M,) int64, where each sample's row lies inside; None keeps sample order.
        seed: Of the initial rows, which are the same whatever the order inside.
        sides: Their names, S of them; each is an attribute and a key of the state_dict.
        shard: Which of the rows this rank has.
        dtype: Of the rows. Updates are computed in float32 at least.
        on_host: Whether rows stay in the host's memory, pinned where there is a GPU, and are copied over as they are
            scored.
        count_visits: Whether it counts how often each row was updated, as ``update(…, "visits")`` needs; the state_dict
            then has a key ``visits``.

    Attributes:
        rows: (S, m, D): the student's bank, then the teacher's, in inner order; m is M, or the rows of this process.
        radius: An upper bound of the rows' norms, kept by every update; it bounds the scores.
    """

    memory: Tensor
    place: Tensor | None
    count: Tensor | None

    def __init__(
        self,
        num_samples: int,
        dim: int,
        *,
        place: Tensor | None = None,
        seed: int = 0,
        sides: Sequence[str] = ("student", "teacher"),
        shard: Shard | None = None,
        dtype: torch.dtype = torch.float32,
        on_host: bool = False,
        count_visits: bool = False,
    ) -> None:
        super().__init__()
        self.sides, self.num_samples, self.shard = tuple(sides), num_samples, shard or Shard()
        count_here = self.shard.below(num_samples)
        # One row more, for what is written to samples that another process holds: nothing need be asked of the device
        # to leave them out.
        pinned = on_host and torch.cuda.is_available()
        memory = torch.empty(len(self.sides), count_here + 1, dim, dtype=dtype, pin_memory=pinned)
        memory[:, count_here:] = 0
        count = torch.zeros(count_here + 1, dtype=torch.int32, pin_memory=pinned) if count_visits else None
        for name, values in (("memory", memory), ("count", count)):
            if on_host:
                setattr(self, name, values)  # it does not move with the module
            else:
                self.own_tensor(name, values)
        self.register_buffer("place", place, persistent=False)
        generator = torch.Generator().manual_seed(seed)
        limit = 1 / math.sqrt(dim / 3)
        self.radius, self.started = 0.0, False
        for side in self.rows:
            for start, stop in _blocks(num_samples):
                drawn = torch.empty(stop - start, dim).uniform_(-limit, limit, generator=generator)
                self._put(side, torch.arange(start, stop), drawn)

    @property
    def rows(self) -> Tensor:
        return self.memory[:, :-1]

    @property
    def student(self) -> Tensor:
        """(M, D) copy of the student's rows, in sample order."""
        return self.side("student")

    @property
    def teacher(self) -> Tensor:
        """(M, D) copy of the teacher's rows, in sample order."""
        return self.side("teacher")

    def side(self, name: str) -> Tensor:
        """(M, D) copy of one side's rows, in sample order; with a sharded bank every rank must call it."""
        return self._whole(self.rows[self.sides.index(name)].detach())

    @property
    def visits(self) -> Tensor | None:
        """(M,) int32 copy of the number of times each sample's rows were updated, in sample order; None where they are
        not counted.
        """
        return None if self.count is None else self._whole(self.count[:-1])

    def _whole(self, rows: Tensor) -> Tensor:
        """A copy of all rows of (m, …) that are kept in inner order on all processes, in sample order: (M, …)."""
        if self.shard.world == 1:
            return rows.clone() if self.place is None else rows[self.place.to(rows.device)]
        whole = torch.empty(self.num_samples, *rows.shape[1:], dtype=rows.dtype)
        for start, stop in _blocks(self.num_samples):
            low, high = self.shard.span(start, stop)
            # Shares of a block differ by a row at most.
            share = rows.new_zeros(-(-(stop - start) // self.shard.world), *rows.shape[1:])
            share[: high - low] = rows[low:high]
            parts = all_gather(share).view(self.shard.world, *share.shape)
            for rank, part in enumerate(parts):
                other = Shard(rank, self.shard.world)
                low, high = other.span(start, stop)
                whole[other.places(low, high, whole.device)] = part[: high - low].to(whole.device)
        return whole if self.place is None else whole[self.place.to(whole.device)]

    def places(self, index: Tensor) -> Tensor:
        """Where samples' rows lie inside."""
        return index if self.place is None else self.place[index]

    def read(self, place: Tensor, device: torch.device) -> Tensor:
        """(S, B, D) rows at places (B,), on ``device``: zeros for those of other processes, so that a sum over
        processes is the row.
        """
        at = self.shard.below(place).clamp(max=self.rows.shape[1])
        rows = self.memory.index_select(1, at.to(self.memory.device)).to(device)
        return rows if self.shard.world == 1 else rows * self.shard.holds(place)[:, None]

    @torch.no_grad()
    def start(self, teachers: Sequence[Iterable[tuple[Tensor, Tensor]]]) -> None:
        """Begin with given rows of the teachers, and for the student, as a positive pair is to be near, with theirs: of
        several teachers the normalised mean.

        Args:
            teachers: For each side behind the first one, index (b,) and rows (b, D) until each sample was there once;
                the same on every process.
        """
        self.radius, self.started = 0.0, True
        for side, batches in zip(self.rows[1:], teachers, strict=True):
            for index, rows in batches:
                self._put(side, index, rows)
        for start, stop in _blocks(self.rows.shape[1]):
            theirs = self.rows[1:, start:stop]
            self.rows[0, start:stop] = (
                theirs[0]
                if len(theirs) == 1
                else normalise(theirs.to(torch.promote_types(theirs.dtype, torch.float32)).mean(0))[0]
            )

    @torch.no_grad()
    def update(self, index: Tensor, embeddings: Tensor, momentum: float | Literal["visits"]) -> None:
        """Rows ← normalise(momentum · row + (1 − momentum) · embedding).

        Of samples that appear twice the last one counts, on every device: all their positions write the same value.

        Args:
            index: (B,) int64 samples; ~index, below zero, for a copy of a sample.
            embeddings: (S, B, D), the student's, then the teacher's; normalised.
            momentum: Share of its old value that a row keeps; ``"visits"``: min(½, (n − 1)/n) at its n-th update.
        """
        place = self.places(torch.where(index < 0, ~index, index)).to(self.memory.device)
        ordered, origin = torch.sort(place, stable=True)
        last = origin[torch.searchsorted(ordered, place, right=True) - 1]
        at = torch.where(self.shard.holds(place), self.shard.below(place), self.rows.shape[1])
        old = self.memory.index_select(1, at).to(torch.promote_types(self.memory.dtype, torch.float32))
        new = torch.lerp(
            embeddings.to(old).index_select(1, last),
            old,
            self._visit(at).to(old)[:, None] if momentum == "visits" else momentum,
        )
        norm = torch.linalg.vector_norm(new, dim=2, keepdim=True)
        # Opposite vectors cancel out: such a row stays as it was instead of turning into NaN.
        new = torch.where(norm > 1e-6, new / norm.clamp_min(1e-6), old)
        self.memory.index_copy_(1, at, new.to(self.memory.dtype))

    def _visit(self, at: Tensor) -> Tensor:
        """Count an update of the rows at (B,), once however often one is named, and return the share (B,) that each
        keeps of its old value.
        """
        assert self.count is not None, 'update(…, "visits") needs count_visits'
        visits = self.count.index_select(0, at) + 1
        self.count.index_copy_(0, at, visits)
        return ((visits - 1) / visits).clamp(max=0.5)

    @torch.no_grad()
    def _put(self, side: Tensor, index: Tensor, values: Tensor) -> None:
        """Set rows of one side, those that this process holds; the bound of the norms is of all of them, as all
        processes must take the same branches.
        """
        widest = float(
            torch.linalg.vector_norm(values, dim=1, dtype=torch.promote_types(values.dtype, torch.float32)).max()
        )
        self.radius = max(self.radius, max(1.0, widest) * (1.001 + torch.finfo(side.dtype).eps))
        self._set(side, index, values)

    def _set(self, rows: Tensor, index: Tensor, values: Tensor) -> None:
        """Set those of (m, …) that are kept in inner order and that this process holds."""
        place = self.places(index.to(index.device if self.place is None else self.place.device))
        if self.shard.world > 1:
            local = self.shard.holds(place)
            place, values = self.shard.below(place[local]), values[local.to(values.device)]
        rows.index_copy_(0, place.to(rows.device), values.to(rows))

    def _save_to_state_dict(self, destination: dict, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        for name in self.sides:
            destination[prefix + name] = self.side(name)
        if self.count is not None:
            destination[prefix + "visits"] = self.visits

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Tensor],
        prefix: str,
        local_metadata: dict,
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        # The bound stays at least that of the rows this bank began with: a run that goes on takes the branches of one
        # that was not stopped, and logs the same digits.
        parts = {prefix + name: rows for name, rows in zip(self.sides, self.rows, strict=True)}
        self.started |= {*parts} <= {*state_dict}
        if self.count is not None:
            parts[prefix + "visits"] = self.count[:-1]
        for key, rows in parts.items():
            if key not in state_dict:
                missing_keys.append(key)
                continue
            values, expected = state_dict[key], (self.num_samples, *rows.shape[1:])
            if tuple(values.shape) != expected:
                error_msgs.append(f"{key} has shape {tuple(values.shape)}, this bank {expected}")
                continue
            put = self._put if rows.ndim == 2 else self._set
            for start, stop in _blocks(self.num_samples):
                put(rows, torch.arange(start, stop), values[start:stop])
        if strict:
            own = {*parts}
            unexpected_keys.extend(key for key in state_dict if key.startswith(prefix) and key not in own)


def _blocks(count: int) -> Iterator[tuple[int, int]]:
    for start in range(0, count, _BLOCK):
        yield start, min(start + _BLOCK, count)


def check_index(index: Tensor, num_samples: int, what: str) -> None:
    """Refuse row numbers outside [0, M): at once on a CPU, by a device-side assertion (no synchronisation) elsewhere.

    Raises:
        UsageError: On a CPU, or for a tensor that holds no integers.
    """
    if index.dtype not in (torch.int64, torch.int32):
        raise UsageError(
            f"{what} must be int64 row numbers, not {index.dtype}: pass the samples' positions in the training set"
        )
    if index.device.type == "cpu":
        low, high = (int(value) for value in torch.aminmax(index))
        if low < 0 or high >= num_samples:
            outside = low if low < 0 else high
            raise UsageError(
                f"{what} {outside} is out of range: the bank has rows 0 … {num_samples - 1}, one per training sample"
            )
    else:
        torch._assert_async(
            ((index >= 0) & (index < num_samples)).all(), f"{what} is out of range of the bank's {num_samples} rows"
        )
