"""A loss or gradient that is no number: a training stops and names the batch, or goes on as if the batch had not been
there.
"""

import json

import pytest
import torch
from accelerate import Accelerator
from torch import nn

from contrastill.core.config.schema import TrainConfig
from contrastill.core.errors import ContrastillError
from contrastill.core.objective import Objective, Setting
from contrastill.core.registry import OBJECTIVES
from contrastill.core.representation import Network, Preprocess, Taps
from contrastill.core.representation_spec import describe
from contrastill.core.run import Run
from contrastill.core.term import Term
from contrastill.core.transfer import Transfer
from contrastill.objectives.cross_entropy import CrossEntropy
from contrastill.objectives.kd import KD
from contrastill.training.accuracy import evaluate
from contrastill.training.checkpoint import checkpoints
from contrastill.training.engine import fit

BATCHES, SIZE = 5, 8


class Batches:
    """Random images, batches a function of (epoch, position); one sample of some is marked bad, some are left out;
    KeyboardInterrupt after ``stop_at``.
    """

    num_samples = BATCHES * SIZE

    def __init__(self, bad=(), without=(), stop_at=None):
        generator = torch.Generator().manual_seed(0)
        self.images = torch.randint(256, (self.num_samples, 3, 6, 6), dtype=torch.uint8, generator=generator)
        self.bad, self.without, self.stop_at, self.served = bad, without, stop_at, 0

    def __len__(self):
        return BATCHES

    def rows(self, k):
        return torch.randperm(self.num_samples, generator=torch.Generator().manual_seed(50 + k)).split(SIZE)

    def epoch(self, k, start=0):
        for place, rows in list(enumerate(self.rows(k)))[start:]:
            if self.stop_at is not None and self.served >= self.stop_at:
                raise KeyboardInterrupt
            self.served += 1
            if (k, place) not in self.without:
                bad = (torch.arange(SIZE) == 1) & ((k, place) in self.bad)
                yield {"rgb": self.images[rows], "index": rows, "target": rows % 4, "bad": bad}


class Bad(Objective):
    """Of a batch with a bad sample the loss is no number, or only its gradient; counts its calls in a buffer and beside
    it.
    """

    needs_teacher = False

    def __init__(self, how):
        super().__init__()
        self.how, self.calls = how, 0
        self.register_buffer("passes", torch.zeros(()))

    def forward(self, student, teacher, batch):
        self.calls += 1
        self.passes += 1
        if not batch["bad"].any():
            return 0 * student.logits.sum()
        # √x at 0 is 0, and its slope is not finite.
        return student.logits.mean() * torch.nan if self.how == "loss" else (0 * student.logits).sum().abs().sqrt()

    def get_extra_state(self):
        return torch.tensor(self.calls)

    def set_extra_state(self, state):
        self.calls = int(state)


def build(how="loss"):
    def network(seed):
        torch.manual_seed(seed)
        module = nn.Sequential(
            nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.3),
            nn.Linear(8, 4)
        )  # fmt: skip
        return Network(module, taps=Taps(embedding="4"), preprocess=Preprocess((0.5,) * 3, (0.25,) * 3))

    student = network(1)
    spec = describe(student, {"rgb": torch.zeros(2, 3, 6, 6, dtype=torch.uint8)})
    options = OBJECTIVES["crd"].Options(embed_dim=8, num_negatives=8, negatives="sampled", bias=3.0)
    crd = OBJECTIVES["crd"].build(
        options, Setting(spec, spec, Batches.num_samples, torch.arange(Batches.num_samples) % 4, 0)
    )
    return Transfer([network(7)], student, {"cross_entropy": CrossEntropy(), "crd": Term(crd, 0.5), "bad": Bad(how)})


def train(transfer, data=None, run=None, **options):
    config = TrainConfig(**{"epochs": 2, "lr": 0.05, "schedule": "constant", "checkpoint_every_steps": 1, **options})
    torch.manual_seed(9)
    return fit(transfer, data or Batches(), None, config, run=run, progress=False)


def assert_same(one, other):
    assert all(torch.equal(value, other.trained_state()[name]) for name, value in one.trained_state().items())


