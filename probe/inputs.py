"""What a probe is given: networks and data, in the forms in which people have them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, distributed

from ..core.distributed import world_size
from ..datasets.io.camera import Camera, clean_depth
from ..datasets.user_dataset import UserDataset


def as_splits(train: Any, test: Any) -> tuple[Any, Any]:
    """Splits and loaders as they are; datasets of one's own, both, as splits."""
    # Datasets may have attributes of these names: torchvision's of folders call what opens a file their loader.
    if all(
        callable(getattr(part, "epoch", None)) or (hasattr(part, "loader") and hasattr(part, "num_samples"))
        for part in (train, test)
    ):
        return train, test
    data = UserDataset(train, test)(UserDataset.Options())
    return data.open("train"), data.open("test")


def ordered_loader(source: Any, batch_size: int, device: torch.device) -> Any:
    """A split's loader in order, not augmented, of this process's share, with depth in metres; a loader as it is."""
    if hasattr(source, "epoch"):
        return source
    shares = {"rank": distributed.get_rank(), "world": world_size()} if world_size() > 1 else {}
    loader = source.loader(batch_size=batch_size, device=device, seed=0, train=False, **shares)
    camera = getattr(source, "camera", None)
    return loader if camera is None or "depth" not in source.modalities else _DepthLoader(loader, camera)


class _DepthLoader:
    """A loader whose depth is as a training reads it: in metres, and NaN where nothing was measured; all else is the
    other loader's.
    """

    def __init__(self, loader: Any, camera: Camera) -> None:
        self.loader, self.camera = loader, camera

    def __len__(self) -> int:
        return len(self.loader)

    def __getattr__(self, name: str) -> Any:
        if name == "loader":  # of a copy under construction
            raise AttributeError(name)
        return getattr(self.loader, name)

    def epoch(self, k: int, start: int = 0) -> Iterator[dict[str, Tensor]]:
        """The batches ``start``, ``start + 1``, … of epoch ``k``."""
        for batch in self.loader.epoch(k, start):
            yield {**batch, "depth": clean_depth(batch["depth"], self.camera)}
