"""Tensors of every kind that a loop of a user's own can hand to a loss: it computes what is meant, or refuses."""

import math

import numpy as np
import pytest
import torch

from contrastill import (
    AB,
    DIST,
    KD,
    MLKD,
    NST,
    VID,
    WTTM,
    Attention,
    CRDLoss,
    CrossEntropy,
    DenseCRD,
    FreshCRDLoss,
    Representation,
    UsageError,
)
from contrastill.core.representation_spec import RepresentationSpec
from contrastill.core.value_scale import note_once
from helpers.plain_losses import BATCH, PAIR, SAMPLES, losses, outputs

NAMES = sorted(losses())
BANKS = {"crd": CRDLoss, "fresh_crd": FreshCRDLoss}
SMALL = {"num_samples": SAMPLES, "num_negatives": 2, "embed_dim": 4}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", NAMES)
def test_sides_of_other_precisions(name, dtype):
    student, teacher = outputs(), outputs()
    expected = _value(name, student, teacher)
    tolerance = 1e-4 if dtype == torch.float64 else 0.15
    for cast in ((student.map(lambda x: x.to(dtype)), teacher), (student, teacher.map(lambda x: x.to(dtype)))):
        assert _value(name, *cast) == pytest.approx(expected, rel=tolerance, abs=tolerance / 10)


def _value(name, student, teacher):
    torch.manual_seed(0)
    student = student.map(lambda x: x.detach().requires_grad_())
    loss = losses()[name](student, teacher, **BATCH)
    loss.backward()
    grads = [each.grad for each in student.tensors() if each.grad is not None]
    assert grads and all(each.isfinite().all() for each in grads)
    return loss.item()


@pytest.mark.parametrize("name", NAMES)
def test_a_loss_in_float64_stays_in_it(name):
    loss = losses()[name].double()
    value = loss(outputs().map(torch.Tensor.double), outputs().map(torch.Tensor.double), **BATCH)
    assert value.dtype == torch.float64 or name in ("crd", "fresh_crd", "infonce", "dense_crd")


def test_half_logits_with_labels_are_compared_in_float32():
    logits = torch.tensor([[0.0, 12.0]]).half().requires_grad_()
    loss = CrossEntropy()(logits, target=torch.tensor([1]))
    assert loss.dtype == torch.float32 and loss.item() == pytest.approx(math.log1p(math.exp(-12)), rel=1e-2)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x.to_sparse(), "torch.sparse_coo: pass dense ones"),
        (lambda x: torch.nested.nested_tensor([*x.detach()]), r"nested \(torch.nested\): pass dense ones"),
        (lambda x: x[:, :, :0] if x.ndim == 4 else x[:, :0], "without a value"),
        (lambda x: x.to(torch.complex64), "pass floating-point numbers"),
    ],
)
def test_tensors_without_numbers_to_compare(name, change, message):
    for student, teacher in ((outputs().map(change), outputs()), (outputs(), outputs().map(change))):
        with pytest.raises(UsageError, match=message):
            losses()[name](student, teacher, **BATCH)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("name", BANKS)
def test_banks_take_floating_point_embeddings_alone(name):
    loss, right, index = BANKS[name](4, 4, **SMALL), torch.randn(SAMPLES, 4), BATCH["index"]
    changes = [torch.Tensor.long, lambda x: x > 0, lambda x: x.to(torch.complex64), torch.Tensor.to_sparse]
    for change in changes:
        for student, teacher in ((change(right), right), (right, change(right))):
            with pytest.raises(UsageError, match="an embedding is torch"):
                loss(student, teacher, index)
    with pytest.raises(UsageError, match="an embedding is nested"):
        loss(right, torch.nested.nested_tensor([*right]), index)
    with pytest.raises(UsageError, match="embeddings are on meta and the loss on cpu: move both to one device"):
        loss(right, right.to("meta"), index)
    assert loss(right, right, index.int()).isfinite()


@pytest.mark.parametrize("name", ["correlation", "infonce", "fitnet", "vid", "review", "dense_crd", "agglomerate"])
def test_outputs_on_another_device_than_the_weights(name):
    far = outputs().map(lambda x: x.to("meta"))
    with pytest.raises(UsageError, match="has weights on cpu, and outputs are on meta: move it there"):
        losses()[name](far, far, **BATCH)


@pytest.mark.parametrize("build", [Attention, NST])
def test_maps_that_meet_at_one_position_have_no_places_to_compare(build):
    small = Representation(maps=(torch.rand(SAMPLES, 3, 1, 1),))
    large = Representation(maps=(torch.rand(SAMPLES, 3, 4, 4),))
    for student, teacher in ((small, large), (large, small)):
        with pytest.raises(UsageError, match="all of these meet at a single position"):
            build(PAIR)(student, teacher)
    from contrastill.core.objective import Setting

    spec = RepresentationSpec(5, 4, ((3, 1, 1),))
    with pytest.raises(UsageError, match="all of these meet at a single position"):
        build.build(build.Options(), Setting(spec, spec, SAMPLES, None, 0))


def test_a_teacher_that_is_nan_is_refused_by_every_loss():
    for name in NAMES:
        if name == "agglomerate":  # has a message of its own
            continue
        with pytest.raises(UsageError, match="as the teacher's .* holds? infinite or NaN values"):
            losses()[name](outputs(), outputs().map(lambda x: x * math.nan), **BATCH)


