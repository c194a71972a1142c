"""What stored values mean, the same for packed files, folders and users' own datasets: scales, vectors, void
labels.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from ...core.classes import check_highest_class
from ...core.errors import ContrastillError, UsageError
from ...core.value_scale import BYTES, FLOATS, SIGNED_BYTES, UNSIGNED_16
from .file_views import LABELS

log = logging.getLogger(__name__)

RGB = "rgb"
VECTORS = ("normals", "normal", "surface_normals", "flow", "optical_flow")
"""Modalities that are taken for vectors by default."""
VOID = 255
"""The void label in VOC, Cityscapes and many others, used by default."""
NO_LABEL = ("unlabelled", "unlabeled", "void", "ignore", "ignored")
"""Names of the value 0 of label maps, in lower case."""
NEGATIVE_MARKS = (-1, -100)
"""Void labels below 0: of many tools, and of torch's cross_entropy."""
VECTORS_HELP = (
    "modalities whose values are vectors, x to the right in the picture: a mirrored view changes the sign of x, "
    "and unsigned integers are read as −1 … 1; "
    f"null: those called {', '.join(VECTORS)}; []: none"
)
AUTO: Literal["auto"] = "auto"
Void = Annotated[int, Field(ge=0)] | Literal["auto"] | None
"""A value of ``data.void``."""
VOID_HELP = "void label beside 0, −1 and −100; null: none; auto: 255, unless there are more classes than that"


def dtype_name(dtype: Any) -> str:
    """A dtype of NumPy or torch by its plain name, whatever its byte order.

    Example:
        >>> [dtype_name(dtype) for dtype in (np.dtype(">f4"), ">u2", torch.bfloat16)]
        ['float32', 'uint16', 'bfloat16']
    """
    return str(dtype).removeprefix("torch.") if isinstance(dtype, torch.dtype) else np.dtype(dtype).name


def number_kind(dtype: Any) -> str:
    """The kind of numbers of a dtype of NumPy or torch: of two kinds the scales differ.

    Example:
        >>> [number_kind(dtype) for dtype in (np.dtype("uint8"), torch.uint16, ">i4", torch.bfloat16)]
        ['8-bit integers', 'unsigned 16-bit integers', 'wide integers', 'floats']
    """
    name = dtype_name(dtype)
    if "float" in name:
        return FLOATS
    return {"uint8": BYTES, "int8": SIGNED_BYTES, "bool": BYTES, "uint16": UNSIGNED_16}.get(name, "wide integers")


def batch_values(name: str, values: Tensor, vectors: Collection[str] = ()) -> Tensor:
    """Stored values as a batch has them: rgb and labels as they are, all else float32 in the stored unit; coded vectors
    decoded.

    Args:
        name: Of the modality.
        values: Channels last or first.
        vectors: Names of the modalities that are vectors.
    """
    if name in (RGB, LABELS):
        return values
    if name in vectors and values.dtype == torch.uint8:
        return _decoded(values, 255.0)
    return values.to(torch.float32)


def vectors_of_array(values: np.ndarray) -> np.ndarray:
    """Vectors (…, C) as float32: unsigned integers from 0 … their highest to −1 … 1, NaN where all channels are 0,
    which no direction is stored as.

    Raises:
        UsageError: They are unsigned integers of more than 16 bits.

    Example:
        >>> vectors_of_array(np.array([[255, 0, 255], [0, 0, 0]], np.uint8)).tolist()
        [[1.0, -1.0, 1.0], [nan, nan, nan]]
    """
    if values.dtype.kind != "u":
        return values.astype(np.float32, copy=False)
    if values.dtype.itemsize > 2:
        raise UsageError(
            f"vectors of {values.dtype} have no known scale: store them as floats, or as uint8 or uint16 with the "
            "middle of the range as zero"
        )
    return _decoded(torch.from_numpy(values.astype(np.float32)), float(np.iinfo(values.dtype).max)).numpy()


def _decoded(values: Tensor, highest: float) -> Tensor:
    """From 0 … highest to −1 … 1; channels are the last side."""
    unknown = (values == 0).all(-1, keepdim=True)
    return (values.float() * (2 / highest) - 1).masked_fill(unknown, torch.nan)


def mirror_vectors(values: Tensor, flip: Tensor) -> Tensor:
    """Vectors (B, C, H, W) float32 of mirrored views: the sign of x, the first channel, changes where ``flip`` (B,)."""
    sign = torch.ones(len(values), values.shape[1], 1, 1, device=values.device)
    sign[:, 0, 0, 0] -= 2 * flip.to(sign)
    return values * sign


def vectors_among(named: Sequence[str] | None, channels: Mapping[str, int]) -> tuple[str, ...]:
    """Which modalities are vectors.

    Args:
        named: By ``data.vectors``; None: those with a usual name.
        channels: Modality -> how many it has.

    Raises:
        UsageError: A named modality does not exist or cannot be a vector in the picture.
    """
    if named is None:
        return tuple(name for name in channels if name in VECTORS and channels[name] > 1)
    for name in named:
        if name not in channels:
            raise UsageError(f"data.vectors names {name}, and the data have {', '.join(channels)}")
        if name in (RGB, "depth", LABELS) or channels[name] < 2:
            raise UsageError(
                f"data.vectors names {name}, which cannot be vectors in the picture: they have x, y and perhaps "
                "more channels"
            )
    return tuple(named)


