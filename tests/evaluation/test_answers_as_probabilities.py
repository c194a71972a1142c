"""Networks that end in a softmax or a sigmoid, where logits are measured."""

import pytest
from safetensors.torch import load_file, save_file
from torch import nn

import contrastill
from contrastill import MODELS
from contrastill.core.errors import UsageError


class Ending(nn.Module):
    """A small classifier with something at its end."""

    def __init__(self, classes, channels, end):
        super().__init__()
        self.conv, self.fc, self.end = nn.Conv2d(channels, 8, 3, stride=2), nn.Linear(8, classes), end

    def forward(self, images):
        return self.end(20 * self.fc(self.conv(images).relu().mean((2, 3))))


@pytest.fixture
def runs(four_classes, tmp_path, monkeypatch):
    """Runs with the same teacher, with logits, a softmax, a sigmoid."""
    ends = {"plain": nn.Identity(), "softmax": nn.Softmax(1), "sigmoid": nn.Sigmoid()}
    for name, end in ends.items():

        def build(num_classes=100, in_chans=3, end=end):
            taps = contrastill.Taps(embedding="input:fc", logits="output:")
            preprocess = contrastill.Preprocess((0.5,) * 3, (0.25,) * 3)
            return contrastill.Network(Ending(num_classes, in_chans, end), taps=taps, preprocess=preprocess)

        MODELS.register(f"ending_{name}")(build)
    usual = {"data.path": str(four_classes), "train.epochs": 1, "train.batch_size": 16, "train.views": None}
    options = {**usual, "student.model": "ending_plain", "out": str(tmp_path / "teacher")}
    contrastill.train("teachers/cifar100", options, progress=False)
    weights = tmp_path / "weights.safetensors"
    save_file(load_file(tmp_path / "teacher" / "student.safetensors"), weights)
    for name in ends:
        teachers = [{"model": f"ending_{name}", "weights": str(weights)}]
        options = {**usual, "teachers": teachers, "student.model": "resnet8", "out": str(tmp_path / name)}
        contrastill.train("compression/cifar100_crd", {**options, "objectives": {"fresh_crd": {}}}, progress=False)
    yield tmp_path
    for name in ends:
        MODELS._entries.pop(f"ending_{name}")


def test_the_softmax_is_taken_once(runs):
    plain, softmax = (contrastill.measure_diversity(runs / name).networks[0] for name in ("plain", "softmax"))
    assert softmax.nll == pytest.approx(plain.nll, rel=1e-4) and softmax.ece == pytest.approx(plain.ece, abs=1e-4)
    assert softmax.top1 == plain.top1
    with pytest.raises(UsageError, match="ends in a sigmoid, and what is compared are probabilities of one class"):
        contrastill.measure_diversity(runs / "sigmoid")
