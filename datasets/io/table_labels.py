"""Classes in a column of a Hugging Face dataset: numbers of classes, with their names if it has some."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ...core.classes import listed
from ...core.errors import UsageError

UNLABELLED = -1


@dataclass(frozen=True)
class TableLabels:
    """A split's classes.

    Attributes:
        numbers: int64 (N,), -1 where there is no label.
        names: Of the classes; None: they have none.
    """

    numbers: np.ndarray
    names: list[str] | None

    @classmethod
    def read(cls, dataset: Any, column: str, where: str) -> TableLabels:
        """Of a ClassLabel its own names and numbers, of texts the sorted ones, of numbers themselves.

        Raises:
            UsageError: Numbers below -1.
        """
        feature = dataset.features[column]
        cells = dataset.select_columns([column]).with_format("arrow")[:].column(column)
        if "string" in str(feature.dtype):
            texts = cells.to_pylist()
            names = sorted({text for text in texts if text is not None})
            places = {name: place for place, name in enumerate(names)} | {None: UNLABELLED}
            return cls(np.array([places[text] for text in texts], np.int64), names)
        numbers = np.array([UNLABELLED if value is None else int(value) for value in cells.to_pylist()], np.int64)
        if numbers.min(initial=0) < UNLABELLED:
            raise UsageError(
                f"{where}: the label {numbers.min()} in the column {column} numbers no class: classes are whole "
                "numbers from 0"
            )
        return cls(numbers, getattr(feature, "names", None))

    @property
    def unlabelled(self) -> np.ndarray:
        """Rows without a label."""
        return np.flatnonzero(self.numbers == UNLABELLED)

    def numbered_by(self, train: TableLabels, where: str) -> TableLabels:
        """With the numbers that the training split has for classes of the same names.

        Raises:
            UsageError: A class that the training split does not have.
        """
        if self.names is None or train.names is None or self.names == train.names:
            return self
        numbers_by_name = {name: number for number, name in enumerate(train.names)}
        places = np.array([*(numbers_by_name.get(name, -2) for name in self.names), UNLABELLED])
        numbers = places[self.numbers]
        strange = np.flatnonzero(numbers == -2)
        if len(strange):
            raise UsageError(
                f"{where}: row {strange[0]} is of the class {self.names[self.numbers[strange[0]]]!r}, and the training "
                f"split has {listed(train.names)}: filter such rows out, or correct the class"
            )
        return TableLabels(numbers, train.names)


def check_labelled(labels: TableLabels, column: str, where: str) -> None:
    """Raise an error where some rows have no label."""
    missing = labels.unlabelled
    if len(missing):
        raise UsageError(
            f"{where}: {len(missing)} of {len(labels.numbers)} rows have no label (-1 or empty) in the column "
            f"{column}, the first is row {missing[0]}: take the rows with one, "
            f"dataset.filter(lambda row: row[{column!r}] not in (-1, None)), or another split with data.train= or "
            "data.test="
        )
