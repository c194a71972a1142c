"""What an evaluation of runs comes to."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from ..core.metric_names import SCALED
from ..core.table import Table, TabularResult
from .retrieval_scores import RetrievalScores

if TYPE_CHECKING:
    from ..probe.segmentation import SegmentationResult

_COLUMNS = (
    "run",
    "network",
    "parameters",
    "task",
    "labels",
    "pixel %",
    "mean %",
    "mIoU %",
    "of teacher %",
    "boundary F %",
    "abs. rel.",
    "RMSE",
    "δ < 1.25 %",
    "top-1 %",
    "mAP %",
    "top-5 %",
    "R@1 %",
    "R@5 %",
    "R@10 %",
    "images",
    "weights",
)


@dataclass(frozen=True)
class Accuracy:
    """Accuracy of a network's own logits, per cent; ``top1`` is None where its classes are not the data's, ``top5``
    also for fewer than six. Of labels that mark any number of classes ``mAP``, the mean average precision.
    """

    top1: float | None = None
    top5: float | None = None
    mAP: float | None = None  # noqa: N815 - as it is written

    def to_dict(self) -> dict[str, Any]:
        """Plain values; what was not measured is left out."""
        return {name: value for name, value in vars(self).items() if value is not None}

    def lines(self, common: Mapping[str, str]) -> list[dict[str, str]]:
        """The lines of the table, by column."""
        if self.mAP is not None:
            return [{**common, "mAP %": f"{self.mAP:.2f}"}]
        top1 = "other classes" if self.top1 is None else f"{self.top1:.2f}"
        return [{**common, "top-1 %": top1, "top-5 %": _percent(self.top5)}]


@dataclass(frozen=True)
class SegmentationScores:
    """A segmentation head on a network's feature maps.

    Attributes:
        mode: ``frozen``, ``fine_tuned``, ``scratch``, or ``head of teacher``: of a head that was trained on the
            teacher's map.
        head: Which head.
        labels: Share of the labels that it was trained on.
        train_images: Number of images with these labels.
        pixel_accuracy, mean_accuracy, miou: Per cent.
        per_class_iou: Per cent; None of a class that does not occur.
        seconds: Time of the training.
        share_of_teacher: Of a student with the head of its teacher: its mIoU in per cent of the teacher's.
    """

    mode: str
    head: str
    labels: float
    train_images: int
    pixel_accuracy: float
    mean_accuracy: float
    miou: float
    per_class_iou: list[float | None]
    seconds: float
    share_of_teacher: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values; a share that is none is left out."""
        return _with_share(vars(self))

    @classmethod
    def of(
        cls, result: SegmentationResult, mode: str, head: str, labels: float, share_of_teacher: float | None = None
    ) -> Self:
        """The measures of a segmentation, rounded."""
        return cls(
            mode,
            head,
            labels,
            result.num_train,
            round(result.pixel_accuracy, 4),
            round(result.mean_accuracy, 4),
            round(result.miou, 4),
            [None if math.isnan(iou) else round(iou, 4) for iou in result.per_class_iou],
            result.seconds,
            share_of_teacher,
        )

    def lines(self, common: Mapping[str, str]) -> list[dict[str, str]]:
        """The line of the table, by column."""
        mode = "from scratch" if self.mode == "scratch" else self.mode.replace("_", "-")
        return [
            {
                **common,
                "of teacher %": _percent(self.share_of_teacher),
                "task": f"segmentation ({self.head}), {mode}",
                "labels": _share(self.labels, self.train_images),
                "pixel %": _percent(self.pixel_accuracy),
                "mean %": _percent(self.mean_accuracy),
                "mIoU %": _percent(self.miou),
            }
        ]


@dataclass(frozen=True)
class DenseScores:
    """A network's own classes of pixels, per cent, see :class:`~contrastill.training.dense_accuracy.DenseMeasures`.

    Attributes:
        pixel_accuracy, mean_accuracy, miou: As of a segmentation head.
        boundary_f: How well outlines agree; None where no frame has any.
        per_class_iou: None of a class that does not occur.
        classes: Their names, where the data has any.
    """

    pixel_accuracy: float
    mean_accuracy: float
    miou: float
    boundary_f: float | None
    per_class_iou: list[float | None]
    classes: tuple[str, ...] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {**vars(self), "classes": None if self.classes is None else [*self.classes]}

    def lines(self, common: Mapping[str, str]) -> list[dict[str, str]]:
        """The line of the table, by column."""
        return [
            {
                **common,
                "pixel %": _percent(self.pixel_accuracy),
                "mean %": _percent(self.mean_accuracy),
                "mIoU %": _percent(self.miou),
                "boundary F %": _percent(self.boundary_f),
            }
        ]


@dataclass(frozen=True)
class DepthScores:
    """A network's own depth, in the fields of :class:`~contrastill.training.dense_accuracy.DepthMeasures`."""

    abs_rel: float
    rmse: float
    delta1: float
    delta2: float
    delta3: float
    align: str

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return dict(vars(self))

    def lines(self, common: Mapping[str, str]) -> list[dict[str, str]]:
        """The line of the table, by column."""
        values = {"abs. rel.": f"{self.abs_rel:.4f}", "RMSE": f"{self.rmse:.4f}", "δ < 1.25 %": _percent(self.delta1)}
        return [{**common, "task": "depth" if self.align == "none" else f"depth, {SCALED}", **values}]


@dataclass(frozen=True)
class LayerScores:
    """A linear classifier on one layer: accuracies in per cent, and the weight decay that was chosen."""

    top1: float
    top5: float | None
    weight_decay: float

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return dict(vars(self))


