"""What the teachers said about each view of each sample, so that no teacher looks at anything twice."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import psutil
import torch
from torch import Tensor

from .errors import UsageError
from .kept import network_hash, read_fields, tensors_hash, write_fields
from .transfer import Transfer, teacher_fields

log = logging.getLogger(__name__)

# Of the memory that is free: the rest is for the training.
_SHARE = 0.6


class ViewLoader(Protocol):
    """A loader whose views come again."""

    num_samples: int
    views: int

    def __len__(self) -> int: ...

    def epoch(self, k: int, start: int = 0) -> Iterator[dict[str, Tensor]]: ...

    def in_order(self, view: int) -> Iterator[dict[str, Tensor]]: ...


class TeacherMemory:
    """A loader that puts the teachers' words beside each batch, from memory.

    A view is looked at as a whole, in the order of the samples, when its first epoch begins: what is kept does not depend on
    where a training was stopped and resumed. It lies in float32 on the device the teachers are on.

    With a folder, what a teacher says about a view is also written there, and read by every later run in which the same teacher
    looks at the same view: file ``TEACHER/view-DATA.h5``, named by hashes of the teacher's weights, taps and preprocessing and of the view's first batch.

    Args:
        loader: Batches whose ``view`` numbers come again after ``loader.views`` epochs.
        transfer: Whose teachers are asked for what its objectives read.
        folder: Where to keep what was said between runs.

    Raises:
        UsageError: It would take more memory than there is.
        ContrastillError: A file in the folder is damaged.
    """

    def __init__(self, loader: ViewLoader, transfer: Transfer, folder: str | os.PathLike | None = None) -> None:
        self._loader, self._transfer = loader, transfer
        self._folder = None if folder is None else Path(folder)
        self._kept: dict[int, dict[str, Tensor]] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def __len__(self) -> int:
        return len(self._loader)

    def epoch(self, k: int, start: int = 0) -> Iterator[dict[str, Tensor]]:
        """The loader's batches of epoch ``k``, each with what :func:`~.transfer.teacher_fields` names."""
        view = k % self._loader.views
        if view not in self._kept:
            self._kept[view] = self._look(view)
        kept = self._kept[view]
        for batch in self._loader.epoch(k, start):
            yield batch | {name: values[batch["index"]] for name, values in kept.items()}

    def _look(self, view: int) -> dict[str, Tensor]:
        """What the teachers say about view ``view`` of all samples, by field: (M, …)."""
        teachers = list(self._transfer.teachers)
        if self._folder is None:
            kept = self._ask(view, range(len(teachers)), self._transfer.teacher_needs)
        else:
            kept = self._from_files(view)
        log.info("the teachers looked at view %d of %d", view + 1, self._loader.views)
        return kept

    @torch.no_grad()
    def _ask(self, view: int, numbers: Sequence[int], needs: Collection[str]) -> dict[str, Tensor]:
        """What some of the teachers say about a view, asked now."""
        kept: dict[str, Tensor] = {}
        for batch in self._loader.in_order(view):
            said = self._transfer.look([self._transfer.teachers[number] for number in numbers], batch, needs)
            for name, values in teacher_fields(dict(zip(numbers, said, strict=True))).items():
                if name not in kept:
                    kept[name] = torch.empty(self._loader.num_samples, *values.shape[1:], device=values.device)
                    self._check(kept)
                kept[name][batch["index"]] = values.float()
        return kept

    def _from_files(self, view: int) -> dict[str, Tensor]:
        """What all teachers say about a view: read where it is on the disk, else asked and written."""
        needs = self._transfer.teacher_needs
        first = next(iter(self._loader.in_order(view)))
        files = [self._folder / network_hash(teacher, needs) / f"view-{_data_hash(first, teacher.modality, self._loader.num_samples)}.h5"
                 for teacher in self._transfer.teachers]  # fmt: skip
        missing = [number for number, file in enumerate(files) if not file.is_file()]
        said = self._ask(view, missing, needs | self._cheap()) if missing else {}
        for number in missing:
            prefix = f"teachers.{number}."
            write_fields(files[number], {name.removeprefix(prefix): values for name, values in said.items() if name.startswith(prefix)})
        read = {part for part in needs if part != "maps"}
        kept: dict[str, Tensor] = {}
        for number, file in enumerate(files):
            fields = _read(file, lambda name: name in read or ("maps" in needs and name.startswith("maps.")))
            kept |= {f"teachers.{number}.{name}": values.to(first["index"].device) for name, values in fields.items()}
            self._check(kept)
        return kept

    def _cheap(self) -> frozenset[str]:
        """What is kept although nothing reads it in this run, as the next one's objectives may: logits and embedding, where every teacher has them."""
        teachers = self._transfer.teachers
        there = {
            "embedding": all(teacher.taps.embedding for teacher in teachers),
            "logits": all(getattr(teacher, "recipe", {}).get("num_classes") for teacher in teachers),
        }
        return frozenset(part for part, everywhere in there.items() if everywhere)

    def _check(self, kept: Mapping[str, Tensor]) -> None:
        """Refuse what would not fit before an hour is spent on it."""
        if self._kept or next(iter(kept.values())).device.type != "cpu":
            return
        needed = self._loader.views * sum(values.nbytes for values in kept.values())
        free = psutil.virtual_memory().available
        if needed > _SHARE * free:
            raise UsageError(
                f"what the teachers say about train.views={self._loader.views} views takes {needed / 1e9:.1f} GB or more, and {free / 1e9:.1f} GB are free: "
                "take fewer views, or name fewer maps with teachers.0.maps=[…]"
            )


def _data_hash(batch: Mapping[str, Tensor], modality: str, count: int) -> str:
    """16 digits that stand for a view of a data set: of its size and its first batch, whose augmentation is a function of seed and view."""
    return tensors_hash(f"{modality} {count}", [batch["index"], batch[modality]])


def _read(path: Path, wanted: Callable[[str], bool]) -> dict[str, Tensor]:
    return read_fields(path, wanted, "what a teacher said in an earlier run", "the teacher looks again")
