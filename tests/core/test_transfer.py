"""Transfer: the weighted sum over objectives and teachers, what it reads, what it leaves alone."""

import pytest
import torch
from torch import nn

from contrastill.core.errors import ContrastillError, UsageError
from contrastill.core.objective import Objective
from contrastill.core.representation import Network, Preprocess, Taps
from contrastill.core.term import Term
from contrastill.core.transfer import Transfer
from contrastill.objectives.cross_entropy import CrossEntropy
from contrastill.objectives.kd import KD


def network(seed, classes=5):
    torch.manual_seed(seed)
    module = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, classes),
    )
    return Network(
        module, taps=Taps(embedding="4", maps=("2",)), preprocess=Preprocess(mean=(0.5,) * 3, std=(0.25,) * 3)
    )


def batch(size=4):
    generator = torch.Generator().manual_seed(9)
    images = torch.randint(256, (size, 3, 8, 8), dtype=torch.uint8, generator=generator)
    return {"rgb": images, "index": torch.arange(size), "target": torch.arange(size) % 5}


class Hint(Objective):
    """Squared distance of the embeddings, for these tests."""

    needs = frozenset({"embedding"})

    def __init__(self):
        super().__init__()
        self.project = nn.Linear(4, 4)

    def forward(self, student, teacher, batch):
        assert student.logits is None and teacher.logits is None, "nothing that is not read is computed"
        return (self.project(student.embedding) - teacher.embedding).square().mean()


def test_the_loss_is_the_weighted_sum_over_objectives_and_teachers():
    teachers, student = [network(1), network(2)], network(3)
    transfer = Transfer(
        teachers, student, {"cross_entropy": Term(CrossEntropy(), 0.1), "kd": Term([KD(), KD(temperature=2.0)], 0.9)}
    )
    output = transfer(batch())
    alone = [
        Transfer([teacher], student, {"kd": Term(KD(temperature=t), 1.0)})(batch()).loss
        for teacher, t in zip(teachers, (4.0, 2.0), strict=True)
    ]
    torch.testing.assert_close(output.terms["kd"], sum(alone).detach())
    torch.testing.assert_close(output.loss, 0.1 * output.terms["cross_entropy"] + 0.9 * output.terms["kd"])


def test_a_bare_objective_has_its_published_weight():
    assert Transfer([network(1)], network(2), {"kd": KD()}).terms["kd"].weight == 0.9


def test_teachers_stay_frozen_whatever_train_is_called():
    transfer = Transfer([network(1)], network(2), {"kd": KD()}).train()
    before = {name: value.clone() for name, value in transfer.teachers.state_dict().items()}
    student_before = transfer.student.module[1].running_mean.clone()
    transfer(batch()).loss.backward()
    assert not any(module.training for teacher in transfer.teachers for module in teacher.modules())
    assert all(torch.equal(value, before[name]) for name, value in transfer.teachers.state_dict().items())
    assert all(parameter.grad is None for parameter in transfer.teachers.parameters())
    assert not torch.equal(transfer.student.module[1].running_mean, student_before)


def test_only_what_is_read_is_computed_and_trained():
    transfer = Transfer([network(1)], network(2), {"hint": Hint()}).train()
    statistics = transfer.student.module[1].running_mean.clone()
    state = torch.get_rng_state()
    assert transfer.freeze_unread(batch(2)) == ["5.weight", "5.bias"]
    assert torch.equal(transfer.student.module[1].running_mean, statistics) and torch.equal(
        torch.get_rng_state(), state
    )
    assert transfer.student.training
    transfer(batch()).loss.backward()
    assert all(parameter.grad is not None for parameter in transfer.parameters() if parameter.requires_grad)


def test_the_trained_state_holds_student_and_heads_but_no_teacher():
    transfer = Transfer([network(1)], network(2), {"hint": Hint()})
    state = transfer.trained_state()
    assert not any(name.startswith("teachers.") for name in state)
    assert "terms.hint.objectives.0.project.weight" in state
    other = Transfer([network(1)], network(5), {"hint": Hint()})
    other.load_trained_state(state)
    torch.testing.assert_close(other(batch()).loss, transfer(batch()).loss)
    with pytest.raises(ContrastillError, match="another transfer: terms.hint.* is in it alone; give the networks"):
        Transfer([network(1)], network(5), {"kd": KD()}).load_trained_state(state)
    name = "student.module.5.bias"
    with pytest.raises(ContrastillError, match=rf"transfer: {name} has \(9,\) values there and \(\d+,\) here; give"):
        other.load_trained_state({**state, name: torch.zeros(9)})


def test_what_cannot_work_is_refused():
    with pytest.raises(UsageError, match="at least one objective"):
        Transfer([], network(1), {})
    with pytest.raises(UsageError, match="kd compares with a teacher"):
        Transfer([], network(1), {"kd": KD()})
    with pytest.raises(UsageError, match="built for 1 teachers, and there are 2"):
        Transfer([network(1), network(2)], network(3), {"kd": KD()})
