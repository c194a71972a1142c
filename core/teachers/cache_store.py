"""The folder of a teacher cache: which files it has to hold, and how they are filled by several processes."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from ..distributed import all_gather_ragged, rank, world_size
from ..errors import ContrastillError, UsageError
from ..fingerprint import network_fingerprint, tensors_hash
from ..representation import Representation
from .cache_difference import difference
from .cache_shard import CacheShard, FileRows
from .codec import TeacherOutputCodec
from .same_outputs import same_outputs
from .seal import SEAL, write_seal
from .source import OutputKey
from .views import TeacherViews

# Of a view, by whose content data, seed and augmentation are told from others.
_HASHED_SAMPLES = 64


class CacheStore:
    """The teacher outputs of every view, one :class:`~.cache_shard.CacheShard` for each teacher, part and view.

    A shard's folder is named by a hash of all that its values depend on: the teacher's weights, architecture, taps,
    preprocessing and precision, the codec, the number of samples, and 64 evenly spaced samples as the view shows them,
    which depend on data, seed and augmentation. So one folder serves any number of teachers, data sets and seeds, and
    more views are added to those that are there. Where all samples are in memory, a file also says which they are, and
    those of others are refused.

    Two networks of the same weights may still differ, in an attribute or a buffer that is no part of their state: so a
    few of the cached samples are computed again before a view is read, and outputs that differ by more than rounding
    are refused.

    A folder that ``contrastill cache`` wrote is sealed: it is read only, and what is not in it is refused rather than
    computed.

    Args:
        root: The folder.
        views: Computes the outputs.
        codecs: By part, how it is cached.
        parts: What is cached.
        origin: What the data and views depend on in words, for an error: ``seed``, ``data.crop_padding`` …
        filling: Whether this is the command that fills it, which replaces damaged files.
        values: Modality -> what stands for all samples as they are stored; None: not known.
    """

    def __init__(
        self,
        root: Path,
        views: TeacherViews,
        codecs: Mapping[str, TeacherOutputCodec],
        parts: Collection[str],
        origin: Mapping[str, Any],
        *,
        filling: bool,
        values: Mapping[str, str | None],
    ) -> None:
        self.root, self._views, self._codecs, self._parts = root, views, codecs, sorted(parts)
        self._origin, self._filling, self._values = origin, filling, values
        self.sealed = (root / SEAL).is_file() and not filling
        self._remedy = "run contrastill cache again with this config" if self.sealed else "the teacher looks again"
        self._fingerprints = [network_fingerprint(teacher) for teacher in views.source.teachers]
        self._shards: dict[int, dict[OutputKey, CacheShard]] = {}
        self._repeatable = False

    def shards(self, view: int) -> dict[OutputKey, CacheShard]:
        """The shards of a view, whether they are filled or not."""
        if view not in self._shards:
            samples = self._views.samples(view, _HASHED_SAMPLES)
            modalities = {fingerprint.properties["modality"] for fingerprint in self._fingerprints}
            contents = {name: tensors_hash("", [samples["index"], samples[name]]) for name in modalities}
            self._shards[view] = {
                OutputKey(number, part): CacheShard(
                    self.root,
                    self._views.loader.num_samples,
                    fingerprint.properties
                    | {
                        "part": part,
                        "tap": fingerprint.taps[part],
                        "kept": str(self._codecs[part]),
                        "view": str(view),
                        "content": contents[fingerprint.properties["modality"]],
                    },
                    self._origin,
                    self._remedy,
                    self._values.get(fingerprint.properties["modality"]),
                )
                for number, fingerprint in enumerate(self._fingerprints)
                for part in self._parts
            }
        return self._shards[view]

    def missing(self, parts: Collection[str]) -> list[tuple[int, OutputKey, int]]:
        """View, teacher and part, and number of each file of all views that is not there; where it is filled, also of
        damaged ones.
        """
        return [
            (view, key, number)
            for view in range(self._views.loader.views)
            for key, shard in self.shards(view).items()
            if key.part in parts
            for number in shard.missing(damaged=self._filling)
        ]

    def fill(self, view: int, advance: Callable[[int], None] = lambda count: None) -> int:
        """Write this rank's share of the files of a view that are missing; the others write theirs.

        Args:
            view: Number of the view.
            advance: Called with the number of samples since the last call.

        Returns:
            How many files were written here.

        Raises:
            UsageError: See :meth:`check`.
        """
        self.check(view)
        missing = {key: set(shard.missing(damaged=self._filling)) for key, shard in self.shards(view).items()}
        written = 0
        for number, rows in self._own_files(view):
            # Two teachers that are the same share their files.
            folders = {shard.folder: key for key, shard in self.shards(view).items() if number in missing[key]}
            if folders:
                self._write(view, number, rows, list(folders.values()))
            written += len(folders)
            advance(len(rows))
        return written

    def _own_files(self, view: int) -> Iterator[tuple[int, range]]:
        """Numbers and samples of the files of a view that this rank writes: by place, whatever is there, as not all
        may see the same files at one time.
        """
        shard = next(iter(self.shards(view).values()))
        own = (number for number in range(shard.count) if (view * shard.count + number) % world_size() == rank())
        return ((number, shard.rows(number)) for number in own)

    def _write(self, view: int, number: int, rows: range, keys: list[OutputKey]) -> None:
        shards, place = self.shards(view), 0
        with ExitStack() as stack:
            puts = {key: stack.enter_context(shards[key].writing(number)) for key in keys}
            for outputs in self._views.parts(view, torch.arange(rows.start, rows.stop), keys):
                for key, values in outputs.items():
                    puts[key](place, self._codecs[key.part].encode(values), num_classes(values))
                place += len(next(iter(outputs.values())).tensors()[0])

    def wait(self, views: Collection[int]) -> None:
        """Wait until every rank has written its share.

        Raises:
            ContrastillError: A rank does not see what another one wrote.
        """
        device = self._views.loader.device
        all_gather_ragged(torch.ones(1, 1, dtype=torch.uint8), device)
        unseen = any(shard.missing() for view in views for shard in self.shards(view).values())
        if all_gather_ragged(torch.tensor([[unseen]], dtype=torch.uint8), device).any():
            raise ContrastillError(
                f"what one process writes to {self.root} another one does not see: name a folder on a disk that "
                "all machines share"
            )

    def open(self, view: int, parts: Collection[str]) -> dict[OutputKey, FileRows]:
        """The rows of a view.

        Raises:
            ContrastillError: A file is damaged.
        """
        return {key: shard.open() for key, shard in self.shards(view).items() if key.part in parts}

    def check(self, view: int) -> None:
        """Compute a few cached samples of a view again, and compare: two networks of the same weights may differ in an
        attribute.

        Raises:
            UsageError: The cached outputs are another network's, or a teacher is random.
        """
        problem = self._problem(view)
        # Raised by all ranks or by none, as they go on together.
        if all_gather_ragged(torch.tensor([[problem is not None]], dtype=torch.uint8), self._views.loader.device).any():
            raise problem or UsageError(
                f"train.teacher_cache={self.root}: another process found other outputs in it than its teachers give"
            )

    def _problem(self, view: int) -> UsageError | None:
        """What :meth:`check` raises."""
        files: dict[int, dict[OutputKey, FileRows]] = {}
        for key, shard in self.shards(view).items():
            readable = ((number, shard.file_rows(number)) for number in range(shard.count))
            number, rows = next(((number, rows) for number, rows in readable if rows is not None), (0, None))
            if rows is not None:
                files.setdefault(number, {})[key] = rows
        first = next(iter(self.shards(view).values()))
        for number, cached in files.items():
            samples = first.rows(number)
            chosen, outputs = self._views.sample_parts(view, samples, cached)
            for key, rows in cached.items():
                fields = rows.at((chosen - samples.start).to(self._views.loader.device))
                pair = self._codecs[key.part].comparable(outputs[key], fields)
                if not same_outputs(*pair, self._views.precision(key)):
                    file = self.shards(view)[key].path(number)
                    return self._views.unrepeatable(view, samples, [key]) or UsageError(
                        f"train.teacher_cache={self.root} holds other {key.part} of the same samples than teacher "
                        f"{key.teacher} gives now: they are of a network of the same "
                        "weights that differs in something else, such as an attribute or a buffer that is not "
                        f"saved, or {file} was damaged; name another folder, or remove this one"
                    )
        if not files and not self._repeatable:
            if problem := self._views.unrepeatable(view, first.rows(0), [*self.shards(view)]):
                return problem
            self._repeatable = True
        return None

    def codec_name(self, part: str) -> str:
        """How a part is cached, in words."""
        return str(self._codecs[part])

    def own_samples(self) -> int:
        """Samples, counted once for each view, of which this rank writes the files."""
        return sum(len(rows) for view in range(self._views.loader.views) for _, rows in self._own_files(view))

    def size(self) -> int:
        """Bytes of all views, from the outputs of two samples."""
        loader = self._views.loader
        count = min(2, loader.num_samples)
        outputs = next(self._views.parts(0, torch.arange(count), [*self.shards(0)]))
        fields = [self._codecs[key.part].encode(values) for key, values in outputs.items()]
        sample = sum(field.nbytes for each in fields for field in each.values()) / count
        return round(sample * loader.num_samples * loader.views)

    def refusal(self, parts: Collection[str]) -> UsageError | None:
        """Why a sealed folder cannot be trained from; None where it can."""
        missing = self.missing(parts) if self.sealed else []
        if not missing:
            return None
        view, key, _ = missing[0]
        shard = self.shards(view)[key]
        if any(shard.path(number).is_file() for number in range(shard.count)):
            there = shard.count - len(shard.missing())
            reason = (
                f"is not complete (view {view} has {there} of {shard.count} files of teacher {key.teacher}'s "
                f"{key.part}): run contrastill cache again, which goes on"
            )
        else:
            reason = (
                f"{difference(self.root, shard, key)}: give the config that it was made with, run "
                "contrastill cache with this one, or name another folder"
            )
        return UsageError(f"train.teacher_cache={self.root} {reason}")

    def seal(self) -> None:
        """Mark the folder as written by the command alone, with the shapes of the outputs; from then on all ranks may
        write.
        """
        if rank() == 0:
            write_seal(self.root, self._views.source.teachers, self._views.samples(0, 2))
        all_gather_ragged(torch.ones(1, 1, dtype=torch.uint8), self._views.loader.device)


def num_classes(outputs: Representation) -> int:
    """C of logits or of a prediction; 0 of other parts."""
    of_classes = outputs.prediction if outputs.logits is None else outputs.logits
    return 0 if of_classes is None else of_classes.shape[1]
