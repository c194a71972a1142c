"""A run's student as a file that runs without this package: ONNX, or torch's exported program; compared with PyTorch
before it is there.
"""

from __future__ import annotations

import json
import logging
import os
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..core.arguments import Positive, checked
from ..core.atomic import atomic_write
from ..core.errors import ContrastillError, UsageError, unknown_name
from ..core.predicted_quantity import quantity_in_words
from ..core.preprocess import Preprocess
from ..core.torch_settings import own_settings
from ..core.weights import find_weights
from ..models.build import plain_student
from ..models.recipe import read_recipe, recipe_preprocess
from ..models.trained_logits import untrained_logits
from .export_check import LONGEST, batches_of_any_size, largest_difference, random_inputs, reference, with_gaps
from .exported import INPUT, Takes, answering, pair, quiet, reason, require
from .exported_module import described, exported_module

log = logging.getLogger(__name__)

FORMATS = {"onnx": ".onnx", "torch": ".pt2"}
"""Format -> what its files end in."""

_SIDE = 128
"""Side of the images that a file for any size is traced with, where none are at hand."""

_OLDEST_OPSET = 18  # of torch's exporter; it leaves a file of an older one silently at this


@dataclass(frozen=True)
class Export:
    """An exported student.

    Attributes:
        path: The file.
        format: ``onnx`` or ``torch``.
        takes: What it is given.
        num_classes: Length of the logits, or channels of the prediction.
        bytes: Size of the file.
        opset: Of ONNX; None for torch.
        difference: Largest difference of a value from PyTorch's; None if it was not checked.
        real_images: Whether the check had images of a data set; else they were random.
        classes: Names of the logits, or of the prediction's channels; None where the run's data had none.
        modality: What its images are.
        output: Name of what it returns: ``logits`` (B, num_classes), or of a student that answers for each position
            ``prediction`` (B, num_classes, H, W).
        sizes: (H, W) of the images that it was compared on.
        quantity: What a prediction of one channel is, in words; None of classes.
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
    output: str = "logits"
    sizes: tuple[tuple[int, int], ...] = ()
    quantity: str | None = None


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
    module: nn.Module | None = None,
) -> Export:
    """Write a run's student as a file whose input is ``images`` and whose output is ``logits``; a failed export leaves
    nothing.

    The names of the classes, where they are known, are in the file as a list in JSON: of ONNX in ``metadata_props``
    under ``classes``, of torch in the extra file ``classes.json``.

    The output of a student that answers for each position is ``prediction`` (B, C, H, W), and the file says in
    ``output`` (of torch ``output.txt``) what it is: channel c is class c + 1 of the label maps, whose 0 stands for no
    label. Such a file takes images of any height and width where its network does and no size is given.

    A line is logged where no objective of the run trained the logits.

    Args:
        run: A run folder, or the ``student.safetensors`` in one.
        path: The file; one that is there already stays until the new one has been checked. In a folder it is
            ``student.onnx`` or ``student.pt2``.
        format: ``onnx``, or ``torch`` for an ``ExportedProgram``, which ``torch.export.load`` reads.
        opset: Version of ONNX's operators; None is the exporter's choice.
        dynamic: Whether batches may have any length; else an image at a time.
        with_preprocess: Whether the file takes images as they are and has the normalisation and the resizing inside:
            colours in uint8, or float32 as those of its training were; other modalities in float32 in the unit of the
            training (depth in metres), NaN where nothing was measured, of depth also 0. The file says it in ``input``.
        size: Side, or (height, width), of the images that it takes; None is the student's own resolution, else that of
            ``images``, or any of a student that answers for each position. A student with a resolution of its own
            takes no other, unless the resizing is inside.
        images: (N, C, H, W), N ≥ 1, as a data set hands them out, for the check; None: random ones.
        check: Whether to load the file again and compare its answers with PyTorch's, in batches of 1 and 7, or of 1, 2
            and 3 in three sizes where any is taken.
        module: For a student of a class of your own, one of that class, as :func:`~contrastill.load_student` takes it.

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
    student: Any = plain_student(run, module)
    weights = find_weights(run)
    recipe: Any = read_recipe(weights)
    if untrained := untrained_logits(weights.parent, recipe):
        log.warning("%s: what the file answers is of a classifier that has learnt nothing", untrained)
    # A class of one's own may have a preprocess that is something else.
    takes = _takes(student, recipe_preprocess(recipe), images, size, with_preprocess, dynamic)
    output = "prediction" if student.taps.dense else "logits"
    exported = exported_module(student, takes)
    try:
        inputs = random_inputs(takes) if images is None else takes(images[torch.arange(LONGEST) % len(images)])
        inputs, answers = with_gaps(inputs, takes), reference(student, takes)
        with torch.no_grad():
            expected = answers(inputs[:1])
    except ContrastillError:
        raise
    except Exception as error:  # of any network, for images that are too small, too large or of no shape of its own
        side = "×".join(map(str, takes.shape[1:]))
        raise UsageError(
            f"{type(student).__name__} does not take images of {side} pixels ({reason(error)}): choose another size "
            "(--size)"
        ) from error
    classes, modality = recipe.get("classes"), recipe.get("modality", "rgb")
    metadata = {"modality": modality, "input": takes.described(modality)} | (
        {"classes": json.dumps(list(classes))} if classes else {}
    )
    if student.taps.dense:
        metadata["output"] = described(expected, inputs, recipe)
    with atomic_write(path) as temporary:
        try:
            temporary.touch()
        except OSError as error:
            raise UsageError(
                f"{path} cannot be written ({error.strerror}): choose another place with out (--out)"
            ) from error
        batches = batches_of_any_size(answers, inputs) if takes.any_size else None
        takes = replace(takes, any_size=batches is not None)
        with quiet():
            write = partial(_write, exported, type(student).__name__, inputs[: 2 if dynamic else 1], temporary, format)
            try:
                used = write(opset, takes, metadata, output)
            except _OneSizeError:
                takes, batches = replace(takes, any_size=False), None
                used = write(opset, takes, metadata, output)
        batches = batches or [inputs[:1], inputs]
        difference = (
            largest_difference(answers, answering(temporary, format, takes), batches, output) if check else None
        )
    return Export(
        path,
        format,
        takes,
        expected.shape[1],
        path.stat().st_size,
        used,
        difference,
        check and images is not None,
        classes and list(classes),
        modality,
        output,
        tuple({(batch.shape[2], batch.shape[3]): None for batch in batches}) if check else (),
        quantity_in_words(recipe) if student.taps.dense and expected.shape[1] == 1 else None,
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


class _OneSizeError(Exception):
    """What a network computes goes by the size of the image that it was traced with."""


def _takes(
    student: Any,
    preprocess: Preprocess,
    images: Tensor | None,
    size: int | tuple[int, int] | None,
    inside: bool,
    dynamic: bool,
) -> Takes:
    """The input of the exported file."""
    own, there = pair(preprocess.resolution), None if images is None else tuple(images.shape[2:])
    if not inside and own is not None and size is not None and pair(size) != own:
        height, width = own
        raise UsageError(
            f"{type(student).__name__} takes images of {height}×{width} pixels alone, its resolution: leave out size "
            "(--size), or put the resizing into the file with with_preprocess (--with-preprocess)"
        )
    side = pair(size) or there or own if inside else own or pair(size) or there
    any_size = student.taps.dense and own is None and size is None
    if side is None and any_size:
        side = (_SIDE, _SIDE)
    if side is None:
        raise UsageError(
            f"{type(student).__name__} takes images of any size: say which the file is for with size (--size), "
            "such as 32"
        )
    height, width = side
    return Takes((len(preprocess.mean), height, width), preprocess, inside, dynamic, any_size)


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
    takes: Takes,
    metadata: dict[str, str],
    output: str,
) -> int | None:
    """Export to the file; returns the opset that it has.

    Raises:
        _OneSizeError: It was to be for images of any size, and the trace is of one.
    """
    free = {place: name for place, name in enumerate(takes.dims) if isinstance(name, str)}
    dims = {"batch": torch.export.Dim("batch", min=1)}
    try:
        # What a size has to be, such as large enough for a kernel, torch finds out itself.
        shapes = ({place: dims.get(name, torch.export.Dim.AUTO) for place, name in free.items()},) if free else None
        program = torch.export.export(module, (example,), dynamic_shapes=shapes, strict=False)
        if takes.any_size and _has_one_size(program):
            raise _OneSizeError
        if format == "torch":
            with open(path, "wb") as file:
                torch.export.save(program, file, extra_files=_as_files(metadata))
            return None
        named: dict[str, Any] = {
            "input_names": [INPUT],
            "output_names": [output],
            "dynamic_shapes": (free,) if free else None,
        }
        exported = torch.onnx.export(program, (), dynamo=True, opset_version=opset, verbose=False, **named)
        assert exported is not None, "with dynamo=True it returns the program"
        used = exported.model.opset_imports[""]
        exported.model.metadata_props.update(metadata)
        if opset in (None, used):
            exported.save(str(path), external_data=False)
    except _OneSizeError:
        raise
    except Exception as error:  # the exporters raise what they like, of any network that they cannot do
        raise ContrastillError(f"{name} cannot be exported to {format}: {reason(error)}") from error
    if opset not in (None, used):  # the exporter only warns, and writes another
        raise _no_opset(opset)
    return used


def _has_one_size(program: torch.export.ExportedProgram) -> bool:
    """Whether the height or the width of the images is a number in the graph."""
    (name,) = program.graph_signature.user_inputs
    value = next(node.meta["val"] for node in program.graph.nodes if node.name == name)
    return any(str(side).isdecimal() for side in value.shape[2:])
