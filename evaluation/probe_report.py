"""What probes of networks on data sets are, and what they come to."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..core.arguments import checked
from ..core.errors import UsageError
from ..core.representation import Network
from ..core.table import Table, TabularResult
from ..probe.class_correlation import CorrelationDifference
from .probe_tables import tables_of

NetworkLike = str | os.PathLike | Network
"""A run, ``RUN:teacher``, the name of a network (``resnet20``, ``timm/resnet18@pretrained``), or a network itself."""


@checked
@dataclass(frozen=True)
class ProbeSpec:
    """What is measured.

    Attributes:
        layers: Names of layers, each once; None: all that a network gives but its logits.
        spatial: Maps are averaged to ``spatial`` × ``spatial`` positions.
        protocol: Of the linear probe: ``exact``, ``grid`` or ``crd``.
        shots: Labelled samples per class of the few-shot curve; empty: none.
        knn: Neighbours that vote; None: no such measure.
        logme: Whether LogME is estimated.
        cka: A network whose layers the others' are compared with.
        correlation: A network, the teacher, whose correlations between classes the others' are compared with.
        cache: Folder in which features are stored; None: in memory, until the data set is done.
        seed: Of the samples held out, of the draws and of random weights.
    """

    layers: tuple[str, ...] | None = ("embedding",)
    spatial: int = 1
    protocol: str = "exact"
    shots: tuple[int, ...] = ()
    knn: int | None = None
    logme: bool = False
    cka: NetworkLike | None = None
    correlation: NetworkLike | None = None
    cache: str | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.layers is not None:
            if not self.layers:
                raise UsageError("layers is empty: name a layer such as embedding, or None for all but the logits")
            object.__setattr__(self, "layers", tuple(dict.fromkeys(self.layers)))


@dataclass(frozen=True)
class ProbedNetwork:
    """A network of the report."""

    name: str
    role: str
    model: str
    weights: str
    modality: str
    parameters: int

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return dict(vars(self))


@dataclass(frozen=True)
class ProbedData:
    """A data set of the report: its name and short name, classes, samples of both splits, and folds (None without)."""

    name: str
    short: str
    classes: int
    train: int
    test: int
    folds: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return _without_none(vars(self))


@dataclass(frozen=True)
class ProbeAccuracy:
    """A top-1 accuracy, per cent: with its 95 % interval, or as the mean over folds with their spread.

    Attributes:
        top1: The accuracy, or its mean over folds.
        low, high: The interval; None over folds.
        std: Standard deviation over folds; None without.
        folds: Each fold's accuracy; None without.
    """

    top1: float
    low: float | None
    high: float | None
    std: float | None = None
    folds: Sequence[float] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        values: dict[str, Any] = {"top1": self.top1, "low": self.low, "high": self.high}
        return values if self.folds is None else {**values, "std": self.std, "folds": list(self.folds)}


@dataclass(frozen=True)
class FewShotScore:
    """A linear probe on ``shots`` labelled samples per class: mean and spread of top-1 over draws, per cent."""

    shots: int
    mean: float
    std: float
    draws: int

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return dict(vars(self))


@dataclass(frozen=True)
class ProbeRow:
    """The measures of one layer of a network on a data set.

    Attributes:
        network, data, layer: Which.
        protocol: Of the linear probe.
        num_train, num_test: Samples.
        accuracy: Of the linear probe.
        top5: Per cent; None for fewer than six classes.
        loss: Mean cross-entropy on the training samples, nats.
        weight_decay, learning_rate: What was chosen; None over folds, or where the protocol has none.
        knn_k, knn: Number of neighbours, and their accuracy; None where they were not asked.
        logme: Nats per sample; None where it was not estimated.
        shots: The few-shot curve.
    """

    network: str
    data: str
    layer: str
    protocol: str
    num_train: int
    num_test: int
    accuracy: ProbeAccuracy
    top5: float | None
    loss: float
    weight_decay: float | None = None
    learning_rate: float | None = None
    knn_k: int | None = None
    knn: ProbeAccuracy | None = None
    logme: float | None = None
    shots: tuple[FewShotScore, ...] = ()

    @property
    def top1(self) -> float:
        """Accuracy of the linear probe, per cent."""
        return self.accuracy.top1

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as probe.json holds them."""
        values: dict[str, Any] = {
            "network": self.network,
            "data": self.data,
            "layer": self.layer,
            "protocol": self.protocol,
            "num_train": self.num_train,
            "num_test": self.num_test,
            **self.accuracy.to_dict(),
            "top5": self.top5,
            "loss": self.loss,
        }
        if self.accuracy.folds is None:
            values |= {"weight_decay": self.weight_decay, "learning_rate": self.learning_rate}
        if self.knn is not None:
            values["knn"] = {"k": self.knn_k, **self.knn.to_dict()}
        if self.logme is not None:
            values["logme"] = self.logme
        if self.shots:
            values["shots"] = [score.to_dict() for score in self.shots]
        return values


@dataclass(frozen=True)
class CkaResult:
    """CKA of the layers of a network (rows) with those of another one (columns), on the test samples of a data set."""

    network: str
    other: str
    data: str
    rows: list[str]
    columns: list[str]
    values: list[list[float]]

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return dict(vars(self))


@dataclass(frozen=True)
class CorrelationResult:
    """Difference between a network's correlations between classes and those of its teacher.

    Attributes:
        network, teacher, data: Which.
        difference: The matrix and its mean.
        classes: Names, where they are the data's.
    """

    network: str
    teacher: str
    data: str
    difference: CorrelationDifference
    classes: list[str] | None

    def to_dict(self) -> dict[str, Any]:
        """Plain values; the matrix is in the picture alone."""
        return {
            "network": self.network,
            "teacher": self.teacher,
            "data": self.data,
            "mean_absolute_difference": self.difference.mean_absolute,
        }


@dataclass(frozen=True)
class ProbeReport(TabularResult):
    """What the probes came to.

    Attributes:
        spec: What was measured.
        networks: In their order.
        data: In their order.
        rows: One per network, data set and layer.
        cka: One per network and data set.
        correlation: One per network and data set.
        pictures: Figures in the output folder.
        written: Further files there.
    """

    spec: ProbeSpec
    networks: tuple[ProbedNetwork, ...]
    data: tuple[ProbedData, ...]
    rows: tuple[ProbeRow, ...]
    cka: tuple[CkaResult, ...] = ()
    correlation: tuple[CorrelationResult, ...] = ()
    pictures: tuple[Path, ...] = ()
    written: tuple[Path, ...] = field(default=())

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as ``contrastill probe --json`` prints them; probe.json holds them but for ``written``."""
        values: dict[str, Any] = {
            "protocol": self.spec.protocol,
            "spatial": self.spec.spatial,
            "seed": self.spec.seed,
            "networks": [network.to_dict() for network in self.networks],
            "data": [data.to_dict() for data in self.data],
            "rows": [row.to_dict() for row in self.rows],
            "cka": [result.to_dict() for result in self.cka],
            "correlation": [result.to_dict() for result in self.correlation],
            "pictures": [str(path) for path in self.pictures],
        }
        return {**values, "written": [str(path) for path in self.written]} if self.written else values

    def tables(self) -> list[Table]:
        """One table per measure; the last has the files below it."""
        *tables, last = tables_of(self.to_dict())
        files = [f"written: {path}" for path in (*self.written, *self.pictures)]
        return [*tables, Table(last.title, last.columns, last.rows, files)]


def _without_none(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}
