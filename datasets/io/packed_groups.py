"""The groups of a packed file that make up one split, one after the other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import h5py
import numpy as np
import torch
from torch import Tensor

from ...core.errors import UsageError
from ...core.label_vectors import Labels

_ROWS_AT_ONCE = 4096


@dataclass(frozen=True)
class GroupSamples:
    """The samples of a split that are in one group.

    Attributes:
        name: Of the group in the file, which may be a link to a group of another name.
        group: Itself.
        rows: Places of the samples in it.
    """

    name: str
    group: h5py.Group
    rows: slice | np.ndarray

    def __len__(self) -> int:
        return self.rows.stop - self.rows.start if isinstance(self.rows, slice) else len(self.rows)

    def pieces(self, field: str) -> Iterator[np.ndarray]:
        """The samples' values in pieces, so that no second copy of a whole split is ever in memory."""
        for begin in range(0, len(self), _ROWS_AT_ONCE):
            part = slice(begin, min(begin + _ROWS_AT_ONCE, len(self)))
            yield self.group[field][part if isinstance(self.rows, slice) else self.rows[part]]

    def field(self, name: str) -> str:
        """``GROUP/FIELD (dtype)``, for messages."""
        return f"{self.name}/{name} ({self.group[name].dtype})"


def evenly_spaced(rows: Sequence[slice | np.ndarray], limit: int | None) -> list[slice | np.ndarray]:
    """Rows of each group, of which ``limit`` are taken, evenly spaced over all groups together.

    Args:
        rows: Of each group, ``slice(0, N)`` or places; they follow each other.
        limit: None: all.

    Example:
        >>> [rows.tolist() for rows in evenly_spaced([slice(0, 4), np.array([5, 7])], 3)]
        [[0, 2], [5]]
    """
    counts = [part.stop if isinstance(part, slice) else len(part) for part in rows]
    total, begin = sum(counts), 0
    if limit is None or limit >= total:
        return list(rows)
    chosen, taken = np.arange(limit) * total // limit, []
    for part, count in zip(rows, counts, strict=True):
        places = chosen[(begin <= chosen) & (chosen < begin + count)] - begin
        taken.append(places if isinstance(part, slice) else part[places])
        begin += count
    return taken


def check_alike(parts: Sequence[GroupSamples], target: str | None, labelled: Sequence[bool]) -> None:
    """Refuse groups of one split of which some have classes and some none.

    Args:
        parts: The groups.
        target: Field of the classes.
        labelled: Whether each group has it.

    Raises:
        UsageError: They differ.
    """
    if any(labelled) and not all(labelled):
        names = [part.name for part in parts]
        raise UsageError(
            f"the groups of data.splits differ in whether they have classes: {names[labelled.index(True)]} has the "
            f"field {target}, and {names[labelled.index(False)]} has none: add it there, or set data.target=null"
        )


def joined_labels(labels: Mapping[str, Labels], parts: Sequence[GroupSamples]) -> Labels:
    """The labels of the samples of a split.

    Args:
        labels: Group -> those of all of its samples, all of one form.
        parts: The groups of the split.
    """

    def rows(values: Sequence[Tensor | None]) -> Tensor | None:
        pairs = zip(values, parts, strict=True)
        pieces = [stored[part.rows] for stored, part in pairs if stored is not None]
        return torch.cat(pieces) if pieces else None

    own = [labels[part.name] for part in parts]
    return Labels(rows([each.targets for each in own]), rows([each.vectors for each in own]))
