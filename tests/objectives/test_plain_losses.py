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


CLASSWISE = ["KD", "DKD", "DIST", "MLKD", "WTTM"]
DENSE = ["DenseKD", "PseudoLabels", "CWD", "DenseRegression"]
ALIKE = [*CLASSWISE, *DENSE, "RKD", "PKT", "Similarity", "Attention"]


def of_objective(name, samples=6, classes=5):
    """An objective built without arguments but what it has no default for, and outputs of the part that it reads."""
    loss = getattr(contrastill, name)(*([((-1, -1),)] if name in ("Similarity", "Attention") else []))
    (part,) = loss.needs
    shape = {"logits": (samples, classes), "embedding": (samples, 4), "maps": (samples, 3, 4, 4)}
    shape = {**shape, "prediction": (samples, classes, 4, 4)}[part]
    return loss, torch.randn(shape)


@pytest.mark.parametrize("name", ALIKE)
def test_outputs_of_other_samples_are_never_broadcast(name):
    loss, outputs = of_objective(name)
    fields = {"target": TARGET}
    loss(outputs, outputs, **fields)
    wrong = [
        (outputs[:1], "1 samples and the student's of 6"),
        (outputs[:0], "of no samples"),
        (outputs.long(), "int64: pass floating-point"),
        (outputs.to("meta"), "on meta and the student's on cpu"),
        (outputs.numpy(), "type ndarray: pass tensors"),
        (None, "no outputs of the teacher"),
    ]
    for teacher, message in wrong:
        with pytest.raises(UsageError, match=message):
            loss(outputs, teacher, **fields)
    with pytest.raises(UsageError, match="ha(ve|s) shape"):
        loss(outputs[None], outputs[None], **fields)
    for precision in (torch.bfloat16, torch.float16):
        assert loss(outputs.to(precision), outputs.to(precision), **fields).isfinite()


@pytest.mark.parametrize("name", CLASSWISE)
def test_logits_of_other_classes_are_refused(name):
    loss, outputs = of_objective(name)
    for classes in (1, 4):
        with pytest.raises(UsageError, match="softmax|compares logits class by class"):
            loss(outputs, outputs[:, :classes], target=TARGET)


@pytest.mark.parametrize("name", CLASSWISE)
@pytest.mark.parametrize("value", [-1.0, 0.0, float("nan"), float("inf")])
def test_temperatures_of_a_constructor_are_those_of_a_config(name, value):
    entry = getattr(contrastill, name)
    key = next((key for key in ("temperature", "alpha") if key in entry.Options.model_fields), None)
    if key is None or (key == "alpha" and value == 0):
        pytest.skip("no such option")
    with pytest.raises(UsageError, match=rf"{name}\({key}="):
        entry(**{key: value})


@pytest.mark.parametrize("loss", [DKD(), CrossEntropy()], ids=["dkd", "cross_entropy"])
@pytest.mark.parametrize(
    ("target", "message"),
    [
        (TARGET.float(), "float32: pass the number of each sample's class"),
        (nn.functional.one_hot(TARGET), r"shape \(6, 5\)"),
        (TARGET[:1], r"shape \(1,\)"),
        (TARGET + 1, "class 5, .* are of the classes 0 to 4: give the student as many outputs as there are classes"),
        (TARGET - 1, "class -1, .* of the classes 0 to 4: leave out samples without a class, or number the classes"),
        (TARGET.tolist(), "target is list"),
    ],
)
def test_labels_that_are_no_classes_of_the_samples(loss, target, message):
    teacher = LOGITS[1] if loss.needs_teacher else None
    with pytest.raises(UsageError, match=message):
        loss(LOGITS[0], teacher, target=target)


def test_cross_entropy_takes_probabilities_and_ignored_labels():
    certain = nn.functional.one_hot(TARGET).double()
    torch.testing.assert_close(CrossEntropy()(LOGITS[0], target=certain), CrossEntropy()(LOGITS[0], target=TARGET))
    ignored = torch.where(TARGET == 0, -100, TARGET)
    expected = nn.functional.cross_entropy(LOGITS[0], ignored)
    assert CrossEntropy()(LOGITS[0], target=ignored).equal(expected)
    with pytest.raises(UsageError, match="class -100"):
        DKD()(*LOGITS, target=ignored)


def test_labels_in_the_teachers_place():
    with pytest.raises(UsageError, match=r"reads no teacher: pass labels by name, CrossEntropy\(\)\(logits, target"):
        CrossEntropy()(LOGITS[0], TARGET)
