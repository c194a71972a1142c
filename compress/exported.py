"""An exported student as it is used: what it is given, how it answers, how often it is right."""

from __future__ import annotations

import io
import logging
import os
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, replace
from importlib.util import find_spec

import torch
from torch import Tensor
from torch.nn import functional as F

from ..core.depth_marks import SATURATED
from ..core.errors import ContrastillError, UsageError
from ..core.input_values import stored_depth
from ..core.registry import MODALITIES
from ..core.representation import Preprocess
from ..core.value_scale import FLOATS

INPUT = "images"
"""Name of the input in an ONNX file."""


@dataclass(frozen=True)
class Takes:
    """What an exported student is given.

    Attributes:
        shape: (C, H, W) of an image; where it takes any height and width, of one that it was traced with.
        preprocess: That of the student.
        inside: Whether the file does it itself, on images as they are; else it takes normalised float32 images.
        dynamic: Whether batches may have any length; else an image at a time.
        any_size: Whether images may have any height and width.
    """

    shape: tuple[int, int, int]
    preprocess: Preprocess
    inside: bool
    dynamic: bool
    any_size: bool = False

    @property
    def dims(self) -> list[int | str]:
        """The shape of a batch, with a name for each dimension that may have any length."""
        sides: list[int | str] = ["height", "width"] if self.any_size else [*self.shape[1:]]
        return ["batch" if self.dynamic else 1, self.shape[0], *sides]

    @property
    def dtype(self) -> torch.dtype:
        """Of its input: uint8 where the preprocessing of colours is inside, unless the training's were floats."""
        return torch.uint8 if self.inside and _takes_bytes(self.preprocess) else torch.float32

    def described(self, modality: str) -> str:
        """What the file is given, in words.

        Args:
            modality: That its images are of.
        """
        own = self.preprocess
        if not self.inside:
            marks = "" if own.colours else "; 0 where nothing was measured"
            return f"{modality} in float32, normalised by mean {own.mean}, std {own.std}{marks}"
        if self.dtype == torch.uint8:
            return f"{modality} in uint8, 0 … 255; the normalisation is inside"
        if own.colours:
            low, high = colour_range(own)
            return f"{modality} in float32, from {low:.3g} to {high:.3g}; the normalisation is inside"
        unit = None if own.scale is None else own.scale.unit
        marks = "NaN"
        what = "values as the training read them"
        if unit is not None:
            marks, what = "0 or NaN", "the stored values, of no unit"
        if own.scale is not None and own.scale.metres is not None:
            # The highest of 16 bits, in metres, see core.depth_marks.
            marks = f"0, {SATURATED if isinstance(unit, str) else 65535 * own.scale.metres:g} or NaN"
            what = "metres (stored millimetres / 1000)" if unit == "mm" else "metres"
        if modality in MODALITIES and not (own.scale is not None and own.scale.stored):
            what = f"as contrastill.MODALITIES[{modality!r}].function makes it of {MODALITIES[modality].of}"
        return f"{modality} in float32, {what}, {marks} where nothing was measured; the normalisation is inside"

    def __call__(self, images: Tensor) -> Tensor:
        """Make the file's input of images (B, C, H', W') as a data set hands them out: (B, C, H, W), of their own size
        where any is taken.

        Raises:
            UsageError: The file does the preprocessing, on uint8 colours, and the images are not uint8.
        """
        if not self.inside:
            resolution = None if self.any_size else self.shape[1:]
            return replace(self.preprocess, resolution=resolution)(images).contiguous()
        if self.dtype == torch.float32:
            if not self.preprocess.colours:
                images = stored_depth(images, self.preprocess.scale)
            images = images / 255 if self.preprocess.colours and images.dtype == torch.uint8 else images.float()
        elif images.dtype != torch.uint8:
            raise UsageError(
                "the preprocessing can be inside the file of this network for colours in uint8 only, and these are "
                f"{images.dtype}: leave out --with-preprocess"
            )
        return images.contiguous() if self.any_size else resized(images, self.shape[1:]).contiguous()


def _takes_bytes(preprocess: Preprocess) -> bool:
    """Whether images are given in uint8: colours, as far as the network takes them and its training had them so."""
    scale = preprocess.scale
    floats = scale is not None and (scale.kind == FLOATS or not scale.in_unit_range)
    return preprocess.colours and not floats and max(preprocess.mean) <= 1


def colour_range(preprocess: Preprocess) -> tuple[float, float]:
    """Lowest and highest of the colours that a network takes in floats."""
    scale = preprocess.scale
    if scale is not None and scale.low is not None and scale.high is not None and not scale.in_unit_range:
        return scale.low, scale.high
    return 0.0, 1.0 if max(preprocess.mean) <= 1 else 255.0


def resized(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Images (B, C, H, W) uint8 or float brought to (height, width), in their own dtype."""
    if tuple(images.shape[2:]) == tuple(size):
        return images
    values = F.interpolate(images.float(), size=size, mode="bilinear", align_corners=False, antialias=True)
    return values.round().clamp(0, 255).byte() if images.dtype == torch.uint8 else values


def answering(path: str | os.PathLike, format: str, takes: Takes) -> Callable[[Tensor], Tensor]:
    """An exported file as a function from its input (B, C, H, W) to logits (B, classes) or a prediction (B, C, H, W);
    one of fixed length is given an image at a time.

    Raises:
        ContrastillError: It cannot be loaded.
    """
    try:
        with quiet():
            answer = _onnx(path) if format == "onnx" else _torch(path)
    except Exception as error:  # of the runtime, for files that it cannot read or run
        raise ContrastillError(f"the exported file cannot be loaded again: {reason(error)}") from error
    return answer if takes.dynamic else lambda inputs: torch.cat([answer(image) for image in inputs.split(1)])


def accuracy(
    path: str | os.PathLike,
    format: str,
    takes: Takes,
    batches: Iterable[tuple[Tensor, Tensor]],
    order: Tensor | None = None,
) -> float:
    """Top-1 accuracy of an exported student, in per cent.

    Args:
        path: The file.
        format: ``onnx`` or ``torch``.
        takes: What it is given.
        batches: Images (B, C, H, W) as a data set hands them out, and their classes (B,).
        order: For each class of the data the place of its logit, then the places of the others; None: as they are.
    """
    answer, right, count = answering(path, format, takes), 0, 0
    for images, targets in batches:
        logits = answer(takes(images))
        right += int(((logits if order is None else logits[:, order]).argmax(1) == targets).sum())
        count += len(targets)
    return 100 * right / count


def require(*packages: str) -> None:
    """Complain about packages of the extra ``export`` that are missing."""
    missing = [name for name in packages if find_spec(name) is None]
    if missing:
        raise UsageError(f"this needs {' and '.join(missing)}: pip install contrastill[export]")


def pair(size: int | tuple[int, int] | None) -> tuple[int, int] | None:
    return None if size is None else (size, size) if isinstance(size, int) else size


def reason(error: BaseException) -> str:
    """The first line of what an error goes back to: the exporters wrap it in advice to their own developers."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


@contextmanager
def quiet() -> Iterator[None]:
    """Without the exporters' own reports: what matters of them is in the error."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        # Beside what is logged, torch prints graphs that it gave up on.
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _onnx(path: str | os.PathLike) -> Callable[[Tensor], Tensor]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda inputs: torch.from_numpy(session.run(None, {INPUT: inputs.numpy()})[0])


def _torch(path: str | os.PathLike) -> Callable[[Tensor], Tensor]:
    with open(path, "rb") as file:
        module = torch.export.load(file).module()
    return torch.no_grad()(module.forward)
