"""Which columns of a Hugging Face dataset are modalities and which is the label, by its features and their names."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from ...core.errors import UsageError, unknown_name
from .file_views import LABELS
from .modality_folders import DEPTH_NAMES, RGB_NAMES
from .values import RGB, VECTORS

_LABEL_NAMES = ("label", "labels", "target")
# What a column of labels is called, whether or not it is read without being named.
_LABEL_LIKE = (*_LABEL_NAMES, "class")
# What a column is called, and which modality it is.
_USUAL = {**dict.fromkeys(DEPTH_NAMES, "depth"), LABELS: LABELS, **{name: name for name in VECTORS}}
_RESERVED = ("index", "target", "camera")


def modality_columns(
    features: Mapping[str, Any], image: str | None, modalities: Mapping[str, str] | None, where: str
) -> dict[str, str]:
    """Modality -> column.

    Args:
        features: The dataset's.
        image: ``data.image``: the column of rgb, alone unless there are ``modalities``.
        modalities: ``data.modalities``; None: every column of pictures, by its name.
        where: The data set, for messages.

    Raises:
        UsageError: No such column, none with pictures, or several that could be one modality.
    """
    asked = {"image": image} | {f"modalities.{name}": column for name, column in (modalities or {}).items()}
    for option, column in asked.items():
        if column is not None:
            _check_column(features, column, option, where)
    pictures = [name for name, feature in features.items() if is_picture(feature)]
    columns = dict(modalities or {})
    if image is not None:
        columns = {RGB: image, **columns}
    elif modalities is None or RGB not in columns:
        columns = _default_columns(features, pictures, columns, where)
    wrong = next((name for name in columns if name in _RESERVED), None)
    if wrong is not None:
        raise UsageError(
            f"{where}: a modality cannot be called {wrong}: give it another name with "
            f"data.modalities={{thermal: {columns[wrong]}}}, or read one column alone with data.image="
        )
    for name, column in columns.items():
        mode = getattr(features[column], "mode", None)
        if mode is not None and (name, mode) != (RGB, "RGB"):
            raise UsageError(
                f"{where}: the column {column} is Image(mode={mode!r}), which converts values, and here they are read "
                f"as stored: dataset.cast_column({column!r}, datasets.Image())"
            )
    # A picture is what people look at first, and what the others are compared with.
    return dict(sorted(columns.items(), key=lambda item: (item[0] != RGB, item[0])))


def _default_columns(
    features: Mapping[str, Any], pictures: Sequence[str], modalities: dict[str, str], where: str
) -> dict[str, str]:
    """``modalities``, or every column of pictures by its name; with rgb, if there is a column for it."""
    rest = [name for name in pictures if name not in modalities.values()]
    named = next((name for usual in RGB_NAMES for name in rest if name.lower() == usual), None)
    if named is None and len(rest) == 1 and rest[0].lower() not in _USUAL:
        named = rest[0]
    columns = {} if named is None else {RGB: named}
    if modalities:
        return {**columns, **modalities}
    others = [name for name in rest if name != named and name.lower() not in _USUAL]
    if named is None and others:
        raise UsageError(
            f"{where} has the columns of pictures {', '.join(rest)}: say which is rgb with data.image=, and which are "
            f"others with data.modalities={{thermal: {others[0]}}}"
        )
    if not rest and (arrays := [name for name, feature in features.items() if is_array(feature)]):
        raise UsageError(
            f"{where} has no column of pictures, and arrays (height, width, channels) are read where they are named: "
            f"say which is rgb with data.image={arrays[0]}, or name others as data.modalities={{depth: {arrays[-1]}}}"
        )
    if not rest:
        raise UsageError(
            f"{where} has no column of pictures among {', '.join(features)}: cast that of their bytes or paths with "
            "dataset.cast_column(COLUMN, datasets.Image()), or name it with data.image="
        )
    usual: dict[str, str] = {}
    for name in features:
        modality = _USUAL.get(name.lower())
        if modality is None or not is_readable(features[name]):
            continue
        if (other := usual.setdefault(modality, name)) != name:
            beside = "".join(f"{key}: {column}, " for key, column in columns.items())
            raise UsageError(
                f"{where} has the columns {other} and {name}, and either could be {modality}: name the column of each "
                f"modality, as data.modalities={{{beside}{modality}: {other}}}"
            )
    return {**columns, **{name: name for name in others}, **usual}


def label_column(features: Mapping[str, Any], label: str | None, where: str) -> str | None:
    """The column of classes; None where there is none.

    Raises:
        UsageError: Several could be it, or it holds no classes.
    """
    if label is not None:
        if label not in features:
            raise unknown_name(f"column of {where} (data.label)", label, [*features])
        if not _is_label(features[label]):
            way = way_from_floats(features, label)
            raise UsageError(
                f"{where}: the column {label} is {features[label]}, and a label is a ClassLabel, a whole number or a "
                f"text for each row, or a list of classes or of numbers{f'; {way}' if way else ''}"
            )
        return label
    classes = [name for name, feature in features.items() if type(feature).__name__ == "ClassLabel"]
    candidates = classes or [name for name, feature in features.items() if _is_label(feature)]
    if len(classes) == 1:
        return classes[0]
    named = [name for name in candidates if name.lower() in _LABEL_NAMES]
    if len(named) > 1 or (not named and classes):
        raise UsageError(f"{where} has the labels {', '.join(named or classes)}: say which with data.label=")
    return named[0] if named else None


def unread_label(features: Mapping[str, Any], column: str) -> str | None:
    """Another column than that of the classes that is called as labels are; None where there is none."""
    return next(
        (
            name
            for name, feature in features.items()
            if name != column
            and name.lower() in _LABEL_LIKE
            and (type(feature).__name__ in ("ClassLabel", "Value") or is_list(feature))
        ),
        None,
    )


def way_from_floats(features: Mapping[str, Any], label: str | None = None) -> str:
    """How floats in a column that is called as labels are, or is ``label``, become classes; empty where there are
    none.
    """
    names = [label] if label is not None else [name for name in features if name.lower() in _LABEL_NAMES]
    name = next((name for name in names if "float" in str(getattr(features[name], "dtype", ""))), None)
    if name is None:
        return ""
    return f"if the floats in {name} number classes, dataset.cast_column({name!r}, datasets.Value('int64'))"


def way_from_lists(dataset: Any, row: Any) -> str:
    """How lists in a row of the library's become images, in brackets; empty where there are none."""
    lists = (
        [name for name, value in row.items() if isinstance(value, list)] if is_of_library(dataset, "Dataset") else []
    )
    if not lists:
        return ""
    # As NumPy arrays, by with_format, they would be of int64, whose range is not known.
    array = "datasets.Array3D((HEIGHT, WIDTH, 3), 'uint8')"
    return f" (dataset.cast_column({lists[0]!r}, {array}) makes arrays of lists)"


