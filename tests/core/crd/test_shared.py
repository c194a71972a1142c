"""CRD towards several teachers with one side of the student: against separate losses, and what it keeps."""

import pytest
import torch

from contrastill.core.crd.loss import CRDLoss
from contrastill.core.crd.shared import SharedCRDLoss
from contrastill.core.errors import UsageError
from contrastill.core.objective import Setting
from contrastill.core.representation_spec import RepresentationSpec
from contrastill.objectives.crd import CRD, SharedCRD

M, B, DIMS = 40, 6, (5, 7, 3)
TARGETS = torch.arange(M) % 4


def losses(negatives, **options):
    """A shared loss, and a loss for each teacher with the same embeddings and the same rows."""
    torch.manual_seed(0)
    chosen = {
        "targets": TARGETS,
        "embed_dim": 8,
        "negatives": negatives,
        "num_negatives": 12,
        "bias": 1.0,
        "temperature": 0.3,
        "seed": 5,
        **options,
    }
    shared = SharedCRDLoss(4, DIMS, **chosen).double()
    single = [CRDLoss(4, dim, **chosen).double() for dim in DIMS]
    for number, one in enumerate(single):
        one.embed_student.load_state_dict(shared.embed_student.state_dict())
        one.embed_teacher.load_state_dict(shared.embed_teacher[number].state_dict())
        one.bank.load_state_dict(
            {"student": shared.bank.side("student"), "teacher": shared.bank.side(f"teacher.{number}")}
        )
    return shared, single


def inputs(seed):
    generator = torch.Generator().manual_seed(seed)
    student = torch.randn(B, 4, dtype=torch.float64, generator=generator).requires_grad_()
    return (
        student,
        [torch.randn(B, dim, dtype=torch.float64, generator=generator) for dim in DIMS],
        torch.randperm(M, generator=generator)[:B],
    )


@pytest.mark.parametrize("negatives", ["all", "shared", "sampled"])
@pytest.mark.parametrize("origin", ["other_class", "other_sample"])
def test_it_is_the_sum_of_single_losses_with_one_student_side(negatives, origin):
    shared, single = losses(negatives, negatives_from=origin)
    for step in range(3):
        student, teachers, index = inputs(step)
        ours = shared(student, teachers, index)
        naive = sum(one(student, teacher, index) for one, teacher in zip(single, teachers, strict=True))
        torch.testing.assert_close(ours, naive, rtol=1e-10, atol=0)
        read = [student, shared.embed_student.weight, *(one.weight for one in shared.embed_teacher)]
        got = torch.autograd.grad(ours, read)
        expected = torch.autograd.grad(
            naive,
            [student, *(one.embed_student.weight for one in single), *(one.embed_teacher.weight for one in single)],
        )
        torch.testing.assert_close(got[0], expected[0], rtol=1e-9, atol=1e-13)
        torch.testing.assert_close(got[1], sum(expected[1:4]), rtol=1e-9, atol=1e-13)
        for one, other in zip(got[2:], expected[4:], strict=True):
            torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-13)
        for number, one in enumerate(single):
            torch.testing.assert_close(shared.bank.side(f"teacher.{number}"), one.bank.teacher, rtol=1e-12, atol=1e-14)
            torch.testing.assert_close(shared.bank.side("student"), one.bank.student, rtol=1e-12, atol=1e-14)
        kind = "score" if origin == "other_class" else "mi_bound"
        assert {f"{kind}_{side}.{number}" for side in ("student", "teacher") for number in range(3)} == set(shared.logs)


def test_one_bank_of_the_student_instead_of_three():
    shared, single = losses("all")
    assert shared.bank.rows.shape == (4, M, 8) and sum(len(one.bank.rows) for one in single) == 6
    assert sorted(name for name in shared.state_dict() if name.startswith("bank.")) == [
        "bank.student",
        "bank.teacher.0",
        "bank.teacher.1",
        "bank.teacher.2",
    ]


