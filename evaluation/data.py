"""Describes data sets, and packs them into one file."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..core.arguments import Positive, checked
from ..core.table import Table, TabularResult
from ..core.torch_settings import own_settings
from .messages import progress_bar


@dataclass(frozen=True)
class FieldDescription:
    """One field of a split.

    Attributes:
        shape: (samples, …); of images channels last.
        dtype: Of its values.
        min, max: Range of its values; None where they were not read.
        classes: Number of classes, of the field of classes.
        per_class: Samples of the rarest and of the most frequent class.
    """

    shape: tuple[int, ...]
    dtype: str
    min: float | None = None
    max: float | None = None
    classes: int | None = None
    per_class: tuple[int, int] | None = None

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> FieldDescription:
        """The inverse of :meth:`to_dict`."""
        counts = values.get("per_class")
        return cls(
            tuple(values["shape"]),
            values["dtype"],
            values.get("min"),
            values.get("max"),
            values.get("classes"),
            None if counts is None else (counts["min"], counts["max"]),
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values; what is not known is left out."""
        values: dict[str, Any] = {"shape": list(self.shape), "dtype": self.dtype}
        values |= {"min": self.min, "max": self.max} if self.min is not None else {}
        values |= {"classes": self.classes} if self.classes is not None else {}
        values |= {"per_class": dict(zip(("min", "max"), self.per_class, strict=True))} if self.per_class else {}
        return values


@dataclass(frozen=True)
class SplitDescription:
    """One split: how many samples (None where its fields differ in length) and its fields by name."""

    samples: int | None
    fields: Mapping[str, FieldDescription]


@dataclass(frozen=True)
class DataDescription(TabularResult):
    """What data hold.

    Attributes:
        path: The data as they were named.
        bytes: Size of a packed file; None for others.
        classes: Names of the classes; None without.
        semantic_classes: Names of the values of label maps, of which the first is no class; None without.
        depth_unit: Metres of one step of depth, or the unit's name.
        intrinsics: (fx, fy, cx, cy) in pixels of the frames with the shapes of ``splits``.
        splits: By name.
    """

    path: str
    bytes: int | None
    classes: Sequence[str] | None
    semantic_classes: Sequence[str] | None
    depth_unit: float | str | None
    intrinsics: Sequence[float] | None
    splits: Mapping[str, SplitDescription]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as ``contrastill data info --json`` prints them."""
        splits = {
            name: {
                "samples": split.samples,
                "fields": {field: values.to_dict() for field, values in split.fields.items()},
            }
            for name, split in self.splits.items()
        }
        return {
            "path": self.path,
            "bytes": self.bytes,
            "classes": self.classes,
            "semantic_classes": self.semantic_classes,
            "depth_unit": self.depth_unit,
            "intrinsics": self.intrinsics,
            "splits": splits,
        }

    def summary(self) -> str:
        """The splits in one line.

        Example:
            >>> split = SplitDescription(8, {"rgb": FieldDescription((8, 4, 4, 3), "uint8")})
            >>> DataDescription("", None, None, None, None, None, {"test": split}).summary()
            'test 8 (rgb 4×4×3)'
        """
        splits = []
        for name, split in self.splits.items():
            images = [
                f"{field} {'×'.join(map(str, values.shape[1:]))}"
                for field, values in split.fields.items()
                if len(values.shape) > 1
            ]
            classes = [f"{values.classes} classes" for values in split.fields.values() if values.classes is not None]
            contents = ", ".join([*images, *classes])
            splits.append(f"{name} {split.samples}" + (f" ({contents})" if contents else ""))
        return ", ".join(splits) or "no splits"

    def tables(self) -> list[Table]:
        """One row per field."""
        rows: list[list[str]] = []
        for name, split in self.splits.items():
            rows += [[name, field, *_cells(values)] for field, values in split.fields.items()]
            if split.samples is None:
                rows.append([name, "its fields differ in length", "", "", "", ""])
        size = "" if self.bytes is None else f", {self.bytes / 1e6:.1f} MB"
        columns = ("split", "field", "shape", "dtype", "values", "samples per class")
        return [Table(f"{self.path}{size}", columns, rows, self._notes())]

    def _notes(self) -> list[str]:
        notes = []
        # A file's names of classes are those of label maps too where no field has classes of whole samples.
        fields = [field for split in self.splits.values() for field in split.fields.values()]
        of_maps = bool(self.classes) and not any(field.classes for field in fields) and _names_no_label(self.classes)
        for names, maps in ((self.classes, of_maps), (self.semantic_classes, True)):
            if names is None:
                continue
            classes = names[1:] if maps else names
            shown = f"{', '.join(classes[:8])}{', …' if len(classes) > 8 else ''}"
            # As a training counts them: 0 of a label map is no class.
            meaning, beside = (" of the label maps", f"; 0 is {names[0]}") if maps and names else ("", "")
            notes.append(f"{len(classes)} classes{meaning}: {shown}{beside}")
        unit = self.depth_unit
        if unit is not None:
            notes.append(f"depth is in {unit if isinstance(unit, str) else f'steps of {unit:g} m'}")
        if self.intrinsics is not None:
            named = zip(("fx", "fy", "cx", "cy"), self.intrinsics, strict=True)
            notes.append(f"intrinsics in pixels: {', '.join(f'{name} {value:g}' for name, value in named)}")
        return notes


def _names_no_label(names: Sequence[str] | None) -> bool:
    """Whether the first name is that of positions without a label."""
    return names is not None and len(names) > 0 and names[0].casefold() in ("unlabelled", "unlabeled")


@dataclass(frozen=True)
class PackResult:
    """A packed file.

    Attributes:
        path: The file.
        bytes: Its size.
        samples: Number of samples by split.
        classes: Names of the classes; None without.
    """

    path: Path
    bytes: int
    samples: Mapping[str, int]
    classes: Sequence[str] | None

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as ``contrastill data pack --json`` prints them."""
        return {"path": str(self.path), "bytes": self.bytes, "samples": dict(self.samples), "classes": self.classes}

    def __str__(self) -> str:
        samples = ", ".join(f"{name} {count}" for name, count in self.samples.items())
        classes = f", {len(self.classes)} classes" if self.classes else ""
        return f"{self.path} ({samples}{classes}, {self.bytes / 1e6:.1f} MB)"


