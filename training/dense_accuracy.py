"""How right a network's answers at each position are: classes of pixels, or depth."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Literal

import torch
from accelerate import Accelerator
from torch import Tensor

from ..core.data import Loader
from ..core.dense_prediction import class_maps, dense_prediction, resize_prediction
from ..core.errors import ContrastillError, UsageError
from ..core.predicted_quantity import LOG_DEPTH, quantity_of
from ..core.representation import Network
from ..core.representation_spec import evaluating
from ..probe.pixel_measures import boundary_f, confusion_of, measures_of, pixel_targets

LABELS, DEPTH = "semantics", "depth"
LOWER_IS_BETTER = frozenset({"abs_rel", "rmse"})
"""Of the measures; of all others more is better."""
Align = Literal["none", "median"]
Predict = Callable[[Mapping[str, Tensor]], Tensor]
_RATIO = 1.25
_MOST = 40.0
"""Of log depth: what is above it is wrong anyway, and the squares of its exponential would be infinite."""


@dataclass(frozen=True)
class DenseMeasures:
    """How well classes of pixels were predicted, in per cent, over all labelled pixels of a split at the label maps'
    resolution.

    Attributes:
        miou: Intersection over union, averaged over the classes that occur in labels or predictions.
        pixel_accuracy: Share of the pixels that got their class.
        mean_accuracy: The same for each class that occurs in the labels, averaged.
        per_class_iou: Of classes 1…C; NaN for a class that occurs in neither.
        boundary_f: How well outlines agree, see :func:`~contrastill.probe.pixel_measures.boundary_f`, averaged over
            the frames that have any; NaN where none has, None where it was not measured.
    """

    miou: float
    pixel_accuracy: float
    mean_accuracy: float
    per_class_iou: tuple[float, ...]
    boundary_f: float | None


@dataclass(frozen=True)
class DepthMeasures:
    """How well depth was predicted (Eigen et al., NeurIPS 2014), over all pixels of a split whose depth was measured
    and is above 0, at its resolution.

    Attributes:
        abs_rel: Mean of |prediction − depth| / depth.
        rmse: Root of the mean squared error, in the unit of the data's depth.
        delta1, delta2, delta3: Share of the pixels, in per cent, where max(prediction/depth, depth/prediction) is below
            1.25, 1.25² and 1.25³; never where the prediction is 0 or below.
        align: ``"none"``: the predictions are compared as they are. ``"median"``: those of each frame were multiplied
            by the ratio of the medians of its depth and of its predictions, over the pixels that were measured (Zhou et
            al., CVPR 2017), so that their scale was taken from the truth; a frame whose predictions have a median of 0
            or below, which has no scale, was compared as it is.
    """

    abs_rel: float
    rmse: float
    delta1: float
    delta2: float
    delta3: float
    align: str


def evaluate_dense(
    network: Network, loader: Loader, accelerator: Accelerator, *, align: Align = "none"
) -> dict[str, float]:
    """What is measured after an epoch, over all ranks, in eval mode: ``miou``, ``pixel_accuracy`` and
    ``mean_accuracy`` of a network for classes of pixels, ``abs_rel``, ``rmse``, ``delta1``, ``delta2`` and ``delta3``
    of one for depth; see :func:`measure_dense`, whose arguments and errors these are.
    """
    measures = asdict(measure_dense(network, loader, accelerator, align=align, boundaries=False))
    measured = {name: value for name, value in measures.items() if isinstance(value, float)}
    # The first one is what the best epoch is chosen by: more of it is better.
    return dict(sorted(measured.items(), key=lambda item: item[0] in LOWER_IS_BETTER))


def measure_dense(
    network: Network,
    loader: Loader,
    accelerator: Accelerator,
    *,
    align: Align = "none",
    boundaries: bool = True,
    predict: Predict | None = None,
    classes: int | None = None,
) -> DenseMeasures | DepthMeasures:
    """Compare a network's prediction with the label maps ``semantics`` of a split, or with its ``depth``, over all
    ranks, in eval mode; the training flags are put back.

    A prediction of one channel is a quantity and compared with ``depth``, its exponential where the student's objective
    says that it is log depth (``network.recipe["predicts"]``); one of more channels are logits, and channel
    c is class c + 1 of the label maps. Either is enlarged to what it is compared with, bilinearly. Pixels without a
    label, and those whose depth is NaN, infinite or not above 0, are not looked at.

    Args:
        network: Has a prediction.
        loader: Batches of the split, each rank's own part of them.
        accelerator: Device, precision and processes.
        align: Whether a depth without a scale is brought to that of the data, see :class:`DepthMeasures`.
        boundaries: Whether outlines are compared too.
        predict: The prediction (B, C, h, w) for a batch, in place of the network's own, such as
            ``functools.partial(predict_in_windows, network, window=512, stride=384)`` for large images.
        classes: Of the data, where the network has more, which come last: they are wrong answers, and no classes that
            are measured. None: all.

    Raises:
        UsageError: The data have nothing to compare with, or no pixel of it is labelled or measured; labels beyond C.
        ContrastillError: A prediction is NaN, or a depth infinite.
    """
    sums: _ClassSums | _DepthSums | None = None
    damaged = torch.zeros((), device=accelerator.device)
    with evaluating(network):
        for batch in loader.epoch(0):
            with accelerator.autocast():
                prediction = dense_prediction(network, batch) if predict is None else predict(batch)
            if sums is None:
                channels, device = prediction.shape[1], prediction.device
                in_logs = quantity_of({**network.recipe, "num_classes": channels}) == LOG_DEPTH
                quantities = channels == 1
                sums = _DepthSums(align, in_logs) if quantities else _ClassSums(channels, classes, boundaries, device)
            # Every rank has to come to the sum, also one whose predictions are damaged.
            damaged += sums.damage(prediction)
            # A rank's share of the last batch may be empty.
            if len(prediction):
                sums.update(prediction, batch)
    if float(accelerator.reduce(damaged, "sum")):
        what = "NaN or infinite values" if isinstance(sums, _DepthSums) else "NaN"
        raise ContrastillError(
            f"{type(network.module).__name__} gives {what} for images of the test split: its weights or its "
            "normalisation are damaged, or its training diverged (lower train.lr then)"
        )
    if sums is None:
        raise UsageError("the test split has no batches: nothing can be measured")
    return sums.measures(accelerator)


class _ClassSums:
    """The confusion matrix of the frames so far, and what the outlines add up to."""

    def __init__(self, channels: int, classes: int | None, boundaries: bool, device: torch.device) -> None:
        self.classes, self.boundaries = channels if classes is None else classes, boundaries
        self.confusion = torch.zeros(channels, channels, dtype=torch.int64, device=device)
        self.outlines = torch.zeros(2, dtype=torch.float64)

    def damage(self, prediction: Tensor) -> Tensor:
        return prediction.isnan().any()

    def update(self, prediction: Tensor, batch: Mapping[str, Tensor]) -> None:
        labels = _truth(batch, LABELS, f"the network predicts {self.classes} classes of pixels").to(prediction.device)
        target = pixel_targets(labels, self.classes)
        predicted = class_maps(prediction, target.shape[1:])
        self.confusion += confusion_of(target, predicted[:, 0] - 1, len(self.confusion))
        if self.boundaries:
            scores = boundary_f(predicted, labels, classes=self.classes)
            there = scores.isfinite()
            self.outlines += torch.stack([scores[there].sum(), there.sum()])

    def measures(self, accelerator: Accelerator) -> DenseMeasures:
        confusion = _over_ranks(self.confusion, accelerator)
        total, frames = _over_ranks(self.outlines, accelerator).tolist()
        outlines = (total / frames if frames else math.nan) if self.boundaries else None
        return DenseMeasures(**measures_of(confusion.cpu(), self.classes), boundary_f=outlines)


class _DepthSums:
    """What the pixels of the frames so far add up to: their number, the errors, and how many are near enough."""

    def __init__(self, align: Align, in_logs: bool) -> None:
        if align not in ("none", "median"):
            raise UsageError(f"align is {align!r}: depths are compared as they are (none) or by their median (median)")
        self.align, self.in_logs = align, in_logs
        self.total = torch.zeros(6, dtype=torch.float64)

    def damage(self, prediction: Tensor) -> Tensor:
        return ~prediction.isfinite().all()

    def update(self, prediction: Tensor, batch: Mapping[str, Tensor]) -> None:
        depth = _truth(batch, DEPTH, "the network predicts a quantity for each pixel").to(prediction.device)[:, 0]
        # Apple's devices have no float64.
        wide = torch.float32 if prediction.device.type == "mps" else torch.float64
        ours, depth = resize_prediction(prediction, depth.shape[1:])[:, 0].to(wide), depth.to(wide)
        if self.in_logs:  # enlarged first, as the loss does
            ours = ours.clamp(max=_MOST).exp()
        there = depth.isfinite() & (depth > 0)
        if self.align == "median":
            scale = _median(depth, there) / _median(ours, there)
            ours = ours * torch.where(scale.isfinite() & (scale > 0), scale, 1.0)[:, None, None]
        ours, depth = ours[there], depth[there]
        error = ours - depth
        ratio = torch.where(ours > 0, torch.maximum(ours / depth, depth / ours), math.inf)
        near = [(ratio < _RATIO**power).sum() for power in (1, 2, 3)]
        sums = [there.sum(), (error.abs() / depth).sum(), error.square().sum(), *near]
        self.total += torch.stack([value.to(wide) for value in sums]).cpu()

    def measures(self, accelerator: Accelerator) -> DepthMeasures:
        count, relative, square, *near = _over_ranks(self.total, accelerator).tolist()
        if not count:
            raise UsageError("no pixel of the test frames has a depth above 0: nothing can be measured")
        first, second, third = (100 * value / count for value in near)
        return DepthMeasures(relative / count, math.sqrt(square / count), first, second, third, self.align)


def _median(values: Tensor, there: Tensor) -> Tensor:
    """(B,) the median of each frame (B, H, W) over some of its pixels, between the middle two of an even number, as
    NumPy's; infinite where there are none.
    """
    ordered = torch.where(there, values, math.inf).flatten(1).sort(1).values
    count = there.flatten(1).sum(1, keepdim=True)
    middle = torch.cat([(count - 1).clamp(min=0) // 2, count // 2], 1)
    return ordered.gather(1, middle).mean(1)


def _truth(batch: Mapping[str, Tensor], name: str, what: str) -> Tensor:
    if name not in batch:
        stored = ", ".join(sorted(batch))
        raise UsageError(
            f"{what}, and the data have no {name} to compare with: they have {stored}; give your samples a field "
            f"{name}, or take other data"
        )
    return batch[name]


def _over_ranks(sums: Tensor, accelerator: Accelerator) -> Tensor:
    """The sum over processes; what is counted in whole numbers stays exact."""
    # Sums of float64 stay where they are: not every device has it, and a single process needs none.
    return accelerator.reduce(sums.to(accelerator.device), "sum") if accelerator.num_processes > 1 else sums
