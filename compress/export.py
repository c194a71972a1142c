"""A run's student as a file that runs without this package: ONNX, or torch's exported program; compared with PyTorch
before it is there.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..core.arguments import Positive, checked
from ..core.atomic import atomic_write
from ..core.errors import ContrastillError, UsageError, unknown_name
from ..core.tapping import answer, is_part
from ..core.torch_settings import own_settings
from ..core.weights import find_weights
from ..models.build import load_student
from ..models.recipe import read_recipe
from .exported import INPUT, OUTPUT, Takes, answering, pair, quiet, reason, require

FORMATS = {"onnx": ".onnx", "torch": ".pt2"}
"""Format -> what its files end in."""

TOLERANCE = 1e-4
"""How far logits may be from PyTorch's, as a part of the largest of them or of 1."""

_BATCHES = (1, 7)
_OLDEST_OPSET = 18  # of torch's exporter; it leaves a file of an older one silently at this


@dataclass(frozen=True)
class Export:
    """An exported student.

    Attributes:
        path: The file.
        format: ``onnx`` or ``torch``.
        takes: What it is given.
        num_classes: Length of the logits.
        bytes: Size of the file.
        opset: Of ONNX; None for torch.
        difference: Largest difference of a logit from PyTorch's; None if it was not checked.
        real_images: Whether the check had images of a data set; else they were random.
        classes: Names of the logits; None where the run's data had none.
    """

    path: Path
    format: str
    takes: Takes
    num_classes: int
    bytes: int
    opset: int | None
    difference: float | None
    real_images: bool
    classes: list[str] | None = None
    modality: str = "rgb"


@checked
@own_settings()
def export_student(
    run: str | os.PathLike,
    path: str | os.PathLike,
    *,
    format: str = "onnx",
    opset: int | None = None,
    dynamic: bool = True,
    with_preprocess: bool = False,
    size: Positive | tuple[Positive, Positive] | None = None,
    images: Tensor | None = None,
    check: bool = True,
) -> Export:
    """Write a run's student as a file whose input is ``images`` and whose output is ``logits``; a failed export leaves
    nothing.

    The names of the classes, where they are known, are in the file as a list in JSON: of ONNX in ``metadata_props``
    under ``classes``, of torch in the extra file ``classes.json``.

    Args:
        run: A run folder, or the ``student.safetensors`` in one.
        path: The file; one that is there already stays until the new one has been checked. In a folder it is
            ``student.onnx`` or ``student.pt2``.
        format: ``onnx``, or ``torch`` for an ``ExportedProgram``, which ``torch.export.load`` reads.
        opset: Version of ONNX's operators; None is the exporter's choice.
        dynamic: Whether batches may have any length; else an image at a time.
        with_preprocess: Whether the file takes uint8 images and has the normalisation and the resizing inside.
        size: Side, or (height, width), of the images that it takes; None is the student's own resolution, else that of
            ``images``. A student with a resolution of its own takes no other, unless the resizing is inside.
        images: (N, C, H, W), N ≥ 1, as a data set hands them out, for the check; None: random ones.
        check: Whether to load the file again and compare its logits with PyTorch's, in batches of 1 and 7.

    Raises:
        UsageError: No such run, format, folder or opset; a name that does not end as the format's files do; an unknown
            size, or one that the student does not take; a package that is missing.
        ContrastillError: The student cannot be exported, or the file's answers are not PyTorch's.

    Example:
        >>> import tempfile
        >>> from contrastill.models.build import build_network, save_student
        >>> folder = Path(tempfile.mkdtemp())
        >>> save_student(build_network("resnet8", num_classes=3), folder / "student.safetensors")
        >>> made = export_student(folder, folder / "student.pt2", format="torch", size=16)
        >>> torch.export.load(made.path).module()(torch.zeros(5, 3, 16, 16)).shape
        torch.Size([5, 3])
    """
    if format not in FORMATS:
        raise unknown_name("format", format, FORMATS)
    if opset is not None and format != "onnx":
        raise UsageError(f"opset={opset} is of ONNX: leave it out, or export with format=onnx")
    path = _file(path, format)
    if not path.absolute().parent.is_dir():
        raise UsageError(f"{path.parent} is no folder: make it, or choose another for {path.name}")
    if format == "onnx":
        require("onnx", "onnxscript", *(["onnxruntime"] if check else []))
        _check_opset(opset)
    if images is not None and (images.ndim != 4 or not len(images)):
        raise UsageError(f"images has shape {tuple(images.shape)}: pass one image or more, (N, C, H, W)")
    student = load_student(run)
    takes = _takes(student, images, size, with_preprocess, dynamic)
    taps: Any = student.taps
    answering_module = _Answer(student) if is_part(taps.logits or taps.embedding) else student
    module = nn.Sequential(_Preprocessing(takes), answering_module) if with_preprocess else answering_module
    module = module.eval().requires_grad_(False)
    try:
        inputs = _random(takes) if images is None else takes(images[torch.arange(max(_BATCHES)) % len(images)])
        with torch.no_grad():
            num_classes = module(inputs[:1]).shape[1]
    except ContrastillError:
        raise
    except Exception as error:  # of any network, for images that are too small, too large or of no shape of its own
        side = "×".join(map(str, takes.shape[1:]))
        raise UsageError(
            f"{type(student).__name__} does not take images of {side} pixels ({reason(error)}): choose another size "
            "(--size)"
        ) from error
    with atomic_write(path) as temporary:
        try:
            temporary.touch()
        except OSError as error:
            raise UsageError(
                f"{path} cannot be written ({error.strerror}): choose another place with out (--out)"
            ) from error
        with quiet():
            recipe = read_recipe(find_weights(run)) or {}
            classes, modality = recipe.get("classes"), recipe.get("modality", "rgb")
            used = _write(
                module,
                type(student).__name__,
                inputs[: 2 if dynamic else 1],
                temporary,
                format,
                opset,
                dynamic,
                {"modality": modality} | ({"classes": json.dumps(list(classes))} if classes else {}),
            )
        difference = _difference(module, answering(temporary, format, takes), inputs) if check else None
    return Export(
        path,
        format,
        takes,
        num_classes,
        path.stat().st_size,
        used,
        difference,
        check and images is not None,
        classes and list(classes),
        modality,
    )