def check_vectors(name: str, values: np.ndarray, where: object) -> None:
    """Refuse directions of floats (…, 3) that are coded around 0.5: a mirror would change their sign about
    0.
    """
    if values.shape[-1] != 3 or values.dtype.kind != "f":
        return
    known = values[np.isfinite(values).all(-1)]
    lengths = np.linalg.norm(2 * known.astype(np.float32) - 1, axis=-1)
    if known.size and known.min() >= 0 and known.max() <= 1 and (abs(lengths - 1) < 0.1).mean() > 0.9:
        raise UsageError(
            f"{where}: {name} are floats from {known.min():.3g} to {known.max():.3g} without a negative "
            "component, so 0.5 seems to stand for zero: "
            "store vectors as floats with their sign, as uint8 or uint16, or set data.vectors=[] if they are none"
        )


@dataclass(frozen=True)
class LabelRule:
    """Which values of a label map are void: 0, −1, −100 and ``void``; they become 0.

    Attributes:
        void: The further value; None: none.
        highest: The highest class; None: not known.
        assumed: Whether void is 255 by default, so that classes beyond it leave open what it is.
    """

    void: int | None = None
    highest: int | None = None
    assumed: bool = False

    @classmethod
    def of(cls, void: Void, names: Sequence[str] | None = None, seen: int = 0) -> LabelRule:
        """The rule of a data set.

        Args:
            void: The option.
            names: Of the values, from 0; None: not known.
            seen: The highest label that is known to occur.

        Raises:
            UsageError: ``void`` has the name of a class.
        """
        highest = None if names is None else len(names) - 1
        if void is None:
            return cls(None, highest)
        if void == AUTO:
            is_class = (highest if highest is not None else seen) > VOID or (highest is not None and highest >= VOID)
            return cls(None if is_class else VOID, highest, assumed=not is_class)
        if names is not None and 0 < void < len(names):
            raise UsageError(
                f"data.void={void} is the class {names[void]}: void is a label that stands for none, or null"
            )
        return cls(void, highest)

    def __call__(self, labels: np.ndarray, where: object) -> np.ndarray:
        """Labels with 0 for each void one: uint8 of eight bits, else int32.

        Args:
            where: The file or sample, for the message.

        Raises:
            ContrastillError: Values that are no labels.
        """
        if labels.dtype.kind == "f":
            if not (np.isfinite(labels) & (labels == np.round(labels))).all():
                raise ContrastillError(
                    f"{where} holds labels that are no whole numbers: label maps hold 0 for unlabelled, then 1, 2, …"
                )
            labels = labels.astype(np.int64)
        if labels.dtype.kind == "i":
            negative = np.isin(labels, NEGATIVE_MARKS)
            if (labels[~negative] < 0).any():
                raise ContrastillError(
                    f"{where} holds the label {labels[~negative].min()}: labels are 0 for unlabelled (−1 and −100 "
                    "too), then 1, 2, …"
                )
            labels = np.where(negative, labels.dtype.type(0), labels)
        if self.void is not None:
            labels = np.where(labels == self.void, labels.dtype.type(0), labels)
        most = int(labels.max(initial=0))
        if self.highest is not None and most > self.highest:
            raise ContrastillError(
                f"{where} holds the label {most}, and {self.highest} are named: add the missing names, or set "
                f"data.void={most} if it stands for no label"
            )
        if self.assumed and most > VOID:
            raise ContrastillError(
                f"{where} holds the label {most}, so that 255 may be a class: set data.void=null if it is one, or "
                "data.void=255 if it stands for no label"
            )
        if most > np.iinfo(np.int32).max:
            raise ContrastillError(
                f"{where} holds the label {most}, which is beyond 31 bits: set data.void={most} if it stands for no "
                "label"
            )
        return labels.astype(np.uint8 if labels.dtype.itemsize == 1 else np.int32, copy=False)

    def warn_of_void(self, labels: Iterable[np.ndarray], where: object, key: object = None) -> None:
        """Log once for ``where`` and ``key`` which of these labels, as stored, are taken for none, beside 0."""
        void_labels: set[int] = set()
        for values in labels:
            void_labels |= {
                mark
                for mark in (*NEGATIVE_MARKS, self.void)
                if mark is not None and mark != 0 and (values == mark).any()
            }
        if void_labels:
            marks = " and ".join(map(str, sorted(void_labels)))
            warn_once(
                f"{where}: the label {marks} in {LABELS} stands for no label, as 0 does; data.void=… or null says "
                "otherwise",
                key,
            )


def warn_of_gaps(targets: np.ndarray | Tensor, where: object, key: object = None) -> None:
    """Log once where numbers of classes (M,) of the training split have gaps: no sample trains these outputs of the
    network.

    Raises:
        UsageError: They can hardly number classes.
    """
    numbers = np.unique(np.asarray(targets))
    count = int(numbers.max(initial=-1)) + 1
    check_highest_class(count - 1)
    missing = count - len(numbers)
    if missing:
        # The highest label may be far beyond the number of samples: the first gaps are looked for, and no more.
        known = {*numbers.tolist()}
        if missing == 1 and 0 not in known:
            warn_once(
                f"{where}: the classes of the training samples are 1 … {count - 1}, and the network has an output for "
                "class 0 too, which no sample is of: subtract 1 from the labels, as classes count from 0",
                key,
            )
            return
        first = islice((number for number in range(count) if number not in known), 3)
        untrained = "its output is not trained" if missing == 1 else "their outputs are not trained"
        shown = ", ".join(map(str, first)) + (f" and {missing - 3} more" if missing > 3 else "")
        warn_once(
            f"{where}: no training sample is of class {shown}: {untrained}; number classes from 0 without gaps",
            key,
        )


@lru_cache(maxsize=1024)
def warn_once(message: str, key: object = None) -> None:
    """Log a warning, once in a process for each key."""
    log.warning("%s", message)
