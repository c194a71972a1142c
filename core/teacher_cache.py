"""What the teachers said about each view of each sample, so that no teacher looks at anything twice."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import psutil
import torch
from torch import Tensor

from .errors import UsageError
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

    Args:
        loader: Batches whose ``view`` numbers come again after ``loader.views`` epochs.
        transfer: Whose teachers are asked for what its objectives read.

    Raises:
        UsageError: It would take more memory than there is.
    """

    def __init__(self, loader: ViewLoader, transfer: Transfer) -> None:
        self._loader, self._transfer = loader, transfer
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

    @torch.no_grad()
    def _look(self, view: int) -> dict[str, Tensor]:
        """What the teachers say about view ``view`` of all samples, by field: (M, …)."""
        kept: dict[str, Tensor] = {}
        for batch in self._loader.in_order(view):
            for name, values in teacher_fields(self._transfer.teachers_say(batch)).items():
                if name not in kept:
                    kept[name] = torch.empty(self._loader.num_samples, *values.shape[1:], device=values.device)
                    self._check(kept)
                kept[name][batch["index"]] = values.float()
        log.info("the teachers looked at view %d of %d", view + 1, self._loader.views)
        return kept

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
