"""fit(): learns, resumes to the same bits, refuses NaN, keeps whole checkpoints only."""

import json
import math
import shutil

import pytest
import torch
from accelerate import Accelerator
from torch import nn

from contrastill.core.config.schema import TrainConfig
from contrastill.core.errors import ContrastillError
from contrastill.core.objective import Objective, Setting
from contrastill.core.registry import OBJECTIVES
from contrastill.core.representation import Network, Preprocess, Representation, Taps
from contrastill.core.representation_spec import describe
from contrastill.core.run import Run
from contrastill.core.term import Term
from contrastill.core.transfer import Transfer, TransferOutput
from contrastill.objectives.cross_entropy import CrossEntropy
from contrastill.training.accuracy import evaluate
from contrastill.training.checkpoint import checkpoints, load_checkpoint, load_newest
from contrastill.training.engine import fit
from contrastill.training.epoch_sums import EpochSums
from contrastill.training.schedule import learning_rate


class Blobs:
    """Tiny images whose class is their brightness: batches are a function of (epoch, position)."""

    def __init__(self, batches=6, size=16, stop_at=None):
        generator = torch.Generator().manual_seed(0)
        self.num_samples = batches * size
        self.targets = torch.arange(self.num_samples) % 4
        noise = torch.randint(0, 40, (self.num_samples, 3, 6, 6), generator=generator)
        self.images = (self.targets.view(-1, 1, 1, 1) * 60 + noise).to(torch.uint8)
        self.size, self.stop_at, self.served = size, stop_at, 0

    def __len__(self):
        return self.num_samples // self.size

    def epoch(self, k, start=0):
        order = torch.randperm(self.num_samples, generator=torch.Generator().manual_seed(100 + k))
        for rows in order.split(self.size)[start:]:
            if self.stop_at is not None and self.served >= self.stop_at:
                raise KeyboardInterrupt
            self.served += 1
            yield {"rgb": self.images[rows], "index": rows, "target": self.targets[rows]}


def network(seed):
    torch.manual_seed(seed)
    module = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Dropout(0.2), nn.Linear(8, 4)
    )  # fmt: skip
    return Network(module, taps=Taps(embedding="4"), preprocess=Preprocess(mean=(0.5,) * 3, std=(0.25,) * 3))


def crd_transfer(data):
    teacher, student = network(7), network(1)
    spec = describe(student, {"rgb": torch.zeros(2, 3, 6, 6, dtype=torch.uint8)})
    crd_class = OBJECTIVES["crd"]
    setting = Setting(spec, spec, data.num_samples, data.targets, 0)
    crd = crd_class.build(crd_class.Options(embed_dim=8, num_negatives=16, negatives="sampled", bias=3.0), setting)
    return Transfer([teacher], student, {"cross_entropy": Term(CrossEntropy(), 1.0), "crd": Term(crd, 0.5)})


def config(**options):
    return TrainConfig(**{"epochs": 3, "lr": 0.05, "weight_decay": 1e-4, **options})


def test_it_learns_and_reports_the_last_epoch(tmp_path):
    data, run = Blobs(), Run(tmp_path)
    transfer = Transfer([], network(1), {"cross_entropy": CrossEntropy()})
    result = fit(transfer, data, data, config(epochs=12, lr=0.2), run=run, progress=False)
    assert result.last["top1"] > 80 > result.history[0]["top1"]
    rows = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    assert [row["epoch"] for row in rows] == list(range(12)) and rows[-1] == result.last
    assert result.last["step"] == 72 and math.isclose(result.last["lr"], 0.2 * 0.1**3)
    assert transfer.training and len(checkpoints(run.checkpoints)) == 2


