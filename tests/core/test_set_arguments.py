"""Arguments of a loss that are set after it was built: the loss follows, or refuses."""

import copy
import math

import pytest
import torch

from contrastill import DIST, KD, VID, CRDLoss, FreshCRDLoss, InfoNCE, UsageError
from contrastill.core.crd.shared import SharedCRDLoss
from contrastill.core.objective import Objective
from contrastill.objectives.crd import CRD
from contrastill.xmodal.dense_crd import DenseCRD

INDEX = torch.arange(6)
torch.manual_seed(0)
STUDENT, TEACHER = torch.randn(6, 4), torch.randn(6, 8)


def crd(kind=CRDLoss, **options):
    torch.manual_seed(1)
    dims = (4, [8, 8]) if kind is SharedCRDLoss else (4, 8)
    return kind(*dims, num_samples=20, embed_dim=16, num_negatives=9, **options)


@pytest.mark.parametrize("kind", [CRDLoss, SharedCRDLoss, FreshCRDLoss])
@pytest.mark.parametrize("bias", ["released", "paper", 1.5])
def test_a_temperature_that_is_set_is_that_of_a_loss_built_with_it(kind, bias):
    options = {"criterion": "nce"} if kind is FreshCRDLoss else {}
    built, later = crd(kind, temperature=0.06, bias=bias, **options), crd(kind, temperature=0.09, bias=bias, **options)
    later.temperature = 0.06
    assert later.bias == built.bias and later.temperature == built.temperature
    teachers = [TEACHER, TEACHER] if kind is SharedCRDLoss else TEACHER
    for _ in range(2):
        assert torch.equal(built(STUDENT, teachers, INDEX), later(STUDENT, teachers, INDEX))
    later = copy.deepcopy(later)
    later.bias = "paper"
    assert later.bias == math.log(9 / 20)


def test_values_that_a_constructor_refuses_are_refused_when_set():
    loss = crd()
    with pytest.raises(UsageError, match="temperature must be above 0"):
        loss.temperature = 0
    with pytest.raises(UsageError, match="temperature is '0.1': pass a number"):
        loss.temperature = "0.1"
    with pytest.raises(UsageError, match="bias 'papr'.*did you mean paper"):
        loss.bias = "papr"
    with pytest.raises(UsageError, match=r"bank_momentum is the share .* not 1.0"):
        loss.bank_momentum = 1.0
    with pytest.raises(UsageError, match="needs a bank that counts them"):
        loss.bank_momentum = "visits"
    assert (loss.temperature, loss.bank_momentum) == (0.07, 0.5)
    with pytest.warns(UserWarning, match="cannot pass"):
        loss.temperature = 0.5
    kd = KD()
    with pytest.raises(UsageError, match=r"KD\(temperature=0\): input should be greater than 0"):
        kd.temperature = 0
    kd.temperature = 2.0
    logits = torch.randn(2, 3, 5)
    assert torch.equal(kd(*logits), KD(2.0)(*logits))


@pytest.mark.parametrize(("name", "value"), [("student_rows", "bacth"), ("row_gradient", "no")])
def test_a_choice_that_a_constructor_does_not_know_is_refused_when_set(name, value):
    loss = crd(FreshCRDLoss)
    with pytest.raises(UsageError, match=f"{name} .*{value}"):
        setattr(loss, name, value)
    assert getattr(loss, name) != value


@pytest.mark.parametrize(
    ("build", "name", "value"),
    [
        (crd, "num_negatives", 4),
        (crd, "seed", 1),
        (crd, "negatives", "sampled"),
        (crd, "bank_dtype", "fp16"),
        (lambda: crd(FreshCRDLoss), "num_negatives", 4),
        (lambda: crd(FreshCRDLoss), "refresh_rows", True),
        (lambda: InfoNCE(4, 8, negatives="queue", queue_size=8), "queue_size", 16),
        (lambda: InfoNCE(4, 8), "embed_dim", 16),
        (lambda: KD(), "full_doubt", 0.2),
        (lambda: VID([(4, 8)], [(0, 0)]), "dims", [(4, 4)]),
        (lambda: DenseCRD([(4, 8)]), "anchor_weight", 1.0),
        (lambda: DenseCRD([(4, 8)]), "row_positions", 2),
    ],
)
def test_what_a_loss_would_not_follow_is_refused(build, name, value):
    loss = build()
    with pytest.raises(UsageError, match=f"{name} of a {type(loss).__name__} that is built cannot be set.*build anoth"):
        setattr(loss, name, value)


def test_the_objective_names_the_loss_that_it_wraps():
    objective = CRD(crd())
    with pytest.raises(UsageError, match=r"temperature of a CRD that is built .*: set loss\.temperature"):
        objective.temperature = 0.1
    objective.loss.temperature = 0.06
    with pytest.raises(UsageError, match="sigmoid' learns its temperature: set log_scale"):
        crd(FreshCRDLoss, criterion="sigmoid").temperature = 0.1


def test_relations_follow_the_factor_that_asks_for_them():
    dist = DIST(gamma=0)
    assert dist.least_samples == 1
    dist.gamma = 1.0
    assert dist.least_samples == 2


def test_a_users_own_objective_sets_what_it_likes():
    class Mine(Objective):
        def __init__(self, margin: float = 1.0):
            super().__init__()

    mine = Mine()
    mine.margin = 2.0
    assert mine.margin == 2.0


@pytest.mark.parametrize("text", ["3", "three"])
def test_a_text_is_no_number_when_set(text):
    loss = KD()
    with pytest.raises(UsageError, match=rf"KD\(temperature='{text}'\): input should be a valid number"):
        loss.temperature = text
    assert loss.temperature == KD().temperature
    loss.temperature = 3
    assert torch.equal(loss(TEACHER, TEACHER + 1), KD(temperature=3)(TEACHER, TEACHER + 1))
    later = crd()
    later.bias = "released"
    with pytest.raises(UsageError, match="bias"):
        later.bias = "3"
