"""What objectives on predictions (B, C, h, w) share: whether both sides answer alike, at which size they are compared,
which positions count, and the labels of pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..core.dense_prediction import resize_prediction
from ..core.errors import UsageError
from ..core.objective import Setting
from ..core.representation_spec import RepresentationSpec
from .logits import log_probabilities
from .maps import common_size, resize_map

LABELS = "semantics"
UNLABELLED = (0, -1, -100)
"""In label maps: no label."""

DEPTH = "depth"

MEASURED = (
    "modality of the batch whose unmeasured pixels (NaN, as in a crop's padding; of depth also 0) do not count; null: "
    "every position counts"
)
"""Description of the option ``measured``."""


def check_predictions(
    objective: str, setting: Setting, *, otherwise: str, classes: bool = True, teacher: bool = True
) -> None:
    """Refuse networks whose predictions an objective cannot read, or cannot compare channel by channel.

    Args:
        objective: Its name, for the message.
        setting: With the shapes of both sides.
        otherwise: What to take where a network answers for the whole sample, such as ``"kd"``.
        classes: Whether the softmax over the channels is taken at each position.
        teacher: Whether it compares with a teacher.

    Raises:
        UsageError: A side has no prediction; it is one number, or probabilities already, where a softmax is taken;
            teacher and student have different numbers of channels.
    """
    sides = {"teacher": setting.require_teacher()} if teacher else {}
    channels = {}
    for role, spec in {**sides, "student": setting.student}.items():
        if spec.prediction_shape is None:
            there = "has none" if spec.num_classes is None else "returns logits of whole samples (B, C)"
            raise UsageError(
                f"objective {objective} reads an answer for each position (B, C, h, w), and the {role} {there}: take a "
                "network that gives one, such as unet/resnet20 or a module of your own with "
                f"contrastill.Taps(prediction='output:KEY'), or {otherwise}"
            )
        channels[role] = spec.prediction_shape[0]
        if classes:
            if setting.pixel_classes == 1 and channels[role] == 1:
                raise UsageError(
                    f"objective {objective} tells classes apart, and the label maps have one: number the other pixels "
                    "too, as class 2, since 0 is unlabelled and not learnt"
                )
            check_several(objective, role, channels[role])
            _check_kind(objective, role, spec)
    if teacher and channels["student"] != channels["teacher"]:
        count = channels["student"]
        first = (
            f" (where its first one is the background, class_map=[{', '.join(map(str, range(1, min(count, 3) + 1)))}"
            f"{', …' * (count > 3)}])"
            if channels["teacher"] == count + 1
            else ""
        )
        raise UsageError(
            f"objective {objective} compares predictions, but the teacher has {channels['teacher']} channels and the "
            f"student {count}: say with class_map which of the teacher's classes is which{first}, or use an "
            "objective that reads maps, such as fitnet"
        )


def check_several(objective: str, role: str, channels: int) -> None:
    """Refuse a prediction of one channel where a softmax is taken over the channels: it is 1 whatever it is.

    Raises:
        UsageError: There is one.
    """
    if channels == 1:
        raise UsageError(
            f"objective {objective} takes the softmax over the classes at each position, and the {role} predicts one "
            "number there: give it a channel for each class, which of one class and its background are 2, or take "
            f"{'scale_invariant' if objective == 'pixel_cross_entropy' else 'dense_regression'} for a quantity such as "
            "depth"
        )


def check_one(objective: str, channels: int) -> None:
    """Refuse a prediction of several channels where a quantity is read.

    Raises:
        UsageError: There are several.
    """
    if channels != 1:
        raise UsageError(
            f"objective {objective} reads one number at each position, and the student predicts {channels}: give it "
            "one channel, or take pixel_cross_entropy for classes"
        )


def _check_kind(objective: str, role: str, spec: RepresentationSpec) -> None:
    end = "softmax" if spec.probabilities else "sigmoid" if spec.sigmoid else None
    if end is not None:
        raise UsageError(
            f"objective {objective} takes the softmax of logits at each position, and the {role} ends in a {end}: "
            f"leave the {end} at its end out"
        )


def resize(values: Tensor, size: Sequence[int]) -> Tensor:
    """Values (B, C, H, W) at a height and width: the mean over each cell where they are finer, bilinear where they are
    coarser.
    """
    return resize_prediction(resize_map(values, common_size(values.shape[2:], size)), size)


def single(values: Tensor) -> Tensor:
    """Values in float32 at least."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def teacher_log_probabilities(logits: Tensor, size: Sequence[int], temperature: float = 1.0) -> Tensor:
    """log of a teacher's softmax(logits / T) over the channels, at a height and width.

    Probabilities are what is resized, not logits: the divergence from the mean of probabilities has the gradient of the
    mean divergence from each of them, and a class that the teacher masks (−∞) stays out of it.

    Args:
        logits: (B, C, H, W).
        size: Height and width of the result.
        temperature: T.
    """
    logs = log_probabilities(logits, temperature)
    return logs if tuple(logits.shape[2:]) == tuple(size) else resize(logs.exp(), size).log()