@pytest.mark.parametrize("stop_at", [3, 6, 8, 16])
@pytest.mark.parametrize(
    "options",
    [{}, {"optimizer": "adamw", "lr": 1e-3}, {"ema": 0.9, "clip_norm": 0.1, "optimizer": "timm/lamb", "lr": 1e-2}],
)
def test_a_stopped_run_ends_in_the_same_bits(tmp_path, stop_at, options):
    every = config(checkpoint_every_steps=2, **options)
    torch.manual_seed(5)
    whole = crd_transfer(Blobs())
    torch.manual_seed(6)
    expected = fit(whole, Blobs(), Blobs(), every, run=Run(tmp_path / "whole"), progress=False)

    torch.manual_seed(5)
    stopped = crd_transfer(Blobs())
    torch.manual_seed(6)
    with pytest.raises(KeyboardInterrupt):
        # One batch more: the engine looks at the first batch before it starts.
        fit(stopped, Blobs(stop_at=stop_at + 1), Blobs(), every, run=Run(tmp_path / "stopped"), progress=False)
    torch.manual_seed(5)
    resumed = crd_transfer(Blobs())
    result = fit(resumed, Blobs(), Blobs(), every, run=Run(tmp_path / "stopped"), progress=False)

    for name, value in whole.trained_state().items():
        assert torch.equal(value, resumed.trained_state()[name]), name
    for name, value in expected.student.state_dict().items():
        assert torch.equal(value, result.student.state_dict()[name]), name
    shown = ("epoch", "step", "lr", "loss", "top1", "cross_entropy", "crd")
    assert [[row[key] for key in shown] for row in result.history] == [
        [row[key] for key in shown] for row in expected.history
    ]


def test_the_seconds_of_an_epoch_go_on_after_a_stop(monkeypatch):
    now = [10.0]
    monkeypatch.setattr("contrastill.training.epoch_sums.time.perf_counter", lambda: now[0])
    before, after = EpochSums(Accelerator()), EpochSums(Accelerator())
    before.start_clock()
    before.add([(TransferOutput(torch.tensor(2.0), {}, Representation()), 4)], {})
    now[0] = 13.0
    after.load(before.total())
    now[0] = 100.0
    after.start_clock()
    now[0] = 104.0
    assert after.seconds == 7 and after.means() == {"loss": 2.0}
    after.clear()
    assert after.start_clock() == 104 and after.seconds == 0


def test_a_finished_run_trains_no_further(tmp_path):
    data, run = Blobs(), Run(tmp_path)
    first = fit(crd_transfer(data), data, data, config(), run=run, progress=False)
    data.served = 0
    remaining = checkpoints(run.checkpoints)
    shutil.copytree(
        remaining[-1], run.checkpoints / "step-00000001"
    )  # left by a kill between the last save and the removal of older ones
    shutil.copytree(
        remaining[-1], run.checkpoints / "step-00009999"
    )  # damaged, and newer than the one that is gone on from
    (run.checkpoints / "step-00009999" / "model.safetensors").write_bytes(b"cut off")
    again = fit(crd_transfer(data), data, data, config(), run=run, progress=False)
    assert again.last == first.last and data.served == 1
    assert checkpoints(run.checkpoints) == [*remaining, run.checkpoints / "step-00009999"]


class Explodes(Objective):
    """Infinite from the fourth call on."""

    calls = 0
    needs_teacher = False

    def forward(self, student, teacher, batch):
        self.calls += 1
        return student.logits.sum() * 0 + (float("inf") if self.calls >= 4 else 0.0)


def test_a_loss_that_is_no_number_stops_with_step_and_objective(tmp_path):
    data, run = Blobs(), Run(tmp_path)
    transfer = Transfer([], network(1), {"cross_entropy": CrossEntropy(), "explodes": Explodes()})
    with pytest.raises(ContrastillError, match=r"since step 4 \(epoch 0, objective explodes\)"):
        fit(transfer, data, data, config(), run=run, progress=False)
    assert not run.metrics.exists() and not checkpoints(run.checkpoints)