@pytest.mark.parametrize(("dim", "channels"), [(1, 3), (4, 1)])
def test_heads_meet_the_dimensions_that_they_were_built_for(dim, channels):
    from contrastill.ensemble.adaptors import Adaptor
    from contrastill.ensemble.agglomerate import Agglomerate

    loss = Agglomerate(Adaptor(summary=(4, 4), dense=(3, 3)))
    assert loss(outputs(), outputs()).isfinite()
    with pytest.raises(UsageError, match="Agglomerate was built for"):
        loss(outputs(dim=dim, channels=channels), outputs())


@pytest.mark.parametrize("name", ["cross_entropy", "dkd"])
def test_labels_of_other_integers(name):
    def value(target):
        torch.manual_seed(0)
        student = outputs()
        loss = CrossEntropy() if name == "cross_entropy" else losses()[name]
        return loss(student.logits, *([outputs().logits] if loss.needs_teacher else []), target=target)

    assert value(BATCH["target"].int()) == value(BATCH["target"])
    with pytest.raises(UsageError, match="target is torch.complex64"):
        value(BATCH["target"].to(torch.complex64))
    with pytest.raises(UsageError, match="target is on meta and the student's logits are on cpu"):
        value(BATCH["target"].to("meta"))


def test_cross_entropy_without_a_label_or_without_classes():
    logits = torch.randn(2, 5)
    with pytest.raises(UsageError, match="no sample of the batch has a label, all are -100"):
        CrossEntropy()(logits, target=torch.tensor([-100, -100]))
    with pytest.raises(UsageError, match="it has one, which is always sure"):
        CrossEntropy()(logits[:, :1], target=torch.tensor([0, 0]))
    with pytest.raises(UsageError, match=r"logits have shape \(2,\): pass \(B, C\)"):
        CrossEntropy()(logits[:, 0], target=torch.tensor([0, 0]))
    with pytest.raises(UsageError, match="rows of target are not negative and sum to 1"):
        CrossEntropy()(logits, target=torch.full((2, 5), math.nan))
    with pytest.raises(UsageError, match=r"mixed_share has shape \(2, 1\): pass one share of each sample, \(2,\)"):
        target = torch.tensor([0, 1])
        CrossEntropy()(logits, target=target, partner_target=target.flip(0), mixed_share=torch.rand(2, 1))


@pytest.mark.parametrize(("name", "field"), [("infonce", "target"), ("dense_crd", "target"), ("dense_crd", "index")])
def test_negative_numbers_are_of_no_sample(name, field):
    with pytest.raises(UsageError, match=rf"{name}: {field} has -1: samples and classes are counted from 0"):
        losses()[name](outputs(), outputs(), **{**BATCH, field: BATCH[field] - 1})
    with pytest.raises(UsageError, match=rf"{name}: {field} is torch.complex64"):
        losses()[name](outputs(), outputs(), **{**BATCH, field: BATCH[field].to(torch.complex64)})


@pytest.mark.parametrize(
    "build",
    [
        lambda: KD(temperature=torch.tensor(0.0)),
        lambda: KD(temperature=np.float32(-1)),
        lambda: MLKD(temperatures=[2.0, 0.0]),
        lambda: MLKD(temperatures=(math.nan,)),
        lambda: MLKD(temperatures=()),
        lambda: CRDLoss(4, 4, temperature=math.inf, **SMALL),
        lambda: FreshCRDLoss(4, 4, temperature=math.inf, **SMALL),
        lambda: CRDLoss(4, 4, bias=math.nan, **SMALL),
        lambda: CRDLoss(4, 4, targets=torch.tensor([1, 2]).to(torch.complex64)),
        lambda: DenseCRD([(3, 3)], pairs=PAIR, negatives_from="others"),
        lambda: DenseCRD([(3, 3)], (4, 4), pairs=PAIR, pairing="global"),
    ],
)
def test_options_that_cannot_work(build):
    with pytest.raises(UsageError):
        build()


@pytest.mark.parametrize("build", [lambda: Attention(()), lambda: NST([]), lambda: AB([], ()), lambda: VID([], ())])
def test_no_pairs_of_maps(build):
    with pytest.raises(UsageError, match="compares no maps: name"):
        build()(outputs(), outputs())


@pytest.mark.parametrize("loss", [KD(), DIST(), WTTM(), CrossEntropy()])
def test_probabilities_where_logits_are_read_have_a_line(loss, caplog):
    note_once.cache_clear()
    logits = torch.randn(4, 5, generator=torch.Generator().manual_seed(0))
    for values, sides in ((logits, []), (logits.softmax(1), ["student", "teacher"])):
        fresh = type(loss)()
        given = (values, values)[: 1 + fresh.needs_teacher]
        for _ in range(2):  # once for each objective
            fresh(*given, **({} if fresh.needs_teacher else {"target": torch.arange(4)}))
        lines = [line for line in caplog.messages if "are probabilities" in line]
        assert [f"the {side}'s are" in line for side, line in zip(sides, lines, strict=False)] == [True] * len(lines)
        assert len(lines) == len(sides[: len(given)])
