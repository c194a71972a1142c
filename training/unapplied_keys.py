"""Keys of ``train`` that belong to building networks and loaders, which :func:`~contrastill.fit` takes as they are."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

from accelerate import Accelerator

from ..core.config.schema import TrainConfig
from ..core.representation import PRECISIONS, Network
from ..core.teachers.cache import CachedTeachers
from ..core.transfer import Transfer
from .balancing import BalancedLoader
from .folding import is_folded
from .mixing import MixedLoader
from .smallest_pass import FullBatches
from .wrapped_loader import WrappedLoader

log = logging.getLogger(__name__)


def note_unapplied(
    transfer: Transfer, train: Any, config: TrainConfig, accelerator: Accelerator, validation: Any
) -> None:
    """Log a line that names the keys whose values a call of ``fit`` does not apply, as what it was handed shows.

    Args:
        transfer, train, config, accelerator, validation: As ``fit`` takes them.
    """
    names = [*_of_networks(transfer, config), *_of_loaders(train, config)]
    if config.validation is not None and validation is None:
        names.append("validation")
    precision = accelerator.mixed_precision.replace("no", "fp32")
    if "precision" in config.model_fields_set and precision != config.precision:
        names.append("precision")
    if names and accelerator.is_main_process:
        log.warning(
            "fit takes networks, loaders and the accelerator as they are, and does not apply %s: build them by it and "
            "leave it out, or call contrastill.distill, which does both",
            " and ".join(f"train.{name}={getattr(config, name)}" for name in names),
        )


def _of_networks(transfer: Transfer, config: TrainConfig) -> Iterator[str]:
    if not all(_is_frozen(transfer.student, name) for name in config.freeze):
        yield "freeze"
    if config.teacher_precision is not None:
        expected = PRECISIONS[config.teacher_precision]
        if any(teacher.precision != expected for teacher in transfer.teachers):
            yield "teacher_precision"
    if config.fold_teachers and not all(is_folded(teacher) for teacher in transfer.teachers):
        yield "fold_teachers"
    if config.teacher_cache is not None and transfer.teacher_needs and not isinstance(transfer.source, CachedTeachers):
        yield "teacher_cache"


def _of_loaders(train: Any, config: TrainConfig) -> Iterator[str]:
    # A loader of one's own need not know its batch size or its views.
    if "batch_size" in config.model_fields_set and getattr(train, "batch_size", config.batch_size) != config.batch_size:
        yield "batch_size"
    kinds = [*_kinds(train)]
    if config.drop_last and FullBatches not in kinds:
        yield "drop_last"
    if config.class_balanced and BalancedLoader not in kinds:
        yield "class_balanced"
    yield from (name for name in ("mixup", "cutmix") if getattr(config, name) is not None and MixedLoader not in kinds)
    if config.views is not None and getattr(train, "views", None) != config.views:
        yield "views"


def _kinds(loader: Any) -> Iterator[type]:
    """Of the wrappers around a loader, from the outermost on."""
    while isinstance(loader, WrappedLoader):
        yield type(loader)
        loader = loader.inner


def _is_frozen(student: Network, name: str) -> bool:
    """Whether a module does not train, by ``train.freeze`` or by hand."""
    modules = dict(student.module.named_modules())
    if name == "backbone" and name not in modules:
        return not all(parameter.requires_grad for parameter in student.parameters())
    return name in modules and not any(parameter.requires_grad for parameter in modules[name].parameters())
