"""The stage before the training proper: who learns in it, that it resumes, and the three objectives that have one,
against naive versions.
"""

import pytest
import torch
from accelerate.state import AcceleratorState
from torch import nn

from contrastill.core.config.schema import TrainConfig
from contrastill.core.errors import UsageError
from contrastill.core.objective import Objective, Setting
from contrastill.core.representation import Network, Preprocess, Representation, Taps
from contrastill.core.representation_spec import RepresentationSpec
from contrastill.core.run import Run
from contrastill.core.term import Term
from contrastill.core.transfer import Transfer
from contrastill.ensemble.rules import Random
from contrastill.objectives.ab import AB
from contrastill.objectives.cross_entropy import CrossEntropy
from contrastill.objectives.factor import Factor
from contrastill.objectives.fsp import FSP
from contrastill.objectives.kd import KD
from contrastill.training.engine import fit
from contrastill.training.schedule import learning_rate


class Batches:
    """Random images; batches are a function of (epoch, position); KeyboardInterrupt after ``stop_at`` of them."""

    num_samples = 32

    def __init__(self, stop_at=None):
        self.images = torch.randint(256, (32, 3, 6, 6), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
        self.stop_at, self.served = stop_at, 0

    def __len__(self):
        return 4

    def epoch(self, k, start=0):
        for rows in torch.randperm(32, generator=torch.Generator().manual_seed(k)).split(8)[start:]:
            if self.stop_at is not None and self.served >= self.stop_at:
                raise KeyboardInterrupt
            self.served += 1
            yield {"rgb": self.images[rows], "index": rows, "target": rows % 4}


def network(seed):
    torch.manual_seed(seed)
    module = nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 6, 3),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(6, 4),
    )
    return Network(module, taps=Taps(embedding="6", maps=("2", "4")), preprocess=Preprocess((0.5,) * 3, (0.25,) * 3))


def spec():
    return RepresentationSpec(4, 6, ((8, 4, 4), (6, 2, 2)))


def transfer(*objectives):
    torch.manual_seed(5)
    built = {cls.__name__.lower(): cls.build(cls.Options(), Setting(spec(), spec(), 32, None, 0)) for cls in objectives}
    return Transfer([network(7)], network(1), {"cross_entropy": CrossEntropy(), **built})


def train(fresh, run=None, data=None, **options):
    options = {"epochs": 2, "lr": 0.05, "initial_epochs": 2, "checkpoint_every_steps": 1, **options}
    return fit(fresh, data or Batches(), None, TrainConfig(**options), run=run, progress=False)


