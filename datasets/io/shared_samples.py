"""Test samples that are training samples: the same ones of a dataset, or images of the same bytes."""

from __future__ import annotations

import logging
import os
from typing import Any

import numpy as np
from torch.utils.data import Subset

from .decoded_cache import DecodedPictures
from .file_workers import PictureFiles
from .fingerprint import file_digest, file_sizes
from .stored_values import image_hashes

log = logging.getLogger(__name__)

# Files of both splits, and bytes of those that have to be read: a fraction of a second.
_FILES, _LARGEST = 20_000, 64 * 2**20


def warn_of_shared_samples(train: Any, test: Any) -> None:
    """Log how many samples of the test dataset are samples of the training dataset: the same object, or a Subset of
    the same.
    """
    (base, rows), (test_base, test_rows) = _rows_in(train), _rows_in(test)
    if test is None or base is not test_base:
        return
    shared = len(test) if rows is None else len({*rows} & {*(range(len(base)) if test_rows is None else test_rows)})
    if shared:
        log.warning(
            "%d of the %d test samples are training samples, as both are taken from one %s, so they say little of "
            "other images: hold some out, as torch.utils.data.random_split does",
            shared,
            len(test),
            type(base).__name__,
        )


def warn_of_shared_images(train: Any, test: Any) -> None:
    """Log how many images of the test split are in the training split too, byte by byte, where that is soon known: of
    splits in memory, and of up to 20,000 files.

    Args:
        train, test: Opened splits; None: there is none.
    """
    if train is None or test is None or _one_dataset(train, test):
        return
    sides = [image_hashes(split) for split in (train, test)]
    if not all(sides):
        sides = _digests(*(getattr(split, "pictures", None) for split in (train, test)))
    there = {*sides[0]}
    shared = sum(image in there for image in sides[1])
    if shared:
        log.warning(
            "%d of the %d test images are in the training split too, so they say little of other images",
            shared,
            test.num_samples,
        )


def _one_dataset(train: Any, test: Any) -> bool:
    """Whether both are taken from one dataset, of which :func:`warn_of_shared_samples` has said so."""
    bases = [_rows_in(getattr(getattr(split, "samples", None), "dataset", None))[0] for split in (train, test)]
    return bases[0] is not None and bases[0] is bases[1]


def _digests(train: Any, test: Any) -> list[list[int]]:
    """Of the files of both splits that have the size of one of the other; of other splits, or of too many, nothing."""
    # A cache keeps the files of others.
    both: list[Any] = [of.pictures if isinstance(of, DecodedPictures) else of for of in (train, test)]
    if not all(isinstance(pictures, PictureFiles) for pictures in both) or sum(len(p.files) for p in both) > _FILES:
        return [[], []]
    sizes = [file_sizes(pictures.root, pictures.files) for pictures in both]
    alike = [np.isin(own, others) & (own > 0) for own, others in zip(sizes, sizes[::-1], strict=True)]
    if sum(int(own[there].sum()) for own, there in zip(sizes, alike, strict=True)) > _LARGEST:
        return [[], []]
    return [
        [file_digest(os.path.join(pictures.root, name)) for name in pictures.files[there]]
        for pictures, there in zip(both, alike, strict=True)
    ]


def _rows_in(dataset: Any) -> tuple[Any, list[int] | None]:
    """The dataset that a Subset is of, also through others, and its rows there; None: all."""
    rows: list[int] | None = None
    while type(dataset) is Subset:
        indices = [int(index) for index in dataset.indices]
        rows = indices if rows is None else [indices[row] for row in rows]
        dataset = dataset.dataset
    return dataset, rows
