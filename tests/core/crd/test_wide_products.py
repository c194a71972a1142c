"""Gathered negatives of a large batch, whose products are wider than what is put by for one logarithm; and the state of
a prepared loss.
"""

import pytest
import torch

from contrastill import CRDLoss, FreshCRDLoss
from contrastill.core.crd import criterion, negative_sums


def test_products_wider_than_a_chunk_count_as_others_do(monkeypatch):
    def losses():
        torch.manual_seed(0)
        loss = CRDLoss(4, 4, num_samples=60_000, embed_dim=8, num_negatives=2000, negatives="shared").eval()
        rows = torch.stack([torch.randperm(60_000)[:2000] for _ in range(3)])
        student = torch.randn(3, 4, requires_grad=True)
        each = loss.per_sample(student, torch.randn(3, 4), torch.arange(3), rows)
        return each, torch.autograd.grad(each.sum(), student)[0]

    whole = losses()
    monkeypatch.setattr(criterion, "CPU_CELLS", 16)  # chunks of 256, as a batch of thousands has
    monkeypatch.setattr(criterion.Critic, "group", lambda self, dtype: 2)
    narrow = losses()
    monkeypatch.setattr(negative_sums, "GATHERED_FLOATS", 16 * 16)
    for one, other, third in zip(whole, narrow, losses(), strict=True):
        torch.testing.assert_close(other, one, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(third, one, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("teacher_map", ["learned", "whitened"])
def test_the_state_of_a_prepared_loss_goes_into_a_new_one(teacher_map):
    def made():
        return FreshCRDLoss(4, 40, num_samples=20, embed_dim=8, num_negatives=9, teacher_map=teacher_map)

    student, teacher, index = torch.randn(4, 4), torch.randn(4, 40), torch.arange(4)
    prepared, new = made(), made()
    prepared.prepare(0, torch.randn(50, 40))
    prepared(student, teacher, index)
    new.load_state_dict(prepared.state_dict())
    assert new.rows[0].dim == prepared.rows[0].dim == 16
    assert torch.equal(new(student, teacher, index), prepared(student, teacher, index))
