"""Device, precision, processes and trackers of a run, by Accelerate."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path

from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs, ProjectConfiguration

from ..core.config.schema import RunConfig
from ..core.errors import UsageError, unknown_name
from ..core.value_scale import note_once
from .processes import accelerator_of


def prepare_accelerator(config: RunConfig) -> Accelerator:
    """Device, precision and trackers as the config asks for; nothing is written before a training starts its trackers.

    Raises:
        UsageError: A tracker that Accelerate does not know or that is not installed; several processes without a GPU;
            an Accelerator of another precision in this process.
    """
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers

    there = {str(tracker) for tracker in get_available_trackers()}
    for name in config.trackers:
        if name not in LOGGER_TYPE_TO_CLASS:
            raise unknown_name("tracker", name, LOGGER_TYPE_TO_CLASS)
        if name not in there:
            raise UsageError(f"tracker {name!r} is not installed: pip install {name}, or take it out of trackers")
    project = ProjectConfiguration(project_dir=config.out, logging_dir=str(Path(config.out) / "trackers"))
    waiting = InitProcessGroupKwargs(timeout=timedelta(minutes=config.train.timeout_minutes))
    accelerator = accelerator_of(
        config.train.precision,
        log_with=list(config.trackers) or None,
        project_config=project,
        kwargs_handlers=[waiting],
    )
    started = int(os.environ.get("WORLD_SIZE", 1))
    if started > 1 and accelerator.num_processes == 1:
        # Each would train alone, all in one folder.
        raise UsageError(
            f"a launcher started {started} processes, and there is no GPU for them: start one, or set "
            "ACCELERATE_USE_CPU=true to share out the CPU"
        )
    if config.train.precision == "fp16" and accelerator.device.type == "cpu" and accelerator.is_main_process:
        # Accelerate casts to fp16 beside a scaler of gradients alone, and there is none on a CPU. No error, as a run
        # of a GPU is evaluated on a CPU too.
        # Once, as each of several seeds prepares one.
        note_once(
            "train.precision=fp16 changes nothing on a CPU, which computes in fp32 then: leave it out, or set "
            "train.precision=bf16"
        )
    return accelerator
