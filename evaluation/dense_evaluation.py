"""The evaluation of networks that answer for each position: by their own prediction, without a head."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from accelerate import Accelerator

from ..core.classes import ClassMap, gives_places
from ..core.errors import ContrastillError, UsageError
from ..core.representation import Network
from ..training.dense_accuracy import DEPTH, Align, DenseMeasures, measure_dense
from ..training.pixel_labels import LABELS, PixelLabels, counted_with, pixel_labels
from .class_match import match_classes_of, places_fit
from .evaluation_result import DenseScores, DepthScores


def answers_densely(network: Network) -> bool:
    """Whether a network's own answer is for each position rather than for the sample."""
    return network.taps.dense


def lacks_dense_data(split: Any, channels: int | None) -> set[str]:
    """The modalities of which a split has none to compare predictions of so many channels with."""
    needed = {DEPTH} if channels == 1 else {LABELS} if channels else {DEPTH, LABELS}
    return set() if needed & {*split.modalities} else needed


def check_dense_data(split: Any, channels: int | None, where: str) -> None:
    """Complain where a split lacks what predictions are compared with.

    Args:
        split: Of the evaluation.
        channels: Of the prediction; None where that is not known.
        where: The data, for messages.

    Raises:
        UsageError: It does.
    """
    if needed := lacks_dense_data(split, channels):
        raise UsageError(
            f"the test split of {where} has no {' or '.join(sorted(needed))} to compare predictions with: it has "
            f"{', '.join(split.modalities)}; name data that have it with evaluation.data, or with data.fields what is "
            "read of a packed file"
        )


def dense_scores(
    network: Network,
    split: Any,
    loader: Any,
    accelerator: Accelerator,
    who: str,
    where: str,
    warn: Callable[[str], None],
    class_map: ClassMap | None = None,
    option: str = "student.class_map",
    *,
    applied: ClassMap | None = None,
    train: Callable[[], Any] = lambda: None,
    note: str = "",
) -> DenseScores | DepthScores | None:
    """A network's own prediction compared with the label maps of a split, matched by the names of the classes, or with
    its depth.

    Args:
        network: Its prediction is brought into the order of the data's classes.
        split: Of which the loader is.
        loader: Of the test split.
        accelerator: Device and processes.
        who: The network, for messages.
        where: The data, for messages.
        warn: Is told what was matched by number alone.
        class_map: Of the student.
        option: Where a class_map of the network is given.
        applied: The class_map with which it was built.
        train: Opens the training split of the data; asked where label maps have no names, and fewer classes than the
            network.
        note: What is worth knowing of measures of its depth.

    Returns:
        None where its classes are others than the data's.

    Raises:
        UsageError: The class_map does not fit the network or the data.
    """
    channels = network.recipe.get("num_classes")
    check_dense_data(split, channels, where)
    if channels == 1:
        align: Align = "none" if split.camera is not None and split.camera.unit != "relative" else "median"
        if note and align == "none":
            warn(note)
        measures = measure_dense(network, loader, accelerator, align=align)
        assert not isinstance(measures, DenseMeasures), "one channel is a quantity"
        return DepthScores(**vars(measures))
    labels: PixelLabels = pixel_labels({"test": split}, where)["test"]
    places = next((each for each in (class_map, applied) if gives_places(each)), None)
    if labels.classes is None and (labels.num_classes or 0) < (len(places) if places else channels or 0):
        with suppress(ContrastillError):  # data may have a test split alone
            labels = counted_with(labels, train())
    try:
        placed = places_fit(network, applied, labels)
        match_classes_of(network, labels, who, where, warn, option=option, class_map=class_map, placed=placed)
    except UsageError as error:
        if class_map is not None:
            raise
        warn(f"{error}: it has no mIoU here")
        return None
    measures = measure_dense(network, loader, accelerator, classes=labels.num_classes)
    assert isinstance(measures, DenseMeasures), "several channels are classes"
    ious = [None if math.isnan(iou) else round(iou, 4) for iou in measures.per_class_iou]
    return DenseScores(
        round(measures.pixel_accuracy, 4),
        round(measures.mean_accuracy, 4),
        round(measures.miou, 4),
        None if measures.boundary_f is None or math.isnan(measures.boundary_f) else round(measures.boundary_f, 4),
        ious,
        labels.classes,
    )
