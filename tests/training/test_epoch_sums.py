"""The row of an epoch is of what its own steps logged, of all processes, also after a stop."""

import json
import shutil

import pytest
import torch
from accelerate import Accelerator
from torch import nn

from contrastill.core.aggregation import TeacherAggregation
from contrastill.core.config.schema import TrainConfig
from contrastill.core.errors import UsageError
from contrastill.core.objective import Objective
from contrastill.core.registry import TEACHER_AGGREGATIONS
from contrastill.core.representation import Network, Preprocess, Representation, Taps
from contrastill.core.run import Run
from contrastill.core.term import Term
from contrastill.core.transfer import Transfer, TransferOutput
from contrastill.training.checkpoint import checkpoints
from contrastill.training.engine import fit
from contrastill.training.epoch_sums import EpochSums

STEPS, BATCH = 8, 4


class Logging(Objective):
    """Logs the constant 1 in each step, and in every third one the step's number from 1."""

    def __init__(self):
        super().__init__()
        self.steps = 0

    def per_sample(self, student, teacher, batch):
        self.steps += 1
        self.logs["one"] = torch.ones(())
        if self.steps % 3 == 0:
            self.logs["third"] = torch.tensor(float(self.steps))
        return (student.logits - teacher.logits).square().mean(1)


class Batches:
    num_samples = STEPS * BATCH

    def __len__(self):
        return STEPS

    def epoch(self, k, start=0):
        for rows in torch.arange(self.num_samples).split(BATCH)[start:]:
            yield {"rgb": (rows[:, None, None, None] * 7 % 256).expand(-1, 3, 4, 4).to(torch.uint8), "index": rows}


class FewLeft(TeacherAggregation):
    """Two of three teachers take part, the last one in no step."""

    def chosen(self, count):
        return (0, 1)

    def forward(self, objectives, student, teachers, batch):
        return objectives[0](student, teachers[0], batch) + objectives[1](student, teachers[1], batch)


def network():
    module = nn.Sequential(nn.AvgPool2d(4), nn.Flatten(), nn.Linear(3, 4))
    return Network(module, taps=Taps(), preprocess=Preprocess((0.5,) * 3, (0.25,) * 3))


def trained(folder, rule, accumulation=1):
    torch.manual_seed(0)
    terms = {"mine": Term([Logging() for _ in range(3)], rule=rule)}
    config = TrainConfig(
        epochs=2, batch_size=BATCH, checkpoint_every_steps=1, keep_checkpoints=99, accumulation_steps=accumulation
    )
    run = Run(folder)
    transfer = Transfer([network() for _ in range(3)], network(), terms)
    fit(transfer, Batches(), None, config, run=run, progress=False)
    return [
        {key: value for key, value in json.loads(line).items() if key.startswith("mine/")}
        for line in run.metrics.read_text().splitlines()
    ]


@pytest.mark.parametrize("accumulation", [1, 2])
def test_what_a_teacher_left_out_logged_before_does_not_count_again_nor_after_a_stop(tmp_path, accumulation):
    def rule():
        return TEACHER_AGGREGATIONS["random"](seed=1)

    rows = trained(tmp_path / "whole", rule(), accumulation)
    assert {row[key] for row in rows for key in row if "/one." in key} == {1.0}
    assert all(sum(row[f"mine/weight.{number}"] for number in range(3)) == 1 for row in rows)
    for left in (3, 8, 11):
        shutil.copytree(tmp_path / "whole", tmp_path / str(left))
        for path in checkpoints(tmp_path / str(left) / "checkpoints")[left:]:
            shutil.rmtree(path)
        assert trained(tmp_path / str(left), rule(), accumulation) == rows


def test_a_teacher_that_never_runs_has_no_number_and_one_logged_at_times_is_a_mean_over_these_steps(tmp_path):
    first, second = trained(tmp_path, FewLeft())
    assert {*first} == {"mine/one.0", "mine/one.1", "mine/third.0", "mine/third.1"} == {*second}
    assert (first["mine/third.0"], second["mine/third.0"]) == ((3 + 6) / 2, (9 + 12 + 15) / 3)


def test_sums_of_an_older_version_are_gone_on_from():
    sums = EpochSums(Accelerator())
    sums.load({"loss": torch.tensor(6.0), "kd/x": torch.tensor(3.0), "samples": torch.tensor(3.0)})
    sums.add([(TransferOutput(torch.tensor(1.0), {}, Representation(), {"kd/y": torch.tensor(5.0)}), 1)], {})
    assert sums.means() == {"loss": 7 / 4, "kd/x": 1.0, "kd/y": 5.0}


_RANK = """
import json, sys
from pathlib import Path
import torch
from accelerate import Accelerator
from contrastill.core.representation import Representation
from contrastill.core.transfer import TransferOutput
from contrastill.training.epoch_sums import EpochSums
rank, world, folder = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
accelerator = Accelerator(cpu=True)
def passes():
    for loss, size, logs in json.loads((folder / "passes.json").read_text())[rank::world]:
        logs = {name: torch.tensor(value) for name, value in logs.items()}
        yield TransferOutput(torch.tensor(loss), {}, Representation(), logs), size
first, second = EpochSums(accelerator), EpochSums(accelerator)
each = [*passes()]
first.add(each[:1], {})
second.load(first.total())
second.add(each[1:], {})
(folder / f"{rank}.json").write_text(json.dumps(second.means()))
"""


def test_processes_that_log_different_things_add_up_to_one(ranks, tmp_path):
    passes = [
        (1.0, 4, {"a": 2.0, "b": 8.0}),
        (2.0, 2, {"b": 2.0, "c": 1.0}),
        (3.0, 4, {"a": 4.0}),
        (4.0, 2, {"c": 7.0, "a": 1.0}),
    ]
    (tmp_path / "passes.json").write_text(json.dumps(passes))
    ranks(_RANK, 2, tmp_path)
    for rank in range(2):
        means = json.loads((tmp_path / f"{rank}.json").read_text())
        assert means == {"loss": 28 / 12, "a": 26 / 10, "b": 36 / 6, "c": 16 / 4}


@pytest.mark.parametrize("label", ["loss", "lr", "step", "epoch", "seconds", "top1", "miou", "validation_kd", "stage"])
def test_a_term_that_is_called_as_a_column_is_refused(label):
    transfer = Transfer([network()], network(), {label: Logging()})
    with pytest.raises(UsageError, match=f"objective {label} is called as another column .*objectives.my_{label}.name"):
        fit(transfer, Batches(), None, TrainConfig(epochs=1, batch_size=BATCH), progress=False)
