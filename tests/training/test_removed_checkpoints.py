"""A finished run whose checkpoints were removed: the same call trains nothing, and changes no file of it."""

import shutil

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

import contrastill
from contrastill.cli.main import main
from contrastill.core.errors import UsageError

OPTIONS = {"objectives": "cross_entropy", "epochs": 2, "quiet": True}


def samples(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return TensorDataset(torch.rand(32, 3, 8, 8, generator=generator), torch.arange(32) % 4)


def network(seed):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))


def contents(folder):
    return {
        path.relative_to(folder): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != ".lock"
    }


@pytest.mark.parametrize("student", [lambda seed: "resnet8", network])
@pytest.mark.parametrize("with_record", [False, True])
def test_nothing_is_trained_again(tmp_path, caplog, student, with_record):
    out, data = tmp_path / "run", (samples(), samples(1))
    first = contrastill.distill(None, student(0), data, out=out, **OPTIONS)
    if with_record:
        for path in (out / "checkpoints").glob("step-*"):
            shutil.rmtree(path)
    else:
        shutil.rmtree(out / "checkpoints")
    before = contents(out)
    again = contrastill.distill(None, student(1), data, out=out, **OPTIONS)
    assert contents(out) == before and again.metrics == first.metrics
    assert all(map(torch.equal, first.student.state_dict().values(), again.student.state_dict().values()))
    (line,) = [text for text in caplog.messages if "nothing is trained" in text]
    assert ("whether the data are still those" in line) is not with_record


def test_other_settings_and_data_are_refused_as_before(tmp_path):
    out = tmp_path / "run"
    contrastill.distill(None, "resnet8", (samples(), samples(1)), out=out, **OPTIONS)
    for path in (out / "checkpoints").glob("step-*"):
        shutil.rmtree(path)
    before = contents(out)
    with pytest.raises(UsageError, match="other settings"):
        contrastill.distill(None, "resnet8", (samples(), samples(1)), out=out, **OPTIONS | {"epochs": 3})
    with pytest.raises(UsageError, match="the data changed"):
        contrastill.distill(None, "resnet8", (samples(2), samples(1)), out=out, **OPTIONS)
    assert contents(out) == before


def test_a_damaged_student_without_checkpoints_is_trained_again(tmp_path):
    out, data = tmp_path / "run", (samples(), samples(1))
    first = contrastill.distill(None, "resnet8", data, out=out, **OPTIONS)
    weights = first.paths.student.read_bytes()
    shutil.rmtree(out / "checkpoints")
    first.paths.student.write_bytes(weights[:1000])
    contrastill.distill(None, "resnet8", data, out=out, **OPTIONS)
    assert first.paths.student.read_bytes() == weights


def test_the_command_prints_the_numbers_that_are_there(short_training, tmp_path, capsys):
    command = [*short_training, "train.epochs=2", "--json", f"out={tmp_path / 'run'}"]
    assert main(command) == 0
    first = capsys.readouterr().out
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    assert main(command) == 0
    assert capsys.readouterr().out == first
