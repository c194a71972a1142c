"""Labels as a user's own dataset returns them: the number of a class, or a number for each class."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...core.errors import UsageError
from ...core.label_vectors import plain_array


def read_label(label: Any, where: str) -> int | Tensor:
    """The number of a class, also as the only number of a list or tensor, or float32 (C,), a number for each class.

    Args:
        label: As a sample has it.
        where: The sample, for the message.

    Raises:
        UsageError: It is neither.
    """
    values = _numbers(label)
    if values is not None and values.ndim == 1 and len(values) > 1:
        return torch.from_numpy(values.astype(np.float32))
    if values is not None and values.size == 1 and values.dtype.kind in "iu" and values.item() >= 0:
        return int(values.item())
    if values is not None and values.ndim > 1:
        raise UsageError(
            f"the label of {where} is of shape {values.shape}, and classes are whole numbers from 0: return (image, "
            "label), the image first, or a dict with other modalities under their names, such as semantics"
        )
    shown = str(label).split("\n")[0][:40]
    raise UsageError(
        f"the label of {where} is {shown}: classes are whole numbers from 0{_way(label, values)}; for "
        "other modalities return a dict"
    )


def listed_labels(listed: Any, count: int) -> Tensor | None:
    """A dataset's list of the classes of all its samples, int64 (N,); None where it is another."""
    try:
        values = plain_array(listed)
    except (TypeError, ValueError, RuntimeError):  # such as boxes, several to a sample
        return None
    return torch.from_numpy(values.astype(np.int64)) if values.shape == (count,) and values.dtype.kind in "iu" else None


def shown_label(label: int | Tensor) -> str:
    """A label in words, for messages."""
    return f"{len(label)} numbers" if isinstance(label, Tensor) else f"the class {label}"


def _numbers(label: Any) -> np.ndarray | None:
    """A label as an array of numbers; None where it is none."""
    try:
        values = plain_array(label)
    except (TypeError, ValueError, RuntimeError):  # lists of lists of several lengths, a sparse tensor
        return None
    return values if values.dtype.kind in "biuf" else None


def _way(label: Any, values: np.ndarray | None) -> str:
    """What to do about a label that is no whole number from 0 on."""
    if isinstance(label, str):
        return ": return its place in a list of names, and give the dataset that list as classes"
    if values is not None and values.size == 1 and values.dtype.kind in "bf":
        return ": return int(label) if it numbers a class"
    return ""
