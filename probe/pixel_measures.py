"""Measures of class maps: accuracies and intersection over union of a confusion matrix, and how well outlines agree."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ..core.errors import UsageError

_UNLABELLED = (-1, -100)  # beside 0
_TOLERANCE = 0.0075
"""Of the diagonal, as in Csurka et al."""
_CLASSES = 8  # of a frame at a time


def pixel_targets(labels: Tensor, num_classes: int) -> Tensor:
    """Class − 1 of each pixel, and −1 where there is no label.

    Shape:
        - labels: (B, 1, H, W), 0, −1 or −100 unlabelled, else 1…C
        - returns (B, H, W) int64.

    Raises:
        UsageError: A label beyond C, or another below 0, or labels that are no whole numbers.
    """
    target = labels[:, 0].long()
    if labels.is_floating_point() and not bool((target == labels[:, 0]).all()):
        raise UsageError(
            "the label maps hold values that are no whole numbers: classes are 1 to num_classes, 0 is unlabelled"
        )
    target = unmarked(target)
    if not target.numel():
        return target
    lowest, highest = torch.stack(target.aminmax()).tolist()
    if lowest < 0 or highest > num_classes:
        shown = highest if highest > num_classes else lowest
        raise UsageError(
            f"the label maps hold class {shown}, and num_classes is {num_classes}: classes are 1 to num_classes, "
            "0, −1 and −100 are unlabelled, "
            "and data.void, where the data set has it, names another label that is"
        )
    return target - 1


def unmarked(labels: Tensor) -> Tensor:
    """Label maps with 0 in the place of each mark of an unlabelled pixel.

    Example:
        >>> unmarked(torch.tensor([0, 2, -1, -100])).tolist()
        [0, 2, 0, 0]
    """
    for mark in _UNLABELLED:
        labels = torch.where(labels == mark, 0, labels)
    return labels


def confusion_of(target: Tensor, predicted: Tensor, num_classes: int) -> Tensor:
    """Labelled pixels by their class (row) and the predicted one (column).

    Shape:
        - target: int64, class − 1, or −1 where there is no label; predicted: as many, class − 1
        - returns (C, C) int64.

    Example:
        >>> confusion_of(torch.tensor([0, 1, 1, -1]), torch.tensor([0, 0, 1, 1]), 2).tolist()
        [[1, 0], [1, 1]]
    """
    labelled = target >= 0
    places = target[labelled] * num_classes + predicted[labelled].long()
    return torch.bincount(places, minlength=num_classes**2).view(num_classes, num_classes)


def measures_of(confusion: Tensor, classes: int | None = None) -> dict[str, Any]:
    """``pixel_accuracy``, ``mean_accuracy``, ``miou`` and ``per_class_iou`` in per cent, as
    :class:`~contrastill.probe.segmentation.SegmentationResult` has them.

    Args:
        confusion: (C, C): labelled pixels by their class (row) and the predicted one (column).
        classes: Of the labels, which come first; the others are wrong answers, and no classes that a mean is taken
            over. None: C.

    Raises:
        UsageError: No pixel is labelled.

    Example:
        >>> measures = measures_of(torch.tensor([[3, 1, 0], [0, 4, 0], [0, 0, 0]]))
        >>> [round(measures[name], 1) for name in ("pixel_accuracy", "mean_accuracy", "miou")]
        [87.5, 87.5, 77.5]
    """
    counts = confusion.double()
    counts = counts.reshape(1, 1) if counts.numel() == 1 else counts
    right, labelled, predicted = (part[:classes] for part in (counts.diagonal(), counts.sum(1), counts.sum(0)))
    if not labelled.sum():
        raise UsageError("no pixel of the test frames is labelled: nothing can be measured")
    union = labelled + predicted - right
    iou = 100 * right / union  # NaN where a class is in neither
    return {
        "pixel_accuracy": (100 * right.sum() / labelled.sum()).item(),
        "mean_accuracy": (100 * right / labelled)[labelled > 0].mean().item(),
        "miou": iou[union > 0].mean().item(),
        "per_class_iou": tuple(iou.tolist()),
    }


@torch.no_grad()
def boundary_f(
    predictions: Tensor, labels: Tensor, tolerance: float = _TOLERANCE, classes: int | None = None
) -> Tensor:
    """How well the outlines of a frame's classes agree with those of its labels (Csurka et al., What is a good
    evaluation measure for semantic segmentation?, BMVC 2013).

    Of each class, precision is the share of the predicted outline that is near the labels' outline of that class,
    recall that of the labels' outline near the predicted one, and F = 2·precision·recall/(precision + recall); a
    frame has the mean over the classes that have an outline in its labels or in its prediction, and one that is in
    only one of them counts 0. Near is a distance (Euclidean) of at most ``tolerance`` times the diagonal, and of one
    pixel in any case. (Perazzi et al., CVPR 2016, match the outlines of single objects in the same way.)

    A class's outline are its pixels with a neighbour above, below, left or right of another class. The frame's border
    is none, and neither is that of unlabelled pixels: where one of the two neighbours has no label, neither outline is
    looked at.

    Args:
        predictions: Class maps.
        labels: Label maps; what is not above 0 is unlabelled.
        tolerance: Share of the diagonal.
        classes: Of the labels, 1 to this; outlines of others are not looked at. None: all.

    Shape:
        - predictions, labels: (B, 1, H, W)
        - returns (B,) float64 on the CPU, in per cent; NaN for a frame without any outline.

    Example:
        >>> labels = torch.tensor([[[[1, 1, 1, 2, 2, 2]]]])
        >>> boundary_f(torch.tensor([[[[1, 1, 2, 2, 2, 2]]]]), labels)
        tensor([100.], dtype=torch.float64)
        >>> boundary_f(torch.tensor([[[[1, 2, 2, 2, 2, 3]]]]), labels).round(decimals=2)
        tensor([22.2200], dtype=torch.float64)
    """
    radius = max(1.0, tolerance * math.hypot(*labels.shape[2:]))
    pairs = zip(predictions[:, 0].long(), labels[:, 0].long(), strict=True)
    frames = [_frame_f(prediction, label, radius, classes) for prediction, label in pairs]
    return torch.tensor(frames, dtype=torch.float64)


def _frame_f(prediction: Tensor, label: Tensor, radius: float, classes: int | None) -> float:
    """The mean F of the classes of one frame (H, W), in per cent."""
    outlines = [_outline(values, label > 0) for values in (prediction, label)]
    occurring = torch.cat([values[outline] for values, outline in zip((prediction, label), outlines, strict=True)])
    occurring = occurring.unique() if classes is None else occurring[occurring <= classes].unique()
    scores: list[Tensor] = []
    for some in occurring.split(_CLASSES) if len(occurring) else ():
        ours, truth = (
            outline & (values == some[:, None, None])
            for values, outline in zip((prediction, label), outlines, strict=True)
        )
        matches = [(ours & _near(truth, radius)), (truth & _near(ours, radius)), ours, truth]
        right, recalled, predicted, labelled = torch.stack([each.sum((1, 2)) for each in matches]).cpu().double()
        precision, recall = right / predicted, recalled / labelled  # NaN where a class is in only one of them
        scores.append((2 * precision * recall / (precision + recall)).nan_to_num(0.0))
    return 100 * torch.cat(scores).mean().item() if scores else math.nan


def _outline(values: Tensor, labelled: Tensor) -> Tensor:
    """(H, W) bool: pixels beside one of another class, where both are labelled."""
    outline = torch.zeros_like(labelled)
    for axis in range(2):
        length = values.shape[axis] - 1
        first, second = (values.narrow(axis, start, length) for start in (0, 1))
        there = labelled.narrow(axis, 0, length) & labelled.narrow(axis, 1, length)
        different = (first != second) & there
        for start in (0, 1):
            outline.narrow(axis, start, length).logical_or_(different)
    return outline


def _near(masks: Tensor, radius: float) -> Tensor:
    """(N, H, W) bool: pixels at most ``radius`` from one of their mask.

    A disc is a stack of rows: whether a row of it holds a pixel of the mask is the difference of two running sums, so
    that the work is as many operations a pixel as the disc has rows.
    """
    near, (height, width), reach = masks.clone(), masks.shape[1:], int(radius)
    sums = F.pad(masks.int(), (reach + 1, reach)).cumsum(2, dtype=torch.int32)
    for down in range(min(reach, height - 1) + 1):
        half = math.isqrt(int(radius**2 - down**2))
        row = sums.narrow(2, reach + 1 + half, width) > sums.narrow(2, reach - half, width)
        near[:, down:] |= row[:, : height - down]
        near[:, : height - down] |= row[:, down:]
    return near
