"""How much a teacher's logits say beyond the labels: measured against loops in float64, over processes and resumed
runs; KD and WTTM weighed by it.
"""

import math
from contextlib import suppress

import pytest
import torch
from safetensors.torch import load_file

from contrastill.cli.main import main
from contrastill.core.config.loading import load_config
from contrastill.core.representation import Representation
from contrastill.core.run import Run
from contrastill.core.term import Term
from contrastill.ensemble.rules import Average
from contrastill.objectives.doubt import doubt_scale, mean_doubt
from contrastill.objectives.kd import KD
from contrastill.objectives.wttm import WTTM
from contrastill.training import engine
from contrastill.training.assemble import assemble
from contrastill.training.data import open_loader, open_split


def prepared(config):
    """The transfer of a config as the first step finds it."""
    parts = assemble(config)
    parts.transfer.prepare(parts.train)
    return parts.transfer


class Outputs:
    """Kept logits."""

    cached = True

    def __init__(self, logits):
        self.logits, self.asked = logits, []

    def sample(self, needs):
        self.asked.append(set(needs))
        return Representation(logits=self.logits)


def drawn(*shape, seed=0, scale=3.0):
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def naive_doubt(logits):
    total = 0.0
    for row in logits.tolist():
        powers = [math.exp(value) for value in row]
        total += 1 - max(powers) / sum(powers)
    return total / len(logits)


def test_doubt_is_one_minus_the_mean_largest_probability():
    logits = drawn(7, 5)
    assert mean_doubt(logits) == pytest.approx(naive_doubt(logits), rel=1e-12)
    assert mean_doubt(logits.half()) == pytest.approx(naive_doubt(logits.half().double()), rel=1e-5)
    assert mean_doubt(torch.zeros(2, 8)) == pytest.approx(7 / 8) and mean_doubt(1e4 * torch.eye(3)) == 0


def test_the_scale_is_one_from_full_doubt_on_and_in_proportion_below():
    logits = drawn(9, 4)
    doubt = naive_doubt(logits)
    for full in (doubt * 0.3, doubt * 0.999):
        assert doubt_scale([Outputs(logits)], full) == (1.0, "")
    for share in (0.9, 0.5, 0.01):
        scale, note = doubt_scale([Outputs(logits)], doubt / share)
        assert scale == pytest.approx(share, rel=1e-10)
        assert note == f"× {share:.2g}, as the teacher's mean probability on training samples is {1 - doubt:.3f}"
    unread = Outputs(logits)
    assert doubt_scale([unread], 0.0) == (1.0, "") and unread.asked == []


@pytest.mark.parametrize("kind", [KD, WTTM])
def test_losses_and_gradients_are_scaled(kind):
    known, batch = drawn(6, 5, seed=1, scale=10.0), {}
    teacher = Representation(logits=drawn(4, 5, seed=2))
    full = naive_doubt(known) / 0.25
    assert full < 0.7

    def loss_and_gradient(objective):
        student = drawn(4, 5, seed=3).requires_grad_()
        losses = objective.per_sample(Representation(logits=student), teacher, batch)
        assert objective(Representation(logits=student), teacher, batch).item() == pytest.approx(losses.mean().item())
        losses.mean().backward()
        return losses.detach(), student.grad

    plain, scaled = kind(), kind(full_doubt=full)
    before = loss_and_gradient(scaled)
    outputs = Outputs(known)
    for objective in (plain, scaled):
        objective.prepare([outputs])
    assert (
        outputs.asked == [{"logits"}]
        and plain.note == ""
        and scaled.note.startswith("× 0.25, as the teacher's mean probability")
    )
    for value, expected, unprepared in zip(loss_and_gradient(scaled), loss_and_gradient(plain), before, strict=True):
        torch.testing.assert_close(value, 0.25 * expected, rtol=1e-10, atol=0)
        torch.testing.assert_close(unprepared, expected, rtol=0, atol=0)
    # Of a start that finds more doubt nothing of the one before is left.
    scaled.prepare([Outputs(drawn(6, 5, scale=0.1))])
    assert scaled.note == "" and loss_and_gradient(scaled)[0].equal(loss_and_gradient(plain)[0])


