"""A frozen teacher's own embeddings of the training samples: rows that never age, as nothing that trains made them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from ..deferred import DeferredUpdates
from ..distributed import all_gather, sum_of_ranks
from ..errors import UsageError
from ..hashing import mix
from .memory_bank import check_index
from .sharding import OwnTensors, Shard

# Rows that are copied at a time, so that no copy of all of them is made on the way.
_BLOCK = 2**16


class TeacherRows(OwnTensors, DeferredUpdates):
    """(M, d) embeddings of a teacher, of which windows of a random order are drawn; rows of samples that no pass has
    shown yet are never drawn.

    They are filled at once (:meth:`fill`), or as samples come (:meth:`store`): a sample's row then lies where it
    arrived, and as samples arrive shuffled, windows of that order are random too. Everything random is a function of
    (seed, number of the draw).

    Args:
        num_samples: M.
        dim: d.
        seed: Of the order and of every draw.
        shard: Which of the rows this process holds; drawn rows are then exchanged.
        dtype: Of the rows.
        on_host: Whether rows stay in the host's memory, pinned where there is a GPU.
        refresh: Whether a row is overwritten when its sample comes again, in another view.

    Attributes:
        complete: Whether all rows were filled at once.
        filled: () int64, how many rows there are.
        draws: Number of the next draw.

    Example:
        >>> rows = TeacherRows(10, 4)
        >>> rows.store(torch.tensor([7, 3]), torch.ones(2, 4))
        >>> places, sample, drawn = rows.draw(5)
        >>> sorted(sample[drawn].tolist())
        [3, 7]
    """

    memory: Tensor
    place: Tensor
    sample: Tensor
    filled: Tensor

    def __init__(
        self,
        num_samples: int,
        dim: int,
        *,
        seed: int = 0,
        shard: Shard | None = None,
        dtype: torch.dtype = torch.float32,
        on_host: bool = False,
        refresh: bool = False,
    ) -> None:
        super().__init__()
        self.num_samples, self.seed, self.shard, self.refresh = num_samples, seed, shard or Shard(), refresh
        self._on_host, self.complete, self.draws, self._drew = on_host, False, 0, False
        # Beside the rows there is one place for what this process does not hold: nothing need be asked of the device to
        # leave it out.
        self.register_buffer("place", torch.full((num_samples,), -1), persistent=False)
        self.register_buffer("sample", torch.zeros(num_samples + 1, dtype=torch.int64), persistent=False)
        self.register_buffer("filled", torch.zeros((), dtype=torch.int64), persistent=False)
        self._allocate(dim, dtype)

    def _allocate(self, dim: int, dtype: torch.dtype) -> None:
        memory = torch.zeros(
            self.shard.below(self.num_samples) + 1,
            dim,
            dtype=dtype,
            pin_memory=self._on_host and torch.cuda.is_available(),
        )
        if self._on_host:
            self.memory = memory  # it does not move with the module
        else:
            self.own_tensor("memory", memory.to(self.place.device))

    def resize(self, dim: int) -> None:
        """Take rows of another length; there must be none yet."""
        self._allocate(dim, self.memory.dtype)

    @property
    def dim(self) -> int:
        """d."""
        return self.memory.shape[1]

    @torch.no_grad()
    def fill(self, batches: Iterable[tuple[Tensor, Tensor]], dim: int | None = None) -> None:
        """Take the rows of all samples.

        Args:
            batches: index (b,) and embeddings (b, d), until each sample was there once.
            dim: d, where it is another than so far.

        Raises:
            UsageError: The batches lack a sample.
        """
        if dim not in (None, self.dim):
            self.resize(dim)
        # Without neighbours that were neighbours on the disk: such are often of one class.
        order = torch.randperm(self.num_samples, generator=torch.Generator().manual_seed(mix(self.seed, 1)))
        self.sample[:-1] = order.to(self.sample.device)
        self.place[self.sample[:-1]] = torch.arange(self.num_samples, device=self.place.device)
        lacking = torch.ones_like(self.place, dtype=torch.bool)
        for index, values in batches:
            index = index.to(self.place.device)
            lacking[index] = False
            self._put(self.place[index], values)
        if count := int(lacking.sum()):
            raise UsageError(f"rows are filled of all samples, and the batches lack {count} of {self.num_samples}")
        self.filled.fill_(self.num_samples)
        self.complete = True

    def store(self, index: Tensor, embeddings: Tensor) -> None:
        """Take a batch's rows (B, d) of samples (B,) where they lack or are to be refreshed, and go on to the next
        draw: at once, or when :meth:`commit` says so.
        """
        check_index(index, self.num_samples, "index")
        index, self._drew = index.long(), True
        if not self.complete or self.refresh:
            self.write(index, embeddings[None])
        elif not self.deferring:
            self.commit()

    def commit(self) -> None:
        super().commit()
        self.draws, self._drew = self.draws + self._drew, False

    def rollback(self) -> None:
        super().rollback()
        self._drew = False

    def _write(self, index: Tensor, rows: Tensor) -> None:
        index = torch.where(index < 0, ~index, index).to(self.place.device)
        ordered, origin = torch.sort(index, stable=True)
        first = origin[torch.searchsorted(ordered, index)]
        last = origin[torch.searchsorted(ordered, index, right=True) - 1]
        known = self.place[index]
        new = (known < 0) & (first == torch.arange(len(index), device=index.device))
        arrived = self.filled + new.cumsum(0) - 1
        # All positions of a sample write the same place and the same row, the last one's.
        place = torch.where(known < 0, arrived[first], known)
        self.place.index_copy_(0, index, place)
        self.sample.index_copy_(0, torch.where(new, arrived, self.num_samples), index)
        self.filled += new.sum()
        if not self.refresh:
            place = torch.where(known < 0, place, -1)
        self._put(place, rows[0, last])

    def _put(self, place: Tensor, values: Tensor) -> None:
        """Set the rows at places (n,) that this process holds; below zero: none."""
        place = place.to(self.memory.device)
        local = self.shard.holds(place) & (place >= 0)
        at = torch.where(local, self.shard.below(place), len(self.memory) - 1)
        self.memory.index_copy_(0, at, values.to(self.memory))

    def draw(self, count: int) -> tuple[Tensor, Tensor, Tensor]:
        """The draw under way: places, samples and which of these are rows at all, each (k,) with k = min(count, M)."""
        step = torch.arange(min(count, self.num_samples), device=self.filled.device)
        there = self.filled.clamp_min(1)
        offset = torch.full_like(self.filled, mix(self.seed, 5, self.draws)) % there
        place = (offset + step) % there
        return place, self.sample[place], step < self.filled

    def read(self, place: Tensor) -> Tensor:
        """The rows at places (k,), the same on every process: (k, d), in float32 at least and on the device of
        ``place``.
        """
        at = self.shard.below(place).clamp(max=len(self.memory) - 1).to(self.memory.device)
        rows = self.memory.index_select(0, at).to(place.device)
        rows = rows.to(torch.promote_types(rows.dtype, torch.float32))
        return rows if self.shard.world == 1 else sum_of_ranks(torch.where(self.shard.holds(place)[:, None], rows, 0))

    @property
    def embeddings(self) -> Tensor:
        """A copy of all rows in sample order (M, d); zeros where there is none yet. Every process must ask together
        where they are sharded.
        """
        rows = torch.zeros(self.num_samples, self.dim, dtype=self.memory.dtype, device=self.memory.device)
        place = self.place.to(rows.device)
        for start, stop in _blocks(self.num_samples):
            at = place[start:stop].clamp_min(0)
            values = (
                self.memory[self.shard.below(at).clamp(max=len(self.memory) - 1)]
                * (self.shard.holds(at) & (place[start:stop] >= 0))[:, None]
            )
            rows[start:stop] = values if self.shard.world == 1 else all_gather(values[None]).sum(0)
        return rows

    def _saves(self) -> bool:
        # Rows that were filled at once are there again before a checkpoint is read.
        return not self.complete or self.refresh

    def get_extra_state(self) -> Tensor:
        """Seed and number of the next draw: all that the draws depend on."""
        return torch.tensor([self.seed, self.draws], dtype=torch.int64)

    def set_extra_state(self, state: Tensor) -> None:
        self.seed, self.draws = (int(value) for value in state)

    def _save_to_state_dict(self, destination: dict, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if self._saves():
            destination |= {prefix + "embeddings": self.embeddings, prefix + "place": self.place.clone()}

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
        own = {prefix + "embeddings", prefix + "place"} if self._saves() else set()
        self._load_extra(state_dict, prefix, missing_keys)
        if strict:
            unexpected_keys.extend(
                key
                for key in state_dict
                if key.startswith(prefix) and key not in own and not key.endswith("_extra_state")
            )
        absent = [key for key in sorted(own) if key not in state_dict]
        missing_keys.extend(absent)
        if absent or not own:
            return
        rows, place = state_dict[prefix + "embeddings"], state_dict[prefix + "place"]
        if tuple(rows.shape) != (self.num_samples, self.dim) or len(place) != self.num_samples:
            error_msgs.append(
                f"{prefix}embeddings has shape {tuple(rows.shape)}, this loss has rows of "
                f"{(self.num_samples, self.dim)}"
            )
            return
        self.place.copy_(place)
        there = torch.nonzero(self.place >= 0)[:, 0]
        self.sample.zero_().index_copy_(0, self.place[there], there)
        self.filled.fill_(len(there))
        for start, stop in _blocks(self.num_samples):
            self._put(self.place[start:stop], rows[start:stop])

    def _load_extra(self, state_dict: dict[str, Tensor], prefix: str, missing_keys: list[str]) -> None:
        key = prefix + "_extra_state"
        if key in state_dict:
            self.set_extra_state(state_dict[key])
        else:
            missing_keys.append(key)


def take_kept_directions(loss: Any, state_dict: dict[str, Tensor], prefix: str, *_: Any) -> None:
    """Before a state is loaded: rows of a loss that was prepared are in kept directions, which a new one has not yet.

    Args:
        loss: Has ``embed_teacher`` and ``rows``, one of each for each teacher.
        state_dict: What is loaded.
        prefix: Of the loss in it.
    """
    for number, (embed, rows) in enumerate(zip(loss.embed_teacher, loss.rows, strict=True)):
        basis = state_dict.get(f"{prefix}embed_teacher.{number}.basis")
        if basis is not None and len(basis) == embed.in_features and not int(rows.filled):
            rows.resize(basis.shape[1])


def _blocks(count: int) -> Iterator[tuple[int, int]]:
    for start in range(0, count, _BLOCK):
        yield start, min(start + _BLOCK, count)
