"""Teacher outputs of each view of each sample, computed once."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import Tensor

from ..config.schema import CacheConfig
from ..data import ViewLoader
from ..distributed import all_gather_ragged, rank, world_size
from ..errors import UsageError
from ..objective import TeacherOutputs
from ..representation import Representation
from .cache_shard import FileRows, MemoryRows
from .cache_store import CacheStore, num_classes
from .codec import codecs
from .source import OutputKey, TeacherSource, check_parts
from .views import SAMPLE, LiveTeacherOutputs, TeacherViews, evenly_spaced, gathered, unmixed

log = logging.getLogger(__name__)

# Of the memory that is free: the rest is for the training.
_SHARE = 0.6
# Samples whose outputs are read at a time where all are.
_ROWS_AT_ONCE = 4096


class CachedTeachers(TeacherSource):
    """Reads teacher outputs from memory or from a folder, where they are computed once for each view.

    A view is computed as a whole, in the order of the samples and without autocast, before its first epoch: the outputs
    do not depend on where a training was stopped and resumed, on its batch size from 256 on, or on the number of ranks
    (each computes its share). They equal those of a live teacher up to the rounding that another composition of the
    batch brings, 1e-5 relative in float32. How they are cached, see :class:`~.codec.TeacherOutputCodec`.

    Without a folder they lie in memory, on the device of the batches where they fit there. With one they are also
    written there (:class:`~.cache_store.CacheStore`), and read by every later run with the same teachers and views;
    where all views take more than 0.6 of the memory that is free, they stay on the disk and each rank reads the rows of
    its batches. A folder that ``contrastill cache`` wrote is complete, or refused.

    Args:
        loader: Batches whose ``view`` numbers come again after ``loader.views`` epochs.
        live: Computes outputs that are not cached yet.
        needs: Parts of the representation that the objectives read.
        folder: Where outputs are cached between runs.
        config: How they are cached; default: all, in float32.
        origin: What data and views depend on, by the name of its key in a config: explains why a folder does not fit.
        filling: The folder is about to be filled by ``contrastill cache``: that it is not complete is no error.
        values: Modality -> what stands for all samples as they are stored; None: not known.

    Attributes:
        complete: Whether the folder had all outputs from the start, so that no teacher is needed.

    Raises:
        UsageError: The outputs would take more memory than there is, the folder was written by ``contrastill cache``
            for something else, what it holds are not the teachers' outputs, or a teacher is random.
        ContrastillError: A file in the folder is damaged.
    """

    def __init__(
        self,
        loader: ViewLoader,
        live: TeacherSource,
        needs: Collection[str],
        folder: str | os.PathLike | None = None,
        config: CacheConfig | None = None,
        origin: Mapping[str, Any] | None = None,
        *,
        filling: bool = False,
        values: Mapping[str, str | None] | None = None,
    ) -> None:
        config = config or CacheConfig()
        self.loader, self.teachers, self.separate = loader, live.teachers, live.separate
        self._needs, self._codecs, self._views = frozenset(needs), codecs(config), TeacherViews(loader, live)
        self._rows: dict[int, dict[OutputKey, MemoryRows | FileRows]] = {}
        self._place: torch.device | None = None
        self.store: CacheStore | None = None
        if folder is not None:
            parts = self._needs | (self._cheap_parts() if config.parts is None else frozenset(config.parts))
            self.store = CacheStore(
                Path(folder), self._views, self._codecs, parts, origin or {}, filling=filling, values=values or {}
            )
            self.complete = self._check_folder(self.store)

    def start_epoch(self, epoch: int) -> None:
        """Compute or open the outputs of the epoch's view."""
        super().start_epoch(epoch)
        self._load(epoch % self.loader.views)

    def outputs(
        self, batch: Mapping[str, Tensor], numbers: Sequence[int], needs: Collection[str]
    ) -> list[Representation]:
        view = self.epoch % self.loader.views
        return [self._at(view, number, batch["index"], needs) for number in numbers]

    def training_outputs(self, number: int, loader: Any) -> TeacherOutputs:
        if not self.mixed:
            return CachedTeacherOutputs(self, number)
        return LiveTeacherOutputs(TeacherViews(unmixed(self.loader), self._views.source), number)

    @property
    def mixed(self) -> bool:
        """Whether samples are mixed of two, so that outputs for the samples themselves are not among those cached."""
        return unmixed(self.loader) is not self.loader

    def first_view(self, number: int, index: Tensor, needs: Collection[str]) -> Representation:
        """A teacher's outputs of view 0 of samples (b,), those of ``needs`` that the objectives read."""
        self._load(0)
        return self._at(0, number, index, needs)

    def drop_teachers(self) -> None:
        super().drop_teachers()
        self._views.source.drop_teachers()

    def fill(self, advance: Callable[[int], None] = lambda count: None) -> int:
        """Write what is missing in the folder, this rank its share; what was written before stays.

        Args:
            advance: Called with the number of samples of a view since the last call.

        Returns:
            How many files all ranks wrote.
        """
        store = self.store
        assert store is not None, "a cache in memory has no files to fill"
        store.seal()
        written = sum(store.fill(view, advance) for view in range(self.loader.views))
        store.wait(range(self.loader.views))
        return int(all_gather_ragged(torch.tensor([[written]]), self.loader.device).sum())

    def _load(self, view: int) -> None:
        if view not in self._rows:
            self._rows[view] = self._compute(view) if self.store is None else self._read(self.store, view)
            log.info("the teacher outputs of view %d of %d are there", view + 1, self.loader.views)

    def _at(self, view: int, number: int, index: Tensor, needs: Collection[str]) -> Representation:
        """A teacher's outputs of samples (B,)."""
        outputs = Representation()
        for part in sorted({*needs} & self._needs):
            rows = self._rows[view][OutputKey(number, part)]
            setattr(outputs, part, getattr(self._codecs[part].decode(rows.at(index), rows.num_classes), part))
        return outputs

    def _check_folder(self, store: CacheStore) -> bool:
        """Whether the folder holds everything; before the training that it can be read, too."""
        if refusal := store.refusal(self._needs):
            raise refusal
        # Agreed upon, as from here on the ranks fill the folder together or not at all.
        lacking = torch.tensor([[bool(store.missing(self._needs))]], dtype=torch.uint8)
        complete = not all_gather_ragged(lacking, self.loader.device).any()
        for view in range(self.loader.views) if complete else ():
            store.open(view, self._needs)
            store.check(view)
        return complete

    def _compute(self, view: int) -> dict[OutputKey, MemoryRows | FileRows]:
        """The outputs of a view, computed now: each rank computes every n-th batch and gathers the others'."""
        count, size = self.loader.num_samples, self._views.batch_size
        batches = torch.arange(count).split(size)
        keys = [OutputKey(number, part) for number in range(len(self.teachers)) for part in sorted(self._needs)]
        # A rank without a batch computes one as well, to know the shapes of the others' outputs.
        own_batches = batches[rank() :: world_size()] or batches[:1]
        if not self._rows and (problem := self._views.unrepeatable(view, range(count), keys)):
            raise problem
        computed = self._views.parts(view, torch.cat(own_batches), keys)
        outputs: dict[OutputKey, Representation] = {}
        encoded: dict[OutputKey, dict[str, Tensor]] = {}
        cached: dict[OutputKey, dict[str, Tensor]] = {key: {} for key in keys}
        place: torch.device | None = None
        for first in range(0, count, size * world_size()):
            own = min(max(count - first - size * rank(), 0), size)
            if own or not encoded:
                outputs = next(computed)
                encoded = {key: self._codecs[key.part].encode(values) for key, values in outputs.items()}
            if not first:
                place = self._placed(
                    sum(value.nbytes / len(value) for fields in encoded.values() for value in fields.values())
                )
            for key, fields in encoded.items():
                for name, value in fields.items():
                    rows = gathered(value, own)
                    if not first:
                        cached[key][name] = torch.empty(count, *value.shape[1:], dtype=value.dtype, device=place)
                    cached[key][name][first : first + len(rows)] = rows
        return {key: MemoryRows(fields, num_classes(outputs[key])) for key, fields in cached.items()}

    def _read(self, store: CacheStore, view: int) -> dict[OutputKey, MemoryRows | FileRows]:
        """The outputs of a view from the folder, where they are written first if they are not there."""
        if not self.complete:
            store.fill(view)
            store.wait([view])
        rows = store.open(view, self._needs)
        place = self._placed(sum(file_rows.nbytes for file_rows in rows.values()) / self.loader.num_samples)
        return {key: file_rows if place is None else file_rows.loaded(place) for key, file_rows in rows.items()}

    def _cheap_parts(self) -> frozenset[str]:
        """Parts that are cached although nothing reads them in this run, as the next one's objectives may: logits and
        embedding, where every teacher has them.
        """
        there = {
            "embedding": all(teacher.taps.embedding for teacher in self.teachers),
            "logits": all(
                teacher.recipe.get("num_classes") and "logits" in teacher.parts(None) for teacher in self.teachers
            ),
        }
        return frozenset(part for part, everywhere in there.items() if everywhere)

    def _placed(self, sample_bytes: float) -> torch.device | None:
        """Where all views fit: the batches' device, the CPU's memory, or None, the folder. Decided once, before an hour
        is spent on it.
        """
        if self._rows:
            return self._place
        needed = self.loader.views * self.loader.num_samples * sample_bytes
        devices = (self.loader.device, torch.device("cpu"))
        self._place = next((place for place in devices if needed <= _SHARE * _free(place)), None)
        if self._place is None and self.store is None:
            raise UsageError(
                f"what the teachers put out for train.views={self.loader.views} views takes {needed / 1e9:.1f} GB, "
                f"and {_free(torch.device('cpu')) / 1e9:.1f} GB "
                "are free: take fewer views, or name fewer maps with teachers.0.maps=[…], set "
                "cache.precision=fp16, or name a folder with train.teacher_cache"
            )
        return self._place


class CachedTeacherOutputs:
    """A teacher's outputs of the first view from a cache; ``TeacherOutputs`` of :mod:`..objective`.

    Args:
        source: The cache.
        number: The teacher's.
    """

    cached = True

    def __init__(self, source: CachedTeachers, number: int) -> None:
        self.source, self.number = source, number

    def sample(self, needs: Collection[str]) -> Representation:
        """Of ``SAMPLE`` evenly spaced samples."""
        return self._of(evenly_spaced(self.source.loader.num_samples, SAMPLE), check_parts(needs))

    def all(self, needs: Collection[str]) -> Iterator[tuple[Tensor, Representation]]:
        """Of all samples, in their order."""
        parts = check_parts(needs)
        for index in torch.arange(self.source.loader.num_samples).split(_ROWS_AT_ONCE):
            yield index, self._of(index, parts)

    def _of(self, index: Tensor, needs: Collection[str]) -> Representation:
        return self.source.first_view(self.number, index.to(self.source.loader.device), needs)


def _free(device: torch.device) -> float:
    """Bytes of memory that are free for this process: its share of the machine's, or of its accelerator's."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return psutil.virtual_memory().available / int(os.environ.get("LOCAL_WORLD_SIZE", 1))