@pytest.mark.parametrize("kind", [KD, WTTM])
def test_of_averaged_teachers_the_doubt_is_that_of_their_mean_in_any_order(kind):
    known = [drawn(6, 5, seed=1, scale=10.0), drawn(6, 5, seed=4, scale=1.0)]
    read = [Representation(logits=drawn(4, 5, seed=seed)) for seed in (2, 5)]
    student = Representation(logits=drawn(4, 5, seed=3))
    losses, notes, scales = [], [], []
    for order in ([0, 1], [1, 0]):
        term = Term([kind(full_doubt=0.9) for _ in order], rule=Average())
        term.prepare([Outputs(known[number]) for number in order])
        losses.append(term(student, [read[number] for number in order], {}).item())
        notes.append(term.notes())
        scales += [objective.scale for objective in term.objectives]
    mean = torch.stack([(logits / 4).softmax(1) for logits in known]).mean(0)
    scale = naive_doubt(4 * mean.log()) / 0.9
    assert scales == pytest.approx([scale] * 4, rel=1e-6) and losses[0] == pytest.approx(losses[1], rel=1e-6)
    assert notes[0] == notes[1] and notes[0].startswith(f"× {scale:.2g}, as the teacher's mean probability")
    plain = Term([kind(), kind()], rule=Average())
    assert losses[0] == pytest.approx(scale * plain(student, read, {}).item(), rel=1e-6)


# In a run


@pytest.fixture(scope="module")
def settings(four_classes, tmp_path_factory):
    """A training of 2 epochs of 3 batches, a checkpoint every 2 steps, from teachers of different seeds."""
    root = tmp_path_factory.mktemp("teachers")
    for seed in (0, 1):
        command = [
            "train",
            "teachers/cifar100",
            f"data.path={four_classes}",
            "student.model=resnet8",
            f"train.epochs={1 + seed}",
            f"seed={seed}",
        ]
        assert main([*command, f"out={root / str(seed)}", "-q"]) == 0

    def given(*more, count=1):
        chosen = [f"teachers.{n}.{key}" for n in range(count) for key in ("model=resnet8", f"weights={root / str(n)}")]
        return ["compression/cifar100_crd", f"data.path={four_classes}", *chosen, "student.model=resnet8",
            "objectives.crd=null", "objectives.kd.weight=1",
                "objectives.kd.full_doubt=0.95", "objectives.wttm.full_doubt=0.9", "train.epochs=2",
                "train.batch_size=16", "train.checkpoint_every_steps=2",
                "train.evaluate_every=2", *more]  # fmt: skip

    return given


def test_each_of_several_teachers_has_its_own_scale(settings, tmp_path):
    scales = []
    for more in ([], ["train.views=2"]):
        name, *overrides = settings(f"out={tmp_path / 'run'}", *more, count=2)
        config = load_config(name, overrides)
        transfer = prepared(config)
        with torch.no_grad():
            outputs = [
                torch.cat([teacher(batch, {"logits"}).logits for batch in first_view(config)]).double()
                for teacher in transfer.teachers
            ]
        for term, full in (("kd", 0.95), ("wttm", 0.9)):
            measured = [objective.scale for objective in transfer.terms[term].objectives]
            assert measured == pytest.approx([min(1, naive_doubt(logits) / full) for logits in outputs], rel=1e-4)
        scales.append(measured)
        assert measured[0] != pytest.approx(measured[1], rel=1e-3)
        assert str(transfer).count("teacher 0: × 0.") == str(transfer).count("teacher 1: × 0.") == 2
    assert scales[0] == pytest.approx(scales[1], rel=1e-5)


