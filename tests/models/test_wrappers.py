"""Wrappers of a user's module are taken off; programs and modules without values are refused."""

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import TensorDataset

import contrastill
from contrastill.core.errors import UsageError

IMAGES = torch.rand(16, 3, 8, 8, generator=torch.Generator().manual_seed(0))
DATA = TensorDataset(IMAGES, torch.arange(16) % 4)
WRAPPERS = {
    "compiled": lambda module: torch.compile(module, backend="eager"),
    "DataParallel": nn.DataParallel,
    "AveragedModel": AveragedModel,
}


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 4))


def program():
    return torch.export.export(net(), (IMAGES[:2],), dynamic_shapes=({0: torch.export.Dim("batch")},)).module()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("wrappers") / "run"
    return contrastill.distill(
        None, net(), (DATA, DATA), out=out, objectives="cross_entropy", epochs=1, batch_size=8, quiet=True
    ).out


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_a_student_is_loaded_without_its_wrapper(run, wrapper, tmp_path):
    wrap = WRAPPERS[wrapper]
    loaded = contrastill.load_student(run, module=wrap(net()))
    assert type(loaded) is nn.Sequential and loaded.taps.embedding == "input:4"
    expected = contrastill.Student.from_run(run, module=net())(IMAGES)
    student = contrastill.Student.from_run(run, module=wrap(net()))
    student.save_pretrained(tmp_path)
    assert torch.equal(student(IMAGES), expected)
    assert {*load_file(tmp_path / "model.safetensors")} == {*net().state_dict()}


def test_a_wrapped_student_is_exported(run, tmp_path):
    module = nn.DataParallel(net())
    made = contrastill.export_student(run, tmp_path / "a.pt2", format="torch", size=8, module=module)
    answer = torch.export.load(made.path).module()(IMAGES)
    torch.testing.assert_close(answer, contrastill.load_student(run, module=module)(IMAGES))


def test_a_program_of_torch_export_is_no_student(run, tmp_path):
    options = {"objectives": "cross_entropy", "epochs": 1, "batch_size": 8, "quiet": True}
    for module, message in (
        (program(), "the student, a GraphModule, is a program of torch.export, and has no training mode: hand over th"),
        (nn.Sequential(program(), nn.Identity()), "Sequential, has a part of torch.export, 0, which has no training"),
    ):
        with pytest.raises(UsageError, match=message):
            contrastill.distill(None, module, (DATA, DATA), out=tmp_path / "run", **options)
    for load in (contrastill.load_student, contrastill.Student.from_run):
        with pytest.raises(UsageError, match="module, a GraphModule, is a program of torch.export"):
            load(run, module=program())
    assert not (tmp_path / "run").exists()
    contrastill.distill(program(), net(), (DATA, DATA), out=tmp_path / "run", **{**options, "objectives": "kd"})


def test_a_module_without_values_is_refused(run, tmp_path):
    empty, message = (
        net().to("meta"),
        r"Sequential has no values yet, as 0.weight is on the device meta: call mod",
    )
    for networks in ((empty, net()), (None, empty)):
        with pytest.raises(UsageError, match=message):
            contrastill.distill(*networks, (DATA, DATA), out=tmp_path / "run", epochs=1, batch_size=8, quiet=True)
    for load in (contrastill.load_student, contrastill.Student.from_run):
        with pytest.raises(UsageError, match=message):
            load(run, module=net().to("meta"))
