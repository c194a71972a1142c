"""Derived modalities in a batch: which ones some data can have, and the loader that adds those that networks read."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from ..core.data import ViewLoader
from ..core.depth_marks import metres_of
from ..core.errors import UsageError, nearest
from ..core.registry import MODALITIES
from ..core.user_code import is_own, origin
from ..core.value_scale import note_once
from ..datasets.io.camera import Camera, clean_depth
from .modalities import SOURCES, Modality

Batch = dict[str, Tensor]
Shapes = Mapping[str, tuple[int, ...]]


def available(modalities: Shapes, camera: Camera | None) -> dict[str, int]:
    """What a network may read of a split.

    Args:
        modalities: Stored modality -> shape (C, H, W) of one sample.
        camera: Of the split; None: not known.

    Returns:
        Name of a modality -> its channels: the stored ones, then those that can be made from them.

    Example:
        >>> available({"rgb": (3, 8, 8)}, None)
        {'rgb': 3, 'chrominance': 2, 'grey': 1, 'luminance': 1}
    """
    stored = {name: shape[0] for name, shape in modalities.items()}
    derived = {
        name: entry.channels
        for name, entry in MODALITIES.items()
        if name not in stored and _obstacle(entry, modalities, camera) is None
    }
    return stored | derived


def check(name: str, modalities: Shapes, camera: Camera | None) -> None:
    """Refuse a modality that a network is to read and this data cannot give.

    Args:
        name: Of the modality.
        modalities, camera: See :func:`available`.

    Raises:
        UsageError: There is no such modality, or the data lacks it, what it is made from, metres or intrinsics.
    """
    own = MODALITIES[name] if name in MODALITIES else None
    if name in modalities:
        if own is not None and not is_own(own):
            note_once(
                f"modality {name} is stored in this data, and {origin(own)} makes one of that name from {own.of}: the "
                "stored one is read; give yours another name to read it"
            )
        return
    if name in SOURCES:
        raise UsageError(
            f"modality {name} is not in this data, which has {', '.join(modalities)}: read one of "
            f"{', '.join(available(modalities, camera))}, or call what is {name} so, in your samples or by "
            f"data.folders or data.fields={{{name}: …}}"
            + (
                ""
                if {*modalities} & {*SOURCES, *MODALITIES}
                else "; where these are classes, set data.name=image_folder"
            )
        )
    if name not in MODALITIES:
        derived = [other for other in available(modalities, camera) if other not in modalities]
        made = f", from which {', '.join(derived)} can be made" if derived else ""
        close = nearest(name, {*modalities, *MODALITIES, *SOURCES}, "")
        raise UsageError(
            f"modality {name!r} does not exist: {close}{' ' if close else ''}this data has {', '.join(modalities)}"
            f"{made}, and what a package of yours registers (--import MY_PACKAGE); what else you have is named in your "
            f"samples or by data.folders or data.fields={{{name}: …}}"
        )
    obstacle = _obstacle(MODALITIES[name], modalities, camera)
    if obstacle is not None:
        raise UsageError(f"modality {name} {obstacle}")


def derive(batch: Batch, names: Collection[str], camera: Camera | None) -> Batch:
    """A batch with further modalities added; stored ones are not derived.

    Args:
        batch: Stored modalities (B, C, H, W) by name, ``index``, … ; with intrinsics, ``camera`` (B, 4), those of each
            view.
        names: Of modalities, stored or derived.
        camera: Of the split; None: not known.

    Returns:
        A new dict. Its ``depth``, if there is any, is float32 in metres, or as stored if that is relative or of unknown
        unit, and NaN where nothing was measured, whether it is among ``names`` or not.

    Raises:
        UsageError: A modality that cannot be derived from this batch.
    """
    result = dict(batch)
    if "depth" in batch:
        result["depth"] = clean_depth(batch["depth"], camera)
    for name in names:
        if name in batch:
            continue
        check(name, {key: tuple(value.shape[1:]) for key, value in batch.items() if value.ndim == 4}, camera)
        entry = MODALITIES[name]
        if entry.intrinsics and "camera" not in batch:
            raise UsageError(
                f"modality {name} needs each view's intrinsics, and the batch has no camera: its loader must be "
                "that of a split with intrinsics"
            )
        result[name] = entry.function(result[entry.of], *([batch["camera"]] if entry.intrinsics else []))
    return result


class DerivedLoader:
    """A loader whose batches have derived modalities added, see :func:`derive`; all else is the other loader's.

    Args:
        loader: Yields stored modalities.
        names: Of the modalities that networks read.
        camera: Of the split that is loaded; None: not known.
    """

    # Those of the other loader.
    batch_size: int
    views: int | None
    device: torch.device

    def __init__(self, loader: ViewLoader, names: Collection[str], camera: Camera | None) -> None:
        self.loader, self.names, self.camera = loader, tuple(names), camera
        self.num_samples = loader.num_samples

    def __len__(self) -> int:
        return len(self.loader)

    def __getattr__(self, name: str) -> Any:
        # Called for missing attributes alone; a copy under construction has no loader yet.
        if name == "loader":
            raise AttributeError(name)
        return getattr(self.loader, name)

    def epoch(self, k: int, start: int = 0) -> Iterator[Batch]:
        """The batches ``start``, ``start + 1``, … of epoch ``k``."""
        return (derive(batch, self.names, self.camera) for batch in self.loader.epoch(k, start))

    def in_order(self, view: int, *rows: Any) -> Iterator[Batch]:
        """Training samples in view ``view``, all of them or those that the loader's own method takes."""
        return (derive(batch, self.names, self.camera) for batch in self.loader.in_order(view, *rows))


def _obstacle(entry: Modality, modalities: Shapes, camera: Camera | None) -> str | None:
    """Why this modality cannot be made from these, as the rest of a sentence; None if it can."""
    if entry.of not in modalities and entry.of in MODALITIES:
        return (
            f"is made from {entry.of}, which is derived itself and not in this data: make it from a stored one, "
            f"{', '.join(modalities)}"
        )
    if entry.of not in modalities:
        return (
            f"is made from {entry.of}, and this data has only {', '.join(modalities)}: read one of "
            f"{', '.join(modalities)}, or give data with {entry.of}"
        )
    channels = modalities[entry.of][0]
    expected = SOURCES.get(entry.of, channels)
    if channels != expected:
        return (
            f"is made from {entry.of} with {expected} channel(s), and that of this data has "
            f"{channels}: read {entry.of} itself"
        )
    if entry.metres and camera is None:
        return (
            f"needs {entry.of} in metres, and the unit of this data's is not known: set data.depth_unit=m, mm, "
            "relative or the metres of one step"
        )
    if entry.metres and camera is not None and metres_of(camera.unit) is None:
        return f"needs {entry.of} in metres, and that of this data is {camera.unit}: read depth or normalized_depth"
    if entry.intrinsics and (camera is None or camera.intrinsics is None):
        return (
            "needs the camera's intrinsics, and none are known: set data.intrinsics=[fx,fy,cx,cy], in pixels "
            "of a stored frame"
        )
    return None
