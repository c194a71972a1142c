"""What the segmentation heads of all networks of an evaluation have in common."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..probe.maps import labelled_frames
from ..training.data import open_loader
from ..training.pixel_labels import LABELS

if TYPE_CHECKING:
    from .run_evaluation import RunEvaluation


def head_options(evaluation: RunEvaluation) -> dict[str, Any]:
    """Arguments of :func:`~contrastill.probe.segmentation.segment`; one pass finds the labelled frames for all."""
    options, device = evaluation.options, evaluation.accelerator.device
    assert evaluation.train is not None, "the task opened it"
    loader = open_loader(evaluation.train, [LABELS], batch_size=64, device="cpu", train=False)
    return {
        "num_classes": evaluation.pixel_classes,
        "seed": evaluation.config.seed,
        "device": device,
        "labels": LABELS,
        "frames": labelled_frames(loader, LABELS),
        "progress": evaluation.progress,
        **{name: getattr(options, name) for name in ("head", "epochs", "batch_size", "lr")},
    }