@pytest.mark.parametrize("accumulation", [1, 3])
@pytest.mark.parametrize("place", [0, 2])
def test_stopping_names_the_step_the_objective_and_the_batch(tmp_path, place, accumulation):
    run = Run(tmp_path)
    # One checkpoint is due before the bad step is looked for; the losses after it are no numbers either, and not to
    # blame.
    with pytest.raises(
        ContrastillError,
        match=rf"since step {6 + place} \(epoch 1, objective bad\).*bad_batch.json.*step-00000005 is from before",
    ):
        train(build(), Batches([(1, place)]), run, accumulation_steps=accumulation, checkpoint_every_steps=5)
    record = json.loads((run.path / "bad_batch.json").read_text())
    assert record == {
        "step": 6 + place,
        "epoch": 1,
        "batch": place,
        "terms": ["bad"],
        "indices": Batches().rows(1)[place].tolist(),
    }
    assert [path.name for path in checkpoints(run.checkpoints)] == ["step-00000005"] and [
        row["epoch"] for row in run.history()
    ] == [0]


def test_without_a_folder_the_message_itself_names_the_samples():
    indices = ", ".join(map(str, Batches().rows(0)[3].tolist()))
    with pytest.raises(ContrastillError, match=f"since step 4 .*sample indices are {indices}; no checkpoint"):
        train(build(), Batches([(0, 3)]))


@pytest.mark.parametrize("policy", ["stop", "skip"])
def test_weights_that_the_last_step_made_infinite_are_not_saved(tmp_path, policy):
    run, student = Run(tmp_path), build().student
    # Loss and gradient are finite numbers, their product with the rate is none.
    transfer = Transfer([], student, {"cross_entropy": Term(CrossEntropy(), 1e10)})
    with pytest.raises(
        ContrastillError,
        match=r"the weights became NaN or infinite in the last steps.*lower train.lr=1e\+30.*no checkpoint",
    ):
        train(transfer, run=run, on_nan=policy, lr=1e30)
    assert not checkpoints(run.checkpoints) and not run.history()


@pytest.mark.parametrize("policy", ["stop", "skip"])
@pytest.mark.parametrize("persistent", [False, True])
def test_a_mask_of_infinite_values_is_no_divergence(policy, persistent):
    transfer = build("none")
    mask = torch.triu(torch.full((3, 3), -torch.inf), 1)
    transfer.student.module.register_buffer("mask", mask, persistent=persistent)
    train(transfer, on_nan=policy)
    transfer.student.module.mask[0, 0] = torch.nan
    with pytest.raises(ContrastillError, match="the weights became NaN or infinite"):
        train(transfer, on_nan=policy)


def test_a_network_of_nan_has_no_accuracy():
    student = build().student
    next(student.parameters()).data.fill_(torch.nan)
    with pytest.raises(ContrastillError, match="gives NaN for images of the test split"):
        evaluate(student, Batches(), Accelerator(cpu=True))


@pytest.mark.parametrize("optimizer", [{}, {"optimizer": "adamw", "lr": 1e-3}])
@pytest.mark.parametrize("how", ["loss", "gradient"])
def test_a_skipped_batch_leaves_nothing_behind(tmp_path, how, optimizer, caplog):
    where, run = [(0, 0), (0, 3), (1, 4)], Run(tmp_path / "run")
    skipping, expected = build(how), build(how)
    result = train(skipping, Batches(where), run, on_nan="skip", **optimizer)
    other = train(expected, Batches(without=where), **optimizer)
    assert_same(skipping, expected)
    shown = ("loss", "cross_entropy", "crd", "bad")
    assert [[row[name] for name in shown] for row in result.history] == [
        [row[name] for name in shown] for row in other.history
    ]
    assert [row["skipped"] for row in result.history] == [2, 1] and "skipped" not in other.last
    lines = [json.loads(line) for line in (run.path / "skipped_batches.jsonl").read_text().splitlines()]
    assert lines == [
        {"step": 5 * epoch + place + 1, "epoch": epoch, "batch": place, "terms": ["bad"] if how == "loss" else [],
            "indices": Batches().rows(epoch)[place].tolist()}
        for epoch, place in where
    ]  # fmt: skip
    assert sum("is left out" in record.message for record in caplog.records) == 3
    assert ("objective bad" if how == "loss" else "the gradient") in caplog.text


