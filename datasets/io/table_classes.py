"""The classes of Hugging Face datasets whose rows are read as samples of the user's own: formatted, transformed, in a
Subset or put together.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.utils.data import ConcatDataset, Subset

from ...core.classes import read_names
from ...core.errors import UsageError
from .table_columns import is_list, is_of_library, label_column


def table_names(dataset: Any) -> list[str] | None:
    """Names of the classes in the column that a sample's label comes from; None where it has none, or ``dataset`` is
    none of the library's.

    Raises:
        UsageError: A class has no name.
    """
    column = _named_column(dataset)
    if column is None:
        return None
    feature = dataset.features[column]
    names = (feature.feature if is_list(feature) else feature).names
    return read_names(names, f"the list of names in {type(dataset).__name__}, column {column},")


def hands_out_other_labels(dataset: Any, labels: Tensor, name: str) -> bool:
    """Whether samples have other labels than the column that names them, as after a transform of the user's.

    Args:
        dataset: May be a Subset of datasets of the library, or some put together.
        labels: Of all samples: classes (N,), or a number for each class (N, C).
        name: The dataset, for the message.

    Raises:
        UsageError: The column lists the classes of each row, and so do the samples, where a number for each class would
            be read.
    """
    stored = _stored(dataset)
    if stored is None:
        return False
    if labels.ndim == 2 and labels.tolist() == stored:
        raise UsageError(
            f"the labels of {name} list the classes of a sample, and a label is the number of a class, or a number for "
            "each class: hand out 1 for each class that a sample has, else 0"
        )
    classes = labels[:, None].tolist() if labels.ndim == 1 else [row.nonzero()[:, 0].tolist() for row in labels > 0.5]
    return any(part is not None and sorted({*part}) != own for part, own in zip(stored, classes, strict=True))


def _stored(dataset: Any) -> list[list[int] | None] | None:
    """The classes of each sample as the column that names them holds them; None of samples from elsewhere, and where
    all are.
    """
    if type(dataset) is Subset:
        inner = _stored(dataset.dataset)
        return None if inner is None else [inner[row] for row in dataset.indices]
    if type(dataset) is ConcatDataset:
        parts: list[tuple[Any, list[list[int] | None] | None]] = [(each, _stored(each)) for each in dataset.datasets]
        if all(part is None for _, part in parts):
            return None
        return [row for each, part in parts for row in ([None] * len(each) if part is None else part)]
    column = _named_column(dataset)
    # Names that the user gave it are of the labels that are handed out.
    if column is None or hasattr(dataset, "classes") or hasattr(dataset, "class_to_idx"):
        return None
    cells = dataset.select_columns([column]).with_format("arrow")[:].column(column).to_pylist()
    return [[-1 if one is None else one for one in (cell if isinstance(cell, list) else [cell])] for cell in cells]


def _named_column(dataset: Any) -> str | None:
    """The column of ClassLabel that a sample's label comes from: that of its name, or that of a table's classes."""
    if not is_of_library(dataset, "Dataset"):
        return None
    features = dataset.features
    column = next((name for name in ("label", "target") if name in features), None)
    try:
        column = column or label_column(features, None, type(dataset).__name__)
    except UsageError:  # several could be it
        return None
    if column is None:
        return None
    feature = features[column]
    return column if hasattr(feature.feature if is_list(feature) else feature, "names") else None
