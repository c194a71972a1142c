"""What measures leaves no Accelerator in the process: the next training may have another precision."""

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, is_initialized

import contrastill

SHORT = {"student.model": "resnet8", "train.epochs": 1, "train.batch_size": 16, "train.lr": 0.02}


@pytest.fixture
def fresh():
    """A process in which nobody made an Accelerator."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture(scope="module")
def folder(four_classes, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    values = {"data.path": four_classes, **SHORT}
    AcceleratorState._reset_state(reset_partial_state=True)
    contrastill.train("teachers/cifar100", {**values, "out": folder / "seeds", "seeds": 2}, progress=False)
    assert not is_initialized()
    return folder


CALLS = {
    "evaluate": lambda run, data, out: contrastill.evaluate_runs([run]),
    "probe": lambda run, data, out: contrastill.probe_networks([run], [data], progress=False),
    "cache": lambda run, data, out: contrastill.cache_teachers(
        "compression/cifar100",
        {"data.path": data, **SHORT, "teachers.0.model": "resnet8", "teachers.0.weights": run},
        views=1,
        out=out / "cache",
    ),
    "diversity": lambda run, data, out: contrastill.measure_diversity(run.parent),
    "cost": lambda run, data, out: contrastill.measure_cost(run, rounds=1),
    "export": lambda run, data, out: contrastill.export_run(run, out / "x.pt2", format="torch"),
    "report": lambda run, data, out: contrastill.write_report([run], embeddings=True, progress=False),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_measurement_leaves_no_accelerator(fresh, folder, four_classes, tmp_path, name):
    CALLS[name](folder / "seeds" / "seed-0", four_classes, tmp_path)
    assert not is_initialized()


def test_trainings_and_measurements_of_several_precisions(fresh, folder, four_classes, tmp_path):
    plain, half = folder / "seeds" / "seed-0", tmp_path / "half"
    data = str(four_classes)
    options = {"epochs": 1, "precision": "bf16", "batch_size": 16, "quiet": True}
    contrastill.evaluate_runs([plain])
    contrastill.distill(None, "resnet8", data, out=half, **options)
    rows = contrastill.evaluate_runs([plain, half, plain]).to_dict()
    assert [row["run"] for row in rows] == [str(plain), str(half), str(plain)]
    contrastill.distill(None, "resnet8", data, out=tmp_path / "more", **{**options, "precision": "fp32"})


def test_an_accelerator_of_the_callers_stays(fresh, folder):
    own = Accelerator(cpu=True)
    contrastill.evaluate_runs([folder / "seeds" / "seed-0"])
    assert is_initialized() and own.device == torch.device("cpu") and own.num_processes == 1