def _file(path: str | os.PathLike, format: str) -> Path:
    """The file to write: in a folder that is there by the format's own name."""
    file, suffix = Path(path), FORMATS[format]
    if file.is_dir():
        return file / f"student{suffix}"
    if file.suffix in ("", *FORMATS.values()) and file.suffix != suffix:
        raise UsageError(
            f"{file} is neither a folder nor the name of a file of format {format}: end it in {suffix} (--out)"
        )
    return file


class _Answer(nn.Module):
    """The logits of a student that returns more."""

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


def _takes(
    student: Any, images: Tensor | None, size: int | tuple[int, int] | None, inside: bool, dynamic: bool
) -> Takes:
    """The input of the exported file."""
    own, there = pair(student.preprocess.resolution), None if images is None else tuple(images.shape[2:])
    if not inside and own is not None and size is not None and pair(size) != own:
        height, width = own
        raise UsageError(
            f"{type(student).__name__} takes images of {height}×{width} pixels alone, its resolution: leave out size "
            "(--size), or put the resizing into the file with with_preprocess (--with-preprocess)"
        )
    side = pair(size) or there or own if inside else own or pair(size) or there
    if side is None:
        raise UsageError(
            f"{type(student).__name__} takes images of any size: say which the file is for with size (--size), "
            "such as 32"
        )
    height, width = side
    return Takes((len(student.preprocess.mean), height, width), student.preprocess, inside, dynamic)


def _random(takes: Takes) -> Tensor:
    """Inputs for the check: noise."""
    generator, shape = torch.Generator().manual_seed(0), (max(_BATCHES), *takes.shape)
    return (
        torch.randint(256, shape, generator=generator, dtype=torch.uint8)
        if takes.inside
        else torch.randn(shape, generator=generator)
    )


def _check_opset(opset: int | None) -> None:
    from onnx.defs import onnx_opset_version

    if opset is not None and not _OLDEST_OPSET <= opset <= onnx_opset_version():
        raise _no_opset(opset)


def _no_opset(opset: int) -> UsageError:
    from onnx.defs import onnx_opset_version

    return UsageError(
        f"opset {opset} cannot be exported: choose one of {_OLDEST_OPSET} to {onnx_opset_version()}, or leave it out"
    )


def _as_files(metadata: dict[str, str]) -> dict[str, str]:
    """What is known of the student as further files of torch's exported program."""
    return {f"{name}.json" if name == "classes" else f"{name}.txt": value for name, value in metadata.items()}


def _write(
    module: nn.Module,
    name: str,
    example: Tensor,
    path: Path,
    format: str,
    opset: int | None,
    dynamic: bool,
    metadata: dict[str, str],
) -> int | None:
    """Export to the file; returns the opset that it has."""
    try:
        shapes = ({0: torch.export.Dim("batch", min=1)},) if dynamic else None
        program = torch.export.export(module, (example,), dynamic_shapes=shapes, strict=False)
        if format == "torch":
            with open(path, "wb") as file:
                torch.export.save(program, file, extra_files=_as_files(metadata))
            return None
        named: dict[str, Any] = {
            "input_names": [INPUT],
            "output_names": [OUTPUT],
            "dynamic_shapes": ({0: "batch"},) if dynamic else None,
        }
        exported = torch.onnx.export(program, (), dynamo=True, opset_version=opset, verbose=False, **named)
        assert exported is not None, "with dynamo=True it returns the program"
        used = exported.model.opset_imports[""]
        exported.model.metadata_props.update(metadata)
        if opset in (None, used):
            exported.save(str(path), external_data=False)
    except Exception as error:  # the exporters raise what they like, of any network that they cannot do
        raise ContrastillError(f"{name} cannot be exported to {format}: {reason(error)}") from error
    if opset not in (None, used):  # the exporter only warns, and writes another
        raise _no_opset(opset)
    return used


def _difference(module: nn.Module, answer: Callable[[Tensor], Tensor], inputs: Tensor) -> float:
    """Largest difference of a logit over the batches.

    Raises:
        ContrastillError: It is more than rounding makes of it.
    """
    largest = 0.0
    for length in _BATCHES:
        with torch.no_grad():
            expected = module(inputs[:length])
        try:
            outputs = answer(inputs[:length])
        except Exception as error:  # of the runtime, for a length of batch that was fixed in the export
            raise ContrastillError(
                f"the exported file does not run on a batch of {length}: {reason(error)}; --fixed may help"
            ) from error
        difference, allowed = float((outputs - expected).abs().max()), TOLERANCE * max(1.0, float(expected.abs().max()))
        if not difference <= allowed:  # so that NaN is refused too
            raise ContrastillError(
                f"the exported file's logits differ from PyTorch's by {difference:.2g} (allowed: {allowed:.2g}): "
                "nothing was written"
            )
        largest = max(largest, difference)
    return largest