@checked
@own_settings()
def describe_data(data: str | os.PathLike, *, target: str = "target") -> DataDescription:
    """What data hold: splits, fields, shapes, samples per class.

    A packed file is read to its end, so that damage shows; of other data one sample of each split is read.

    Args:
        data: A packed file, a folder whose layout is known, or ``NAME:PATH[,key=value…]``.
        target: The field of classes, of a packed file.

    Raises:
        UsageError: There are no such data, or of no known layout.
        ContrastillError: They are damaged.
    """
    from ..datasets.io.hdf5 import SUFFIXES

    source = os.fspath(data)
    if Path(source).suffix.lower() in SUFFIXES and ":" not in source:
        from ..datasets.io.inspect_packed import describe_packed

        packed = describe_packed(source, target=target)
        splits = {
            name: SplitDescription(
                split["samples"],
                {field: FieldDescription.from_dict(values) for field, values in split["fields"].items()},
            )
            for name, split in packed.pop("splits").items()
        }
        return DataDescription(**packed, splits=splits)
    from ..core.errors import UsageError
    from ..core.split_checks import dataset_of
    from ..datasets.io.file_views import LABELS
    from .probe_inputs import data_named

    named = data_named(source)
    named.check_whole("a description")
    dataset = dataset_of(named.name, named.options)
    opened = {name: split for name in ("train", "test") if (split := dataset.open(name)) is not None}
    if not opened:
        raise UsageError(f"{source} has no split train or test with these options: name a group for one of them")
    samples = {name: _sample(split) for name, split in opened.items()}
    # Of a field that none of the splits has nothing is known.
    labels = next(
        (getattr(split, "semantic_classes", None) for split in opened.values() if LABELS in split.modalities), None
    )
    unit, intrinsics = None, None
    for name, split in opened.items():
        if unit is None and "depth" in split.modalities and (camera := getattr(split, "camera", None)) is not None:
            # Of the frames as they are shown here, which may be parts of the stored ones, resized.
            seen = samples[name].get("camera")
            unit, intrinsics = camera.unit, None if seen is None else [round(value, 4) for value in seen[0].tolist()]
    splits = {
        name: SplitDescription(split.num_samples, _fields(split, samples[name])) for name, split in opened.items()
    }
    return DataDescription(source, None, next(iter(opened.values())).classes, labels, unit, intrinsics, splits)