@pytest.mark.parametrize("views", [[], ["train.views=2"]])
def test_with_mixup_it_is_measured_on_samples_that_are_not_mixed(views, settings, tmp_path):
    cache = [f"train.teacher_cache={tmp_path / 'cache'}"] if views else []
    scales = []
    for mixing in ([], ["train.mixup=1.0"], ["train.mixup=1.0"]):
        name, *overrides = settings(f"out={tmp_path / 'run'}", *views, *mixing, *(cache if mixing else []))
        parts = assemble(load_config(name, overrides))
        transfer, complete = parts.transfer, parts.transfer.source.complete
        transfer.prepare(parts.train)
        assert len(transfer.teachers) == (not complete)  # it is freed when it has been asked
        scales.append(transfer.terms["kd"].objectives[0].scale)
        for epoch in range(2 * bool(views)):
            transfer.source.start_epoch(epoch)
    assert scales == [pytest.approx(scales[0], rel=1e-5)] * 3 and 0 < scales[0] < 1
    assert complete == bool(views)  # the last one read what the one before wrote


def first_view(config):
    """The training samples in their first view."""
    return open_loader(
        open_split(config, "train"),
        ["rgb"],
        batch_size=16,
        train=True,
        device="cpu",
        seed=config.seed,
        views=config.train.views,
    ).in_order(0)


def test_a_run_that_died_goes_on_with_the_same_scale(settings, tmp_path, monkeypatch, capsys):
    assert main(["train", *settings(), f"out={tmp_path / 'whole'}"]) == 0
    expected = [line for line in capsys.readouterr().err.splitlines() if "samples; " in line]
    step, calls = engine._Training._step, []

    def dying(*arguments):
        calls.append(1)
        if len(calls) == 5:  # in the second epoch, a checkpoint behind
            raise KeyboardInterrupt
        return step(*arguments)

    monkeypatch.setattr(engine._Training, "_step", dying)
    with suppress(KeyboardInterrupt):
        assert main(["train", *settings(), f"out={tmp_path / 'died'}", "-q"]) != 0
    assert len(calls) == 5 and not (tmp_path / "died" / "student.safetensors").exists()
    capsys.readouterr()
    assert main(["train", *settings(), f"out={tmp_path / 'died'}"]) == 0
    assert [
        line for line in capsys.readouterr().err.splitlines() if "samples; " in line
    ] == expected and "× 0." in expected[0]
    one, two = (load_file(tmp_path / name / "student.safetensors") for name in ("whole", "died"))
    assert all(value.equal(two[name]) for name, value in one.items())
    rows = [[(row["kd"], row["wttm"]) for row in Run(tmp_path / name).history()] for name in ("whole", "died")]
    assert rows[0] == rows[1]


RANK = """
import sys, torch
from contrastill.core.config.loading import load_config
from contrastill.training.assemble import assemble
rank, folder, name, *overrides = int(sys.argv[1]), *sys.argv[3:]
for views in ([], ["train.views=2"]):
    parts = assemble(load_config(name, [*overrides, *views]))
    parts.transfer.prepare(parts.train)
    transfer = parts.transfer
    scales = [[objective.scale for objective in transfer.terms[term].objectives] for term in ("kd", "wttm")]
    torch.save((scales, str(transfer)), f"{folder}/{len(views)}-{rank}.pt")
torch.distributed.destroy_process_group()
"""


def test_two_processes_measure_what_one_does(ranks, settings, tmp_path):
    name, *overrides = settings(f"out={tmp_path / 'run'}", count=2)
    ranks(RANK, 2, tmp_path, name, *overrides)
    for views in ([], ["train.views=2"]):
        transfer = prepared(load_config(name, [*overrides, *views]))
        alone = [objective.scale for term in ("kd", "wttm") for objective in transfer.terms[term].objectives]
        both = [torch.load(tmp_path / f"{len(views)}-{rank}.pt", weights_only=True) for rank in (0, 1)]
        assert both[0] == both[1] and both[0][1] == str(transfer)
        assert [scale for term in both[0][0] for scale in term] == pytest.approx(alone, rel=1e-5)
