"""The sums over an epoch whose means are its row of metrics.jsonl."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor

from ..core.transfer import Transfer, TransferOutput

log = logging.getLogger(__name__)

_SECONDS = "seconds"
_SAMPLES, _SAMPLES_OF = "samples", "samples of "
"""In a checkpoint: samples of the epoch so far, and before a name those that the name was measured on."""
_COUNTED = "counted"
"""What objectives log of positions: the share that counts."""
_CHOOSING = ("confidence", "only_unlabelled", "measured")
"""Options by which objectives choose these."""


class EpochSums:
    """Sums over the samples of the epoch under way, on the device: nothing waits for them.

    What an objective logs in some steps alone, such as towards a teacher that others leave out, is a mean over the
    samples of these steps.

    Args:
        accelerator: Device and processes.
    """

    def __init__(self, accelerator: Accelerator) -> None:
        self._accelerator = accelerator
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, float] = {}  # samples that each sum is over
        self._began, self._before = 0.0, 0.0

    def clear(self) -> None:
        """Begin an epoch."""
        self._sums, self._counts, self._before = {}, {}, 0.0

    def start_clock(self) -> float:
        """Count the seconds of the epoch from now on, beside those before a stop; returns the time now."""
        self._began = time.perf_counter()
        return self._began

    @property
    def seconds(self) -> float:
        """Those of the epoch under way, before a stop and since."""
        return self._before + time.perf_counter() - self._began

    def add(self, passes: Sequence[tuple[TransferOutput, int]], measured: Mapping[str, Tensor]) -> None:
        """Add a batch.

        Args:
            passes: What each pass came to, and how many samples count in it.
            measured: Scalars of the optimiser step.
        """
        for output, size in passes:
            zero = torch.zeros((), dtype=torch.float64, device=output.loss.device)
            scalars = {"loss": output.loss, **output.terms, **output.logs, **measured}
            for name, value in scalars.items():
                self._sums[name] = self._sums.get(name, zero) + value * size
                self._counts[name] = self._counts.get(name, 0) + size

    def total(self) -> dict[str, Tensor]:
        """The sums over all ranks, the samples of each, and the seconds that they took, for a checkpoint."""
        # A rank may have logged what another did not, or in another order.
        names = [*dict.fromkeys(gather_object([*self._sums]))]
        if not names:
            return {}
        wide = torch.float32 if self._accelerator.device.type == "mps" else torch.float64
        like = {"dtype": wide, "device": self._accelerator.device}
        sums = torch.stack([self._sums.get(name, torch.zeros((), **like)).to(wide) for name in names])
        counts = torch.tensor([self._counts.get(name, 0) for name in names], **like)
        sums = self._accelerator.reduce(torch.cat([sums, counts]), "sum")
        keys = (*names, *(_SAMPLES_OF + name for name in names))
        return {**dict(zip(keys, sums.unbind(), strict=True)), _SECONDS: torch.tensor(self.seconds)}

    def means(self) -> dict[str, float]:
        """The means over the samples of all ranks, each over those that it was measured on."""
        values = {name: value.item() for name, value in self.total().items() if name != _SECONDS}
        counts = {name: values.pop(_SAMPLES_OF + name) for name in [*values] if _SAMPLES_OF + name in values}
        return {name: values[name] / count for name, count in counts.items() if count}

    def load(self, total: Mapping[str, Tensor]) -> None:
        """Go on from what :meth:`total` gave: the main rank from that, the others from nothing."""
        device, is_main = self._accelerator.device, self._accelerator.is_main_process
        sums = dict(total)
        self._before = float(sums.pop(_SECONDS, 0.0))  # a checkpoint of an older version has none
        if _SAMPLES in sums and not any(name.startswith(_SAMPLES_OF) for name in sums):  # one number for all, there
            samples = sums.pop(_SAMPLES)
            sums |= {_SAMPLES_OF + name: samples for name in sums}
        names = [name for name in sums if _SAMPLES_OF + name in sums]
        self._counts = {name: float(sums[_SAMPLES_OF + name]) if is_main else 0.0 for name in names}
        self._sums = {name: (sums[name] if is_main else torch.zeros_like(sums[name])).to(device) for name in names}


def warn_of_uncounted(row: Mapping[str, Any], transfer: Transfer, accelerator: Accelerator) -> None:
    """Log a line about each objective that logs how many positions counted, where none did in a whole epoch.

    Args:
        row: The epoch's, of metrics.jsonl.
        transfer: Whose objectives it is of.
        accelerator: Of whose processes the main one logs.
    """
    for key, value in row.items():
        label, _, name = key.partition("/")
        name, _, number = name.partition(".")
        if name != _COUNTED or value != 0 or not accelerator.is_main_process:
            continue
        objective = transfer.terms[label].objectives[int(number or 0)]
        chosen = {option: getattr(objective, option, None) for option in _CHOOSING}
        keys = [
            f"objectives.{label}.{option}={value}" for option, value in chosen.items() if value not in (None, False)
        ]
        log.warning(
            "objective %s counted no position in epoch %d%s, so nothing is learnt from it: loosen %s",
            label,
            row["epoch"] + 1,
            f" towards teacher {number}" if number else "",
            " or ".join(keys) or "what counts",
        )
