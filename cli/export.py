"""``contrastill export RUN``: a run's student as an ONNX file or as torch's exported program."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import completion
from .options import Quiet, json_option, say

if TYPE_CHECKING:
    from ..compress.export import Export
    from ..core.config.loading import RunConfig

HELP = """
Write a run's student as a file that runs without contrastill.

Its input is images, (batch, channels, height, width), normalised float32; with --with-preprocess they are uint8, and normalisation and
resizing are inside. Its output is logits, and it holds the names of their classes. The file is loaded again and compared with PyTorch on
images of the run's test split, or on random ones where the data are not at hand; where its logits differ, no file is written.

--int8 writes a second file beside an ONNX one, of 8 bits, calibrated on 128 training images, and prints the accuracy of both.

onnx needs: pip install 'contrastill[export]'

Examples:

    contrastill export runs/crd

    contrastill export runs/crd --format torch --fixed --out student.pt2

    contrastill export runs/crd --with-preprocess --int8 --data stl10:FOLDER
"""

_OUT = "The file; left out: student.onnx or student.pt2 in the run's folder."
_DATA = "NAME:PATH[,key=value…] for check and calibration; left out: the run's own."
_SIZE = (
    "Side in pixels of the images that the file takes; left out: the student's own resolution, else that of the data."
)


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command(help=HELP)(export)


def export(
    run: Annotated[str, typer.Argument(metavar="RUN", help="The run's folder.", autocompletion=completion.runs)],
    format: Annotated[str, typer.Option("--format", help="onnx, or torch for an ExportedProgram (.pt2).")] = "onnx",
    out: Annotated[str | None, typer.Option("--out", metavar="FILE", help=_OUT)] = None,
    opset: Annotated[
        int | None, typer.Option("--opset", help="Version of ONNX's operators; left out: the exporter's choice.")
    ] = None,
    dynamic: Annotated[
        bool, typer.Option("--dynamic/--fixed", help="Batches of any length, or an image at a time.")
    ] = True,
    with_preprocess: Annotated[
        bool, typer.Option("--with-preprocess", help="Take uint8 images, with normalisation and resizing inside.")
    ] = False,
    int8: Annotated[
        bool, typer.Option("--int8", help="Also write a file of 8 bits, and measure the accuracy of both.")
    ] = False,
    data: Annotated[str | None, typer.Option("--data", metavar="DATA", help=_DATA)] = None,
    size: Annotated[int | None, typer.Option("--size", min=1, help=_SIZE)] = None,
    check: Annotated[bool, typer.Option("--check/--no-check", help="Compare the file with PyTorch.")] = True,
    as_json: Annotated[bool, json_option("Print the report as JSON on standard output.")] = False,
    quiet: Quiet = False,
) -> None:
    from ..compress.export import FORMATS, export_student
    from ..core.config.loading import load_config
    from ..core.errors import UsageError, unknown_name
    from ..core.run import Run, no_run
    from .cost import data_size

    if format not in FORMATS:
        raise unknown_name("format", format, FORMATS)
    if int8 and format != "onnx":
        raise UsageError("--int8 is for ONNX: leave it out, or export with --format onnx")
    if not Run(run).config.is_file():
        raise no_run(run)
    config = load_config(str(Run(run).config))
    opened = _Data(config, data, needed=int8)
    modality, images = config.student.modality, opened.first(7) if check or int8 else None
    if with_preprocess and images is None and modality != "rgb":
        raise UsageError(
            f"--with-preprocess is for uint8 images, and without its data it is not known whether {modality} is "
            "such: give --data, or leave it out"
        )
    if int8:
        opened.check_classes(run)
    path = Path(out) if out else Path(run) / f"student{FORMATS[format]}"
    options: dict[str, Any] = {
        "format": format,
        "opset": opset,
        "dynamic": dynamic,
        "with_preprocess": with_preprocess,
        "check": check,
    }
    made = export_student(
        run, path, images=images, size=size or (data_size(config, modality) if images is None else None), **options
    )
    report = _report(made)
    if int8:
        report |= _int8(made, opened)
    if as_json:
        print(json.dumps(report))
    else:
        _show(report)


class _Data:
    """The data for check and calibration: those that were named, else the run's own.

    Raises:
        UsageError: They are needed, or were named, and cannot be had.
    """

    def __init__(self, config: RunConfig, named: str | None, *, needed: bool) -> None:
        from ..evaluation.probe_inputs import data_named
        from ..training.assemble import open_split

        if named is None:
            self._open: Callable[[str], Any] = lambda name: open_split(config, name)
        else:
            from ..core.registry import DATASETS

            source = data_named(named)
            self._open = DATASETS[source.name](source.options).open
        self.what, self.modality, self.needed, self.required = (
            named or "the run's data",
            config.student.modality,
            needed,
            needed or named is not None,
        )
        self._splits: dict[str, Any] = {}
        self._places: list[int] | None = None

    def split(self, name: str) -> Any | None:
        """A split; None where it is not at hand, and need not be."""
        from ..core.errors import ContrastillError, UsageError

        if name not in self._splits:
            try:
                self._splits[name] = self._open(name)
            except ContrastillError as error:
                if self.needed:
                    raise UsageError(
                        f"--int8 calibrates and measures on {self.what}, which cannot be had: {error}; name "
                        "others with --data"
                    ) from error
                if self.required:
                    raise
                say(f"the check takes random images: {error}")
                self._splits[name] = None
            if self.needed and self._splits[name] is None:
                raise UsageError(
                    f"--int8 needs train and test, and {self.what} has no {name} split: name others with --data"
                )
        return self._splits[name]

    def check_classes(self, run: str) -> None:
        """Complain, before anything is written, where the accuracy of a run's student cannot be measured on the test
        split.
        """
        from ..core.classes import match_classes
        from ..core.errors import UsageError
        from ..evaluation.probe_inputs import network_named

        split, recipe = self.split("test"), network_named(run).build(0, seed=0).network.recipe
        own, names = recipe["num_classes"], recipe["classes"]
        if split.targets is None or split.num_classes != own:
            has = "no classes" if split.targets is None else f"{split.num_classes} classes"
            raise UsageError(
                f"--int8 measures accuracies, and {self.what} has {has}, the student {own}: name other data with --data"
            )
        if names and split.classes:
            self._places = match_classes(names, split.classes, "the student", self.what, "name other data with --data")

    def first(self, count: int) -> Any | None:
        """Some test images (N, C, H, W), or None."""
        return None if self.split("test") is None else next(iter(self._loader("test", count).epoch(0)))[self.modality]

    def spread(self, count: int = 128, together: int = 8) -> Iterator[Any]:
        """Batches of training images from all over the split, which may be sorted by class."""
        loader = self._loader("train", together)
        for place in range(0, len(loader), max(1, len(loader) // (count // together))):
            yield next(iter(loader.epoch(0, place)))[self.modality]

    def labelled(self) -> Iterator[tuple[Any, Any]]:
        """Batches of test images and their classes, by the student's numbers."""
        import torch

        places = torch.arange(self.split("test").num_classes) if self._places is None else torch.tensor(self._places)
        return ((batch[self.modality], places[batch["target"]]) for batch in self._loader("test", 64).epoch(0))

    def _loader(self, name: str, batch_size: int) -> Any:
        from ..training.assemble import open_loader

        return open_loader(self.split(name), [self.modality], batch_size=batch_size, train=False, device="cpu")


