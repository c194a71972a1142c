"""``rooms``: rendered rooms with furniture, in colour, depth and meaning; rendered from (seed, index), so that nothing
is downloaded.
"""

from __future__ import annotations

import logging
import os
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

import numpy as np
import torch
from pydantic import Field

from ..core.errors import UsageError
from ..core.registry import DATASETS
from .io.camera import Camera
from .io.in_memory import AugmentOptions, TensorSplit
from .io.views import PaddedImages

log = logging.getLogger(__name__)

_SPLITS = {"train": 0, "test": 1}
_AT_ONCE = 512  # frames that a thread renders at a time


@DATASETS.register("rooms")
class Rooms:
    """Rooms seen by a colour and a depth camera. **They are rendered, not real**: what is learnt here proves that a
    transfer works, not how well on photographs.

    A frame shows floor, walls, mostly a ceiling, and one to five objects of twelve kinds (ball, barrel, chair, cone,
    crate, lamp, plant, screen, shelf, sofa, stool, table) that differ in shape and not in colour; its class is the kind
    of the object with the most pixels. Light, shadow, patterns, pose, exposure and both sensors' noise vary. Everything
    is a function of (scene_seed, split, index).

    Modalities: ``rgb`` uint8 (N, S, S, 3); ``depth`` float32 (N, S, S, 1), metres along the camera's axis, 0 where
    nothing was measured (grazing or far surfaces, edges, holes); ``semantics`` uint8 (N, S, S, 1), places in
    ``rooms.render.SEMANTICS``. The camera is that of ``rooms.render.intrinsics(size)``.

    Raises:
        UsageError: A split that does not exist.
    """

    class Options(AugmentOptions):
        modalities: list[Literal["rgb", "depth", "semantics"]] = Field(
            default=["rgb"], min_length=1, description="the modalities of a frame"
        )
        size: int = Field(32, ge=8, le=512, description="side of the frames in pixels")
        train_samples: int = Field(4000, gt=0, description="frames of the training split")
        test_samples: int = Field(1000, gt=0, description="frames of the test split")
        scene_seed: int = Field(
            0, ge=0, description="of the scenes; apart from the run's seed, so that all runs see the same rooms"
        )

    def __init__(self, options: Options) -> None:
        self.options = options

    def open(self, split: str) -> TensorSplit:
        """Render all of ``"train"`` or ``"test"``. Only ``"train"`` is ever augmented."""
        from .rooms.kinds import KINDS
        from .rooms.render import SEMANTICS, intrinsics

        if split not in _SPLITS:
            raise UsageError(f"rooms has no split {split!r}: it has train, test")
        options, training = self.options, split == "train"
        count = options.train_samples if training else options.test_samples
        fields, targets = _rendered(options.scene_seed, _SPLITS[split], count, options.size)
        padding = options.crop_padding if training else 0
        images: dict[str, PaddedImages] = {}
        for modality in options.modalities:
            values = fields[modality].reshape(count, options.size, options.size, -1)
            images[modality] = PaddedImages.zeros(
                *values.shape, dtype=torch.from_numpy(values[:0]).dtype, padding=padding
            )
            images[modality].interior[:] = torch.from_numpy(values)
        seen = intrinsics(options.size)
        return TensorSplit(
            images,
            targets=torch.from_numpy(targets.copy()),
            num_classes=len(KINDS),
            classes=list(KINDS),
            flip=options.flip and training,
            # The renderer's pixels begin at whole numbers; a camera's are centred there.
            camera=Camera("m", (seen["fx"], seen["fy"], seen["cx"] - 0.5, seen["cy"] - 0.5)),
            semantic_classes=list(SEMANTICS),
        )


Frames = tuple[dict[str, np.ndarray], np.ndarray]
"""All fields of a split, and its classes."""
RENDERED: dict[tuple[int, ...], Frames] = {}
"""The last splits by (scene_seed, split, count, size), because a comparison opens the same for each of its runs; a
process that is given those of another need not render them again.
"""
_AT_MOST = 4  # splits that are kept


def _rendered(*key: int) -> Frames:
    if key not in RENDERED:
        RENDERED[key] = _render(*key)
    while len(RENDERED) > _AT_MOST:
        del RENDERED[next(iter(RENDERED))]
    return RENDERED[key]


def _render(seed: int, split: int, count: int, size: int) -> Frames:
    from .rooms.render import render

    began = time.perf_counter()
    parts = [np.arange(first, min(first + _AT_ONCE, count)) for first in range(0, count, _AT_ONCE)]
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        frames = list(pool.map(lambda index: render(index, seed=seed, split=split, size=size), parts))
    log.info("rendered %d rooms of %d×%d pixels in %.1f s", count, size, size, time.perf_counter() - began)
    fields = {name: np.concatenate([getattr(part, name) for part in frames]) for name in ("rgb", "depth", "semantics")}
    return fields, np.concatenate([part.target for part in frames])