def copied(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


def moved(module, before):
    return {name for name, value in module.state_dict().items() if not torch.equal(value, before[name])}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_paraphraser_learns_first_and_alone_then_stays(precision, monkeypatch, any_precision):
    fresh = transfer(Factor)
    student, objective = fresh.student, fresh.terms["factor"].objectives[0]
    seen = {}
    enter = type(fresh).enter

    def spied(self, stage, batch):
        seen[stage] = (copied(student), copied(objective))
        enter(self, stage, batch)

    monkeypatch.setattr(type(fresh), "enter", spied)
    result = train(fresh, precision=precision)
    assert not moved(student, seen["initial"][0]) - moved(student, seen["main"][0])
    first_stage = {name for name, value in seen["main"][1].items() if not torch.equal(value, seen["initial"][1][name])}
    assert {name.split(".")[0] for name in first_stage} == {"paraphraser", "decoder"}
    assert {name.split(".")[0] for name in moved(objective, seen["main"][1])} == {"translator"}
    assert moved(student, seen["main"][0])
    assert all(torch.equal(seen["initial"][0][name], value) for name, value in seen["main"][0].items())
    assert [row.get("stage") for row in result.history] == ["initial", "initial", None, None]
    assert (
        set(result.history[0]) >= {"factor"}
        and "cross_entropy" not in result.history[0]
        and "cross_entropy" in result.last
    )


@pytest.mark.parametrize("objective", [AB, FSP])
def test_the_encoder_learns_first_and_the_classifier_after_it(objective):
    fresh = transfer(objective)
    before = copied(fresh.student)
    fresh.enter("initial", next(Batches().epoch(0)))
    assert not fresh.student.module[7].weight.requires_grad and fresh.student.module[0].weight.requires_grad
    result = train(fresh)
    assert {"module.0.weight", "module.7.weight"} <= moved(fresh.student, before)
    assert fresh.student.module[7].weight.requires_grad
    assert (
        result.last["loss"] == pytest.approx(result.last["cross_entropy"])
        and type(fresh.terms[objective.__name__.lower()].objectives[0]).only_initial
    )


@pytest.mark.parametrize("stop_at", [3, 8, 10, 14])
def test_a_run_stopped_in_either_stage_ends_with_the_same_bits(tmp_path, stop_at):
    whole = transfer(AB, Factor)
    train(whole, Run(tmp_path / "whole"))
    stopped = transfer(AB, Factor)
    with pytest.raises(KeyboardInterrupt):
        # Two batches are looked at to begin each stage.
        train(stopped, Run(tmp_path / "stopped"), Batches(stop_at=stop_at))
    resumed = transfer(AB, Factor)
    resumed_rows = train(resumed, Run(tmp_path / "stopped")).history
    assert not moved(whole, copied(resumed))
    assert [row["epoch"] for row in resumed_rows] == [0, 1, 2, 3]


def test_the_rate_of_each_stage():
    config = TrainConfig(epochs=10, lr=0.1, initial_lr=0.3, milestones=(0.5,))
    rates = [learning_rate(config, step, 4, initial_epochs=2) for step in (0, 7, 8, 27, 28)]
    assert rates == pytest.approx([0.3, 0.3, 0.1, 0.1, 0.01])
    assert learning_rate(TrainConfig(epochs=10, lr=0.1), 0, 4, initial_epochs=2) == 0.1


def test_a_weight_that_rises():
    term = Term(CrossEntropy(), 2.0, warmup=0.25)
    assert [term.weight_at(share) for share in (0, 0.125, 0.25, 1)] == [0, 1, 2, 2]
    assert Term(CrossEntropy(), 2.0).weight_at(0) == 2


def test_a_rising_weight_is_what_the_loss_has():
    fresh = Transfer([], network(1), {"cross_entropy": Term(CrossEntropy(), 2.0, warmup=0.5)})
    batch = next(Batches().epoch(0))
    full, fresh.progress = fresh.eval()(batch).loss, 0.125
    assert fresh(batch).loss.item() == pytest.approx(full.item() / 4)


def test_stages_that_make_no_sense_are_refused():
    with pytest.raises(UsageError, match="ab has an initial stage only"):
        Transfer([network(7)], network(1), {"ab": AB([(8, 8)], ((0, 0),))})
    with pytest.raises(UsageError, match="none of cross_entropy has an initial stage"):
        train(Transfer([], network(1), {"cross_entropy": CrossEntropy()}))


@pytest.fixture
def any_precision():
    """Accelerate allows one precision a process."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def outputs_of(seed, *shapes):
    generator = torch.Generator().manual_seed(seed)
    return Representation(
        maps=tuple(torch.randn(*shape, dtype=torch.float64, generator=generator).clamp_min(-0.3) for shape in shapes)
    )


def learning(representation):
    for value in representation.maps:
        value.requires_grad_(True)
    return representation


def check(objective: Objective, ours, naive, student):
    values = [*student.maps, *(parameter for parameter in objective.parameters())]
    torch.testing.assert_close(ours, naive, rtol=1e-11, atol=1e-13)
    gradients = [torch.autograd.grad(loss, values, retain_graph=True, allow_unused=True) for loss in (ours, naive)]
    for one, other in zip(*gradients, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


def test_ab_is_the_naive_one():
    objective = AB([(3, 4), (2, 3)], pairs=((0, 0), (1, 1)), margin=0.7).double()
    student, teacher = learning(outputs_of(0, (3, 3, 4, 4), (3, 2, 2, 2))), outputs_of(1, (3, 4, 4, 4), (3, 3, 4, 4))
    naive = 0.0
    for place, factor in ((0, 0.5), (1, 1.0)):
        response = objective.connectors[place](student.maps[place])
        other = (
            teacher.maps[place]
            if place == 0
            else teacher.maps[place].unflatten(2, (2, 2)).unflatten(4, (2, 2)).mean((3, 5))
        )
        for b in range(3):
            for r, t in zip(response[b].flatten(), other[b].flatten(), strict=True):
                if t > 0 and r < 0.7:
                    naive = naive + factor * (r - 0.7) ** 2
                if t <= 0 and r > -0.7:
                    naive = naive + factor * (r + 0.7) ** 2
    check(objective, objective(student, teacher, {}), 3e-3 * naive / 3, student)


def test_fsp_is_the_naive_one():
    student, teacher = (
        learning(outputs_of(0, (2, 3, 4, 4), (2, 2, 2, 2), (2, 2, 2, 2))),
        outputs_of(1, (2, 3, 4, 4), (2, 2, 4, 4), (2, 2, 2, 2)),
    )

    def matrices(maps):
        epochs_seen = []
        for one, other in zip(maps, maps[1:], strict=False):
            side = min(one.shape[2], other.shape[2])
            one, other = (torch.nn.functional.adaptive_avg_pool2d(value, side) for value in (one, other))
            epochs_seen.append([[[sum(one[b, i, h, w] * other[b, j, h,
                w] for h in range(side) for w in range(side)) / side**2 for j in range(2)]
                           for i in range(one.shape[1])] for b in range(2)])  # fmt: skip
        return epochs_seen

    naive = 0.0
    for ours, theirs in zip(matrices(student.maps), matrices(teacher.maps), strict=True):
        for b in range(2):
            entries = [(ours[b][i][j] - theirs[b][i][j]) ** 2 for i in range(len(ours[b])) for j in range(2)]
            naive = naive + sum(entries) / len(entries) / 2
    objective = FSP(3)
    check(objective, objective(student, teacher, {}), naive, student)


def test_factor_is_the_naive_one():
    torch.manual_seed(0)
    objective = Factor(3, 4, rate=0.5, pair=(0, 0)).double()
    student, teacher = learning(outputs_of(0, (2, 3, 4, 4))), outputs_of(1, (2, 4, 4, 4))
    code = objective.paraphraser(teacher.maps[0])
    assert code.shape == (2, 2, 4, 4)
    again = objective.decoder(code)
    naive = sum((a - b) ** 2 for a, b in zip(again.flatten(), teacher.maps[0].flatten(), strict=True)) / again.numel()
    check(objective, objective.initial(student, teacher, {}), naive, student)
    naive = 0.0
    for b in range(2):
        sides = [objective.translator(student.maps[0])[b].flatten(), code[b].flatten()]
        ours, theirs = ([value / sum(v**2 for v in side).sqrt() for value in side] for side in sides)
        naive = naive + sum((a - c).abs() for a, c in zip(ours, theirs, strict=True)) / len(ours) / 2
    check(objective, objective(student, teacher, {}), naive, student)


def test_what_does_not_fit_is_refused():
    bare, other = RepresentationSpec(4, 6, ()), RepresentationSpec(4, 6, ((16, 4, 4), (6, 2, 2)))
    for objective in (AB, Factor):
        with pytest.raises(UsageError, match="the teacher has none"):
            objective.build(objective.Options(), Setting(spec(), bare, 32, None, 0))
    with pytest.raises(UsageError, match=r"same channels, and the student's have \[8, 6\], the teacher's \[16, 6\]"):
        FSP.build(FSP.Options(), Setting(spec(), other, 32, None, 0))
    with pytest.raises(UsageError, match="compares 3 maps, and the student has 2"):
        FSP.build(FSP.Options(count=3), Setting(spec(), spec(), 32, None, 0))


@pytest.mark.parametrize("kind", [Factor, AB, FSP])
def test_one_teacher_a_step_is_drawn_after_the_initial_stage(kind):
    torch.manual_seed(5)
    setting = Setting(spec(), spec(), 32, None, 0)
    objectives = kind.build_each(kind.Options(), [setting] * 2)
    both = Transfer(
        [network(7), network(8)],
        network(1),
        {
            "cross_entropy": CrossEntropy(),
            "it": Term(objectives, rule=Random(3)),
            "kd": Term([KD(), KD()], rule=Random()),
        },
    )
    batch = next(Batches().epoch(0))
    both.enter("initial", batch)
    output = both(batch)
    assert both.terms["it"].rule.steps == both.terms["kd"].rule.steps == 0
    student = both.student(batch, both.student_needs)
    shown = [teacher(batch, both.teacher_needs) for teacher in both.teachers]
    losses = [one.initial(student, teacher, batch) for one, teacher in zip(objectives, shown, strict=True)]
    torch.testing.assert_close(output.loss, sum(losses))
    both.enter("main", batch)
    assert both(batch).loss.isfinite() and sum(one is not None for one in both.teacher_outputs(batch)) <= 2
