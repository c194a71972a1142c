"""What plain losses refuse: batches, maps, channels, labels and places that they cannot compare; and no gradient
reaches the teacher.
"""

import pytest
import torch

from contrastill import (
    CWD,
    DIST,
    DKD,
    OBJECTIVES,
    RKD,
    CRDLoss,
    DenseCRD,
    FitNet,
    FreshCRDLoss,
    Representation,
    UsageError,
)
from contrastill.core.crd.shared import SharedCRDLoss
from contrastill.objectives.crd import SharedCRD
from helpers.plain_losses import BATCH, SAMPLES, losses, outputs


def test_every_objective_with_a_teacher_is_here():
    assert {name for name, entry in OBJECTIVES.items() if entry.needs_teacher} == set(losses())


@pytest.mark.parametrize("name", losses())
@pytest.mark.parametrize("by_name", [True, False])
def test_no_gradient_reaches_the_teacher(name, by_name):
    torch.manual_seed(0)  # of three hidden channels, vid's ReLUs are all off for one start in ten
    loss, student, teacher = losses()[name], outputs(requires_grad=True), outputs(requires_grad=True)
    value = loss(student, teacher, **BATCH) if by_name else loss(student, teacher, BATCH)
    if any(parameter.requires_grad for parameter in loss.parameters()) or value.requires_grad:
        value.backward()
    assert all(each.grad is None for each in teacher.tensors())
    assert any(each.grad is not None and each.grad.any() for each in student.tensors())
    own = {key for key, parameter in loss.named_parameters() if parameter.grad is None}
    assert {key.partition(".")[0] for key in own} <= {"decoder"}  # of Factor, which learns in the initial stage


def test_joint_objectives_send_the_teachers_nothing():
    student, teacher = (torch.randn(SAMPLES, 4, requires_grad=True) for _ in range(2))
    options = {"num_samples": SAMPLES, "num_negatives": 2, "embed_dim": 4}
    shared = SharedCRD(SharedCRDLoss(4, [4, 4], **options))
    shared(Representation(embedding=student), [Representation(embedding=teacher)] * 2, BATCH).backward()
    assert teacher.grad is None and student.grad.any()
    assert all(parameter.grad is not None for parameter in shared.parameters())


@pytest.mark.parametrize("name", ["rkd", "pkt", "similarity", "correlation", "dist"])
def test_one_sample_has_no_relations(name):
    least = 3 if name == "rkd" else 2
    with pytest.raises(UsageError, match=rf"compares the samples of a batch .* needs {least} or more, and this one"):
        losses()[name](outputs(1), outputs(1))
    assert losses()[name](outputs(least), outputs(least)) > 0
    assert DIST(gamma=0)(outputs(1), outputs(1)) > 0


@pytest.mark.parametrize(
    "name", ["similarity", "attention", "nst", "fitnet", "factor", "vid", "ab", "review", "dense_crd"]
)
def test_maps_that_are_not_there(name):
    loss = losses()[name]
    if hasattr(loss, "pair"):
        loss.pair = (0, 2)
    else:
        loss.pairs = ((0, 2),)
    with pytest.raises(UsageError, match="compares map 2 of the teacher, which has 2, counted from 0"):
        loss(outputs(), outputs(), **BATCH)


@pytest.mark.parametrize(
    "name",
    ["correlation", "infonce", "fitnet", "factor", "vid", "ab", "review", "dense_crd", "fsp", "crd", "fresh_crd"],
)
def test_channels_that_it_was_not_built_for(name):
    for student, teacher in ((outputs(), outputs(channels=2, dim=3)), (outputs(channels=2, dim=3), outputs())):
        with pytest.raises(UsageError, match="was built for|of the same channels|embedding"):
            losses()[name](student, teacher, **BATCH)


@pytest.mark.parametrize(("name", "field"), [("infonce", "target"), ("dense_crd", "target"), ("dense_crd", "index"),
                                             ("crd", "index"), ("fresh_crd", "index")])  # fmt: skip
