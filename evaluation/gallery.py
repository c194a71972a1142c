"""Collects the label maps that networks predict for some test frames, for one picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..plots.strips import Strips, draw_strips
from ..probe.pixel_measures import unmarked

_ORDER = ("random", "scratch", "student", "teacher")
_ROWS = 5
_AT_ONCE = 16


class Gallery:
    """Evenly spaced test frames and each method's label maps of them.

    The frames are those of the first test split that comes; a method that is measured on other frames is left out.
    """

    def __init__(self) -> None:
        self._of: tuple[Any, ...] | None = None
        self._names: list[str] | None = None
        self._frames: dict[str, np.ndarray] = {}
        self._predictions: list[tuple[int, str, np.ndarray]] = []

    def add(self, role: str, name: str, model: Any, source: Any, labels: str, device: torch.device) -> bool:
        """Add a method.

        Args:
            role: Of the network: the untrained ones come first, the teacher last.
            name: Its name in the picture.
            model: Has ``predict``, see :class:`~contrastill.probe.segmentation.Segmenter`.
            source: The test split, with the modality that the model reads.
            labels: Key of the label maps.
            device: Where the model is.

        Returns:
            False where its frames are not those of the others.
        """
        batch = _picked(source, device)
        truth = unmarked(batch[labels][:, 0].long()).cpu().numpy()
        if self._of is None:
            self._of, self._names = (source.num_samples, source.split.semantic_classes), source.split.semantic_classes
            self._frames = {"labels": truth}
            if "rgb" in batch:
                self._frames["rgb"] = batch["rgb"].permute(0, 2, 3, 1).cpu().numpy()
            if "depth" in batch:
                self._frames["depth"] = batch["depth"][:, 0].float().cpu().numpy()
        elif self._of != (source.num_samples, source.split.semantic_classes) or not np.array_equal(
            self._frames["labels"], truth
        ):
            return False
        prediction = model.predict(batch, tuple(truth.shape[1:]))[:, 0].cpu().numpy().astype(np.int64)
        self._predictions.append((_ORDER.index(role), name, prediction))
        return True

    def draw(self, path: Path) -> Path | None:
        """Write the picture; None where there is nothing to show."""
        if self._of is None:
            return None
        shown = len(self._frames["labels"])
        title = f"{shown} of {self._of[0]:,} test frames, evenly spaced"
        predictions = [
            (name, prediction) for _, name, prediction in sorted(self._predictions, key=lambda entry: entry[0])
        ]
        draw_strips(Strips(predictions=predictions, classes=self._names, **self._frames), path, title=title)
        return path


def _picked(source: Any, device: torch.device) -> dict[str, Tensor]:
    """The frames of the picture, as one batch."""
    count = min(_ROWS, source.num_samples)
    loader = source.loader(batch_size=_AT_ONCE, device=device, seed=0, train=False)
    frames: list[dict[str, Tensor]] = []
    for row in ((2 * place + 1) * source.num_samples // (2 * count) for place in range(count)):
        batch = next(iter(loader.epoch(0, row // _AT_ONCE)))
        frames.append({name: value[row % _AT_ONCE][None] for name, value in batch.items()})
    return {name: torch.cat([frame[name] for frame in frames]) for name in frames[0]}
