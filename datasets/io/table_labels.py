"""Classes in a column of a Hugging Face dataset: numbers of classes, with their names if it has some."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ...core.classes import check_numbers, listed, read_names
from ...core.errors import UsageError
from ...core.label_vectors import NUMBER_FOR_EACH
from ...core.value_scale import note_once
from .table_columns import is_list

UNLABELLED = -1


@dataclass(frozen=True)
class TableLabels:
    """A split's classes.

    Attributes:
        numbers: int64 (N,), -1 where there is no label.
        names: Of the classes; None: they have none.
        rows: float32 (N, C), where a row holds a list: of classes, or of a number for each class; ``numbers`` say then
            which have one, with 0.
        texts: Whether the column holds the names themselves.
    """

    numbers: np.ndarray
    names: list[str] | None
    rows: np.ndarray | None = None
    texts: bool = False

    @classmethod
    def read(cls, dataset: Any, column: str, where: str) -> TableLabels:
        """Of a ClassLabel its own names and numbers, of texts the sorted ones, of numbers themselves.

        Raises:
            UsageError: Numbers below -1, or beyond the names; a class without a name.
        """
        feature = dataset.features[column]
        cells = dataset.select_columns([column]).with_format("arrow")[:].column(column)
        names = getattr(feature.feature if is_list(feature) else feature, "names", None)
        if names is not None:
            names = read_names(names, f"the list of names in {where}, column {column},")
        if is_list(feature):
            return _of_lists(cells.to_pylist(), names, f"{where}, column {column}")
        if "string" in str(feature.dtype):
            texts = cells.to_pylist()
            names = sorted({text for text in texts if text})
            places = {name: place for place, name in enumerate(names)} | {None: UNLABELLED, "": UNLABELLED}
            return cls(np.array([places[text] for text in texts], np.int64), names, texts=True)
        numbers = np.array([UNLABELLED if value is None else int(value) for value in cells.to_pylist()], np.int64)
        return _checked(numbers, names, f"{where}, column {column}")

    @property
    def form(self) -> str:
        """In words, for messages."""
        return "classes" if self.rows is None else NUMBER_FOR_EACH

    @property
    def unlabelled(self) -> np.ndarray:
        """Rows without a label."""
        return np.flatnonzero(self.numbers == UNLABELLED)

    def numbered_by(self, train: TableLabels, where: str, train_where: str, column: str) -> TableLabels:
        """With the numbers that the training split has for classes of the same names; with its own, which a line says,
        where one of the two has no names.

        Args:
            train: Of the training split.
            where: The split, for messages.
            train_where: The training split, for messages.
            column: Of the labels, for messages.

        Raises:
            UsageError: A class that the training split does not have, or numbers beside names that have none.
        """
        if self.names == train.names:
            return self
        if self.names is None:
            _match_numbers(train, self, train_where, where, column)
            return replace(self, names=train.names)
        if train.names is None:
            _match_numbers(self, train, where, train_where, column)
            return self
        if self.rows is not None:
            raise UsageError(
                f"{where} has the classes {listed(self.names)}, and the training split {listed(train.names)}: give "
                "both the same in the same order, as labels hold a number for each class"
            )
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


def _match_numbers(named: TableLabels, nameless: TableLabels, who: str, other: str, column: str) -> None:
    """Say that numbers are matched with the places of names in a list.

    Args:
        named: Has names.
        nameless: Has none.
        who: Whose ``named`` are, for messages.
        other: Whose ``nameless`` are.
        column: Of the labels.

    Raises:
        UsageError: The names are texts, which have no numbers; numbers in another order; or too few.
    """
    cast = f"dataset.cast_column({column!r}, datasets.ClassLabel(names=…))"
    way = f"cast the column of both to one list of names, {cast}"
    if named.texts:
        raise UsageError(f"the labels of {who} are texts, and those of {other} are numbers: {way}")
    assert named.names is not None, "it has names"
    check_numbers(named.names, who, other, way)
    _checked(nameless.numbers, named.names, other)
    note_once(f"the classes of {who} and {other} are matched by number alone, as {other} has no names for them: {way}")


def _checked(numbers: np.ndarray, names: list[str] | None, where: str) -> TableLabels:
    if numbers.min(initial=0) < UNLABELLED:
        raise UsageError(f"{where}: the label {numbers.min()} numbers no class: classes are whole numbers from 0")
    if names is not None and numbers.max(initial=0) >= len(names):
        raise UsageError(
            f"{where}: the label {numbers.max()} is beyond the {len(names)} names of classes, which count from 0: "
            "correct it, or name the missing classes"
        )
    return TableLabels(numbers, names)


def _of_lists(cells: list[Any], names: list[str] | None, where: str) -> TableLabels:
    """Labels of lists: of classes that have names, else of a number for each class."""
    numbers = np.array([UNLABELLED if cell is None else 0 for cell in cells], np.int64)
    if names is not None:
        rows = np.zeros((len(cells), len(names)), np.float32)
        for row, cell in enumerate(cells):
            for each in cell or ():
                if each is None or not 0 <= each < len(names):
                    raise UsageError(
                        f"{where}: row {row} lists the class {each}, and there are {len(names)}, which count from 0: "
                        "leave it out of the list"
                    )
            rows[row, cell or []] = 1
        return TableLabels(numbers, names, rows)
    lengths = {len(cell) for cell in cells if cell is not None}
    if lengths == {1} and all(isinstance(cell[0], int) for cell in cells if cell is not None):
        # Labels (N, 1) are the classes, as in every other kind of data.
        return _checked(np.array([UNLABELLED if cell is None else cell[0] for cell in cells], np.int64), None, where)
    if len(lengths) != 1:
        raise UsageError(
            f"{where} has lists of {min(lengths, default=0)} to {max(lengths, default=0)} numbers: give each row a "
            "number for each class, or cast the column to lists of ClassLabel, which name the classes of a row"
        )
    blank = [0.0] * lengths.pop()
    return TableLabels(numbers, None, np.array([cell or blank for cell in cells], np.float32))


def check_labelled(labels: TableLabels, column: str, where: str) -> None:
    """Raise an error where some rows have no label."""
    missing = labels.unlabelled
    if len(missing):
        raise UsageError(
            f"{where}: {len(missing)} of {len(labels.numbers)} rows have no label (-1 or empty) in the column "
            f"{column}, the first is row {missing[0]}: take the rows with one, "
            f"dataset.filter(lambda row: row[{column!r}] not in (-1, None, '')), or another split with data.train= or "
            "data.test="
        )
