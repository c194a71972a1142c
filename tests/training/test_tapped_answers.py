"""A network that is trained by logits that a tap names answers with them wherever it goes."""

import logging

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

import contrastill
from contrastill.core.tapping import answer

IMAGES = torch.randint(0, 256, (16, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


class TwoHeads(nn.Module):
    """Runs a head of 4 classes, and returns one of 7."""

    def __init__(self, factor=1.0):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.scale, self.factor = nn.Identity(), factor
        self.coarse, self.fine = nn.Linear(8, 4), nn.Linear(8, 7)

    def forward(self, images):
        features = self.features(images)
        self.coarse(self.scale(self.factor * features))
        return self.fine(features)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "tapped"
    torch.manual_seed(0)
    network = contrastill.Network(
        TwoHeads(),
        taps=contrastill.Taps(logits="coarse", embedding="features", maps=("features.0",)),
        preprocess=contrastill.Preprocess((0.5,) * 3, (0.25,) * 3),
    )
    data = TensorDataset(IMAGES, torch.arange(16) % 4)
    options = {"objectives": {"cross_entropy": 1.0}, "epochs": 2, "batch_size": 8, "lr": 0.3, "quiet": True}
    contrastill.distill(None, network, (data, data), out=out, **options)
    return out


@pytest.fixture(scope="module")
def coarse(run):
    """The logits that were trained, by hand."""
    student = contrastill.load_student(run, module=TwoHeads())
    with torch.no_grad():
        return student.coarse(student.features((IMAGES / 255 - 0.5) / 0.25))


def test_a_student_answers_with_the_tapped_logits(run, coarse, tmp_path):
    student = contrastill.Student.from_run(run, module=TwoHeads())
    torch.testing.assert_close(student(IMAGES), coarse)
    assert student.recipe["num_classes"] == 4
    student.save_pretrained(tmp_path)
    again = contrastill.Student.from_pretrained(tmp_path, module=TwoHeads())
    assert torch.equal(again(IMAGES), student(IMAGES))
    program = torch.export.export(student, (IMAGES,))
    torch.testing.assert_close(program.module()(IMAGES), coarse)


@pytest.mark.parametrize("format", ["torch", "onnx"])
@pytest.mark.parametrize("inside", [False, True])
def test_an_exported_file_answers_with_the_tapped_logits(run, coarse, tmp_path, format, inside):
    if format == "onnx":
        onnxruntime = pytest.importorskip("onnxruntime", reason="pip install contrastill[export]")
    made = contrastill.export_student(run, tmp_path, format=format, size=16, module=TwoHeads(), with_preprocess=inside)
    images = IMAGES if inside else (IMAGES / 255 - 0.5) / 0.25
    if format == "torch":
        logits = torch.export.load(made.path).module()(images)
    else:
        session = onnxruntime.InferenceSession(str(made.path), providers=["CPUExecutionProvider"])
        logits = torch.from_numpy(session.run(["logits"], {"images": images.numpy()})[0])
    torch.testing.assert_close(logits, coarse, rtol=1e-4, atol=1e-5)
    assert made.num_classes == 4


def test_the_plain_module_answers_by_its_taps_and_a_line_says_that_it_returns_more(run, coarse, caplog):
    with caplog.at_level(logging.WARNING):
        student = contrastill.load_student(run, module=TwoHeads())
    assert "TwoHeads was trained by what coarse gives" in caplog.text
    images = student.preprocess(IMAGES)
    assert student(images).shape == (16, 7)
    torch.testing.assert_close(answer(student, images), coarse)


def test_a_module_whose_tapped_logits_are_others_is_named(run, caplog):
    with caplog.at_level(logging.WARNING):
        contrastill.Student.from_run(run, module=TwoHeads())
    assert "does not answer" not in caplog.text
    with caplog.at_level(logging.WARNING):
        contrastill.Student.from_run(run, module=TwoHeads(factor=2.0))
    assert "TwoHeads with the weights of" in caplog.text and "does not answer as the network" in caplog.text