@dataclass(frozen=True)
class ClassificationScores:
    """Linear classifiers on frozen layers, trained on a share of the labels; ``mode`` and ``share_of_teacher``, of the
    embedding's top-1, as of :class:`SegmentationScores`.
    """

    labels: float
    train_images: int
    layers: Mapping[str, LayerScores]
    mode: str = "frozen"
    share_of_teacher: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values; a share that is none is left out."""
        layers = {name: scores.to_dict() for name, scores in self.layers.items()}
        values = {"mode": self.mode, "labels": self.labels, "train_images": self.train_images, "layers": layers}
        return _with_share({**values, "share_of_teacher": self.share_of_teacher})

    def lines(self, common: Mapping[str, str]) -> list[dict[str, str]]:
        """One line of the table per layer, by column."""
        return [
            {
                **common,
                "of teacher %": _percent(self.share_of_teacher),
                "task": f"linear probe, {layer}{'' if self.mode == 'frozen' else f', {self.mode}'}",
                "labels": _share(self.labels, self.train_images),
                "top-1 %": _percent(scores.top1),
                "top-5 %": _percent(scores.top5),
            }
            for layer, scores in self.layers.items()
        ]


Scores = Accuracy | DenseScores | DepthScores | SegmentationScores | ClassificationScores | RetrievalScores
_MOST_CLASSES = 60
"""With more, the table of the classes is left to --json."""


@dataclass(frozen=True)
class EvaluationRow:
    """One network at one task.

    Attributes:
        run: The run's folder.
        role: ``student``, ``teacher``, ``random`` or ``scratch``.
        model: Its architecture.
        parameters: How many it has; of a student in its teacher's space (heads of that, retrieval) with its adaptor.
        images: Number of test images.
        weights: The file or checkpoint of its weights.
        task: ``accuracy``, ``segmentation``, ``classification`` or ``retrieval``.
        scores: What was measured.
        number: Of a teacher among several; else None.
    """

    run: str
    role: str
    model: str
    parameters: int
    images: int
    weights: str
    task: str
    scores: Scores
    number: int | None = None

    @property
    def network(self) -> str:
        """Its name in the tables, as ``student resnet8`` or, of several teachers, ``teacher 1 resnet20``."""
        return " ".join([self.role, *([] if self.number is None else [str(self.number)]), self.model])

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as evaluation.json holds them."""
        return {
            "run": self.run,
            "role": self.role,
            **({} if self.number is None else {"number": self.number}),
            "model": self.model,
            "parameters": self.parameters,
            **self.scores.to_dict(),
            "images": self.images,
            "weights": self.weights,
            "task": self.task,
        }

    def lines(self) -> list[dict[str, str]]:
        """Its lines of the table, by column."""
        common = {
            "run": self.run,
            "network": self.network,
            "parameters": f"{self.parameters:,}",
            "images": f"{self.images:,}",
        }
        # The column takes room: beside other tasks it is there only where the weights are no finished student's.
        if self.task == "accuracy" or self.weights.startswith("checkpoint"):
            common["weights"] = self.weights
        return self.scores.lines(common)


@dataclass(frozen=True)
class EvaluationResult(TabularResult):
    """What an evaluation of runs comes to: a row for each network, task and share of the labels.

    Attributes:
        rows: In the order of the runs.
        picture: Segmentations of some test frames; None without.
        notes: What the numbers depend on: data that were replaced since a training.
    """

    rows: tuple[EvaluationRow, ...]
    picture: Path | None = None
    notes: tuple[str, ...] = ()

    def to_dict(self) -> list[dict[str, Any]]:
        """The rows as plain values, as ``contrastill evaluate --json`` prints them."""
        return [row.to_dict() for row in self.rows]

    def tables(self) -> list[Table]:
        """One table, with the columns that any row fills."""
        lines = [line for row in self.rows for line in row.lines()]
        # Beside the measures of other tasks there is no room for these.
        narrow = any(row.task != "accuracy" for row in self.rows)
        hidden = ("parameters", "images") if narrow else ()
        columns = [name for name in _COLUMNS if name not in hidden and any(line.get(name) for line in lines)]
        rows = [[line.get(name, "") for name in columns] for line in lines]
        notes = [*self.notes, *([] if self.picture is None else [f"picture: {self.picture}"])]
        return [Table("", columns, rows, notes), *self._of_classes()]

    def _of_classes(self) -> list[Table]:
        """The intersection over union of each class, a column for each network."""
        dense = [(row, row.scores) for row in self.rows if isinstance(row.scores, DenseScores)]
        names = next((scores.classes for _, scores in dense if scores.classes is not None), None)
        if names is None or len(names) > _MOST_CLASSES:
            return []
        same = [(row, scores) for row, scores in dense if scores.classes == names]
        several = len({row.run for row, _ in same}) > 1
        columns = ["IoU %", *(f"{f'{row.run} ' if several else ''}{row.network}" for row, _ in same)]
        lines = [
            [name, *(_percent(scores.per_class_iou[place]) for _, scores in same)] for place, name in enumerate(names)
        ]
        return [Table("", columns, lines)]


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _share(labels: float, images: int) -> str:
    return f"{100 * labels:g} % ({images:,})"


def _with_share(values: Mapping[str, Any]) -> dict[str, Any]:
    """Plain values without ``share_of_teacher`` where there is none."""
    return {name: value for name, value in values.items() if name != "share_of_teacher" or value is not None}
