"""What of a student goes into an exported file: its answer alone, and its preprocessing where that is to be inside."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..core.predicted_quantity import quantity_in_words
from ..core.tapping import OUTPUT, answer, is_part
from .exported import Takes, pair


def exported_module(student: Any, takes: Takes) -> nn.Module:
    """A student as a module that returns its answer alone, in eval mode and without gradients.

    Args:
        student: With ``taps``.
        takes: What it is given.
    """
    taps = student.taps
    tap = taps.prediction if taps.dense else taps.logits or taps.embedding
    answering = _Answer(student) if is_part(tap) or (taps.dense and tap != OUTPUT) else student
    module = nn.Sequential(_Preprocessing(takes), answering) if takes.inside else answering
    return module.eval().requires_grad_(False)


def described(prediction: Tensor, images: Tensor, recipe: Mapping[str, Any]) -> str:
    """What a prediction of a network of this recipe is, in words."""
    size, where = "(B, C, H, W)", "at the size of the images"
    if prediction.shape[2:] != images.shape[2:]:
        size, where = "(B, C, h, w)", "to be enlarged bilinearly to the size of the images"
    if prediction.shape[1] == 1:
        return f"prediction {size} with C = 1, {quantity_in_words(recipe)}, {where}"
    return (
        f"prediction {size}, logits at each position, {where}; channel c, from 0 on, is class c + 1 of the label maps, "
        "whose 0 stands for no label"
    )


class _Answer(nn.Module):
    """The answer of a student that returns more."""

    def __init__(self, student: nn.Module) -> None:
        super().__init__()
        self.student = student

    def forward(self, images: Tensor) -> Tensor:
        return answer(self.student, images)


class _Preprocessing(nn.Module):
    """Preprocess of uint8 images as a module, so that its numbers go into the file; resizing is left out where nothing
    changes.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, takes: Takes) -> None:
        super().__init__()
        mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (takes.preprocess.mean, takes.preprocess.std))
        self.register_buffer("scale", 1 / ((255 if takes.preprocess.colours else 1) * std))
        self.register_buffer("shift", -mean / std)
        own = pair(takes.preprocess.resolution)
        self.resolution = own if own != takes.shape[1:] else None

    def forward(self, images: Tensor) -> Tensor:
        images = torch.addcmul(self.shift, images.float(), self.scale)
        return (
            images
            if self.resolution is None
            else F.interpolate(images, size=self.resolution, mode="bilinear", align_corners=False, antialias=True)
        )
