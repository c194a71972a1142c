"""The bank: its update, its state in sample order, evaluation, and equality over ranks."""

import copy

import pytest
import torch
from safetensors.torch import load, save
from torch.nn.functional import normalize

from contrastill.core.crd.loss import CRDLoss
from contrastill.core.crd.memory_bank import MemoryBank
from contrastill.core.errors import UsageError

M = 30
TARGETS = torch.arange(M) % 4
MODES = ["all", "shared", "sampled"]


def build(mode="all", seed=0, **options):
    torch.manual_seed(0)
    return CRDLoss(5, 6, targets=TARGETS, num_negatives=9, embed_dim=16, negatives=mode, seed=seed, **options)


def step(crd, seed):
    generator = torch.Generator().manual_seed(seed)
    index = torch.randperm(M, generator=generator)[:8]
    return crd(torch.randn(8, 5, generator=generator), torch.randn(8, 6, generator=generator), index)


def test_rows_start_at_norm_one_and_do_not_depend_on_the_order_inside():
    bank = MemoryBank(2000, 128)
    limit = (3 / 128) ** 0.5
    assert bank.rows.abs().max() <= limit and bank.rows.std() == pytest.approx(limit / 3**0.5, rel=0.01)
    assert bank.student.norm(dim=1).mean() == pytest.approx(1, abs=0.01)
    assert bank.radius >= bank.rows.norm(dim=2).max()
    banks = [build(mode).bank for mode in MODES]
    assert all(
        torch.equal(bank.student, banks[0].student) and torch.equal(bank.teacher, banks[0].teacher) for bank in banks
    )
    assert not torch.equal(build(seed=1).bank.student, banks[0].student)


@pytest.mark.parametrize("mode", MODES)
def test_scores_are_read_before_rows_move_by_the_momentum(mode):
    crd = build(mode, bank_momentum=0.3)
    before = crd.bank.student, crd.bank.teacher
    crd.eval()
    read = step(crd, 1)
    crd.train()
    assert torch.equal(step(crd, 1), read)
    generator = torch.Generator().manual_seed(1)
    index = torch.randperm(M, generator=generator)[:8]
    student, teacher = torch.randn(8, 5, generator=generator), torch.randn(8, 6, generator=generator)
    for old, new, embedding in (
        (before[0], crd.bank.student, crd.embed_student(student)),
        (before[1], crd.bank.teacher, crd.embed_teacher(teacher)),
    ):
        expected = old.clone()
        expected[index] = normalize(0.3 * old[index] + 0.7 * embedding.detach())
        torch.testing.assert_close(new, expected)


def test_views_from_outside_are_copies():
    crd = build()
    crd.bank.student.zero_()
    assert crd.bank.student.any()


@pytest.mark.parametrize("mode", MODES)
def test_of_duplicates_the_last_one_counts(mode):
    crd = build(mode)
    before = crd.bank.student
    student, teacher = torch.randn(6, 5), torch.randn(6, 6)
    crd(student, teacher, torch.tensor([4, 7, 4, 9, 4, 7]))
    embedding = crd.embed_student(student).detach()
    for sample, last in ((4, 4), (7, 5), (9, 3)):
        torch.testing.assert_close(crd.bank.student[sample], normalize(before[sample] + embedding[last], dim=0))


def test_an_embedding_opposite_to_its_row_leaves_it():
    bank = MemoryBank(5, 4)
    bank.update(torch.tensor([2]), normalize(bank.rows[:, 2:3], dim=2), 0.0)
    before = bank.rows.clone()
    bank.update(torch.tensor([2]), -before[:, 2:3], 0.5)
    assert torch.equal(bank.rows, before)


@pytest.mark.parametrize("mode", MODES)
def test_eval_neither_writes_nor_draws(mode):
    crd = build(mode)
    state = {key: value.clone() for key, value in crd.state_dict().items()}
    crd.eval()
    values = [step(crd, 1) for _ in range(2)]
    assert torch.equal(*values)
    assert all(torch.equal(value, state[key]) for key, value in crd.state_dict().items())
    crd.train()
    step(crd, 1)
    assert not torch.equal(crd.state_dict()["bank.student"], state["bank.student"])