def test_state_goes_on_where_it_was():
    shared, _ = losses("sampled")
    shared(*inputs(0))
    other, _ = losses("sampled", seed=9)
    other.load_state_dict(shared.state_dict())
    for step in (1, 2):
        assert torch.equal(shared(*inputs(step)), other(*inputs(step)))
    assert torch.equal(shared.bank.rows, other.bank.rows)


def test_eval_writes_nothing():
    shared, _ = losses("sampled")
    rows, draws = shared.bank.rows.clone(), shared.draws
    shared.eval()(*inputs(0))
    assert torch.equal(rows, shared.bank.rows) and shared.draws == draws


def test_what_does_not_fit_is_refused():
    shared, _ = losses("all")
    student, teachers, index = inputs(0)
    with pytest.raises(UsageError, match="built for 3 teachers, and there are 2"):
        shared(student, teachers[:2], index)
    with pytest.raises(UsageError, match=r"teacher 1's embedding must be \(B, 7\)"):
        shared(student, [teachers[0], teachers[0], teachers[2]], index)
    with pytest.raises(UsageError, match="teacher_dims is empty"):
        SharedCRDLoss(4, [], num_samples=M)


def test_it_is_an_option_of_crd():
    spec = RepresentationSpec(4, 6, ())
    settings = [Setting(spec, RepresentationSpec(4, dim, ()), M, TARGETS, 0) for dim in DIMS]
    options = {"negatives": "all", "bias": 1.0, "embed_dim": 8}
    (shared,) = CRD.build_each(CRD.Options(student_side="shared", **options), settings)
    assert isinstance(shared, SharedCRD) and shared.joint
    assert [type(one) for one in CRD.build_each(CRD.Options(student_side="shared", **options), settings[:1])] == [CRD]
    assert [type(one) for one in CRD.build_each(CRD.Options(**options), settings)] == [CRD] * 3


RANK = """
import sys, torch
from contrastill.core.representation import Representation
from contrastill.core.crd.shared import SharedCRDLoss
from contrastill.ensemble.rules import Gradient
from contrastill.objectives.kd import KD
rank, world, folder = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
if world > 1:
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world)
torch.manual_seed(0)
options = {"num_negatives": 9, "embed_dim": 16, "negatives": "sampled", "bias": 1.0}
crd, rule = SharedCRDLoss(5, [6, 3], num_samples=30, **options), Gradient()
share = lambda values: values.tensor_split(world)[rank]
for seed in range(3):
    generator = torch.Generator().manual_seed(seed)
    student, first, second, logits = (torch.randn(8, dim, generator=generator) for dim in (5, 6, 3, 4))
    crd(share(student), [share(first), share(second)], share(torch.randperm(30, generator=generator)[:8]))
    outputs = Representation(logits=share(logits).requires_grad_())
    teachers = [Representation(logits=share(values)) for values in (first[:, :4], first[:, 2:])]
    rule([KD(), KD()], outputs, teachers, {})
torch.save({"rows": crd.bank.rows, "weights": rule.weights}, f"{folder}/{rank}-of-{world}.pt")
if world > 1:
    torch.distributed.destroy_process_group()
"""


def test_two_processes_keep_the_banks_and_choose_the_weights_of_one(ranks, tmp_path):
    places = ((0, 1), (0, 2), (1, 2))
    for world in (1, 2):
        ranks(RANK, world, tmp_path)
    alone, first, second = (torch.load(tmp_path / f"{rank}-of-{world}.pt", weights_only=True) for rank, world in places)
    assert torch.equal(first["rows"], second["rows"]) and torch.equal(first["weights"], second["weights"])
    torch.testing.assert_close(first["rows"], alone["rows"])
    torch.testing.assert_close(first["weights"], alone["weights"], rtol=1e-4, atol=1e-5)
    assert 0.01 < alone["weights"][0] < 0.99