def is_of_library(argument: Any, *names: str) -> bool:
    """Whether an object is of one of the classes of the library ``datasets``; where it is not imported, nothing is."""
    library = sys.modules.get("datasets")
    return any(isinstance(argument, kind) for name in names if (kind := getattr(library, name, None)) is not None)


def is_picture(feature: Any) -> bool:
    """Whether a column's feature is a picture: an Image, or the struct of bytes that Image is without its name."""
    return type(feature).__name__ == "Image" or (isinstance(feature, Mapping) and "bytes" in feature)


def is_array(feature: Any) -> bool:
    return type(feature).__name__ in ("Array2D", "Array3D")


def is_readable(feature: Any) -> bool:
    """Whether a column's feature is a picture or an array of numbers."""
    return is_picture(feature) or is_array(feature)


def _is_label(feature: Any) -> bool:
    dtype = str(getattr(feature, "dtype", ""))
    if is_list(feature):
        element = feature.feature
        return type(element).__name__ == "ClassLabel" or type(element).__name__ == "Value" and _is_number(element)
    return type(feature).__name__ == "ClassLabel" or (
        type(feature).__name__ == "Value" and ("int" in dtype or "string" in dtype or dtype == "bool")
    )


def is_list(feature: Any) -> bool:
    """Whether each row holds a list: of classes, or of a number for each class."""
    return type(feature).__name__ in ("List", "LargeList", "Sequence")


def _is_number(feature: Any) -> bool:
    return any(kind in str(feature.dtype) for kind in ("int", "float", "bool"))


def _check_column(features: Mapping[str, Any], column: str, option: str, where: str) -> None:
    if column not in features:
        raise unknown_name(f"column of {where} (data.{option})", column, [*features])
    feature = features[column]
    encoded = type(feature).__name__ == "Value" and str(feature.dtype) in (
        "binary", "large_binary", "string", "large_string",
    )  # fmt: skip
    if not is_readable(feature) and not encoded:
        raise UsageError(
            f"{where}: the column {column} is {feature}, and data.{option} names one of pictures (Image, bytes or "
            "paths of files) or of arrays (Array2D, Array3D)"
        )
