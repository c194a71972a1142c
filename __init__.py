"""contrastill: transfer what networks know, from a big one to a small one, from many into one, across modalities.

Names are loaded when they are first used, so that ``import contrastill`` costs nothing.
"""

from importlib import import_module, metadata
from typing import Any

_OFFERS = {
    "CRDLoss": ("core.crd.loss", "CRDLoss"),
    "FreshCRDLoss": ("core.crd.fresh", "FreshCRDLoss"),
    "Network": ("core.representation", "Network"),
    "Preprocess": ("core.preprocess", "Preprocess"),
    "ProbeSpec": ("evaluation.probe_report", "ProbeSpec"),
    "Representation": ("core.representation", "Representation"),
    "Student": ("training.student", "Student"),
    "Taps": ("core.representation", "Taps"),
    "Transfer": ("core.transfer", "Transfer"),
    "cache_teachers": ("evaluation.cache", "cache_teachers"),
    "check_environment": ("evaluation.environment", "check_environment"),
    "describe_data": ("evaluation.data", "describe_data"),
    "distill": ("training.distill", "distill"),
    "ensemble_figure": ("evaluation.ensemble_figure", "ensemble_figure"),
    "evaluate_runs": ("evaluation.evaluate", "evaluate_runs"),
    "export_run": ("evaluation.export", "export_run"),
    "export_student": ("compress.export", "export_student"),
    "fit": ("training.engine", "fit"),
    "linear_probe": ("probe.linear", "linear_probe"),
    "load_adaptors": ("ensemble.adaptors", "load_adaptors"),
    "load_student": ("models.build", "load_student"),
    "measure_cost": ("evaluation.cost", "measure_cost"),
    "measure_diversity": ("evaluation.diversity", "measure_diversity"),
    "pack_data": ("evaluation.data", "pack_data"),
    "probe_networks": ("evaluation.probe_suite", "probe_networks"),
    "run_benchmark": ("evaluation.benchmark", "run_benchmark"),
    "run_demo": ("evaluation.demo", "run_demo"),
    "train": ("evaluation.train", "train"),
    "write_report": ("report.write", "write_report"),
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
