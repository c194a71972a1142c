"""Every public name with arguments of a wrong kind: an error of the package that names the argument, or it works."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import contrastill
from contrastill import KD, ContrastillError, Network, Preprocess, Taps, Transfer, UsageError
from contrastill.core.config.schema import TrainConfig
from contrastill.ensemble.adaptors import Adaptor

WRONG = [None, [], "", 3, -1, "no/where", Path("no/where"), np.zeros(3), {"a": 1}, object()]
MODULE = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
LOSSES = {
    "AB": {"dims": [(3, 5)], "pairs": ((0, 0),), "margin": 1.0},
    "BinaryKD": {"temperature": 2.0},
    "Attention": {"pairs": ((0, 0),)},
    "CRDLoss": {
        "student_dim": 4,
        "teacher_dim": 4,
        "num_samples": 10,
        **dict.fromkeys(("targets", "num_negatives", "negatives_from")),
        **{"embed_dim": 4, "negatives": "all", "temperature": 0.07, "bank_momentum": 0.5, "bias": "released"},
        **{"seed": 0, "bank_placement": "replicated", "bank_dtype": "fp32", "bank_init": "random"},
        "teacher_map": "learned",
    },
    "Correlation": {"student_dim": 4, "teacher_dim": 4, "kernel": "adjacent", "embed_dim": 4},
    "BinaryCrossEntropy": {},
    "CrossEntropy": {"label_smoothing": 0.0},
    "DIST": {"beta": 1.0, "gamma": 1.0, "temperature": 1.0},
    "DKD": {"alpha": 1.0, "beta": 1.0, "temperature": 1.0},
    "DenseCRD": {
        "local_dims": [(3, 5)],
        "pairs": ((0, 0),),
        **{"pairing": "local_local", "negatives_from": "other_position", "bias": "released", "criterion": "nce"},
        **dict.fromkeys(("pooled_dims", "num_negatives", "grids", "num_samples", "targets")),
        **{"embed_dim": 4, "temperature": 0.1, "positions": 20, "num_rows": 0, "projector": "linear", "seed": 0},
    },
    "CWD": {"temperature": 4.0, "measured": "depth", "pair": None, "student_dim": None, "teacher_dim": None},
    "DenseKD": {"temperature": 1.0, "measured": "depth", "confidence": None},
    "DenseRegression": {"norm": "l1", "scale_invariant": False, "measured": "depth"},
    "FSP": {"count": 2},
    "Factor": {"student_dim": 4, "teacher_dim": 4, "rate": 0.5, "pair": (-1, -1)},
    "FitNet": {"student_dim": 4, "teacher_dim": 4, "pair": None},
    "FreshCRDLoss": {
        "student_dim": 4,
        "teacher_dim": 4,
        "num_samples": 10,
        **dict.fromkeys(("targets", "negatives_from", "row_variance")),
        **{"embed_dim": 4, "num_negatives": 3, "temperature": 0.07, "criterion": "softmax", "bias": "released"},
        **{"student_rows": "batch", "teacher_map": "learned", "row_placement": "replicated", "row_dtype": "fp32"},
        **{"row_memory": "device", "seed": 0},
    },
    "InfoNCE": {
        **{"student_dim": 4, "teacher_dim": 4, "embed_dim": 4, "temperature": 0.1, "queue_size": 4},
        **{"negatives": "batch", "negatives_from": "other_sample"},
    },
    "KD": {"temperature": 1.0, "full_doubt": 0.0},
    "MLKD": {"temperatures": (1.0, 2.0)},
    "NST": {"pairs": ((0, 0),)},
    "PKT": {},
    "PixelCrossEntropy": {"label_smoothing": 0.0},
    "PseudoLabels": {"confidence": 0.9, "only_unlabelled": True, "measured": "depth"},
    "RKD": {"distance_factor": 1.0, "angle_factor": 1.0},
    "Review": {"student_dims": (4, 8), "teacher_dims": (4, 8), "pairs": ((0, 0),)},
    "ScaleInvariant": {"invariance": 0.5, "predicts": "depth"},
    "Similarity": {"pairs": ((0, 0),)},
    "VID": {"dims": [(3, 5)], "pairs": ((0, 0),)},
    "WTTM": {"temperature": 1.0, "full_doubt": 0.0},
}


def network():
    return Network(copy.deepcopy(MODULE), taps=Taps(embedding="input:3", maps=("0",)), preprocess=half())


def half():
    return Preprocess((0.5,) * 3, (0.2,) * 3)


def others():
    """Arguments of which nothing is trained: each call ends at one that leads nowhere."""
    transfer = Transfer([network()], network(), {"kd": KD()})
    data = torch.utils.data.TensorDataset(torch.zeros(2, 3, 8, 8), torch.tensor([0, 1]))
    return {
        "InTeacherSpace": {"student": network(), "adaptor": Adaptor(summary=(4, 5), dense=(4, 5)), "map_size": None},
        "Network": {"module": MODULE, "taps": Taps(), "preprocess": half(), "modality": "rgb"},
        "Preprocess": {"mean": (0.5,), "std": (0.2,), "resolution": None},
        "ProbeSpec": {
            **{"layers": ("embedding",), "spatial": 1, "protocol": "exact", "shots": (), "seed": 0},
            **dict.fromkeys(("knn", "cka", "correlation", "cache")),
        },
        "Student": {"recipe": {}, "trained": None, "module": None},
        "Taps": {"embedding": None, "maps": (), "logits": None},
        "Transfer": {"teachers": [network()], "student": network(), "objectives": {"kd": KD()}},
        "cache_teachers": {"config": "nowhere/x", "overrides": (), "out": "x", "views": 1},
        "describe_data": {"data": "nowhere", "target": "target"},
        "distill": {
            **{"teacher": network(), "student": network(), "data": data, "out": "o", "objectives": ["nothing"]},
            **{"epochs": 0, "seed": 0, "teacher_modality": None, "student_modality": None, "embedding": None},
        },
        "ensemble_figure": {"runs": ["nowhere"], "out": "x.png"},
        "evaluate_runs": {"runs": ["nowhere"], "overrides": (), "baselines": (), "picture": None},
        "export_run": {"run": "nowhere", "out": None, "format": "onnx", "opset": None, "data": None, "size": None},
        "export_student": {
            **{"run": "nowhere", "path": "x.onnx", "format": "onnx", "opset": None, "size": None, "images": None}
        },
        "fit": {"transfer": transfer, "train": [], "test": None, "config": TrainConfig(epochs=1), "accelerator": None},
        "in_teacher_space": {"run": "nowhere", "teacher": 0, "map_size": None},
        "linear_probe": {"network": network(), "train": None, "test": None, "layer": "embedding"},
        "load_adaptors": {"run": "nowhere"},
        "load_student": {"run": "nowhere", "module": None},
        "measure_cost": {
            "networks": ["nothing"],
            "size": 8,
            "classes": 2,
            "batch_size": 1,
            "rounds": 1,
            "device": "cpu",
        },
        "measure_diversity": {"path": "nowhere", "overrides": ()},
        "modality": {"name": "nonsense", "of": "nothing", "channels": 1},
        "pack_data": {"data": "rooms:nowhere", "out": "x.h5", "options": (), "splits": (), "size": None},
        "predict_in_windows": {
            "network": network(),
            "batch": {"rgb": torch.rand(1, 3, 8, 8)},
            "window": 8,
            "stride": 8,
        },
        "probe_networks": {"networks": [network()], "data": ["rooms:nowhere"], "spec": None, "out": None},
        "retrieval": {"queries": torch.rand(3, 2), "gallery": torch.rand(3, 2), "ks": (1, 5)},
        "run_benchmark": {"benchmark": "nothing", "seeds": 1, "jobs": 1, "threads": None, "vary": None},
        "run_demo": {"out": "nowhere", "seed": 0, "overrides": ["nonsense=1"]},
        "train": {"config": "nowhere/x", "overrides": ()},
        "write_report": {"runs": ["nowhere"], "out": "x.html"},
    }


# What has no arguments that could be of a wrong kind, is checked where it is used, or reports instead of raising.
ELSEWHERE = {"ContrastillError", "UsageError", "Objective", "Options", "Loader", "Split", "TeacherAggregation"}
ELSEWHERE |= {"Representation", "check_environment", "__version__"}
ELSEWHERE |= {"DATASETS", "MODALITIES", "MODELS", "OBJECTIVES", "TEACHER_AGGREGATIONS"}


def test_every_public_name_is_here():
    assert {*LOSSES, *others(), *ELSEWHERE} == set(contrastill.__all__)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", [*LOSSES, *others()])
def test_arguments_of_a_wrong_kind_are_an_error_of_the_package(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    valid = LOSSES.get(name) or others().get(name, {})
    for argument in valid:
        for value in WRONG:
            if name == "run_demo" and argument == "overrides" and not isinstance(value, (str, int, dict)):
                continue  # without overrides it would train
            try:
                getattr(contrastill, name)(**{**valid, argument: value})
            except ContrastillError as error:
                assert str(error).strip()
            except Exception as error:
                pytest.fail(f"{name}({argument}={value!r}): {type(error).__name__}: {error}")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: contrastill.AB(3, ((0, 0),)), r"dims is 3: pass a list \[\(a whole number from 1 on"),
        (lambda: contrastill.FitNet(-1, 4), "student_dim is -1: pass a whole number from 1 on"),
        (lambda: contrastill.InfoNCE(4, 4, negatives="que"), "negatives 'que' does not exist: did you mean queue"),
        (lambda: contrastill.Taps(maps="layer1"), r"maps is 'layer1': pass a list \[text, …\]"),
        (lambda: contrastill.probe_networks([network()], "data.h5", "runs"), "spec is 'runs': pass an object of the"),
        (lambda: contrastill.probe_networks([], "data.h5"), "networks is empty"),
        (lambda: contrastill.probe_networks(MODULE, "data.h5"), "wrap it in contrastill.Network"),
        (lambda: contrastill.measure_cost([3]), r"networks holds 3: pass runs"),
        (lambda: contrastill.ensemble_figure(None), "runs is None: pass"),
        (lambda: contrastill.export_run(None), "run is None: pass text or a path"),
        (lambda: contrastill.Transfer([network()], None, {"kd": KD()}), "student is None: pass an object of the class"),
    ],
)
def test_the_argument_is_named(call, message):
    with pytest.raises(UsageError, match=message):
        call()


def test_one_path_is_a_list_of_one(tmp_path):
    for call in (contrastill.ensemble_figure, contrastill.measure_cost):
        with pytest.raises(UsageError, match="nowhere"):
            call(tmp_path / "nowhere")
    with pytest.raises(UsageError, match=r"data\.h5"):
        contrastill.probe_networks(network(), "data.h5")
