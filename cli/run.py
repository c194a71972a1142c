"""One run from a validated config: assemble, fit, save the student."""

from __future__ import annotations

from typing import Any

from ..core.config import RunConfig, to_yaml
from ..core.engine import fit
from ..core.run import Run
from ..models.build import save_student
from .assemble import assemble


def train_run(config: RunConfig, *, progress: bool = True) -> dict[str, Any] | None:
    """Train what a config describes in its run folder, going on where an earlier call was stopped.

    Returns:
        The last epoch's row of metrics.jsonl; None on a process that is not the main one.

    Raises:
        UsageError: The config does not fit the data or the folder holds another run.
        ContrastillError: The training failed; what was written before stays.
    """
    parts = assemble(config)
    run = Run(config.out)
    if parts.accelerator.is_main_process:
        run.claim(to_yaml(config))
    parts.accelerator.wait_for_everyone()
    result = fit(parts.transfer, parts.train, parts.test, config.train, run=run, accelerator=parts.accelerator, progress=progress)
    if not parts.accelerator.is_main_process:
        return None
    save_student(parts.transfer.student, run.student)
    return result.last