def test_skipping_changes_nothing_where_all_is_finite():
    skipping, stopping = build(), build()
    rows = [train(fresh, on_nan=policy).history for fresh, policy in ((skipping, "skip"), (stopping, "stop"))]
    assert_same(skipping, stopping)
    assert [row["skipped"] for row in rows[0]] == [0, 0] and [row["loss"] for row in rows[0]] == [
        row["loss"] for row in rows[1]
    ]


@pytest.mark.parametrize("stop_at", [2, 4, 8])
def test_a_stopped_run_counts_on(tmp_path, stop_at):
    where = [(0, 1), (0, 3), (1, 1)]
    whole, run = build(), Run(tmp_path / "whole")
    expected = train(whole, Batches(where), run, on_nan="skip")
    with pytest.raises(KeyboardInterrupt):
        # One batch more: the engine looks at the first one before it starts. Checkpoints lag behind, so that a batch is
        # skipped again.
        train(
            build(),
            Batches(where, stop_at=stop_at + 1),
            Run(tmp_path / "stopped"),
            on_nan="skip",
            checkpoint_every_steps=2,
        )
    resumed = build()
    result = train(resumed, Batches(where), Run(tmp_path / "stopped"), on_nan="skip", checkpoint_every_steps=2)
    assert_same(whole, resumed)
    assert [row["skipped"] for row in result.history] == [row["skipped"] for row in expected.history] == [2, 1]
    assert (tmp_path / "stopped" / "skipped_batches.jsonl").read_text() == (
        run.path / "skipped_batches.jsonl"
    ).read_text()


def test_an_epoch_of_which_most_is_skipped_stops(tmp_path):
    where = [(0, 0), (0, 4), (1, 0), (1, 1), (1, 3)]
    with pytest.raises(ContrastillError, match="3 of the 5 steps of epoch 1 were left out.*skipped_batches.jsonl"):
        train(build(), Batches(where), Run(tmp_path / "run"), on_nan="skip")
    assert [row["skipped"] for row in Run(tmp_path / "run").history()] == [2]


class Offset(nn.Module):
    """Logits of four classes, the last one of a fixed value."""

    def __init__(self, last):
        super().__init__()
        self.last, self.linear = last, nn.Linear(3 * 6 * 6, 4)

    def forward(self, images):
        logits = self.linear(images.flatten(1))
        return torch.cat((logits[:, :3], torch.full_like(logits[:, 3:], self.last)), 1)


@pytest.mark.parametrize("policy", ["stop", "skip"])
@pytest.mark.parametrize(
    ("teacher", "student", "message"),
    [
        (torch.inf, 0.0, r"the logits of teacher 0 \(Offset\) hold infinite or NaN values: give finite ones"),
        (0.0, -torch.inf, r"the student's logits hold infinite or NaN values: lower train.lr=0.05, or, where it masks"),
    ],
)
def test_the_network_whose_outputs_are_not_finite_is_named(policy, teacher, student, message):
    torch.manual_seed(0)
    networks = [
        Network(Offset(value), taps=Taps(), preprocess=Preprocess((0.5,) * 3, (0.25,) * 3))
        for value in (teacher, student)
    ]
    with pytest.raises(ContrastillError, match=rf"not a finite number.*{message}"):
        train(Transfer(networks[:1], networks[1], {"kd": KD()}), on_nan=policy)


def test_classes_that_a_teacher_masks_are_learnt_as_probability_0():
    losses = []
    for value in (-torch.inf, -1e6):
        torch.manual_seed(0)
        networks = [
            Network(Offset(last), taps=Taps(), preprocess=Preprocess((0.5,) * 3, (0.25,) * 3)) for last in (value, 0.0)
        ]
        losses.append(train(Transfer(networks[:1], networks[1], {"kd": KD()})).last["loss"])
    assert losses[0] == losses[1] > 0
