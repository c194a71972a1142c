"""Arguments of the one call that are of no use or mean nothing: refused in a sentence, and nothing is written."""

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

import contrastill
from contrastill.core.errors import UsageError

LABELS = torch.arange(32) % 4
IMAGES = torch.randint(0, 256, (32, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def distilled(folder, teacher=None, data=None, **options):
    data = TensorDataset(IMAGES, LABELS) if data is None else data
    options = {"epochs": 1, "batch_size": 16, "quiet": True, **options}
    return contrastill.distill(teacher, "resnet8", data, out=folder / "run", **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": True}, "train.batch_size='True' is not allowed: input should be a valid integer"),
        ({"lr": True}, "train.lr='True' is not allowed: input should be a valid number"),
        ({"mixup": True}, "train.mixup='True'"),
        ({"views": True}, "train.views='True'"),
        ({"objectives": {"cross_entropy": True}}, "objectives.cross_entropy.weight='True'"),
        ({"objectives": {"cross_entropy": None}}, "objectives is empty"),
        ({"objectives": {"kd": 1, contrastill.KD: 1}}, "objectives has the class KD, and takes names: register the cl"),
        (
            {"objectives": [contrastill.KD()]},
            r"objectives has a KD, .*@contrastill.OBJECTIVES.register\(\"NAME\"\) abo",
        ),
        ({"objectives": ["cross_entropy", 3]}, "objectives has 3: pass names, such as kd"),
        ({"milestones": [0.5, True]}, "train.milestones.1='True'"),
    ],
)
def test_an_override_that_is_no_value_of_its_key(options, message, tmp_path):
    with pytest.raises(UsageError, match=message):
        distilled(tmp_path, **options)
    assert not (tmp_path / "run").exists()


class Inference(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 4))

    @torch.inference_mode()
    def forward(self, images):
        return self.net(images)


@pytest.mark.filterwarnings("ignore:.*torch.jit")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"teacher": Inference()}, r"Inference fails on images .*; take torch.inference_mode\(\) off its forward"),
        (
            {"data": ((IMAGES, LABELS), (IMAGES, LABELS))},
            r"one of it a Tensor of shape \(32, 3, 16, 16\): make each split a dataset, as torch.utils.data.TensorDat",
        ),
        (
            {"data": [(image, int(label)) for image, label in zip(IMAGES, LABELS, strict=True)]},
            r"data is a sequence of 32 samples, .*: hand over two, \(train_samples, test_samples\), or \(tr",
        ),
        (
            {"data": [{"rgb": image, "target": int(label)} for image, label in zip(IMAGES, LABELS, strict=True)]},
            "data is a sequence of 32 samples, and a list of samples is one dataset",
        ),
        ({"data": [(IMAGES[0], 1), (IMAGES[1], 0)]}, r"data is a list of two samples, .* hand over \(samples, None\)"),
        ({"data": [{"rgb": IMAGES[0], "target": 1}] * 2}, "data is a list of two samples"),
        ({"data": [TensorDataset(IMAGES, LABELS)] * 3}, r"data is a sequence of 3: hand over \(train, test\)$"),
        ({"teacher": "timm/"}, "nor the name of a network: model 'timm/' does not exist: timm's list_models"),
    ],
)
def test_ways_out_of_what_cannot_be_read(options, message, tmp_path, monkeypatch):
    (tmp_path / "tmp").mkdir()  # no network is called so, however near it is
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=message):
        distilled(tmp_path, **options)


@pytest.mark.filterwarnings("ignore:.*torch.jit", "ignore:The .grad attribute")
@pytest.mark.parametrize("way", ["script", "trace"])
def test_a_module_of_torch_jit_says_what_to_hand_over(way, tmp_path):
    net = Inference().net
    module = torch.jit.script(net) if way == "script" else torch.jit.trace(net, torch.zeros(2, 3, 16, 16))
    message = "is a module of torch.jit, whose parts cannot be read: hand over the module that it was made from"
    with pytest.raises(UsageError, match=message):
        distilled(tmp_path, module)
    whole = torch.nn.Sequential(module, torch.nn.Identity())
    with pytest.raises(UsageError, match="Sequential has a part of torch.jit, 0, whose layers cannot be read: put the"):
        distilled(tmp_path, whole)


def test_none_takes_an_objective_out(tmp_path):
    result = distilled(tmp_path, objectives={"cross_entropy": 1.0, "kd": None}, drop_last=True)
    assert [*result.config.objectives] == ["cross_entropy"] and result.config.train.drop_last
