"""What a loop of one's own passes to the losses: lists and arrays where they are meant, one sentence where they are
not.
"""

import numpy as np
import pytest
import torch

from contrastill import Correlation, CRDLoss, FreshCRDLoss, InfoNCE, Network, Preprocess, Taps
from contrastill.core.crd.shared import SharedCRDLoss
from contrastill.core.errors import UsageError

TARGETS = [0, 1, 2, 0, 1, 2]
ROWS = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))


def build(kind, targets):
    torch.manual_seed(0)
    if kind is SharedCRDLoss:
        return kind(4, [4], targets=targets, num_negatives=3)
    return kind(4, 4, targets=targets, **({"num_negatives": 3} if kind is CRDLoss else {}))


@pytest.mark.parametrize("kind", [CRDLoss, FreshCRDLoss, SharedCRDLoss])
def test_lists_and_arrays_are_numbers(kind):
    teacher = [ROWS] if kind is SharedCRDLoss else ROWS
    expected = build(kind, torch.tensor(TARGETS))(ROWS, teacher, torch.tensor([0, 1, 5]))
    wide = [(np.array(TARGETS, dtype), np.array([0, 1, 5], dtype)) for dtype in ("int64", "uint16", "uint32", "uint64")]
    for targets, index in ((TARGETS, [0, 1, 5]), *wide):
        assert build(kind, targets)(ROWS, teacher, index).equal(expected)


@pytest.mark.parametrize("kind", [CRDLoss, FreshCRDLoss])
def test_what_is_no_tensor_is_named(kind):
    with pytest.raises(UsageError, match="targets must be the .M,. whole-numbered classes .*, not a list"):
        build(kind, ["cat", "dog"])
    loss = build(kind, TARGETS)
    with pytest.raises(UsageError, match="embeddings are tensors .B, D., and one is a ndarray"):
        loss(ROWS, ROWS.numpy(), [0, 1, 2])
    with pytest.raises(UsageError, match="index must be .B,. places of the samples, not a list"):
        loss(ROWS, ROWS, ["a", "b", "c"])


@pytest.mark.parametrize("build_loss", [CRDLoss, FreshCRDLoss, InfoNCE, Correlation])
def test_teacher_outputs_made_in_inference_mode_are_values_like_any_others(build_loss):
    """Autograd does not keep such tensors, and the product with a map of the teacher has to."""
    with torch.inference_mode():
        teacher = ROWS.clone()
    gradients = []
    for rows in (ROWS, teacher):
        torch.manual_seed(0)
        kept = {"num_samples": 6} if build_loss in (CRDLoss, FreshCRDLoss) else {}
        loss, student = build_loss(4, 4, **kept), ROWS.flip(0).requires_grad_()
        loss(student, rows, *([torch.arange(3)] if kept else [])).backward()
        gradients.append(student.grad)
    assert gradients[0].equal(gradients[1]) and gradients[0].abs().sum() > 0


def test_a_network_takes_a_tensor_or_a_dict():
    module = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 2))
    network = Network(module, taps=Taps(embedding="input:1"), preprocess=Preprocess((0.5,) * 3, (0.25,) * 3))
    images = torch.zeros(2, 3, 2, 2, dtype=torch.uint8)
    assert network(images).logits.equal(network({"rgb": images}).logits)
    with pytest.raises(UsageError, match="Sequential takes a batch of images as one tensor .B, C, H, W., or a dict of"):
        network(images.numpy())
