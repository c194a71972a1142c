"""What the teachers said about each view of each sample, so that no teacher looks at anything twice."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import Tensor, nn

from ..config.schema import CacheConfig
from ..data import ViewLoader
from ..distributed import all_gather_ragged, rank, world_size
from ..errors import ContrastillError, UsageError
from ..representation import Representation
from ..transfer import Transfer, teacher_representation
from .cache_shard import FileRows, MemoryRows
from .cache_store import CacheStore
from .codec import packings
from .live import SAMPLE, Key, LiveTeachers, evenly, gathered, width

log = logging.getLogger(__name__)

# Of the memory that is free: the rest is for the training.
_SHARE = 0.6
# Samples whose outputs are read at a time where all are.
_ROWS_AT_ONCE = 4096


class CachedTeachers:
    """A loader that puts the teachers' words beside each batch: from memory, or from a folder.

    A view is looked at as a whole, in the order of the samples and without autocast, before its first epoch: what is
    kept does not depend on where a training was stopped and resumed, on its batch size from 256 on, or on how many
    processes look (each looks at its share). It equals what a live teacher says up to the rounding that another
    composition of the batch brings, 1e-5 relative in float32. How it is kept, see :class:`~.packing.TeacherOutputCodec`.

    Without a folder it lies in memory, on the device of the batches where it fits there. With one it is also written
    there (:class:`~.teacher_files.CacheStore`), and read by every later run in which the same teachers look at the
    same views; where all views of it take more than 0.6 of the memory that is free, it stays on the disk and each
    process reads the rows of its batches. A folder that ``contrastill cache`` wrote is complete, or refused.

    Args:
        loader: Batches whose ``view`` numbers come again after ``loader.views`` epochs.
        transfer: Whose teachers are asked for what its objectives read.
        folder: Where to keep what was said between runs.
        keep: How it is kept; left out, whole and in float32.
        told: What data and views depend on, by the name of its key in a config: explains why a folder does not fit.
        filling: The folder is about to be filled by ``contrastill cache``: that it is not complete is no error.

    Raises:
        UsageError: It would take more memory than there is, the folder was written by ``contrastill cache`` for
            something else, what it holds are not the teachers' outputs, or a teacher is random.
        ContrastillError: A file in the folder is damaged.
    """

    def __init__(
        self,
        loader: ViewLoader,
        transfer: Transfer,
        folder: str | os.PathLike | None = None,
        keep: CacheConfig | None = None,
        told: Mapping[str, Any] | None = None,
        *,
        filling: bool = False,
    ) -> None:
        keep = keep or CacheConfig()
        self._loader, self._transfer, self._packings = loader, transfer, packings(keep)
        self._looking, self._needs = LiveTeachers(loader, transfer), transfer.teacher_needs
        self._kept: dict[int, dict[Key, MemoryRows | FileRows]] = {}
        self._place: torch.device | None = None
        self.files: CacheStore | None = None
        self.complete = False
        if folder is not None:
            parts = self._needs | (self._cheap() if keep.parts is None else frozenset(keep.parts))
            self.files = CacheStore(Path(folder), self._looking, self._packings, parts, told or {}, filling=filling)
            self._check_folder()

    def __getattr__(self, name: str) -> Any:
        # Asked only for what is not found here; a copy that is being made has no loader yet.
        if name == "_loader":
            raise AttributeError(name)
        return getattr(self._loader, name)

    def __len__(self) -> int:
        return len(self._loader)

    def epoch(self, k: int, start: int = 0) -> Iterator[dict[str, Tensor]]:
        """The loader's batches of epoch ``k``, each with what :func:`~.transfer.teacher_fields` names."""
        view = k % self._loader.views
        self._load(view)
        for batch in self._loader.epoch(k, start):
            yield batch | self._fields(view, batch["index"], self._kept[view])

    def first_view(self, number: int) -> CachedTeacherOutputs:
        """What a teacher says of all samples in view 0, see :class:`~.objective.TeacherOutputs`."""
        return CachedTeacherOutputs(self, number)

    def outputs(self, number: int, index: Tensor, needs: Collection[str], view: int = 0) -> Representation:
        """What a teacher says of a view of samples (b,), those of ``needs`` that the objectives read."""
        self._load(view)
        return teacher_representation(
            self._fields(view, index, [key for key in self._kept[view] if key[0] == number and key[1] in needs]), number
        )

    def _load(self, view: int) -> None:
        if view not in self._kept:
            self._kept[view] = self._look(view) if self.files is None else self._from_files(view)
            log.info("what the teachers say about view %d of %d is there", view + 1, self._loader.views)

    def _fields(self, view: int, index: Tensor, keys: Iterable[Key]) -> dict[str, Tensor]:
        """What :func:`~.transfer.teacher_fields` names, of samples (B,)."""
        fields: dict[str, Tensor] = {}
        for number, part in keys:
            rows = self._kept[view][number, part]
            outputs = self._packings[part].unpack(rows.at(index), rows.num_classes)
            fields |= {f"teachers.{number}.{name}": values for name, values in outputs.items()}
        return fields

    def fill(self, advance: Callable[[int], None] = lambda count: None) -> int:
        """Write what is missing in the folder, this process its share; what was written before stays.

        Args:
            advance: Told how many samples of a view more are done.

        Returns:
            How many files all processes wrote.
        """
        self.files.seal()
        written = sum(self.files.fill(view, advance) for view in range(self._loader.views))
        self.files.wait(range(self._loader.views))
        return int(all_gather_ragged(torch.tensor([[written]]), self._loader.device).sum())

    def let_go(self) -> None:
        """Let go of the weights of the teachers, which are not asked any more: where the folder was complete from the
        start.
        """
        for teacher in self._transfer.teachers:
            teacher.module = _Silent()

    def _check_folder(self) -> None:
        """Find out before the training whether the folder holds everything, and that what it holds can be read."""
        if refusal := self.files.refusal(self._needs):
            raise refusal
        # Agreed upon, as from here on the processes fill the folder together or not at all.
        lacking = torch.tensor([[bool(self.files.missing(self._needs))]], dtype=torch.uint8)
        self.complete = not all_gather_ragged(lacking, self._loader.device).any()
        if self.complete:
            for view in range(self._loader.views):
                self.files.open(view, self._needs)
                self.files.check(view)

    def _look(self, view: int) -> dict[Key, MemoryRows | FileRows]:
        """What the teachers say about a view, asked now: each process looks at every n-th batch, and gets what the
        others were told.
        """
        count, size = self._loader.num_samples, self._looking.batch
        batches = torch.arange(count).split(size)
        keys = [(number, part) for number in range(len(self._transfer.teachers)) for part in sorted(self._needs)]
        # A process that has no batch looks at one as well, to know what to expect of the others.
        mine = batches[rank() :: world_size()] or batches[:1]
        if not self._kept and (problem := self._looking.unrepeatable(view, range(count), keys)):
            raise problem
        said = self._looking.said(view, torch.cat(mine), keys)
        kept: dict[Key, dict[str, Tensor]] = {key: {} for key in keys}
        widths: dict[Key, int] = {}
        fields: dict[Key, dict[str, Tensor]] = {}
        for first in range(0, count, size * world_size()):
            own = min(max(count - first - size * rank(), 0), size)
            if own or not fields:
                values = next(said)
                widths = {key: width(value) for key, value in values.items()}
                fields = {key: self._packings[key[1]].pack(value) for key, value in values.items()}
            if not first:
                place = self._placed(
                    sum(value.nbytes / len(value) for each in fields.values() for value in each.values())
                )
            for key, each in fields.items():
                for name, value in each.items():
                    rows = gathered(value[:own])
                    if not first:
                        kept[key][name] = torch.empty(count, *value.shape[1:], dtype=value.dtype, device=place)
                    kept[key][name][first : first + len(rows)] = rows
        return {key: MemoryRows(values, widths[key]) for key, values in kept.items()}

    def _from_files(self, view: int) -> dict[Key, MemoryRows | FileRows]:
        """What the teachers say about a view: from the folder, where it is written first if it is not there."""
        if not self.complete:
            self.files.fill(view)
            self.files.wait([view])
        rows = self.files.open(view, self._needs)
        place = self._placed(sum(each.nbytes for each in rows.values()) / self._loader.num_samples)
        return {key: each if place is None else each.loaded(place) for key, each in rows.items()}

    def _cheap(self) -> frozenset[str]:
        """What is kept although nothing reads it in this run, as the next one's objectives may: logits and embedding,
        where every teacher has them.
        """
        teachers = self._transfer.teachers
        there = {
            "embedding": all(teacher.taps.embedding for teacher in teachers),
            "logits": all(teacher.recipe.get("num_classes") for teacher in teachers),
        }
        return frozenset(part for part, everywhere in there.items() if everywhere)

    def _placed(self, each: float) -> torch.device | None:
        """Where all views fit, ``each`` bytes a sample: the batches' device, the CPU's memory, or None, the folder.
        Decided once, before an hour is spent on it.
        """
        if self._kept:
            return self._place
        needed = self._loader.views * self._loader.num_samples * each
        device = self._loader.device
        self._place = next((place for place in (device, torch.device("cpu")) if needed <= _SHARE * _free(place)), None)
        if self._place is None and self.files is None:
            raise UsageError(
                f"what the teachers say about train.views={self._loader.views} views takes {needed / 1e9:.1f} GB, "
                f"and {_free(torch.device('cpu')) / 1e9:.1f} GB "
                "are free: take fewer views, or name fewer maps with teachers.0.maps=[…], set "
                "cache.precision=fp16, or name a folder with train.teacher_cache"
            )
        return self._place


