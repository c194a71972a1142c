"""The memory bank: one row per training sample for each side, in one place or dealt out to the processes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from .errors import UsageError
from .ranks import gather_in_order
from .sharding import Shard

# Rows that are drawn or copied at a time, so that no copy of a bank is made on the way.
_BLOCK = 2**16


class MemoryBank(nn.Module):
    """A bank of M rows for each side, drawn from U(−s, s) with s = 1/√(D/3), so that a row's norm is about 1.

    Inside, rows may lie in any order (negatives that are neighbours cost no gather) and on several processes; outside it is always
    sample order: ``student``, ``teacher`` and the state_dict, which therefore moves between orders and numbers of processes.

    Args:
        num_samples: M, rows of each bank.
        dim: D, length of a row.
        place: (M,) int64, where each sample's row lies inside; None keeps sample order.
        seed: Of the initial rows, which are the same whatever the order inside.
        sides: Their names, S of them; each is an attribute and a key of the state_dict.
        shard: Which of the rows this process holds.
        dtype: Of the rows. What is written is worked out in float32 at least.
        on_host: Whether rows stay in the host's memory, pinned where there is a GPU, and are copied over as they are scored.

    Attributes:
        rows: (S, m, D): the student's bank, then the teacher's, in inner order; m is M, or the rows of this process.
        radius: An upper bound of the rows' norms, kept by every update; it bounds the scores.
    """

    memory: Tensor
    place: Tensor | None

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
    ) -> None:
        super().__init__()
        self.sides, self.num_samples, self.shard = tuple(sides), num_samples, shard or Shard()
        held = self.shard.below(num_samples)
        # One row more, for what is written to samples that another process holds: nothing need be asked of the device to leave them out.
        memory = torch.empty(len(self.sides), held + 1, dim, dtype=dtype, pin_memory=on_host and torch.cuda.is_available())
        memory[:, held:] = 0
        if on_host:
            self.memory = memory  # no buffer: it does not move with the module
        else:
            self.register_buffer("memory", memory, persistent=False)
        self.register_buffer("place", place, persistent=False)
        generator = torch.Generator().manual_seed(seed)
        limit = 1 / math.sqrt(dim / 3)
        self.radius = 0.0
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
        """(M, D) copy of one side's rows, in sample order; of a bank that is dealt out, every process must ask."""
        rows = self.rows[self.sides.index(name)].detach()
        if self.shard.world == 1:
            return rows.clone() if self.place is None else rows[self.place.to(rows.device)]
        whole = torch.empty(self.num_samples, rows.shape[1], dtype=rows.dtype)
        for start, stop in _blocks(self.num_samples):
            low, high = self.shard.span(start, stop)
            # Shares of a block differ by a row at most.
            share = rows.new_zeros(-(-(stop - start) // self.shard.world), rows.shape[1])
            share[: high - low] = rows[low:high]
            parts = gather_in_order(share).view(self.shard.world, *share.shape)
            for rank, part in enumerate(parts):
                other = Shard(rank, self.shard.world)
                low, high = other.span(start, stop)
                whole[other.places(low, high, whole.device)] = part[: high - low].to(whole.device)
        return whole if self.place is None else whole[self.place.to(whole.device)]

    def places(self, index: Tensor) -> Tensor:
        """Where samples' rows lie inside."""
        return index if self.place is None else self.place[index]

    def read(self, place: Tensor, device: torch.device) -> Tensor:
        """(S, B, D) rows at places (B,), on ``device``: zeros for those of other processes, so that a sum over processes is the row."""
        at = self.shard.below(place).clamp(max=self.rows.shape[1])
        found = self.memory.index_select(1, at.to(self.memory.device)).to(device)
        return found if self.shard.world == 1 else found * self.shard.holds(place)[:, None]

    @torch.no_grad()
    def update(self, index: Tensor, embeddings: Tensor, momentum: float) -> None:
        """Rows ← normalise(momentum · row + (1 − momentum) · embedding).

        Of samples that appear twice the last one counts, on every device: all their positions write the same value.

        Args:
            index: (B,) int64 samples; ~index, below zero, for a copy of a sample.
            embeddings: (S, B, D), the student's, then the teacher's; normalised.
            momentum: Share of its old value that a row keeps.
        """
        place = self.places(torch.where(index < 0, ~index, index)).to(self.memory.device)
        ordered, origin = torch.sort(place, stable=True)
        last = origin[torch.searchsorted(ordered, place, right=True) - 1]
        at = torch.where(self.shard.holds(place), self.shard.below(place), self.rows.shape[1])
        old = self.memory.index_select(1, at).to(torch.promote_types(self.memory.dtype, torch.float32))
        new = torch.lerp(embeddings.to(old).index_select(1, last), old, momentum)
        norm = torch.linalg.vector_norm(new, dim=2, keepdim=True)
        # Opposite vectors cancel out: such a row stays as it was instead of turning into NaN.
        new = torch.where(norm > 1e-6, new / norm.clamp_min(1e-6), old)
        self.memory.index_copy_(1, at, new.to(self.memory.dtype))

    @torch.no_grad()
    def _put(self, side: Tensor, index: Tensor, values: Tensor) -> None:
        """Set rows of one side, those that this process holds; the bound of the norms is of all of them, as all processes must take the same branches."""
        place = self.places(index.to(index.device if self.place is None else self.place.device))
        widest = float(torch.linalg.vector_norm(values, dim=1, dtype=torch.promote_types(values.dtype, torch.float32)).max())
        self.radius = max(self.radius, max(1.0, widest) * (1.001 + torch.finfo(side.dtype).eps))
        if self.shard.world > 1:
            mine = self.shard.holds(place)
            place, values = self.shard.below(place[mine]), values[mine.to(values.device)]
        side.index_copy_(0, place.to(side.device), values.to(side))

    def _save_to_state_dict(self, destination: dict, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        for name in self.sides:
            destination[prefix + name] = self.side(name)

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
        expected, self.radius = (self.num_samples, self.memory.shape[2]), 0.0
        for side, name in enumerate(self.sides):
            key = prefix + name
            if key not in state_dict:
                missing_keys.append(key)
                continue
            given = state_dict[key]
            if tuple(given.shape) != expected:
                error_msgs.append(f"{key} has shape {tuple(given.shape)}, this bank {expected}")
                continue
            for start, stop in _blocks(self.num_samples):
                self._put(self.rows[side], torch.arange(start, stop), given[start:stop])
        if strict:
            own = {prefix + name for name in self.sides}
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
        raise UsageError(f"{what} must be int64 row numbers, not {index.dtype}: pass the samples' positions in the training set")
    if index.device.type == "cpu":
        low, high = (int(value) for value in torch.aminmax(index))
        if low < 0 or high >= num_samples:
            outside = low if low < 0 else high
            raise UsageError(f"{what} {outside} is out of range: the bank has rows 0 … {num_samples - 1}, one per training sample")
    else:
        torch._assert_async(((index >= 0) & (index < num_samples)).all(), f"{what} is out of range of the bank's {num_samples} rows")