def test_labels_and_places_that_are_not_of_the_samples(name, field):
    wrong = [BATCH[field][:1], BATCH[field].float(), BATCH[field][:, None], BATCH[field].tolist(), BATCH[field] > 2]
    for value in wrong:
        with pytest.raises(UsageError, match=f"{name}: {field} "):
            losses()[name](outputs(), outputs(), **{**BATCH, field: value})
    with pytest.raises(UsageError, match=f"needs labels|pass {field}="):
        losses()[name](outputs(), outputs(), **{key: value for key, value in BATCH.items() if key != field})


@pytest.mark.parametrize("name", ["crd", "fresh_crd"])
def test_places_outside_the_training_set(name):
    with pytest.raises(UsageError, match="index 6 is out of range"):
        losses()[name](outputs(), outputs(), index=BATCH["index"] + 1)


def test_no_gradient_reaches_the_teacher_in_the_initial_stage():
    for name in ("factor", "ab"):
        loss, student, teacher = losses()[name], outputs(requires_grad=True), outputs(requires_grad=True)
        loss.initial(student, teacher, BATCH).backward()
        assert all(each.grad is None for each in teacher.tensors()), name


@pytest.mark.parametrize("build", [CRDLoss, FreshCRDLoss, SharedCRDLoss])
def test_losses_of_any_two_embeddings_say_that_both_get_a_gradient(build):
    student, teacher = (torch.randn(SAMPLES, 4, requires_grad=True) for _ in range(2))
    dims, teachers = ([4, 4], [teacher] * 2) if build is SharedCRDLoss else (4, teacher)
    loss = build(4, dims, num_samples=SAMPLES, num_negatives=2, embed_dim=4)
    loss(student, teachers, BATCH["index"]).backward()
    assert student.grad.any() and teacher.grad.any()
    assert "whose gradient reaches" in " ".join(build.__doc__.split())


@pytest.mark.parametrize(
    ("loss", "factors"),
    [(DIST, ("beta", "gamma")), (DKD, ("alpha", "beta")), (RKD, ("distance_factor", "angle_factor"))],
)
def test_losses_that_are_always_0_are_refused(loss, factors):
    with pytest.raises(UsageError, match=f"{loss.__name__} is 0 for all networks with {factors[0]}=0 and {factors[1]}"):
        loss(**dict.fromkeys(factors, 0))
    for factor in factors:
        loss(**{factor: 0})


@pytest.mark.parametrize(
    "build",
    [
        lambda targets, origin: CRDLoss(4, 4, targets=targets, negatives_from=origin, bias="paper"),
        lambda targets, origin: FreshCRDLoss(4, 4, targets=targets, negatives_from=origin, num_negatives=1),
        lambda targets, origin: DenseCRD(
            [(3, 3)], pairs=((0, 0),), targets=targets, negatives_from=origin, criterion="softmax",
            pairing="local_local", num_rows=2, num_samples=4, grids=[(2, 2)],
        ),
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore")
def test_samples_without_a_label_are_no_class_of_their_own(build):
    targets = torch.tensor([0, 1, -1, 1])
    with pytest.raises(UsageError, match="targets has -1 among them, and classes are counted from 0: leave samples"):
        build(targets, "other_class")
    build(targets, "other_sample")
    build(targets.abs(), "other_class")


@pytest.mark.parametrize(
    ("build", "reads"),
    [(lambda **pair: FitNet(16, 32, **pair), "embedding"), (lambda **pair: CWD(**pair), "prediction")],
)
def test_maps_for_a_loss_that_was_built_without_them_name_its_option(build, reads):
    maps = [torch.randn(SAMPLES, channels, 8, 8) for channels in (16, 32)]
    message = rf"was built to read {reads}, and the student's outputs are maps: build it with pair=\(0, 0\), places of"
    with pytest.raises(UsageError, match=message):
        build()([maps[0]], [maps[1]])
    with pytest.raises(UsageError, match=message):
        build()(Representation(maps=(maps[0],)), Representation(maps=(maps[1],)), {})
    if reads == "embedding":
        with pytest.raises(UsageError, match=message):
            build()(*maps)
        assert build(pair=(0, 0))([maps[0]], [maps[1]]).isfinite()
    # Nothing reads them as maps: the message is of its one part.
    with pytest.raises(UsageError, match=r"RKD reads embedding of the student: pass contrastill.Representation\("):
        RKD()([maps[0]], [maps[1]])
