"""A split of an evaluation's data, with the modalities that a network reads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..training.data import open_loader


@dataclass(frozen=True)
class EvaluationSplit:
    """A split that is read with more modalities than are stored."""

    split: Any
    modalities: tuple[str, ...]

    @property
    def num_samples(self) -> int:
        return self.split.num_samples

    @property
    def targets(self) -> Any:
        return self.split.targets

    def loader(self, **options: Any) -> Any:
        return open_loader(self.split, self.modalities, **options)
