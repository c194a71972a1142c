"""Accuracy on samples that the training does not see, and the student of the best epoch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from accelerate import Accelerator

from ..core.data import Loader
from ..core.representation import Network
from ..core.run import Run
from ..models.build import save_student
from .accuracy import evaluate

PREFIX = "validation_"
"""Of the column of metrics.jsonl: ``validation_top1``, ``validation_mAP``, of predictions for each position
``validation_miou`` or ``validation_delta1``, in per cent.
"""


class BestEpoch:
    """Measures a student on validation samples, and saves it where it is better than in every epoch before.

    Args:
        loader: Of the validation samples; None: nothing is measured.
        run: Its ``student_best.safetensors`` is written; None: nothing is.
        accelerator: Device and processes.
    """

    def __init__(self, loader: Loader | None, run: Run | None, accelerator: Accelerator) -> None:
        self._loader, self._run, self._accelerator = loader, run, accelerator
        self._best = -math.inf

    def resume(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Go on after these rows of metrics.jsonl: what came after them is done again, to the same bits."""
        measured = [value for row in rows for name, value in row.items() if name.startswith(PREFIX)]
        self._best = max(measured, default=-math.inf)

    def measure(self, network: Network) -> dict[str, float]:
        """The columns of an epoch's row; called on all ranks."""
        if self._loader is None:
            return {}
        # The first one is what the best is chosen by: top-1 before top-5, mIoU, δ < 1.25.
        measured = evaluate(network, self._loader, self._accelerator)
        if not measured:  # of labels that mark no class
            return {}
        name, value = next(iter(measured.items()))
        if value > self._best:
            self._best = value
            # A bare module of one's own has no file that could be read again.
            if self._run is not None and network.recipe and self._accelerator.is_main_process:
                path = self._run.best_student
                with self._run.room_for(path.name, sum(value.nbytes for value in network.state_dict().values())):
                    save_student(network, path)
        return {f"{PREFIX}{name}": value}
