"""Objectives as plain losses in a training loop of one's own: tensors in, the same numbers as through the transfer."""

import pytest
import torch
from torch import nn

import contrastill
from contrastill import DKD, KD, NST, PKT, RKD, VID, Attention, CrossEntropy, FitNet, InfoNCE, Representation, Review
from contrastill.core.errors import UsageError

DRAW = torch.Generator().manual_seed(0)
LOGITS = [torch.randn(6, 5, generator=DRAW, dtype=torch.float64, requires_grad=True) for _ in range(2)]
ROWS = [torch.randn(6, 4, generator=DRAW, dtype=torch.float64, requires_grad=True) for _ in range(2)]
MAPS = [[torch.randn(6, 3, size, size, generator=DRAW, dtype=torch.float64) for size in (8, 4)] for _ in range(2)]
TARGET = torch.arange(6) % 5


@pytest.mark.parametrize(
    ("loss", "part", "values", "fields"),
    [
        (KD(temperature=2.0), "logits", LOGITS, {}),
        (DKD(), "logits", LOGITS, {"target": TARGET}),
        (RKD(), "embedding", ROWS, {}),
        (PKT(), "embedding", ROWS, {}),
        (NST([(0, 0), (1, 1)]), "maps", MAPS, {}),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_tensors_are_the_part_that_the_objective_reads(loss, part, values, fields):
    student, teacher = values
    wrapped = [Representation(**{part: tuple(value) if part == "maps" else value}) for value in values]
    expected = loss(*wrapped, fields)
    assert loss(student, teacher, **fields).equal(expected) and loss(student, teacher, fields).equal(expected)
    assert expected.ndim == 0 and expected > 0


def test_a_single_map_is_a_list_of_one():
    student, teacher = MAPS[0][0], MAPS[1][0]
    loss = NST([(0, 0)])
    assert loss(student, teacher).equal(loss([student], [teacher]))


def test_labels_alone_need_no_teacher():
    expected = nn.functional.cross_entropy(LOGITS[0], TARGET)
    torch.testing.assert_close(CrossEntropy()(LOGITS[0], target=TARGET), expected, rtol=1e-12, atol=0)


def test_a_loop_of_ones_own_learns():
    torch.manual_seed(0)
    student, teacher, inputs = nn.Linear(4, 3), nn.Linear(4, 3), torch.randn(32, 4)
    loss, optimizer = KD(temperature=1.0), torch.optim.SGD(student.parameters(), lr=1.0)
    losses = []
    for _ in range(20):
        losses.append(loss(student(inputs), teacher(inputs).detach()))
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < 0.3 * losses[0]


def test_an_objective_of_two_parts_asks_for_a_representation():
    review = Review.__new__(Review)
    nn.Module.__init__(review)
    with pytest.raises(UsageError, match=r"reads embedding and maps of the student: pass contrastill.Representation\("):
        review(LOGITS[0], LOGITS[1])
    with pytest.raises(UsageError, match="KD reads logits of the student: pass contrastill.Representation"):
        KD()([LOGITS[0]], LOGITS[1])


def test_every_objective_is_offered_by_name():
    offered = {getattr(contrastill, name) for name in contrastill.__all__ if name != "__version__"}
    wrapped = {"crd", "fresh_crd", "agglomerate"}  # CRDLoss and FreshCRDLoss are these two without a config
    assert {name for name, entry in contrastill.OBJECTIVES.items() if entry not in offered} == wrapped
    assert {Attention, FitNet, InfoNCE, VID} <= offered
