"""What a comparison of networks with each other comes to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..core.table import Table, TabularResult

_MEASURES = ("top1", "nll", "ece")


@dataclass(frozen=True)
class NetworkQuality:
    """Measures of one network, or of an ensemble.

    Attributes:
        top1: Accuracy, per cent.
        nll: Negative log-likelihood of the labels, nats per sample.
        ece: Expected calibration error, in [0, 1]; in tables in per cent.
        name: The network; None of an ensemble.
        model: Its architecture.
        weights: Their origin.
        disagreement: Mean share of the samples on which it differs from the other networks, per cent; None where there
            is no other, or of an ensemble or a student.
        hash: Stands for the values of its weights.
    """

    top1: float
    nll: float
    ece: float
    name: str | None = None
    model: str | None = None
    weights: str | None = None
    disagreement: float | None = None
    hash: str | None = None

    def to_dict(self, *, with_disagreement: bool = False) -> dict[str, Any]:
        """Plain values."""
        measures = {name: getattr(self, name) for name in _MEASURES}
        if self.name is None:
            return measures
        values = {"name": self.name, "model": self.model, "weights": self.weights, "hash": self.hash, **measures}
        return {**values, "disagreement": self.disagreement} if with_disagreement else values

    def cells(self) -> list[str]:
        """Top-1, NLL and ECE as text; the latter in per cent, as what stands beside it."""
        return [f"{self.top1:.2f}", f"{self.nll:.4f}", f"{100 * self.ece:.2f}"]


@dataclass(frozen=True)
class ReliabilityBins:
    """A reliability diagram: mean confidence, accuracy (both None of an empty bin) and share of the samples per bin."""

    confidence: Sequence[float | None]
    accuracy: Sequence[float | None]
    share: Sequence[float | None]

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {name: list(values) for name, values in vars(self).items()}


@dataclass(frozen=True)
class DiversityResult(TabularResult):
    """How networks differ, and how good their ensemble is.

    Attributes:
        data: The section ``data`` of the config.
        samples: Number of test samples.
        networks: The teachers of a run, or the runs of a folder of seeds.
        ensemble: The mean of their probabilities.
        student: The run's student; None without.
        oracle: Share of the samples on which at least one network is right, per cent.
        mean_disagreement: Mean over all pairs of networks, per cent; None of a single network.
        disagreement: (n, n) share of the samples on which two networks differ, per cent.
        student_disagreement: (n + 1) the student's with each network, then with the ensemble; None without student.
        reliability: Diagrams of ``networks``, ``ensemble`` and ``student``.
        picture: The figure.
        facts: The facts by which the test split is told from others.
        notes: What the numbers depend on: data that were replaced since a training, or other networks.
    """

    data: Mapping[str, Any]
    samples: int
    networks: tuple[NetworkQuality, ...]
    ensemble: NetworkQuality
    student: NetworkQuality | None
    oracle: float
    mean_disagreement: float | None
    disagreement: Sequence[Sequence[float]]
    student_disagreement: Sequence[float] | None
    reliability: Mapping[str, ReliabilityBins]
    picture: Path
    facts: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as diversity.json holds them."""
        student_disagreement = self.student_disagreement
        return {
            "data": dict(self.data),
            "samples": self.samples,
            "networks": [network.to_dict(with_disagreement=True) for network in self.networks],
            "ensemble": self.ensemble.to_dict(),
            "student": None if self.student is None else self.student.to_dict(),
            "oracle": self.oracle,
            "mean_disagreement": self.mean_disagreement,
            "disagreement": [list(row) for row in self.disagreement],
            "student_disagreement": None if student_disagreement is None else list(student_disagreement),
            "reliability": {name: bins.to_dict() for name, bins in self.reliability.items()},
            "picture": str(self.picture),
            "facts": dict(self.facts),
            **({"notes": list(self.notes)} if self.notes else {}),
        }

    def tables(self) -> list[Table]:
        """One row per network, then their ensemble and the student."""
        rows = [[network.name, *network.cells(), _number(network.disagreement)] for network in self.networks]
        if len(self.networks) > 1:
            rows.append(["their ensemble", *self.ensemble.cells(), ""])
        if self.student is not None and self.student_disagreement is not None:
            mean = sum(self.student_disagreement[:-1]) / len(self.networks)
            rows.append([self.student.name, *self.student.cells(), _number(mean)])
        columns = ("network", "top-1 %", "NLL, nats", "ECE %", "differs from the others, %")
        return [Table("", columns, rows, self._notes())]

    def _notes(self) -> list[str]:
        count, several = len(self.networks), len(self.networks) > 1
        mean = sum(network.top1 for network in self.networks) / count
        line = f"{count} network{'s' * several}, {self.samples:,} test samples: mean top-1 {mean:.2f} %"
        if several and self.mean_disagreement is not None:
            line += (
                f", their ensemble {self.ensemble.top1:.2f} %, at least one right {self.oracle:.2f} %; "
                f"two differ on {self.mean_disagreement:.2f} %"
            )
        notes = [line]
        if self.student is not None and self.student_disagreement is not None:
            other = "the ensemble" if several else "its teacher"
            gap = self.student.top1 - self.ensemble.top1
            notes.append(
                f"the student: {self.student.top1:.2f} %, {gap:+.2f} points to {other}, and differs from it on "
                f"{self.student_disagreement[-1]:.2f} %"
            )
        return [*self.notes, *notes, f"picture: {self.picture}"]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"
