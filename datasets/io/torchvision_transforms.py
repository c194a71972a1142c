"""Transforms of torchvision, such as TrivialAugmentWide and RandAugment, in ``data.transforms``."""

from __future__ import annotations

import inspect
from typing import Any

import albumentations as A
import numpy as np
import torch

from ...core.errors import UsageError, unknown_name
from .file_views import TORCHVISION


class TorchvisionTransform(A.ImageOnlyTransform):
    """A transform of ``torchvision.transforms.v2`` on uint8 images, whose draws are functions of albumentations' seed.

    Args:
        name: Of its class.
        arguments: Of its class. ``p``, the probability that it is applied, is the class's own where it takes one, such
            as RandomGrayscale, whose default is torchvision's; of others, such as ColorJitter, 1 by default.

    Raises:
        UsageError: There is no such transform, or it does not take the arguments.
    """

    def __init__(self, name: str, arguments: dict[str, Any]) -> None:
        # Imported here, as it takes half a second.
        from torchvision.transforms import v2

        classes = {key: value for key in dir(v2) if isinstance(value := getattr(v2, key), type)}
        known = [key for key, value in classes.items() if issubclass(value, v2.Transform)]
        if name not in known:
            raise unknown_name("transform of torchvision", name, known)
        takes_p, arguments = "p" in inspect.signature(getattr(v2, name)).parameters, dict(arguments)
        super().__init__(p=1.0 if takes_p else arguments.pop("p", 1.0))
        try:
            self.transform = getattr(v2, name)(**arguments)
        except (TypeError, ValueError) as error:
            raise UsageError(
                f"data.transforms: {TORCHVISION}{name} does not take {arguments}: {' '.join(str(error).split())}"
            ) from error

    def get_params(self) -> dict[str, Any]:
        """The state that torch's generator begins at."""
        return {"seed": self.py_random.getrandbits(48)}

    def apply(self, img: np.ndarray, seed: int = 0, **_: Any) -> np.ndarray:
        """One image (H, W, 3), uint8."""
        state = torch.get_rng_state()
        torch.default_generator.manual_seed(seed)
        try:
            changed = self.transform(torch.from_numpy(np.ascontiguousarray(img)).permute(2, 0, 1))
        finally:
            torch.set_rng_state(state)
        return changed.permute(1, 2, 0).contiguous().numpy()
