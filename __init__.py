"""contrastill: transfer what networks know, from a big one to a small one, from many into one, across modalities.

Names are loaded when they are first used, so that ``import contrastill`` costs nothing.
"""

from importlib import import_module, metadata
from typing import Any

from .core.registry import DATASETS as _DATASETS
from .core.registry import MODALITIES as _MODALITIES
from .core.registry import MODELS as _MODELS
from .core.registry import OBJECTIVES as _OBJECTIVES
from .core.registry import TEACHER_AGGREGATIONS as _TEACHER_AGGREGATIONS

_OFFERS = {
    "AB": ("objectives.ab", "AB"),
    "Attention": ("objectives.attention", "Attention"),
    "BinaryCrossEntropy": ("objectives.binary_cross_entropy", "BinaryCrossEntropy"),
    "BinaryKD": ("objectives.binary_kd", "BinaryKD"),
    "CRDLoss": ("core.crd.loss", "CRDLoss"),
    "ContrastillError": ("core.errors", "ContrastillError"),
    "CWD": ("objectives.cwd", "CWD"),
    "Correlation": ("objectives.correlation", "Correlation"),
    "CrossEntropy": ("objectives.cross_entropy", "CrossEntropy"),
    "DATASETS": ("core.registry", "DATASETS"),
    "DIST": ("objectives.dist", "DIST"),
    "DKD": ("objectives.dkd", "DKD"),
    "DenseCRD": ("xmodal.dense_crd", "DenseCRD"),
    "DenseKD": ("objectives.dense_kd", "DenseKD"),
    "DenseRegression": ("objectives.dense_regression", "DenseRegression"),
    "FSP": ("objectives.fsp", "FSP"),
    "Factor": ("objectives.factor", "Factor"),
    "FitNet": ("objectives.fitnet", "FitNet"),
    "FreshCRDLoss": ("core.crd.fresh", "FreshCRDLoss"),
    "InTeacherSpace": ("ensemble.in_teacher_space", "InTeacherSpace"),
    "InfoNCE": ("objectives.infonce", "InfoNCE"),
    "KD": ("objectives.kd", "KD"),
    "Loader": ("core.data", "Loader"),
    "MLKD": ("objectives.mlkd", "MLKD"),
    "MODALITIES": ("core.registry", "MODALITIES"),
    "MODELS": ("core.registry", "MODELS"),
    "NST": ("objectives.nst", "NST"),
    "Network": ("core.representation", "Network"),
    "OBJECTIVES": ("core.registry", "OBJECTIVES"),
    "Objective": ("core.objective", "Objective"),
    "Options": ("core.objective", "Options"),
    "PKT": ("objectives.pkt", "PKT"),
    "PixelCrossEntropy": ("objectives.pixel_cross_entropy", "PixelCrossEntropy"),
    "Preprocess": ("core.preprocess", "Preprocess"),
    "ProbeSpec": ("evaluation.probe_report", "ProbeSpec"),
    "PseudoLabels": ("objectives.pseudo_labels", "PseudoLabels"),
    "RKD": ("objectives.rkd", "RKD"),
    "Representation": ("core.representation", "Representation"),
    "Review": ("objectives.review", "Review"),
    "ScaleInvariant": ("objectives.scale_invariant", "ScaleInvariant"),
    "Similarity": ("objectives.similarity", "Similarity"),
    "Split": ("core.data", "Split"),
    "Student": ("training.student", "Student"),
    "TEACHER_AGGREGATIONS": ("core.registry", "TEACHER_AGGREGATIONS"),
    "Taps": ("core.representation", "Taps"),
    "TeacherAggregation": ("core.aggregation", "TeacherAggregation"),
    "Transfer": ("core.transfer", "Transfer"),
    "UsageError": ("core.errors", "UsageError"),
    "VID": ("objectives.vid", "VID"),
    "WTTM": ("objectives.wttm", "WTTM"),
    "cache_teachers": ("evaluation.cache", "cache_teachers"),
    "check_environment": ("evaluation.environment", "check_environment"),
    "describe_data": ("evaluation.data", "describe_data"),
    "distill": ("training.distill", "distill"),
    "ensemble_figure": ("evaluation.ensemble_figure", "ensemble_figure"),
    "evaluate_runs": ("evaluation.evaluate", "evaluate_runs"),
    "export_run": ("evaluation.export", "export_run"),
    "export_student": ("compress.export", "export_student"),
    "fit": ("training.engine", "fit"),
    "in_teacher_space": ("ensemble.in_teacher_space", "in_teacher_space"),
    "linear_probe": ("probe.linear", "linear_probe"),
    "load_adaptors": ("ensemble.adaptors", "load_adaptors"),
    "load_student": ("models.build", "load_student"),
    "measure_cost": ("evaluation.cost", "measure_cost"),
    "measure_diversity": ("evaluation.diversity", "measure_diversity"),
    "modality": ("xmodal.modalities", "modality"),
    "pack_data": ("evaluation.data", "pack_data"),
    "predict_in_windows": ("core.windows", "predict_in_windows"),
    "probe_networks": ("evaluation.probe_suite", "probe_networks"),
    "retrieval": ("probe.retrieval", "retrieval"),
    "run_benchmark": ("evaluation.benchmark", "run_benchmark"),
    "run_demo": ("evaluation.demo", "run_demo"),
    "train": ("evaluation.train", "train"),
    "write_report": ("report.write", "write_report"),
}
"""Public name -> module inside this package, and its attribute there."""

for _registry, _checks, _packages in (
    (_OBJECTIVES, "core.objective_checks", ("objectives", "xmodal", "ensemble")),
    (_TEACHER_AGGREGATIONS, "core.aggregation_checks", ("ensemble",)),
    (_DATASETS, "core.split_checks", ("datasets",)),
    (_MODELS, "models.builder_checks", ("models",)),
    (_MODALITIES, "xmodal.modality_checks", ("xmodal",)),
):
    _registry.packages[:] = [f"{__name__}.{_package}" for _package in _packages]
    _registry.checks = f"{__name__}.{_checks}"

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
