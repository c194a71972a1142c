"""The 8 bits of an exported student: calibrated on training images, and measured beside the file they are made from."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from ..compress.export import Export
from ..compress.exported import accuracy, answering
from ..compress.quantize import quantize
from ..core.config.schema import RunConfig
from ..core.errors import ContrastillError, UsageError
from ..core.label_vectors import lacks_classes
from ..core.representation import Network
from ..core.split_checks import dataset_of
from ..models.trained_logits import untrained_logits
from ..training.accelerator import prepare_accelerator
from ..training.data import open_loader, open_split
from ..training.dense_accuracy import DenseMeasures, measure_dense
from ..training.pixel_labels import counted_with, pixel_labels
from .class_match import match_classes_of
from .dense_evaluation import answers_densely, check_dense_data
from .messages import print_message
from .probe_inputs import data_named, network_named

_CALIBRATION = 128  # training images


@dataclass(frozen=True)
class Int8Result:
    """The file of 8 bits beside an ONNX file.

    Attributes:
        path: The file.
        bytes: Its size.
        top1: Its accuracy, per cent; None where it answers for each position, or its logits were not trained.
        top1_fp32: That of the file it was made from.
        data: The data they were measured on.
        images: Number of test images.
        calibration_images: Number of training images that set the ranges of the 8 bits.
        miou: Its mIoU, per cent, of a student that answers for each position; else None.
        miou_fp32: That of the file it was made from.
    """

    path: Path
    bytes: int
    top1: float | None
    top1_fp32: float | None
    data: str
    images: int
    calibration_images: int
    miou: float | None = None
    miou_fp32: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values; only those measures that there are."""
        return {name: value for name, value in vars(self).items() if value is not None} | {"path": str(self.path)}


class ExportSamples:
    """Samples for check and calibration: of the data that were named, else of the run's own.

    Raises:
        UsageError: They are needed, or were named, and cannot be read.
    """

    def __init__(self, config: RunConfig, data: str | None, *, int8: bool) -> None:
        if data is None:
            self._open: Callable[[str], Any] = lambda name: open_split(config, name)
        else:
            source = data_named(data)
            source.check_whole("an export")
            self._open = dataset_of(source.name, source.options).open
        self.name, self.modality = data or "the run's data", config.student.modality
        self._int8, self._required = int8, int8 or data is not None
        self._splits: dict[str, Any] = {}
        self._student: Network | None = None
        self._num_classes: int | None = None
        self._own_data, self._config = data is None, config

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
        split; of logits that were not trained none is measured.
        """
        network, split = network_named(run).build(0, seed=0).network, self.needed("test")
        dense, labels = answers_densely(network), split
        if dense and network.recipe["num_classes"] == 1:
            raise UsageError(
                f"--int8 measures how often classes are right, and the student of {run} gives a quantity at each "
                "position: leave it out"
            )
        if untrained_logits(run, network.recipe):  # the export says so
            return
        if dense:
            check_dense_data(split, network.recipe["num_classes"], self.name)
            labels = counted_with(pixel_labels({"test": split}, self.name)["test"], self.needed("train"))
        elif split.targets is None:
            raise UsageError(f"{self.name} {lacks_classes(split, '--int8, which measures top-1,')} with --data")
        elif network.recipe.get("several_classes"):
            raise UsageError(
                f"--int8 measures top-1, and the student of {run} was trained with any number of classes for each "
                "sample, of which mAP is the measure: leave it out"
            )
        match_classes_of(
            network,
            labels,
            "the student",
            self.name,
            print_message,
            option=None,
            otherwise="name other data with --data",
            own_data=self._own_data,
        )
        self._student, self._num_classes = network, labels.num_classes

    def measure(self, export: Export, path: Path) -> dict[str, float]:
        """``top1`` of a file, or of a student that answers for each position ``miou``, in per cent, on the test split;
        nothing of logits that were not trained.

        Args:
            export: What the file is, or was made from.
            path: The file.
        """
        if self._student is None:
            return {}
        order = self._student.classes  # places in the file's output; None: as they are
        if not answers_densely(self._student):
            return {"top1": accuracy(path, export.format, export.takes, self.labelled(), order)}
        answer = answering(path, export.format, export.takes)

        def predict(batch: Mapping[str, Tensor]) -> Tensor:
            prediction = answer(export.takes(batch[self.modality]))
            return prediction if order is None else prediction[:, order]

        accelerator = prepare_accelerator(self._config.model_copy(update={"trackers": []}))
        loader = self._loader("test", 8)
        measures = measure_dense(
            self._student, loader, accelerator, boundaries=False, predict=predict, classes=self._num_classes
        )
        assert isinstance(measures, DenseMeasures), "several channels are classes"
        return {"miou": measures.miou}

    def first(self, count: int) -> Tensor | None:
        """Some test images (N, C, H, W), or None."""
        return None if self.split("test") is None else next(iter(self._loader("test", count).epoch(0)))[self.modality]

    def spread(self, count: int = _CALIBRATION, batch_size: int = 8) -> Iterator[Tensor]:
        """Batches of so many training images, or all, from all over the split, which may be sorted by class."""
        loader = self._loader("train", batch_size)
        batches = min(len(loader), count // batch_size)
        for place in (len(loader) * number // batches for number in range(batches)):
            yield next(iter(loader.epoch(0, place)))[self.modality]

    def labelled(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches of test images and their classes."""
        return ((batch[self.modality], batch["target"]) for batch in self._loader("test", 64).epoch(0))

    def _loader(self, name: str, batch_size: int) -> Any:
        return open_loader(self.needed(name), [self.modality], batch_size=batch_size, train=False, device="cpu")


def _ranged(batches: Iterable[Tensor], values: set[float], sizes: list[int]) -> Iterator[Tensor]:
    """The batches, in ``values`` the least and the largest value of each, and in ``sizes`` how many images it has."""
    for batch in batches:
        values |= {float(batch.min()), float(batch.max())}
        sizes.append(len(batch))
        yield batch


def quantized(export: Export, samples: ExportSamples) -> Int8Result:
    """Quantise, and measure both."""
    path = export.path.with_suffix(f".int8{export.path.suffix}")
    values: set[float] = set()
    sizes: list[int] = []
    size = quantize(export, path, _ranged(samples.spread(), values, sizes))
    if len(values) == 1:
        print_message(
            f"the training images of {samples.name} have the value {min(values):g} throughout, by which no range of "
            "the 8 bits can be set: the int8 file is right for such images alone; name others with --data"
        )
    fp32, int8 = (samples.measure(export, file) for file in (export.path, path))
    return Int8Result(
        path,
        size,
        int8.get("top1"),
        fp32.get("top1"),
        samples.name,
        samples.needed("test").num_samples,
        sum(sizes),
        int8.get("miou"),
        fp32.get("miou"),
    )
