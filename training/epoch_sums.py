"""The sums over an epoch whose means are its row of metrics.jsonl."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from ..core.transfer import TransferOutput


class EpochSums:
    """Sums over the samples of the epoch under way, on the device: nothing waits for them.

    Args:
        accelerator: Device and processes.
    """

    def __init__(self, accelerator: Accelerator) -> None:
        self._accelerator = accelerator
        self._sums: dict[str, Tensor] = {}

    def clear(self) -> None:
        """Begin an epoch."""
        self._sums = {}

    def add(self, passes: Sequence[tuple[TransferOutput, int]], measured: Mapping[str, Tensor]) -> None:
        """Add a batch.

        Args:
            passes: What each pass came to, and how many samples count in it.
            measured: Scalars of the optimiser step.
        """
        for output, size in passes:
            zero = torch.zeros((), dtype=torch.float64, device=output.loss.device)
            scalars = {"loss": output.loss, **output.terms, **output.logs, **measured}
            sums: dict[str, Any] = {name: value * size for name, value in scalars.items()}
            for name, value in {**sums, "samples": size}.items():
                self._sums[name] = self._sums.get(name, zero) + value

    def total(self) -> dict[str, Tensor]:
        """The sums over all ranks, for a checkpoint."""
        if not self._sums:
            return {}
        sums = torch.stack([*self._sums.values()])
        sums = self._accelerator.reduce(sums.float() if self._accelerator.device.type == "mps" else sums, "sum")
        return dict(zip(self._sums, sums.unbind(), strict=True))

    def means(self) -> dict[str, float]:
        """The means over the samples of all ranks."""
        values = {name: value.item() for name, value in self.total().items()}
        samples = values.pop("samples")
        return {name: value / samples for name, value in values.items()}

    def load(self, total: Mapping[str, Tensor]) -> None:
        """Go on from what :meth:`total` gave: the main rank from that, the others from nothing."""
        device, is_main = self._accelerator.device, self._accelerator.is_main_process
        self._sums = {name: (value if is_main else torch.zeros_like(value)).to(device) for name, value in total.items()}