@pytest.mark.parametrize("damage", ["truncate", "flip", "remove"])
def test_a_damaged_newest_checkpoint_falls_back_and_says_so(tmp_path, damage, caplog):
    data, run = Blobs(), Run(tmp_path)
    fit(crd_transfer(data), data, data, config(), run=run, progress=False)
    older, newest = checkpoints(run.checkpoints)
    file = newest / "model.safetensors"
    if damage == "truncate":
        file.write_bytes(file.read_bytes()[:-100])
    elif damage == "flip":
        content = bytearray(file.read_bytes())
        content[-1] ^= 1
        file.write_bytes(content)
    else:
        file.unlink()
    snapshot = load_newest(run.checkpoints)
    assert snapshot.position == load_checkpoint(older).position and snapshot.position.epoch == 2
    assert "going back to the one before" in caplog.text and newest.name in caplog.text
    (older / "state.json").unlink()
    with pytest.raises(ContrastillError, match="none of the 2 checkpoints"):
        load_newest(run.checkpoints)


def test_a_run_folder_is_of_one_config(tmp_path):
    run = Run(tmp_path / "run")
    run.claim("train:\n  epochs: 240\nobjectives:\n  kd: {weight: 1}\n")
    run.claim("objectives:\n  kd: {weight: 1}\ntrain:\n  epochs: 240\n")
    for same in ("'240'", "0_240", "240.0  # as before"):
        run.config.write_text(f"objectives:\n  kd: {{weight: 1}}\ntrain:\n  epochs: {same}\n")
        run.claim("train:\n  epochs: 240\nobjectives:\n  kd: {weight: 1}\n")
    with pytest.raises(ContrastillError, match="train.epochs: 240, now 15"):
        run.claim("train:\n  epochs: 15\nobjectives:\n  kd: {weight: 1}\n")


def test_evaluation_is_that_of_the_whole_split_and_leaves_the_student_in_training():
    from accelerate import Accelerator

    data = Blobs(batches=3)
    transfer = Transfer([], network(1), {"cross_entropy": CrossEntropy()}).train()
    statistics = transfer.student.module[1].running_mean.clone()
    accuracy = evaluate(transfer.student, data, Accelerator())
    assert transfer.student.training and torch.equal(transfer.student.module[1].running_mean, statistics)
    transfer.student.eval()
    right = (
        (transfer.student({"rgb": data.images}, frozenset({"logits"})).logits.argmax(1) == data.targets)
        .double()
        .mean()
        .item()
    )
    assert math.isclose(accuracy["top1"], 100 * right, rel_tol=1e-6)


@pytest.mark.parametrize(
    ("options", "step", "rate"),
    [
        ({}, 149, 0.05),
        ({}, 150, 0.005),
        ({}, 180, 0.0005),
        ({}, 210, 0.00005),
        ({"schedule": "cosine"}, 120, 0.025),
        ({"schedule": "constant", "warmup_epochs": 4}, 1, 0.025),
        ({"schedule": "constant", "warmup_epochs": 4}, 4, 0.05),
    ],
)
def test_learning_rates(options, step, rate):
    assert math.isclose(learning_rate(TrainConfig(epochs=240, **options), step, 1), rate, rel_tol=1e-9)


@pytest.mark.parametrize("warmup", [0.05, 0.3, 0.5, 1, 1.55, 3])
@pytest.mark.parametrize("steps", [1, 3, 5, 7, 10, 21])
def test_a_warm_up_never_goes_above_the_rate(warmup, steps):
    config = TrainConfig(epochs=4, lr=0.1, schedule="cosine", warmup_epochs=warmup)
    rates = [learning_rate(config, step, steps) for step in range(4 * steps)]
    assert max(rates) <= 0.1 + 1e-12
    rising = rates[: math.ceil(warmup * steps)]
    assert rising == sorted(rising)
    assert rising[0] == pytest.approx(0.1 * min(1, 1 / (warmup * steps)))
