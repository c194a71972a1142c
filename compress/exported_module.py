"""What of a student goes into an exported file: its answer alone, and its preprocessing where that is to be inside."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..core.input_values import stored_depth
from ..core.predicted_quantity import quantity_in_words
from ..core.preprocess import fitted
from ..core.tapping import answer, answer_tap, is_part
from .exported import Takes


def exported_module(student: Any, takes: Takes) -> nn.Module:
    """A student as a module that returns its answer alone, in eval mode and without gradients.

    Args:
        student: With ``taps``.
        takes: What it is given.
    """
    returns_more = answer_tap(student.taps) is not None or is_part(student.taps.embedding)
    answering = _Answer(student) if returns_more else student
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
    """Preprocess as a module, so that its numbers go into the file; values are not compared there."""

    scale: Tensor
    shift: Tensor

    def __init__(self, takes: Takes) -> None:
        super().__init__()
        self.preprocess, self.dtype = takes.preprocess, takes.dtype
        mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (takes.preprocess.mean, takes.preprocess.std))
        self.register_buffer("scale", 1 / ((255 if takes.dtype == torch.uint8 else 1) * std))
        self.register_buffer("shift", -mean / std)

    def forward(self, images: Tensor) -> Tensor:
        # torch's exported program runs on any dtype otherwise, on metres in whole millimetres too.
        torch.ops.aten._assert_tensor_metadata(images, dtype=self.dtype)
        own, whole = self.preprocess, images.dtype == torch.uint8
        values = images.float() if own.colours else stored_depth(images, own.scale)
        return fitted(torch.addcmul(self.shift, values, self.scale), own.resolution, whole=whole)