def measured_positions(objective: str, batch: Mapping[str, Any], measured: str | None, prediction: Tensor) -> Tensor:
    """Where at least half of the pixels were measured, (B, h, w) bool; everywhere, of a batch without that modality.

    Args:
        objective: Its name, for the message.
        batch: Perhaps with the modality, (B, C, H, W), not finite where nothing was measured, or depth not above 0.
        measured: The modality; None: every position counts.
        prediction: (B, C, h, w), of which the positions are.

    Raises:
        UsageError: The modality is of other samples, or of no pixels.
    """
    if measured is None or measured not in batch:
        return torch.ones_like(prediction[:, 0], dtype=torch.bool)
    values = check_pixels(objective, measured, batch[measured], prediction)
    there = values.isfinite() & (values > 0) if measured == DEPTH else values.isfinite()
    return most_pixels(there.all(1, keepdim=True), prediction)


def most_pixels(where: Tensor, prediction: Tensor) -> Tensor:
    """The positions of a prediction (B, C, h, w) at which half of the pixels (B, 1, H, W) or more are true: (B, h,
    w).
    """
    # A mean may be rounded.
    return resize(where.float(), prediction.shape[2:])[:, 0] >= 0.5 - 1e-6


def mean_of_counted(values: Tensor, counted: Tensor) -> Tensor:
    """Each sample's mean of values (B, h, w) over the positions that count: (B,), 0 where none does."""
    return torch.where(counted, values, 0.0).sum((1, 2)) / counted.sum((1, 2)).clamp_min(1)


def share_of(counted: Tensor) -> Tensor:
    """The share of positions that count, for the logs."""
    return counted.float().mean()


def check_pixels(objective: str, field: str, value: Any, prediction: Tensor, channels: int | None = None) -> Tensor:
    """A field of the batch, if it has a value for each pixel of the prediction's samples.

    Args:
        objective: Its name, for the message.
        field: Its name in the batch.
        value: (B, C, H, W) by right.
        prediction: (B, …).
        channels: C; None: any number.

    Raises:
        UsageError: It has not, or lies on another device.
    """
    if not isinstance(value, Tensor) or value.is_complex():
        kind = value.dtype if isinstance(value, Tensor) else type(value).__name__
        raise UsageError(f"objective {objective}: {field} is {kind}: pass a tensor (B, {channels or 'C'}, H, W)")
    fits = value.ndim == 4 and len(value) == len(prediction) and value.numel() > 0
    if not fits or channels not in (None, value.shape[1]):
        raise UsageError(
            f"objective {objective}: {field} has shape {tuple(value.shape)}, and the prediction "
            f"{tuple(prediction.shape)}: pass ({len(prediction)}, {channels or 'C'}, H, W)"
        )
    if value.device != prediction.device:
        raise UsageError(
            f"objective {objective}: {field} is on {value.device} and the prediction on {prediction.device}: move it "
            "there"
        )
    return value


def unlabelled_pixels(labels: Tensor) -> Tensor:
    """Where label maps hold no label: 0, −1 or −100."""
    return torch.stack([labels == mark for mark in UNLABELLED]).any(0)


def pixel_targets(objective: str, batch: Mapping[str, Any], prediction: Tensor) -> Tensor:
    """The batch's label maps as channels of the prediction: (B, H, W) int64, label − 1, and −1 where there is none.

    Args:
        objective: Its name, for the message.
        batch: With ``semantics`` (B, 1, H, W), whole numbers: 0, −1, −100 where there is no label, else 1 … C.
        prediction: (B, C, h, w).

    Raises:
        UsageError: There are none, or labels that are no channel's; values are read on the CPU alone.
    """
    if LABELS not in batch:
        raise UsageError(
            f"objective {objective} needs label maps, and the batch has none: pass {LABELS}=, (B, 1, H, W), or give "
            f"your samples a field {LABELS}, of zeros where there is no label"
        )
    labels, channels = check_pixels(objective, LABELS, batch[LABELS], prediction, channels=1), prediction.shape[1]
    if labels.device.type == "cpu":
        values = labels.detach().float().numpy()
        right = np.isin(values, UNLABELLED) | ((values >= 1) & (values <= channels) & (values == np.round(values)))
        if not right.all():
            raise UsageError(
                f"objective {objective}: the label maps hold {values[~right].flat[0]:g}, and the student's {channels} "
                f"channels are the labels 1 to {channels}: give it a channel for each class, and pixels without a "
                "label 0"
            )
    return torch.where(unlabelled_pixels(labels), 0, labels.long())[:, 0] - 1


def check_label_maps(objective: str, setting: Setting) -> None:
    """Refuse data whose label maps the student's prediction cannot be compared with.

    Args:
        objective: Its name, for the message.
        setting: With the classes of the label maps and the shape of the student's prediction.

    Raises:
        UsageError: The data has no label maps, or more classes in them than the student has channels.
    """
    classes = setting.pixel_classes
    if classes is None:
        raise UsageError(
            f"objective {objective} needs label maps, and this data has no modality {LABELS}: give it one (a field "
            f"{LABELS} of your samples, data.fields or data.modalities), or take the objective out"
        )
    shape = setting.student.prediction_shape
    if shape is not None and classes > shape[0]:
        raise UsageError(
            f"objective {objective} compares a prediction with label maps, but the student has {shape[0]} channels and "
            f"the label maps {classes} classes: give it {classes}"
        )
