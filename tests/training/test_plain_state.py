"""Losses and students that count in plain attributes or in non-persistent buffers end, stopped and called again, as
whole ones.
"""

import json
from collections import deque

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.utils.data import TensorDataset

import contrastill
from contrastill.core.objective import Objective
from contrastill.core.plain_state import PlainState
from contrastill.core.registry import OBJECTIVES
from contrastill.training.checkpoint import checkpoints

IMAGES = torch.rand(24, 3, 8, 8, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(24) % 4


class Meter(nn.Module):
    """A part of a loss, which has state of its own."""

    def __init__(self):
        super().__init__()
        self.seen = {"samples": 0, 3: (1, "x")}

    def forward(self, values):
        self.seen["samples"] += len(values)
        return values


class Counting(Objective):
    needs = frozenset({"logits"})
    takes_mixed = True

    def __init__(self):
        super().__init__()
        self.n, self.rate, self.past, self.last, self.meter = 0, 1.0, [], None, Meter()

    def per_sample(self, student, teacher, batch):
        losses = self.meter((student.logits - teacher.logits).square().mean(1))
        if self.training:
            self.n += 1
            self.rate *= 0.97
            self.past = [*self.past[-2:], float(losses.detach().mean())]
            self.last = (self.n, self.past[0])
            self.lazy = getattr(self, "lazy", 0) + 1
        scale = self.n + self.rate + sum(self.past) + self.last[0] + self.lazy + self.meter.seen["samples"]
        return losses * scale / 50


class Collecting(Counting):
    def __init__(self):
        super().__init__()
        self.rows, self.mean = deque(maxlen=4), torch.zeros(())

    def per_sample(self, student, teacher, batch):
        losses = super().per_sample(student, teacher, batch)
        self.rows.append(1)
        self.mean = losses.detach().mean()
        return losses


class Queueing(Objective):
    """Keeps the last means in a non-persistent buffer, which the first pass makes."""

    needs = frozenset({"logits"})

    def __init__(self):
        super().__init__()
        self.register_buffer("queue", None, persistent=False)

    def per_sample(self, student, teacher, batch):
        losses = (student.logits - teacher.logits).square().mean(1)
        if self.training:
            mean = losses.detach().mean()[None]
            self.queue = mean if self.queue is None else torch.cat([self.queue, mean])[-3:]
        return losses * (1 + self.queue.mean())


@pytest.fixture(autouse=True)
def registered():
    for kind in (Counting, Collecting, Queueing):
        OBJECTIVES.register(kind.__name__.lower())(kind)
    yield
    for kind in (Counting, Collecting, Queueing):
        OBJECTIVES._entries.pop(kind.__name__.lower(), None)


class Dying(TensorDataset):
    """Ends the training after so many samples."""

    left = 10**9

    def __getitem__(self, place):
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt
        return super().__getitem__(place)


def net(width, seed):
    torch.manual_seed(seed)
    layers = nn.Conv2d(3, width, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 4)
    return nn.Sequential(*layers)


def train(data, out, objective="counting", **options):
    options = {"epochs": 4, "batch_size": 8, "lr": 0.02, "quiet": True, "checkpoint_every_steps": 1} | options
    return contrastill.distill(net(6, 0), net(4, 1), (data, data), out=out, objectives=objective, **options)


def rows(out):
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [{name: row[name] for name in ("epoch", "loss", "counting", "top1") if name in row} for row in lines]


@pytest.mark.parametrize("accumulation", [1, 2])
def test_a_stopped_training_counts_on(tmp_path, accumulation):
    whole = train(TensorDataset(IMAGES, LABELS), tmp_path / "whole", accumulation_steps=accumulation)
    data, stops = Dying(IMAGES, LABELS), 0
    while not (tmp_path / "stopped" / "student.safetensors").exists():
        data.left = 182
        try:
            train(data, tmp_path / "stopped", accumulation_steps=accumulation)
        except (KeyboardInterrupt, contrastill.ContrastillError):
            stops += 1
            assert stops < 20 and checkpoints(tmp_path / "stopped" / "checkpoints")
    assert stops > 0
    one, two = whole.student.state_dict(), contrastill.load_student(tmp_path / "stopped", module=net(4, 1)).state_dict()
    assert all(torch.equal(value, two[name]) for name, value in one.items())
    assert rows(tmp_path / "stopped") == rows(tmp_path / "whole")


class Fading(nn.Module):
    """A student whose training branch fades out with the steps, as it counts them itself."""

    def __init__(self, width):
        super().__init__()
        self.body, self.head = nn.Conv2d(3, width, 3), nn.Linear(width, 4)
        self.steps, self.features = 0, None

    def forward(self, images):
        self.features = self.body(images).relu().mean((2, 3))
        if self.training:
            self.steps += 1
        return self.head(self.features) * (1 + 1 / (1 + self.steps))


def test_a_stopped_student_counts_on(tmp_path, caplog):
    def fading(data, out):
        torch.manual_seed(1)
        options = {"epochs": 4, "batch_size": 8, "lr": 0.02, "quiet": True, "checkpoint_every_steps": 1}
        contrastill.distill(net(6, 0), Fading(4), (data, data), out=out, objectives="kd", **options)

    fading(TensorDataset(IMAGES, LABELS), tmp_path / "whole")
    data, stops = Dying(IMAGES, LABELS), 0
    while not (tmp_path / "stopped" / "student.safetensors").exists():
        data.left = 182
        try:
            fading(data, tmp_path / "stopped")
        except (KeyboardInterrupt, contrastill.ContrastillError):
            stops += 1
            assert stops < 20 and checkpoints(tmp_path / "stopped" / "checkpoints")
    assert stops > 0
    one, two = (
        contrastill.load_student(tmp_path / name, module=Fading(4)).state_dict() for name in ("whole", "stopped")
    )
    assert all(torch.equal(value, two[name]) for name, value in one.items())
    newest = checkpoints(tmp_path / "whole" / "checkpoints")[-1]
    # What the last pass computed is no state.
    assert json.loads((newest / "state.json").read_text())["plain"] == {"student:module": {"steps": 12}}
    assert "is in no checkpoint" not in caplog.text


def test_a_checkpoint_holds_what_changed_alone(tmp_path):
    train(TensorDataset(IMAGES, LABELS), tmp_path / "run", epochs=1)
    newest = checkpoints(tmp_path / "run" / "checkpoints")[-1]
    plain = json.loads((newest / "state.json").read_text())["plain"]
    (name,) = (key for key in plain if not key.endswith("meter"))
    assert {*plain[name]} == {"n", "rate", "past", "last", "lazy"} and {*plain[f"{name}.meter"]} == {"seen"}
    library = train(TensorDataset(IMAGES, LABELS), tmp_path / "library", "kd", epochs=1)
    newest = checkpoints(library.out / "checkpoints")[-1]
    assert json.loads((newest / "state.json").read_text())["plain"] == {}


def test_what_json_cannot_hold_is_named_once(tmp_path, caplog):
    train(TensorDataset(IMAGES, LABELS), tmp_path / "run", "collecting")
    lines = [line for line in caplog.messages if "is in no checkpoint" in line]
    assert len(lines) == 1 and "rows of Collecting" in lines[0] and "mean of Collecting" not in lines[0]
    assert "self.register_buffer" in lines[0] and "past" not in lines[0]


class Centred(nn.Module):
    """A student that subtracts a running mean, in a buffer that is in no ``state_dict``."""

    def __init__(self, in_place=True):
        super().__init__()
        self.net, self.in_place = net(4, 1), in_place
        self.register_buffer("mean", torch.zeros(3), persistent=False)
        self.register_buffer("table", torch.ones(3), persistent=False)

    def forward(self, images):
        if self.training:
            now = images.mean((0, 2, 3))
            if self.in_place:
                self.mean.lerp_(now, 0.1)
            else:
                self.mean = 0.9 * self.mean + 0.1 * now
            if not hasattr(self, "steps"):
                self.register_buffer("steps", torch.zeros(()), persistent=False)
            self.steps += 1
        slower = 1 + 1 / (1 + self.steps) if hasattr(self, "steps") else 1
        return self.net((images - self.mean[:, None, None]) * self.table[:, None, None]) * slower


@pytest.mark.parametrize("in_place,options", [(True, {}), (False, {"ema": 0.9})])
def test_non_persistent_buffers_go_on(tmp_path, in_place, options):
    options = {"epochs": 3, "batch_size": 8, "lr": 0.2, "quiet": True, "checkpoint_every_steps": 1} | options

    def centred(data, out):
        return contrastill.distill(
            net(6, 0), Centred(in_place), (data, data), out=out, objectives="queueing", **options
        )

    whole = centred(TensorDataset(IMAGES, LABELS), tmp_path / "whole")
    data, stopped = Dying(IMAGES, LABELS), None
    while stopped is None:
        data.left = 182
        try:
            stopped = centred(data, tmp_path / "stopped")
        except (KeyboardInterrupt, contrastill.ContrastillError):
            assert checkpoints(tmp_path / "stopped" / "checkpoints")
    one, two = (r.student.state_dict() for r in (whole, stopped))
    assert all(torch.equal(value, two[name]) for name, value in one.items())
    assert rows(tmp_path / "stopped") == rows(tmp_path / "whole")
    ends = [load_file(checkpoints(r.out / "checkpoints")[-1] / "buffers.safetensors") for r in (whole, stopped)]
    assert all(torch.equal(value, ends[1][name]) for name, value in ends[0].items())
    # What no pass writes is made by the class, and in no checkpoint.
    assert all({name.rpartition(".")[2] for name in end} == {"mean", "steps", "queue"} for end in ends)


def test_a_buffer_that_became_none_is_none_again():
    parts = [nn.ModuleDict({"x": Queueing()}) for _ in range(2)]
    for part in parts:
        part["x"].queue = torch.ones(2)
    states = [PlainState(part) for part in parts]
    parts[0]["x"].queue = None
    states[1].load(states[0].changed(), states[0].changed_buffers())
    assert parts[1]["x"].queue is None and not parts[1].state_dict()


class Overflowing(Centred):
    """Of images with a value of 1 its mean becomes infinite."""

    def forward(self, images):
        return super().forward(torch.where(images < 1, images, torch.inf) if self.training else images)


@pytest.mark.parametrize("in_place", [True, False])
def test_a_step_that_is_left_out_leaves_no_buffer_changed(tmp_path, in_place):
    images = IMAGES.clamp(max=0.99)
    images[5, 0, 0, 0] = 1
    data, options = TensorDataset(images, LABELS), {"objectives": "cross_entropy", "epochs": 1, "batch_size": 8}
    result = contrastill.distill(
        None, Overflowing(in_place), (data, data), out=tmp_path, on_nan="skip", quiet=True, **options
    )
    assert result.metrics["skipped"] == 1
    assert all(value.isfinite().all() for value in result.student.buffers())