def _int8(made: Export, data: _Data) -> dict[str, Any]:
    """Quantise, and measure both."""
    from ..compress.exported import accuracy
    from ..compress.quantize import quantize

    path = made.path.with_suffix(f".int8{made.path.suffix}")
    size = quantize(made, path, data.spread())
    fp32, int8 = (accuracy(file, made.format, made.takes, data.labelled()) for file in (made.path, path))
    return {
        "int8": {
            "path": str(path),
            "bytes": size,
            "top1": int8,
            "top1_fp32": fp32,
            "data": data.what,
            "images": data.split("test").num_samples,
        }
    }


def _report(made: Export) -> dict[str, Any]:
    takes = made.takes
    return {
        "path": str(made.path),
        "format": made.format,
        "classes": made.classes,
        "bytes": made.bytes,
        "opset": made.opset,
        "input": {
            "shape": ["batch" if takes.dynamic else 1, *takes.shape],
            "dtype": "uint8" if takes.inside else "float32",
        },
        "mean": takes.preprocess.mean,
        "std": takes.preprocess.std,
        "difference": made.difference,
        "real_images": made.real_images,
    }


def _show(report: dict[str, Any]) -> None:
    opset = f", opset {report['opset']}" if report["opset"] else ""
    print(f"written: {report['path']} ({report['bytes'] / 1e6:.2f} MB, {report['format']}{opset})")
    shape, dtype = report["input"]["shape"], report["input"]["dtype"]
    normalised = "" if dtype == "uint8" else f", normalised by mean {report['mean']}, std {report['std']}"
    print(f"input: images ({', '.join(map(str, shape))}) {dtype}{normalised}")
    if report["difference"] is None:
        print("not compared with PyTorch (--no-check)")
    else:
        kind = "real images of the test split" if report["real_images"] else "random images"
        print(f"compared with PyTorch on {kind}: the largest difference of a logit is {report['difference']:.2g}")
    if "int8" in report:
        int8 = report["int8"]
        print(f"written: {int8['path']} ({int8['bytes'] / 1e6:.2f} MB, 8 bits)")
        print(
            f"top-1 on {int8['images']:,} test images of {int8['data']}: fp32 {int8['top1_fp32']:.2f} %, int8 "
            f"{int8['top1']:.2f} %"
        )