class CachedTeacherOutputs:
    """A teacher's outputs of the first view as :class:`CachedTeachers` keeps them; ``TeacherOutputs`` of
    :mod:`.objective`.

    Args:
        memory: That keeps them.
        number: The teacher's.
    """

    cached = True

    def __init__(self, memory: CachedTeachers, number: int) -> None:
        self.memory, self.number = memory, number

    def sample(self, needs: Collection[str]) -> Representation:
        """Of ``SAMPLE`` evenly spaced samples."""
        return self._of(evenly(self.memory.num_samples, SAMPLE), needs)

    def all(self, needs: Collection[str]) -> Iterator[tuple[Tensor, Representation]]:
        """Of all samples, in their order."""
        for index in torch.arange(self.memory.num_samples).split(_ROWS_AT_ONCE):
            yield index, self._of(index, needs)

    def _of(self, index: Tensor, needs: Collection[str]) -> Representation:
        return self.memory.outputs(self.number, index.to(self.memory.device), needs)


class _Silent(nn.Module):
    """In the place of a teacher whose every word is known."""

    def forward(self, images: Tensor) -> Tensor:
        raise ContrastillError(
            "a teacher was asked about a batch although all it says was to come from train.teacher_cache: leave "
            "out train.teacher_cache"
        )


def _free(device: torch.device) -> float:
    """Bytes of memory that are free for this process: its share of the machine's, or of its accelerator's."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return psutil.virtual_memory().available / int(os.environ.get("LOCAL_WORLD_SIZE", 1))
