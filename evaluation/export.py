"""Exports a run's student, checked on its data, and quantised to 8 bits."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..compress.export import FORMATS, Export, export_student
from ..compress.exported import accuracy
from ..compress.quantize import quantize
from ..core.arguments import Positive, checked
from ..core.classes import match_classes
from ..core.config.loading import load_config
from ..core.config.schema import RunConfig
from ..core.errors import ContrastillError, UsageError, unknown_name
from ..core.generators import own_generators
from ..core.label_vectors import lacks_classes
from ..core.run import Run, no_run
from ..core.split_checks import dataset_of
from ..core.torch_settings import own_settings
from ..models.build import load_student
from ..training.data import open_loader, open_split
from ..training.networks import check_other_data
from .cost import data_size
from .evaluation_data import replaced_data
from .messages import print_message
from .probe_inputs import data_named, network_named

_CHECKED = 7  # images of the test split
_CALIBRATION = 128  # training images


@dataclass(frozen=True)
class Int8Result:
    """The file of 8 bits beside an ONNX file.

    Attributes:
        path: The file.
        bytes: Its size.
        top1: Its accuracy, per cent.
        top1_fp32: That of the file it was made from.
        data: The data they were measured on.
        images: Number of test images.
    """

    path: Path
    bytes: int
    top1: float
    top1_fp32: float
    data: str
    images: int

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {**vars(self), "path": str(self.path)}


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
                "shape": ["batch" if takes.dynamic else 1, *takes.shape],
                "dtype": "uint8" if takes.inside else "float32",
            },
            "mean": takes.preprocess.mean,
            "std": takes.preprocess.std,
            "difference": export.difference,
            "real_images": export.real_images,
        }
        return values if self.int8 is None else {**values, "int8": self.int8.to_dict()}

    def __str__(self) -> str:
        export, takes = self.export, self.export.takes
        opset = f", opset {export.opset}" if export.opset else ""
        shape = ", ".join(map(str, ["batch" if takes.dynamic else 1, *takes.shape]))
        mean, std = takes.preprocess.mean, takes.preprocess.std
        dtype = "uint8" if takes.inside else f"float32, normalised by mean {mean}, std {std}"
        lines = [
            f"written: {export.path} ({export.bytes / 1e6:.2f} MB, {export.format}{opset})",
            f"input: images ({shape}) {dtype}",
            *(
                []
                if export.modality == "rgb"
                else [f"its images are {export.modality}, as a training derives or reads it"]
            ),
        ]
        if export.difference is None:
            lines.append("not compared with PyTorch (--no-check)")
        else:
            kind = "real images of the test split" if export.real_images else "random images"
            lines.append(
                f"compared with PyTorch on {kind}: the largest difference of a logit is {export.difference:.2g}"
            )
        if self.int8 is not None:
            int8 = self.int8
            lines.append(f"written: {int8.path} ({int8.bytes / 1e6:.2f} MB, 8 bits)")
            lines.append(
                f"top-1 on {int8.images:,} test images of {int8.data}: fp32 {int8.top1_fp32:.2f} %, int8 "
                f"{int8.top1:.2f} %"
            )
        return "\n".join(lines)


@checked
@own_settings()
@own_generators()
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
        with_preprocess: Whether the file takes uint8 images, with normalisation and resizing inside.
        int8: Whether to write a second file of 8 bits too, calibrated on training images, and measure both.
        data: ``NAME:PATH[,key=value…]`` for check and calibration; None: the run's own.
        size: Side in pixels of the images that the file takes; None: the student's own resolution, else the data's.
        check: Whether to compare the file's logits with PyTorch's.

    Raises:
        UsageError: No such run, format or data, or data that do not fit; a package that is missing.
        ContrastillError: The student cannot be exported, or the file's logits differ from PyTorch's.
    """
    if format not in FORMATS:
        raise unknown_name("format", format, FORMATS)
    if int8 and format != "onnx":
        raise UsageError("--int8 is for ONNX: leave it out, or export with --format onnx")
    folder = Run(run)
    if not folder.config.is_file():
        raise no_run(folder.path)
    config = load_config(str(folder.config), trains=False)
    modality, samples = config.student.modality, _Samples(config, data, int8=int8)
    images = samples.first(_CHECKED) if check or int8 else None
    if images is not None and data is not None:
        check_other_data(network_named(run).build(0, seed=0).network, str(run), samples.needed("test"))
    if with_preprocess and images is None and modality != "rgb":
        raise UsageError(
            f"--with-preprocess is for uint8 images, and without its data it is not known whether {modality} is "
            "such: give --data, or leave it out"
        )
    if int8:
        samples.check_classes(run)
        splits = {name: samples.needed(name) for name in ("test", "train")}
        if data is None and (replaced := replaced_data(folder, config, config.data, splits)):
            print_message(replaced)
    preprocess: Any = load_student(folder.path).preprocess
    sides: int | tuple[int, int] | None = size
    if size is None and images is None and (with_preprocess or preprocess.resolution is None):
        sides = data_size(config, modality)
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
    return ExportResult(export, _quantized(export, samples) if int8 else None)