@pytest.mark.parametrize("mode", MODES)
def test_a_saved_loss_goes_on_with_the_same_bits(mode):
    crd = build(mode)
    for seed in range(3):
        step(crd, seed)
    saved = load(save(crd.state_dict()))
    again = build(mode)
    again.load_state_dict(saved)
    for seed in range(3, 6):
        assert torch.equal(step(crd, seed), step(again, seed))
    assert torch.equal(crd.bank.teacher, again.bank.teacher)


def test_a_checkpoint_moves_between_negatives():
    first = build("shared")
    step(first, 1)
    other = build("sampled", seed=3)
    other.load_state_dict(first.state_dict())
    assert torch.equal(other.bank.student, first.bank.student) and torch.equal(other.bank.teacher, first.bank.teacher)


def test_a_state_of_another_seed_is_gone_on_with_or_refused():
    for mode in ("all", "sampled"):
        crd, other = build(mode), build(mode, seed=3)
        other.load_state_dict(crd.state_dict())
        assert torch.equal(step(crd, 1), step(other, 1))
    # Its rows lie in an order that the seed gives, and so do the windows of negatives.
    with pytest.raises(UsageError, match="this state is of seed=0, .* build the loss with seed=0"):
        build("shared", seed=3).load_state_dict(build("shared").state_dict())


def test_a_wrong_state_is_refused_by_name():
    crd = build()
    state = crd.state_dict()
    assert set(state) == {
        *(f"embed_{side}.{name}" for side in ("student", "teacher") for name in ("weight", "bias")),
        "bank.student",
        "bank.teacher",
        "_extra_state",
    }
    with pytest.raises(RuntimeError, match="bank.student has shape"):
        crd.load_state_dict({**state, "bank.student": torch.zeros(3, 16)})
    with pytest.raises(RuntimeError, match="Missing.*bank.teacher"):
        crd.load_state_dict({key: value for key, value in state.items() if key != "bank.teacher"})
    with pytest.raises(RuntimeError, match="Unexpected.*bank.third"):
        crd.load_state_dict({**state, "bank.third": torch.zeros(1)})


@pytest.mark.parametrize("mode", MODES)
def test_deepcopy_after_a_step_is_independent(mode):
    crd = build(mode)
    step(crd, 1).backward()
    twin = copy.deepcopy(crd)
    before = crd.bank.student
    assert torch.equal(step(twin, 2), step(copy.deepcopy(crd), 2))
    assert torch.equal(crd.bank.student, before) and not torch.equal(twin.bank.student, before)


RANK = """
import sys, torch
from contrastill.core.crd.loss import CRDLoss
rank, folder = int(sys.argv[1]), sys.argv[3]
torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
torch.manual_seed(0)
crd = CRDLoss(5, 6, targets=torch.arange(30) % 4, num_negatives=9, embed_dim=16, negatives=sys.argv[4])
for seed, batch in enumerate((9, 9, 3)):
    generator = torch.Generator().manual_seed(seed)
    student, teacher = torch.randn(batch, 5, generator=generator), torch.randn(batch, 6, generator=generator)
    index = torch.randint(30, (batch,), generator=generator)
    share = lambda values: values.tensor_split(2)[rank]
    crd(share(student), share(teacher), share(index))
torch.save(crd.bank.rows, f"{folder}/{rank}.pt")
torch.distributed.destroy_process_group()
"""


@pytest.mark.parametrize("mode", ["sampled"])
def test_ranks_keep_bit_identical_banks_equal_to_one_process(ranks, tmp_path, mode):
    ranks(RANK, 2, tmp_path, mode)
    rows = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    assert torch.equal(*rows)
    torch.manual_seed(0)
    crd = build(mode)
    for seed, batch in enumerate((9, 9, 3)):
        generator = torch.Generator().manual_seed(seed)
        student, teacher = torch.randn(batch, 5, generator=generator), torch.randn(batch, 6, generator=generator)
        crd(student, teacher, torch.randint(30, (batch,), generator=generator))
    torch.testing.assert_close(rows[0], crd.bank.rows)
