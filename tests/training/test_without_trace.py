"""Parts that write their weights, buffers and attributes as they are looked at, averaged or asked a second time."""

import json

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

import contrastill
from contrastill.core.objective import Objective
from contrastill.core.registry import OBJECTIVES
from contrastill.training.checkpoint import checkpoints
from contrastill.training.moving_average import MovingAverage
from helpers.lora import Lora


def data(count):
    return TensorDataset(
        torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(count) % 4
    )


def train(student, out, count=16, test=None, **options):
    options = {"objectives": "cross_entropy", "epochs": 2, "batch_size": 8, "quiet": True} | options
    return contrastill.distill(None, student, (data(count), test), out=out, **options)


def attributes(out):
    newest = checkpoints(out / "checkpoints")[-1]
    return json.loads((newest / "state.json").read_text())["plain"]["student:module"]


class Viewed(nn.Module):
    """Flattens its maps by a view, perhaps in training mode alone, after statistics and a draw."""

    def __init__(self, view=True, training_alone=False):
        super().__init__()
        torch.manual_seed(1)
        self.conv, self.norm, self.fc = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4 * 36, 4)
        self.view, self.training_alone, self.passes = view, training_alone, 0

    def forward(self, x):
        self.passes += self.training
        y = self.norm(self.conv(x)).relu() + (torch.rand(len(x), 1, 1, 1) if self.training else 0)
        view = self.view and (self.training or not self.training_alone)
        return self.fc(y.view(-1, 4 * 36) if view else y.flatten(1))


def test_the_average_of_a_network_that_takes_one_order_alone_goes_on_after_its_evaluation(tmp_path):
    options = {"test": data(16), "ema": 0.5, "lr": 0.1, "epochs": 3}
    viewed, flat = (train(Viewed(view), tmp_path / str(view), **options) for view in (True, False))
    for name, value in flat.student.state_dict().items():
        torch.testing.assert_close(viewed.student.state_dict()[name], value, rtol=1e-3, atol=1e-5)


def test_a_pass_that_a_view_ends_counts_once(tmp_path):
    viewed, flat = (train(Viewed(view, True), tmp_path / str(view), lr=0.1) for view in (True, False))
    assert viewed.student.norm.num_batches_tracked == 4 and attributes(tmp_path / "True")["passes"] == 4
    for name, value in flat.student.state_dict().items():
        torch.testing.assert_close(viewed.student.state_dict()[name], value, rtol=1e-3, atol=1e-5)


def merging():
    torch.manual_seed(1)
    return nn.Sequential(nn.Conv2d(3, 6, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), Lora(0.5), nn.Linear(6, 4))


def test_the_average_of_a_layer_that_merges_is_merged_once(tmp_path):
    result = train(merging(), tmp_path / "run", test=data(16), ema=0.9, lr=0.01, epochs=4)
    start, layer = merging()[3].weight, result.student[3]
    torch.testing.assert_close(layer.weight - layer.merged * layer.lora_b @ layer.lora_a, start, rtol=0, atol=1e-5)
    loaded = contrastill.load_student(tmp_path / "run", module=merging())[3]
    assert loaded.merged
    torch.testing.assert_close(loaded.weight, start + loaded.lora_b @ loaded.lora_a, rtol=0, atol=1e-5)


def test_what_is_asked_of_an_average_leaves_it_as_it_was():
    network = contrastill.Network(
        merging(), taps=contrastill.Taps(), preprocess=contrastill.Preprocess((0.0,) * 3, (1.0,) * 3)
    )
    average = MovingAverage(network.train(), 0.9)
    before = {name: value.clone() for name, value in average.network.state_dict().items()}
    with average.unchanged():
        average.network.eval()
        assert average.network.module[3].merged
    assert not average.network.module[3].merged
    assert all(torch.equal(value, before[name]) for name, value in average.network.state_dict().items())


class Counting(nn.Module):
    """Replaces a buffer and counts in attributes, of which one is first made in a pass."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 4))
        self.register_buffer("count", torch.zeros(()))
        self.steps, self.past, self.asked = 0, [], 0

    def forward(self, x):
        self.asked += not self.training
        if self.training:
            self.count = self.count + 1
            self.steps, self.late = self.steps + 1, getattr(self, "late", 0) + 1
            self.past.append(torch.ones(1))
        return self.net(x)


@pytest.mark.parametrize("count", [16, 17])
def test_looks_before_the_first_step_are_no_passes(tmp_path, count):
    student = train(Counting(), tmp_path / "run", count=count).student
    steps, plain = 2 * -(-count // 8), attributes(tmp_path / "run")
    assert (student.count, plain["steps"], plain["late"], len(plain["past"])) == (steps,) * 4
    assert plain.keys() == {"steps", "late", "past"}


class Penalised(Objective):
    needs, needs_teacher = frozenset({"logits", "embedding"}), False

    def per_sample(self, student, teacher, batch):
        (slope,) = torch.autograd.grad(student.logits.sum(), student.embedding, create_graph=True)
        return slope.square().mean(1) + student.logits.square().mean(1)


def test_an_objective_that_computes_with_gradients_has_a_last_batch_of_one_sample(tmp_path):
    OBJECTIVES.register("penalised")(Penalised)
    try:
        student = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 4))
        assert train(student, tmp_path / "run", count=17, objectives="penalised").metrics["step"] == 6
    finally:
        OBJECTIVES._entries.pop("penalised")


class Front(nn.Module):
    """Leaves its map in a dict that another part reads."""

    def __init__(self, shared):
        super().__init__()
        self.shared, self.first, self.second = shared, nn.Conv2d(3, 6, 3), nn.Conv2d(6, 6, 3)

    def forward(self, x):
        self.shared["map"] = self.first(x).relu()
        return self.second(self.shared["map"])


class Back(nn.Module):
    def __init__(self, shared):
        super().__init__()
        self.shared, self.fc = shared, nn.Linear(6, 4)

    def forward(self, x):
        return self.fc(self.shared["map"].mean((2, 3)) + x.mean((2, 3)))


def sharing():
    torch.manual_seed(0)
    shared = {}
    return nn.Sequential(Front(shared), Back(shared))


@pytest.mark.parametrize("options", [{}, {"ema": 0.9}])
def test_parts_that_share_a_dict_share_it_on(options, tmp_path):
    result = train(sharing(), tmp_path / "run", test=data(12), lr=0.1, **options)
    student = result.student
    with torch.no_grad():
        images = data(12).tensors[0]
        front, back = sharing()[:]
        front.load_state_dict(student[0].state_dict())
        back.load_state_dict(student[1].state_dict())
        right = (back(front(images)).argmax(1) == data(12).tensors[1]).sum().item()
    assert result.metrics["top1"] == pytest.approx(100 * right / 12)


class StopAfter:
    """A hook that ends a training after so many of its passes with eight images."""

    def __init__(self, passes):
        self.left = passes

    def __call__(self, part, inputs):
        self.left -= part.training and len(inputs[0]) == 8
        if self.left < 0:
            raise KeyboardInterrupt


def test_a_resume_leaves_a_shared_dict_shared(tmp_path):
    options = {"test": data(12), "lr": 0.1, "epochs": 3}
    whole = train(sharing(), tmp_path / "whole", **options)
    student = sharing()
    handle = student[0].register_forward_pre_hook(StopAfter(5))
    with pytest.raises(KeyboardInterrupt):
        train(student, tmp_path / "part", **options)
    handle.remove()
    assert checkpoints(tmp_path / "part" / "checkpoints")
    assert train(sharing(), tmp_path / "part", **options).metrics["loss"] == whole.metrics["loss"]