class _Samples:
    """Samples for check and calibration: of the data that were named, else of the run's own.

    Raises:
        UsageError: They are needed, or were named, and cannot be read.
    """

    def __init__(self, config: RunConfig, data: str | None, *, int8: bool) -> None:
        if data is None:
            self._open: Callable[[str], Any] = lambda name: open_split(config, name)
        else:
            source = data_named(data)
            self._open = dataset_of(source.name, source.options).open
        self.name, self.modality = data or "the run's data", config.student.modality
        self._int8, self._required = int8, int8 or data is not None
        self._splits: dict[str, Any] = {}
        self._places: list[int] | None = None

    def split(self, name: str) -> Any | None:
        """A split; None where it is not there, and need not be."""
        if name not in self._splits:
            try:
                self._splits[name] = self._open(name)
            except ContrastillError as error:
                if self._int8:
                    raise UsageError(
                        f"--int8 calibrates and measures on {self.name}, which cannot be had: {error}; name "
                        "others with --data"
                    ) from error
                if self._required:
                    raise
                print_message(f"the check takes random images: {error}")
                self._splits[name] = None
            if self._int8:
                self.needed(name)
        return self._splits[name]

    def needed(self, name: str) -> Any:
        """A split that has to be there."""
        split = self.split(name) if name not in self._splits else self._splits[name]
        if split is None:
            raise UsageError(
                f"--int8 needs train and test, and {self.name} has no {name} split: name others with --data"
            )
        return split

    def check_classes(self, run: str | os.PathLike) -> None:
        """Complain, before anything is written, where the accuracy of a run's student cannot be measured on the test
        split.
        """
        split, recipe = self.needed("test"), network_named(run).build(0, seed=0).network.recipe
        own, names = recipe["num_classes"], recipe["classes"]
        if split.targets is None or split.num_classes != own:
            if split.targets is None:
                raise UsageError(f"{self.name} {lacks_classes(split, '--int8, which measures top-1,')} with --data")
            has = f"{split.num_classes} classes"
            raise UsageError(
                f"--int8 measures accuracies, and {self.name} has {has}, the student {own}: name other data with --data"
            )
        if names and split.classes:
            self._places = match_classes(names, split.classes, "the student", self.name, "name other data with --data")

    def first(self, count: int) -> Tensor | None:
        """Some test images (N, C, H, W), or None."""
        return None if self.split("test") is None else next(iter(self._loader("test", count).epoch(0)))[self.modality]

    def spread(self, count: int = _CALIBRATION, batch_size: int = 8) -> Iterator[Tensor]:
        """Batches of training images from all over the split, which may be sorted by class."""
        loader = self._loader("train", batch_size)
        for place in range(0, len(loader), max(1, len(loader) // (count // batch_size))):
            yield next(iter(loader.epoch(0, place)))[self.modality]

    def labelled(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches of test images and their classes, by the student's numbers."""
        places = torch.arange(self.needed("test").num_classes) if self._places is None else torch.tensor(self._places)
        return ((batch[self.modality], places[batch["target"]]) for batch in self._loader("test", 64).epoch(0))

    def _loader(self, name: str, batch_size: int) -> Any:
        return open_loader(self.needed(name), [self.modality], batch_size=batch_size, train=False, device="cpu")


def _ranged(batches: Iterable[Tensor], values: set[float]) -> Iterator[Tensor]:
    """The batches, and in ``values`` the least and the largest value of each."""
    for batch in batches:
        values |= {float(batch.min()), float(batch.max())}
        yield batch


def _quantized(export: Export, samples: _Samples) -> Int8Result:
    """Quantise, and measure both."""
    path = export.path.with_suffix(f".int8{export.path.suffix}")
    values: set[float] = set()
    size = quantize(export, path, _ranged(samples.spread(), values))
    if len(values) == 1:
        print_message(
            f"the training images of {samples.name} have the value {min(values):g} throughout, by which no range of "
            "the 8 bits can be set: the int8 file is right for such images alone; name others with --data"
        )
    fp32, int8 = (accuracy(file, export.format, export.takes, samples.labelled()) for file in (export.path, path))
    return Int8Result(path, size, int8, fp32, samples.name, samples.needed("test").num_samples)
