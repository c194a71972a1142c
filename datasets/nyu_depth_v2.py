"""``nyu_depth_v2``: the official labelled set of NYU-Depth V2, read a frame at a time from its .mat file."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field, field_validator

from ..core.config.fields import Side
from ..core.errors import UsageError, looked_in
from ..core.registry import DATASETS
from .io.camera import Camera
from .io.file_loader import default_workers
from .io.file_splits import PairSplit
from .io.joint_views import JointViews
from .io.nyu_mat import (
    FILE,
    PAGE,
    SPLITS,
    NyuReader,
    check_raw_labels,
    frame_size,
    num_frames,
    open_mat,
    read_splits,
    scene_types,
)
from .io.view_options import ViewOptions
from .nyu_classes import lookup, names

# Of the colour camera, which the depth is registered to (the toolbox's camera_params). Used as they are published for
# pixels whose centres are at whole numbers from 0.
_INTRINSICS = (518.86, 519.47, 325.58, 253.74)
_FRAME = (480, 640)


@DATASETS.register("nyu_depth_v2")
class NyuDepthV2:
    """NYU-Depth V2 (Silberman et al., ECCV 2012), labelled set: 1 449 frames of indoor rooms, 795 for training, 654 for
    testing.

    Nothing but nyu_depth_v2_labeled.mat and splits.mat is needed, as they are published. Frames are whole, 480×640,
    white border included. Only the frames and fields of the options are read; a sample's ``index`` is its place in
    splits.mat's list.

    Modalities: ``rgb`` uint8; ``depth`` float32 in metres, in-painted, or with ``raw_depth`` as measured, 0 where
    nothing was; ``semantics`` uint8, 0 unlabelled, else a class of the 40 (Gupta et al., 2013) or 13 (Couprie et al.,
    2013). The 894 labels of the file are not used: the mapping from them is built in. The camera's intrinsics are known
    for frames of 480×640.

    Raises:
        UsageError: A file is missing, of another kind, or the two do not belong together.
        ContrastillError: A file is truncated or damaged.
    """

    class Options(ViewOptions):
        path: str = Field(
            description=f"the folder that holds {FILE} and {SPLITS}, or the former, with the latter beside it"
        )
        modalities: list[Literal["rgb", "depth", "semantics"]] = Field(
            ["rgb", "depth"], min_length=1, description="what is read of a frame"
        )
        raw_depth: bool = Field(False, description="depth as measured, 0 where nothing was; false: in-painted")
        classes: Literal[40, 13] = Field(40, description="number of classes of the label maps (modality semantics)")
        scene_classes: bool = Field(
            False, description="the target is the type of the scene, one of 27; false: no target"
        )
        size: Side | tuple[Side, Side] | None = Field(
            None,
            description="side, or [height, width], in pixels of the views; null: the frames' own, 480×640",
        )

        @field_validator("modalities")
        @classmethod
        def _once_each(cls, modalities: list[str]) -> list[str]:
            return list(dict.fromkeys(modalities))

    def __init__(self, options: Options) -> None:
        self.options = options

    @staticmethod
    def recognises(path: str) -> bool:
        """Whether ``path`` is the file, or a folder with it."""
        return (Path(path) / FILE).is_file() or (Path(path).is_file() and Path(path).suffix.lower() == ".mat")

    def open(self, split: str) -> PairSplit:
        """List ``"train"`` or ``"test"``; no frame is read. Only ``"train"`` is ever augmented."""
        if split not in ("train", "test"):
            raise UsageError(f"nyu_depth_v2 has no split {split!r}: it has train, test")
        options, training, path = self.options, split == "train", self._file()
        stored = {"rgb": "images", "depth": "rawDepths" if options.raw_depth else "depths", "semantics": "labels"}
        fields: dict[str, str] = {name: stored[name] for name in options.modalities}
        with open_mat(path) as file:
            # First what is wrong with the big file, then what its partner lacks.
            frame_size(file, fields.values())
            frames = read_splits(path.with_name(SPLITS), num_frames(file))[split]
            scenes = scene_types(file) if options.scene_classes else None
            if "semantics" in fields:
                check_raw_labels(file, frames)
        if options.limit is not None and options.limit < len(frames):
            frames = frames[np.arange(options.limit) * len(frames) // options.limit]
        labelled = "semantics" in fields
        reader = NyuReader(path, frames, fields, lookup(options.classes) if labelled else None)
        size = (options.size, options.size) if isinstance(options.size, int) else options.size
        views = JointViews(size, options.crop, options.scale, options.flip, options.transforms if training else [])
        return PairSplit(
            reader,
            len(frames),
            views,
            **_targets(scenes, frames),
            camera=_camera(reader) if "depth" in fields else None,
            semantic_classes=names(options.classes) if labelled else None,
            augmented=training,
            color_jitter=options.color_jitter,
            workers=default_workers() if options.workers is None else options.workers,
            skip_corrupted=options.skip_corrupted,
        )

    def _file(self) -> Path:
        path = Path(self.options.path).expanduser()
        if path.is_file():
            return path
        if not path.exists():
            raise UsageError(
                f"{path} does not exist{looked_in(path)}: set data.path to the folder that holds {FILE} (2.8 GB) and "
                f"{SPLITS}, both from {PAGE}"
            )
        if not (path / FILE).is_file():
            raise UsageError(f"{path} does not hold {FILE}: put it (2.8 GB) and {SPLITS} there, both from {PAGE}")
        return path / FILE


def _targets(scenes: list[str] | None, frames: np.ndarray) -> dict[str, Any]:
    """The scene types of these frames as classes; the classes are those of the whole set, by name."""
    if scenes is None:
        return {}
    classes = sorted(set(scenes))
    number = {name: place for place, name in enumerate(classes)}
    return {
        "targets": torch.tensor([number[scenes[frame]] for frame in frames]),
        "num_classes": len(classes),
        "classes": classes,
    }


def _camera(reader: NyuReader) -> Camera:
    return Camera("m", _INTRINSICS if next(iter(reader.modalities.values()))[1:] == _FRAME else None)
