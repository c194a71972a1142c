"""Being asked to stop: SIGTERM and SIGUSR1, as schedulers send before they take a machine away, and Ctrl-C."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType
from typing import Any

import torch
from torch import distributed

from ..core.errors import Stopped
from ..core.run import Run
from .checkpoint import Position

# Ranks that step together must stop together; asking all of them costs a wait for the device, so not at every step.
AGREE_EVERY_STEPS = 16
# SLURM sends what ``--signal`` names ahead of the time limit, by custom SIGUSR1, and SIGTERM at a preemption. Windows
# has no SIGUSR1.
STOPS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGUSR1") if hasattr(signal, name))


class StopRequest:
    """Within it, the first SIGTERM, SIGUSR1 or Ctrl-C is only noted, so that the step under way can end and be saved;
    the second acts at once.

    Signals reach the main thread alone: entered in another thread, it notes nothing.

    Attributes:
        signal: What was asked with, or None.
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self._before: dict[int, Any] = {}
        self._process = os.getpid()

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in STOPS}
        return self

    def __exit__(self, *_: object) -> None:
        self._restore()

    def agreed(self, step: int, device: torch.device) -> bool:
        """Whether to stop after optimiser step ``step``; with several processes all say the same."""
        if not (distributed.is_available() and distributed.is_initialized()) or distributed.get_world_size() == 1:
            return self.signal is not None
        if step % AGREE_EVERY_STEPS:
            return False
        asked = torch.tensor([int(self.signal or 0)], device=device)
        distributed.all_reduce(asked, op=distributed.ReduceOp.MAX)
        if number := int(asked):
            self.signal = signal.Signals(number)
        return bool(number)

    def error(self, position: Position, run: Run | None) -> Stopped:
        """The error that says where a training was stopped and how it goes on.

        Args:
            position: Where it is.
            run: Its folder, if it has one.
        """
        assert self.signal is not None, "the processes agreed upon one"
        progress = (
            f"the checkpoint is in {run.checkpoints} and the same command goes on from it"
            if run
            else "nothing was kept, as it has no run folder"
        )
        where = f"after epoch {position.epoch}, batch {position.batch}"
        return Stopped(f"stopped by {self.signal.name} {where}: {progress}", self.signal)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._restore()
        if os.getpid() != self._process:
            # A forked worker inherits the handler, but not the training: it ends as it would have.
            os.kill(os.getpid(), number)
        else:
            self.signal = signal.Signals(number)

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
