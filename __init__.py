"""contrastill: transfer what networks know, from a big one to a small one, from many into one, across modalities.

Names are loaded when they are first used, so that ``import contrastill`` costs nothing.
"""

from importlib import import_module, metadata
from typing import Any

_OFFERS = {
    "CRDLoss": ("core.crd.loss", "CRDLoss"),
    "FreshCRDLoss": ("core.crd.fresh", "FreshCRDLoss"),
    "Loader": ("core.data", "Loader"),
    "Network": ("core.representation", "Network"),
    "Preprocess": ("core.preprocess", "Preprocess"),
    "Representation": ("core.representation", "Representation"),
    "Split": ("core.data", "Split"),
    "Student": ("training.student", "Student"),
    "Taps": ("core.representation", "Taps"),
    "Transfer": ("core.transfer", "Transfer"),
    "distill": ("training.distill", "distill"),
    "export_student": ("compress.export", "export_student"),
    "fit": ("training.engine", "fit"),
    "linear_probe": ("probe.linear", "linear_probe"),
    "load_adaptors": ("ensemble.adaptors", "load_adaptors"),
    "load_student": ("models.build", "load_student"),
}
"""Public name -> module inside this package, and its attribute there."""

__all__ = ["__version__", *_OFFERS]

try:
    __version__ = metadata.version("contrastill")
except metadata.PackageNotFoundError:  # a checkout on the path that was never installed
    __version__ = "0+unknown"


def __getattr__(name: str) -> Any:
    if name not in _OFFERS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = _OFFERS[name]
    value = getattr(import_module(f".{module}", __name__), attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_OFFERS})
