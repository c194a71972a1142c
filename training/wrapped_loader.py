"""What loaders that change the batches of another one have in common."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ..core.data import ViewLoader


class WrappedLoader:
    """A loader around another one, whose size, views and device it has; ``epoch`` is the subclass's own.

    Args:
        loader: Of the training samples.
    """

    def __init__(self, loader: ViewLoader) -> None:
        self._loader = loader

    @property
    def inner(self) -> ViewLoader:
        """The loader that this one is around."""
        return self._loader

    @property
    def num_samples(self) -> int:
        """Samples in an epoch of the loader."""
        return self._loader.num_samples

    @property
    def batch_size(self) -> int:
        """Of the loader."""
        return self._loader.batch_size

    @property
    def device(self) -> torch.device:
        """Of the loader."""
        return self._loader.device

    @property
    def views(self) -> int | Any:
        """Of the loader."""
        return self._loader.views

    @property
    def unmixed(self) -> Any:
        """A loader of the same samples, none mixed with another; this one where none is."""
        inner = getattr(self._loader, "unmixed", self._loader)
        return self if inner is self._loader else inner

    def __len__(self) -> int:
        return len(self._loader)

    def in_order(
        self, view: int, rows: Tensor | None = None, batch_size: int | None = None
    ) -> Iterator[dict[str, Tensor]]:
        """All samples of a view, or some, see :class:`~contrastill.core.data.ViewLoader`."""
        yield from self._loader.in_order(view, rows, batch_size)
