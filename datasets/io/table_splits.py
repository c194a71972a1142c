"""The splits of Hugging Face datasets that are loaded: which is which, and their samples as they are stored."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from pydantic import Field

from ...core.errors import ContrastillError, UsageError, unknown_name
from ...core.label_vectors import Labels, check_one_form, read_label_vectors
from ...core.value_scale import note_once
from .arrow_rows import ArrowPictures, ArrowReader, ArrowRows
from .file_splits import FileSplit, PairSplit
from .folders import SPLITS, tell_of_unread
from .kept_for_testing import hash_fraction, nothing_left, tell_of_share
from .pairs import PairOptions, open_pairs
from .table_columns import is_array, label_column, modality_columns, unread_label, way_from_floats
from .table_labels import TableLabels, check_labelled
from .values import RGB, LabelRule, warn_of_gaps

log = logging.getLogger(__name__)

_TEST = (SPLITS["test"][0], ("validation", "valid", "val", "dev"))
_SIZE = 224
_FRACTION = 0.1
# Pictures whose headers are read for the default size.
_PICTURES_READ = 16


class TableOptions(PairOptions):
    """Options of Hugging Face datasets, on disk, on the Hub or passed to a call."""

    train: str | None = Field(None, description="split to train on; null: train or training, or the only one")
    test: str | None = Field(
        None, description="split to test on; null: test or testing, else validation, valid, val or dev"
    )
    image: str | None = Field(
        None,
        description="column of rgb, read alone unless there are modalities; null: the only one of pictures, or that "
        "called rgb, image or img",
    )
    label: str | None = Field(
        None, description="column of classes; null: the only ClassLabel, or that called label, labels or target"
    )
    modalities: dict[str, str] | None = Field(
        None,
        description="modality -> column of those beside rgb, such as {depth: depth_map}; null: every column of "
        "pictures, called as it is",
    )
    test_fraction: float | None = Field(
        None,
        gt=0,
        le=1,
        description=f"share of the rows held out for testing where there is one split; null: {_FRACTION}, of a Dataset "
        "passed to a call none; 1: all, for an evaluation",
    )


class TableSplits:
    """Opens the splits of loaded datasets.

    Args:
        datasets: Name of a split -> ``datasets.Dataset``.
        where: The data set, for messages.
        holds_out: Whether a part of the only split is held out by default.
    """

    def __init__(self, datasets: Mapping[str, Any], options: TableOptions, where: str, *, holds_out: bool) -> None:
        self.datasets, self.options, self.where = datasets, options, where
        self._read: dict[str, TableLabels] = {}
        self.train = train_name(datasets, options.train, where)
        self.test = test_name(datasets, self.train, options.test, where, holds_out=options.test_fraction is not None)
        if self.test == self.train:
            note_once(
                f"{where}: the samples of {self.train} are both trained and tested on, so they say little of other "
                "images: name another split with data.test="
            )
        self.fraction = options.test_fraction or (_FRACTION if holds_out else None)
        features = datasets[self.train].features
        self.columns = modality_columns(features, options.image, options.modalities, where)
        self.label = label_column(features, options.label, where)
        if options.label is None and self.label is not None and (other := unread_label(features, self.label)):
            note_once(
                f"{where}: the classes are those of the column {self.label}, and the column {other} is not read: "
                f"data.label={other} takes it instead"
            )

    def open(self, split: str) -> FileSplit | PairSplit | None:
        """``"train"`` or ``"test"``, of which a few samples are read. Only ``"train"`` is ever augmented.

        Raises:
            UsageError: No such split or column, rows without a label, classes that the training split does not have.
        """
        if split not in SPLITS:
            raise UsageError(f"{self.where} has no split {split!r}: it has train, test")
        if split == "test" and self.test is None and self.fraction is None:
            return None
        self._tell_of_unread()
        labels = self._labels(split)
        name = self._name(split)
        self._check_columns(name)
        rows = self._rows(split)
        if self.options.limit is not None and self.options.limit < len(rows):
            rows = rows[np.arange(self.options.limit) * len(rows) // self.options.limit]
        contents = ArrowRows(self.datasets[name], self.columns, rows, f"{self.where}/{name}")
        own, classes = Labels(None, None), None
        if labels is not None and labels.rows is not None:
            every = self._vectors()[name]
            own = Labels(*(None if part is None else part[rows] for part in (every.targets, every.vectors)))
            classes = labels.names or labels.rows.shape[1]
        elif labels is not None:
            own, classes = Labels(torch.from_numpy(labels.numbers[rows]), None), labels.names or self._num_classes()
        opened = self._opened(split, contents, rows, own.targets, classes)
        opened.label_vectors = own.vectors
        if labels is None:
            opened.way_to_classes = way_from_floats(self.datasets[self.train].features)
        return opened

    def _tell_of_unread(self) -> None:
        """Log the splits that are neither trained nor tested on, unless they were named."""
        if self.options.train is None and self.options.test is None:
            read = [self.train] if self.test is None else [self.train, self._test_split()]
            tell_of_unread(self.where, [name for name in self.datasets if name not in read], read)

    def _vectors(self) -> dict[str, Labels]:
        """Labels that hold a number for each class, of the datasets of both splits."""
        names = [self.train] if self.test is None else [self.train, self._test_split()]
        rows = {name: self._labels_of(name).rows for name in names}
        return read_label_vectors(rows, self.where)

    def _opened(
        self, split: str, contents: ArrowRows, rows: np.ndarray, targets: Any, classes: Any
    ) -> FileSplit | PairSplit:
        """The split of these rows."""
        name = self._name(split)
        if self._is_square():
            return FileSplit.from_options(
                ArrowPictures(contents), targets, classes, self.options, self._size(), training=split == "train"
            )
        options = self.options
        if split == "train" and options.image is None and options.modalities is None:
            log.warning(
                "%s: the columns %s are read as the modalities %s; data.image= reads one alone",
                self.where,
                ", ".join(self.columns.values()),
                ", ".join(self.columns),
            )
        reader = ArrowReader(contents, LabelRule.of(options.void))
        return open_pairs(
            reader,
            len(rows),
            options,
            f"{self.where}/{name}",
            training=split == "train",
            targets=targets,
            num_classes=classes if isinstance(classes, int) else None,
            classes=classes if isinstance(classes, list) else None,
        )

    def _name(self, split: str) -> str:
        """The dataset that a split is in."""
        return self._test_split() if split == "test" and self.test is not None else self.train

    def _test_split(self) -> str:
        """The split to test on: of the usual names the first that has labels, as those of test splits are often not
        published.
        """
        assert self.test is not None
        if self.options.test is not None or self.label is None or not self._lacks_labels(self.test):
            return self.test
        other = next((name for name in self.datasets if name != self.train and name.lower() in _TEST[1]), None)
        if other is None or other == self.test:
            return self.test
        log.warning("%s: the split %s has no labels, so %s is tested on", self.where, self.test, other)
        return other

    def _lacks_labels(self, name: str) -> bool:
        if self.label not in self.datasets[name].features:
            return True
        labels = self._stored_labels(name)
        return len(labels.unlabelled) == len(labels.numbers)

    def _stored_labels(self, name: str) -> TableLabels:
        assert self.label is not None
        if name not in self._read:
            self._read[name] = TableLabels.read(self.datasets[name], self.label, f"{self.where}/{name}")
        return self._read[name]

    def _labels(self, split: str) -> TableLabels | None:
        """The split's labels by the training split's numbers; None where there is no column of them."""
        if self.label is None:
            if split == "train":
                log.warning(
                    "%s: there is no column of classes among %s, so the samples are unlabelled; data.label= names "
                    "one%s",
                    self.where,
                    ", ".join(self.datasets[self.train].features),
                    f"; {way}" if (way := way_from_floats(self.datasets[self.train].features)) else "",
                )
            return None
        return self._labels_of(self._name(split))

    def _labels_of(self, name: str) -> TableLabels:
        where = f"{self.where}/{name}"
        assert self.label is not None
        if self.label not in self.datasets[name].features:
            raise UsageError(
                f"{where} has no column {self.label}, which the training split has its labels in: rename its own with "
                "dataset.rename_column, or take another split with data.test="
            )
        labels = self._stored_labels(name)
        check_labelled(labels, self.label, where)
        if name == self.train:
            return labels
        train = self._labels_of(self.train)
        check_one_form({f"{self.where}/{self.train}": train.form, where: labels.form})
        return labels.numbered_by(train, where, f"{self.where}/{self.train}", self.label)

    def _num_classes(self) -> int:
        """Of labels without names: one more than the highest of both splits, or as many as the test split names."""
        train = self._labels_of(self.train).numbers
        warn_of_gaps(train, self.where)
        highest = [train.max()]
        if self.test is not None:
            test = self._labels_of(self._test_split())
            highest += [test.numbers.max(initial=0), len(test.names or ()) - 1]
        return int(max(highest)) + 1

    def _check_columns(self, name: str) -> None:
        features = self.datasets[name].features
        if not len(self.datasets[name]):
            raise UsageError(f"{self.where}/{name} has no rows")
        for column in self.columns.values():
            if column not in features or type(features[column]) is not type(self.datasets[self.train].features[column]):
                raise UsageError(
                    f"{self.where}/{name} has no column {column} like that of the split {self.train}: it has "
                    f"{', '.join(features)}"
                )

    def _rows(self, split: str) -> np.ndarray:
        """The rows of a split in its dataset."""
        rows = np.arange(len(self.datasets[self._name(split)]))
        if self.test is not None or self.fraction is None:
            return rows
        held_out = np.array([hash_fraction(str(row)) < self.fraction for row in rows.tolist()])
        if split == "test":
            tell_of_share(self.where, int(held_out.sum()), len(rows), "rows", self.fraction)
            if self.fraction == 1:
                return rows
        labels = None if self.label is None else self._labels_of(self.train)
        missed = None if labels is None else np.setdiff1d(labels.numbers, labels.numbers[~held_out])
        if not held_out.any() or held_out.all() or (missed is not None and len(missed)):
            short = "no row is held out for testing"
            if missed is not None and len(missed):
                name = labels.names[missed[0]] if labels is not None and labels.names else missed[0]
                short = f"no row of the class {name} is left to train on"
            raise nothing_left(self.where, "rows", self.fraction, short)
        return rows[held_out if split == "test" else ~held_out]

    def _is_square(self) -> bool:
        """Whether there are pictures of rgb alone, which become squares as those of ``image_folder``."""
        return [*self.columns] == [RGB] and not is_array(self.datasets[self.train].features[self.columns[RGB]])

    def _size(self) -> int:
        """Side of the squares; by default that of small pictures of one size, else 224."""
        size = self.options.size
        if isinstance(size, int):
            return size
        if size is not None:
            if size[0] != size[1]:
                raise UsageError(f"data.size={[*size]}: pictures of rgb alone become squares, set one number")
            return size[0]
        count = len(self.datasets[self.train])
        few = min(count, _PICTURES_READ)
        rows = np.arange(few) * count // few
        pictures = ArrowPictures(ArrowRows(self.datasets[self.train], self.columns, rows, self.where))
        sides = set()
        for place in range(few):
            try:
                picture = pictures.open(place)
            except ContrastillError:
                continue  # reported where it is needed
            sides |= {picture.height, picture.width}
        return min(sides) if len(sides) == 1 and min(sides) < _SIZE else _SIZE


def train_name(datasets: Mapping[str, Any], name: str | None, where: str) -> str:
    """The split to train on: ``name``, or by the usual names, or the only one.

    Raises:
        UsageError: There is no such split, or several could be it.
    """
    if name is not None:
        return _existing(datasets, name, "train", where)
    named = [each for each in datasets if each.lower() in SPLITS["train"][0]]
    if len(named) == 1 or len(datasets) == 1:
        return (named or [*datasets])[0]
    raise UsageError(f"{where} has the splits {', '.join(datasets)}: say which to train on with data.train=")


def test_name(
    datasets: Mapping[str, Any], train: str, name: str | None, where: str, *, holds_out: bool = False
) -> str | None:
    """The split to test on: ``name``, or by the usual names; None where there are none but ``train``.

    Args:
        holds_out: Whether a part of the training split is held out if none has a usual name.

    Raises:
        UsageError: There is no such split, several could be it, or all have other names.
    """
    if name is not None:
        return _existing(datasets, name, "test", where)
    others = [each for each in datasets if each != train]
    named = next((group for names in _TEST if (group := [each for each in others if each.lower() in names])), [])
    if len(named) > 1 or (others and not named and not holds_out):
        raise UsageError(
            f"{where} has the splits {', '.join(datasets)}: say which to test on with data.test=, or hold out a part "
            "with data.test_fraction="
        )
    return named[0] if named else None


def _existing(datasets: Mapping[str, Any], name: str, option: str, where: str) -> str:
    if name not in datasets:
        raise unknown_name(f"split of {where} (data.{option})", name, [*datasets])
    return name
