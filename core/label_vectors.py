"""Labels that hold a number for each class: probabilities of the classes, and several classes at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .errors import UsageError
from .value_scale import note_once

# Rows of probabilities come rounded to 8 or 16 bits.
_ROUNDING = 1e-2
NUMBER_FOR_EACH = "a number for each class"
"""The form of labels (N, C)."""


@dataclass(frozen=True)
class Labels:
    """The labels of a split.

    Attributes:
        targets: int64 (N,), the class of each sample; of probabilities the most probable one; None where a sample
            may have several.
        vectors: float32 (N, C), probabilities, or 0 and 1 where a sample may have several classes; None where all
            that is known is one class for each sample.
    """

    targets: Tensor | None
    vectors: Tensor | None


def is_vectors(values: Any) -> bool:
    """Whether labels have the shape (N, C) with more than one class."""
    shape = np.shape(values)
    return len(shape) == 2 and shape[1] > 1


def check_one_form(forms: Mapping[str, str]) -> None:
    """Refuse labels that are classes in one part of the data, and numbers for each class in another.

    Args:
        forms: Part, such as a split -> the form of its labels.

    Raises:
        UsageError: They differ.
    """
    (first, form), *others = forms.items()
    way = ", as torch.nn.functional.one_hot makes of numbers" if NUMBER_FOR_EACH in forms.values() else ""
    for other, its_form in others:
        if its_form != form:
            raise UsageError(
                f"the labels of {first} are {form}, and those of {other} are {its_form}: give both one form{way}"
            )


def read_label_vectors(parts: Mapping[str, Any], name: str) -> dict[str, Labels]:
    """Labels (N, C) of all splits of a data set, of one kind.

    Rows of a single 1 are classes. Rows that sum to 1 are probabilities. Rows of 0 and 1 mark several classes.

    Args:
        parts: Split -> numbers (N, C).
        name: Of the data, for messages.

    Raises:
        UsageError: Splits of different numbers of classes, or numbers of another kind.
    """
    rows = {split: _numbers(values, f"{name}, {split}") for split, values in parts.items()}
    counts = {split: values.shape[1] for split, values in rows.items()}
    if len({*counts.values()}) > 1:
        shown = ", ".join(f"{count} in {split}" for split, count in counts.items())
        raise UsageError(f"{name}: labels have different numbers of classes: {shown}")
    everything = torch.cat([*rows.values()])
    binary = bool(((everything == 0) | (everything == 1)).all())
    sums = bool(((everything.sum(1) - 1).abs() <= _ROUNDING).all())
    count = everything.shape[1]
    if binary and sums:
        note_once(f"{name}: labels are vectors with a single 1 and are read as one of {count} classes each")
        return {split: Labels(values.argmax(1), None) for split, values in rows.items()}
    if sums:
        note_once(
            f"{name}: labels are probabilities of {count} classes; where one class is needed, as for top-1, it is the "
            "most probable one"
        )
        return {split: Labels(values.argmax(1), values / values.sum(1, keepdim=True)) for split, values in rows.items()}
    if binary:
        note_once(
            f"{name}: labels mark any number of {count} classes for a sample: binary_cross_entropy learns them, and "
            "mAP is measured"
        )
        return {split: Labels(None, values) for split, values in rows.items()}
    raise UsageError(
        f"{name}: the rows of the labels {tuple(everything.shape)} neither hold 0 and 1 alone nor sum to 1: give "
        "probabilities of the classes, or 1 for each class that a sample has"
    )


def plain_array(values: Any) -> np.ndarray:
    """Numbers as an array, wherever a tensor of them lies; of bfloat16, which NumPy lacks, as float32."""
    if not isinstance(values, Tensor):
        return np.asarray(values)
    values = values.detach().cpu()
    return (values.float() if values.dtype == torch.bfloat16 else values).numpy()


def several_classes(split: Any) -> bool:
    """Whether the samples of a split may have several classes each."""
    return split.targets is None and getattr(split, "label_vectors", None) is not None


def lacks_classes(split: Any, what: str) -> str:
    """In words, why a split without targets has no class for each sample, and the way out.

    Args:
        split: Without ``targets``.
        what: What needs the classes.
    """
    if several_classes(split):
        return (
            f"has labels that mark any number of classes, and {what} needs one class for each sample: contrastill "
            "evaluate measures the mAP of such labels, or name other data"
        )
    way = getattr(split, "way_to_classes", "")
    return f"has no classes, and {what} needs one for each sample: {f'{way}, or ' if way else ''}name labelled data"


def label_fields(targets: Tensor | None, vectors: Tensor | None, index: Tensor | slice) -> dict[str, Tensor]:
    """The fields ``target`` int64 (B,) and ``label_vector`` float32 (B, C) of the samples ``index`` (B,), those that
    there are.
    """
    known = {"target": targets, "label_vector": vectors}
    return {name: values[index] for name, values in known.items() if values is not None}


def _numbers(values: Any, name: str) -> Tensor:
    array = plain_array(values)
    if array.dtype.kind not in "biuf":
        raise UsageError(f"{name}: labels (N, C) are {array.dtype}: give numbers")
    rows = torch.from_numpy(np.ascontiguousarray(array).astype(np.float32))
    if not bool(rows.isfinite().all()) or bool((rows < 0).any()):
        raise UsageError(
            f"{name}: labels (N, C) hold negative or infinite numbers or NaN: give probabilities of the classes, or "
            "1 for each class that a sample has, else 0"
        )
    return rows
