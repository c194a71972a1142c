"""Exports a run's student, checked on its data, and quantised to 8 bits."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..compress.export import FORMATS, Export, export_student
from ..compress.quantize import check_quantizable
from ..core.arguments import Positive, checked
from ..core.config.loading import load_config
from ..core.errors import UsageError, unknown_name
from ..core.generators import own_generators
from ..core.run import Run
from ..core.run_names import no_run
from ..core.torch_settings import own_settings
from ..models.build import plain_student
from ..training.networks import check_other_data
from ..training.processes import parting
from .cost import data_size
from .evaluation_data import replaced_data
from .export_int8 import ExportSamples, Int8Result, quantized
from .messages import print_message
from .probe_inputs import network_named

_CHECKED = 7  # images of the test split


@dataclass(frozen=True)
class ExportResult:
    """An exported student.

    Attributes:
        export: The file, its format, input, size and check.
        int8: The file of 8 bits beside it; None where it was not asked for.
    """

    export: Export
    int8: Int8Result | None = None

    @property
    def path(self) -> Path:
        """The file."""
        return self.export.path

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as ``contrastill export --json`` prints them."""
        export, takes = self.export, self.export.takes
        values: dict[str, Any] = {
            "path": str(export.path),
            "format": export.format,
            "classes": export.classes,
            "modality": export.modality,
            "bytes": export.bytes,
            "opset": export.opset,
            "input": {
                "shape": takes.dims,
                "dtype": str(takes.dtype).removeprefix("torch."),
            },
            "output": export.output,
            "mean": takes.preprocess.mean,
            "std": takes.preprocess.std,
            "difference": export.difference,
            "sizes": export.sizes,
            "real_images": export.real_images,
        }
        return values if self.int8 is None else {**values, "int8": self.int8.to_dict()}

    def __str__(self) -> str:
        export, takes = self.export, self.export.takes
        opset = f", opset {export.opset}" if export.opset else ""
        shape = ", ".join(map(str, takes.dims))
        lines = [
            f"written: {export.path} ({export.bytes / 1e6:.2f} MB, {export.format}{opset})",
            f"input: images ({shape}) {str(takes.dtype).removeprefix('torch.')}",
            f"its images are {takes.described(export.modality)}",
        ]
        if export.output == "prediction":
            lines.append(_prediction_line(export))
        if export.difference is None:
            lines.append("not compared with PyTorch (--no-check)")
        else:
            kind = "real images of the test split" if export.real_images else "random images"
            value = "logit" if export.output == "logits" else "value"
            lines.append(
                f"compared with PyTorch on {kind}{_of_sizes(export)}: the largest difference of a {value} is "
                f"{export.difference:.2g}"
            )
        if self.int8 is not None:
            int8 = self.int8
            lines.append(
                f"written: {int8.path} ({int8.bytes / 1e6:.2f} MB, 8 bits, calibrated on {int8.calibration_images} "
                "training images)"
            )
            measured = (("top-1", int8.top1_fp32, int8.top1), ("mIoU", int8.miou_fp32, int8.miou))
            lines += [
                f"{name} on {int8.images:,} test images of {int8.data}: fp32 {fp32:.2f} %, int8 {eight:.2f} %"
                for name, fp32, eight in measured
                if fp32 is not None
            ] or ["top-1 is not measured, as the student's logits were not trained"]
        return "\n".join(lines)


def _prediction_line(export: Export) -> str:
    """What a file returns that answers for each position."""
    if export.quantity is not None:
        return f"output: prediction, {export.quantity}"
    named = f" ({', '.join(export.classes)})" if export.classes else ""
    return f"output: prediction, logits of {export.num_classes} classes at each position{named}"


def _of_sizes(export: Export) -> str:
    """The sizes of the images of the check, where there are several."""
    sizes = [f"{height}×{width}" for height, width in export.sizes]
    return f" of {', '.join(sizes[:-1])} and {sizes[-1]}" if len(sizes) > 1 else ""


@checked
@own_settings()
@own_generators()
@parting()
def export_run(
    run: str | os.PathLike,
    out: str | os.PathLike | None = None,
    *,
    format: str = "onnx",
    opset: int | None = None,
    dynamic: bool = True,
    with_preprocess: bool = False,
    int8: bool = False,
    data: str | None = None,
    size: Positive | None = None,
    check: bool = True,
) -> ExportResult:
    """Write a run's student as a file that runs without contrastill; see :func:`~contrastill.export_student`.

    Args:
        run: The run's folder.
        out: The file, or a folder for ``student.onnx`` or ``student.pt2``; None: the run's folder.
        format: ``onnx``, or ``torch`` for an ``ExportedProgram``.
        opset: Version of ONNX's operators; None: the exporter's choice.
        dynamic: Whether batches may have any length; else one image at a time.
        with_preprocess: Whether the file takes images as they are, with normalisation and resizing inside: colours in
            uint8, other modalities in float32 in the unit of the training.
        int8: Whether to write a second file of 8 bits too, calibrated on up to 128 training images, and measure the
            accuracy of both, or their mIoU.
        data: ``NAME:PATH[,key=value…]`` for check and calibration; None: the run's own.
        size: Side in pixels of the images that the file takes; None: the student's own resolution, else the data's, or
            any of a student that answers for each position.
        check: Whether to compare the file's answers with PyTorch's.

    Raises:
        UsageError: No such run, format or data, or data that do not fit; a package that is missing.
        ContrastillError: The student cannot be exported, or the file's answers differ from PyTorch's.
    """
    if format not in FORMATS:
        raise unknown_name("format", format, FORMATS)
    if int8 and format != "onnx":
        raise UsageError("--int8 is for ONNX: leave it out, or export with --format onnx")
    folder = Run(run)
    if not folder.config.is_file():
        raise no_run(folder.path)
    config = load_config(str(folder.config), trains=False)
    modality, samples = config.student.modality, ExportSamples(config, data, int8=int8)
    images = samples.first(_CHECKED) if check or int8 else None
    if images is not None and data is not None:
        check_other_data(network_named(run).build(0, seed=0).network, str(run), samples.needed("test"))
    if int8:
        samples.check_classes(run)
        splits = {name: samples.needed(name) for name in ("test", "train")}
        if data is None and (replaced := replaced_data(folder, config, config.data, splits)):
            print_message(replaced)
    student: Any = plain_student(folder.path)
    if int8:
        check_quantizable(student.preprocess, inside=with_preprocess)
    own = student.preprocess.resolution
    sides: int | tuple[int, int] | None = size
    # One that answers for each position takes any size where it has none of its own.
    any_size = student.taps.dense and own is None
    if size is None and images is None and not any_size and (with_preprocess or own is None):
        sides = data_size(config, folder, modality)
    export = export_student(
        run,
        out or folder.path / f"student{FORMATS[format]}",
        images=images,
        size=sides,
        format=format,
        opset=opset,
        dynamic=dynamic,
        with_preprocess=with_preprocess,
        check=check,
    )
    return ExportResult(export, quantized(export, samples) if int8 else None)