@checked
@own_settings()
def pack_data(
    data: str | os.PathLike,
    out: str | os.PathLike,
    *,
    options: Sequence[str] = (),
    splits: Sequence[str] = (),
    size: Positive | None = None,
    download: bool = False,
    force: bool = False,
    progress: bool = True,
) -> PackResult:
    """Pack a data set into one HDF5 file, which trainings keep in memory; a failed call leaves nothing under its name.

    Args:
        data: ``NAME:PATH``, ``NAME`` of data without files, or a folder of images sorted into classes.
        out: The file, called .h5.
        options: ``key=value`` options of the data set.
        splits: ``train`` or ``test``; empty: both.
        size: Side in pixels that a folder's images are resized to.
        download: Whether to fetch the data set first, if it is not there.
        force: Whether to replace ``out``.
        progress: Whether to draw a bar.

    Raises:
        UsageError: Unknown data or options, or ``out`` exists.
        ContrastillError: A file is damaged.
    """
    from ..datasets.io.pack import check_out, source_of, write_packed

    path = check_out(os.fspath(out), force=force)
    source = source_of(os.fspath(data), size=size, download=download, options=list(options), splits=list(splits))
    counts = {name: split.num_samples for name, split in source.splits.items()}
    with progress_bar(path.name, sum(counts.values()), "samples", progress=progress) as advance:
        write_packed(source, path, force=force, advance=advance)
    return PackResult(path, path.stat().st_size, counts, source.classes)


def _sample(split: Any) -> dict[str, Any]:
    """One sample of an open split, so that a folder that cannot be read shows."""
    from ..training.data import open_loader

    return next(iter(open_loader(split, [*split.modalities], batch_size=1, train=False, device="cpu").epoch(0)))


def _fields(split: Any, batch: Mapping[str, Any]) -> dict[str, FieldDescription]:
    """The fields of an open split, of which ``batch`` is a sample."""
    fields: dict[str, FieldDescription] = {}
    for name in split.modalities:
        channels, height, width = batch[name].shape[1:]
        # Of data in memory that of what is stored: batches have float32.
        stored = getattr(getattr(split, "images", {}).get(name), "storage", batch[name])
        dtype = str(stored.dtype).removeprefix("torch.")
        fields[name] = FieldDescription((split.num_samples, height, width, channels), dtype)
    if split.targets is not None:
        counts = split.targets.unique(return_counts=True)[1]
        fields["target"] = FieldDescription(
            (split.num_samples,), "int64", classes=len(counts), per_class=(int(counts.min()), int(counts.max()))
        )
    if (vectors := getattr(split, "label_vectors", None)) is not None:
        counts = vectors.sum(0).round().long()
        fields["label_vector"] = FieldDescription(
            tuple(vectors.shape),
            "float32",
            classes=vectors.shape[1],
            per_class=(int(counts.min()), int(counts.max())),
        )
    return fields


def _cells(values: FieldDescription) -> list[str]:
    """Shape, dtype, range of values and samples per class, as text."""
    span = f"{values.min:g} … {values.max:g}" if values.min is not None else ""
    spread = ""
    if values.per_class is not None:
        low, high = values.per_class
        spread = f"{low if low == high else f'{low} to {high}'} in {values.classes} classes"
    return [" × ".join(map(str, values.shape)), values.dtype, span, spread]
