"""Splits of aligned modalities as a data set's options ask for them: what a few samples say of all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from pydantic import Field

from ...core.config.fields import RESUMABLE, Side
from ...core.errors import UsageError
from .aligned_reader import AlignedReader
from .camera import UNIT_HELP, Camera, Unit, check_intrinsics, unit_of, warn_of_unit
from .file_loader import default_workers
from .file_splits import PairSplit
from .joint_views import JointViews
from .values import AUTO, VECTORS_HELP, VOID_HELP, Void, check_vectors, number_kind, vectors_among
from .view_options import ViewOptions

# Frames that are read when a split is opened, evenly spaced over it.
_FRAMES_READ = 16


class PairOptions(ViewOptions):
    """Options of data sets of aligned modalities."""

    size: Side | tuple[Side, Side] | None = Field(
        None, description="height and width in pixels of the views, or one number for both; null: as stored"
    )
    depth_unit: Unit | None = Field(
        None, description=f"of the stored depth: {UNIT_HELP} mm for 16 bits, m for floats, relative for 8 bits"
    )
    intrinsics: tuple[float, float, float, float] | None = Field(
        None, description="fx, fy, cx, cy of the camera in pixels of a stored frame; null: not known"
    )
    void: Void = Field(AUTO, description=VOID_HELP, json_schema_extra=RESUMABLE)
    vectors: list[str] | None = Field(None, description=VECTORS_HELP)


def open_pairs(
    reader: AlignedReader,
    count: int,
    options: PairOptions,
    where: object,
    *,
    training: bool,
    semantic_classes: list[str] | None = None,
    **labels: Any,
) -> PairSplit:
    """The split, a few samples of which are read for the sizes, channels and kinds of all.

    Args:
        count: Of samples.
        where: The folder or data set, for messages.
        training: Whether it is augmented.
        semantic_classes: Names of the values of the label map.
        labels: ``targets``, ``num_classes`` and ``classes``, as :class:`PairSplit` takes them.

    Raises:
        UsageError: Intrinsics without depth, or of frames that EXIF turns; frames of several sizes without ``size``.
        ContrastillError: A file is damaged or holds what its modality cannot be.
    """
    if options.intrinsics is not None and "depth" not in reader.names:
        raise UsageError(
            f"data.intrinsics are of a camera of depth, and {where} has no modality depth: leave them out, or "
            "name its folder or column"
        )
    reader.turned = options.intrinsics is None
    samples = reader.read_samples(
        [place * count // min(count, _FRAMES_READ) for place in range(min(count, _FRAMES_READ))],
        sizes=_sizes_matter(options),
        skip_corrupted=options.skip_corrupted,
    )
    channels = {name: shape[0] for name, shape in reader.modalities.items()}
    for name in vectors_among(options.vectors, channels):
        check_vectors(
            name, np.concatenate([sample[name].reshape(-1, channels[name])[:10_000] for sample in samples]), where
        )
    if training:
        reader.warn()
    size = (options.size, options.size) if isinstance(options.size, int) else options.size
    return PairSplit(
        reader,
        count,
        JointViews(size, options.crop, options.scale, options.flip, options.transforms if training else []),
        camera=_camera(options, where, [sample["depth"] for sample in samples]) if "depth" in reader.names else None,
        semantic_classes=semantic_classes,
        augmented=training,
        color_jitter=options.color_jitter,
        workers=default_workers() if options.workers is None else options.workers,
        skip_corrupted=options.skip_corrupted,
        vectors=options.vectors,
        **labels,
    )


def _sizes_matter(options: PairOptions) -> str | None:
    """Why the files of all samples have to be of one size."""
    if options.intrinsics is not None:
        return "data.intrinsics are of frames of one size: leave them out, or bring the files to it"
    return "set data.size=[HEIGHT,WIDTH]" if options.size is None else None


def _camera(options: PairOptions, where: object, frames: Sequence[np.ndarray]) -> Camera:
    unit = options.depth_unit or unit_of(number_kind(frames[0].dtype))
    warn_of_unit(
        torch.from_numpy(
            np.concatenate([frame.ravel()[:: max(1, frame.size // 10_000)].astype(np.float32) for frame in frames])
        ),
        unit,
        where,
    )
    height, width = frames[0].shape[:2]
    if options.intrinsics is not None:
        check_intrinsics(options.intrinsics, (height, width), where)
    return Camera(unit, options.intrinsics, (height, width))
