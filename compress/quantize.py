"""Static quantisation of an exported student to 8 bits, by onnxruntime."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from torch import Tensor

from ..core.atomic import atomic_write
from ..core.errors import ContrastillError, UsageError
from ..core.preprocess import Preprocess
from .export import Export
from .exported import INPUT, Takes, quiet, reason, require


def quantize(export: Export, path: str | os.PathLike, calibration: Iterable[Tensor]) -> int:
    """Write an ONNX export with weights and activations of 8 bits (static quantisation, QDQ, a scale for each channel
    of the weights).

    Args:
        export: What :func:`export_student` wrote with ``format="onnx"``.
        path: The file to write.
        calibration: Batches of images as a data set hands them out, by which the ranges of the activations are set.

    Returns:
        Size of the file in bytes.

    Raises:
        UsageError: It is no ONNX file, or a package is missing.
        ContrastillError: The file cannot be quantised.
    """
    if export.format != "onnx":
        raise UsageError("8 bits are for ONNX files: export with format=onnx")
    check_quantizable(export.takes.preprocess, inside=export.takes.inside)
    require("onnx", "onnxruntime")
    path = Path(path)
    try:
        with atomic_write(path) as temporary, quiet():
            from onnxruntime.quantization import QuantFormat, quantize_static

            quantize_static(
                export.path,
                temporary,
                _reader(export.takes, calibration),
                quant_format=QuantFormat.QDQ,
                per_channel=True,
            )
    except ContrastillError:
        raise
    except Exception as error:  # the quantiser raises what it likes
        raise ContrastillError(f"{export.path} cannot be quantised: {reason(error)}") from error
    return path.stat().st_size


def check_quantizable(preprocess: Preprocess, *, inside: bool) -> None:
    """Refuse a file whose input may hold what was not measured: 8 bits have no NaN.

    Raises:
        UsageError: The message says what to leave out.
    """
    if inside and not preprocess.colours:
        raise UsageError(
            "8 bits have no NaN for what was not measured, which a file of this modality with the preprocessing inside "
            "takes: leave out --with-preprocess, or --int8"
        )


def _reader(takes: Takes, batches: Iterable[Tensor]) -> Any:
    """Calibration images as onnxruntime asks for them; one image at a time where the file takes no more."""
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self._inputs = (
                {INPUT: part.numpy()}
                for batch in batches
                for part in takes(batch).split(len(batch) if takes.dynamic else 1)
            )

        def get_next(self) -> dict[str, Any] | None:
            return next(self._inputs, None)

    return Reader()
