"""Class-balanced sampling: how often each class and each sample comes, on every rank and after a resume."""

import pytest
import torch

import contrastill
from contrastill.core.errors import UsageError
from contrastill.datasets.io.in_memory import TensorSplit
from contrastill.datasets.io.views import PaddedImages
from contrastill.models.build import build_network
from contrastill.training.balancing import BalancedLoader, balanced_order

TARGETS = torch.tensor([0] * 20 + [1] * 8 + [3] * 3)


def loader(rank=0, world=1, views=None):
    images = PaddedImages.zeros(len(TARGETS), 4, 4, 3, dtype=torch.uint8, padding=0)
    images.interior.copy_(torch.arange(len(TARGETS)).view(-1, 1, 1, 1).expand(-1, 4, 4, 3))
    split = TensorSplit({"rgb": images}, targets=TARGETS, num_classes=4, flip=False)
    shares = {"batch_size": 8, "device": "cpu", "train": True, "seed": 5, "views": views}
    inner = split.loader(rank=rank, world=world, **shares)
    return BalancedLoader(inner, TARGETS, seed=5, rank=rank, world=world)


def test_each_class_comes_equally_often_and_each_sample_of_it():
    seen = torch.zeros(len(TARGETS), dtype=torch.int64)
    orders = [balanced_order(TARGETS, 1, epoch) for epoch in range(30)]
    for order in orders:
        counts = TARGETS[order].bincount()
        assert sorted(counts.tolist()) == [0, 10, 10, 11]
        for label in (1, 3):
            times = order.bincount(minlength=len(TARGETS))[TARGETS == label]
            assert times.max() - times.min() <= 1
        seen += order.bincount(minlength=len(TARGETS))
    assert not torch.equal(orders[0], orders[1])
    assert seen[TARGETS == 0].min() >= 5  # left out of some epochs, none for good
    places = torch.stack([TARGETS[order] for order in orders]).float()
    early, late = (half.eq(3).float().mean().item() for half in (places[:, :15], places[:, 15:]))
    assert early == pytest.approx(late, abs=0.08)


@pytest.mark.parametrize("world", [1, 2, 3])
def test_ranks_and_a_resumed_epoch_have_the_same_samples(world):
    whole = [*loader().epoch(4)]
    ranks = [[*loader(rank, world).epoch(4, 1)] for rank in range(world)]
    assert len(whole) == len(loader()) == 4
    for batch, shares in zip(whole[1:], zip(*ranks, strict=True), strict=True):
        kept = [share for share in shares if "is_padding" not in share]
        for name in ("index", "target", "rgb"):
            assert torch.equal(batch[name], torch.cat([share[name] for share in kept]))
        assert torch.equal(batch["rgb"][:, 0, 0, 0].long(), batch["index"])


def test_a_training_sees_rare_classes_as_often_and_resumes_to_the_same_bits(tmp_path):
    data = torch.utils.data.TensorDataset(torch.randint(0, 255, (31, 3, 12, 12), dtype=torch.uint8), TARGETS)
    keys = {"epochs": 2, "quiet": True, "train.batch_size": 8, "train.class_balanced": True, "data.workers": 0}
    plain = contrastill.distill(None, "resnet8", data, out=tmp_path / "plain", **keys | {"train.class_balanced": False})
    whole = contrastill.distill(None, "resnet8", data, out=tmp_path / "whole", **keys)
    assert plain.metrics["loss"] != whole.metrics["loss"]
    contrastill.distill(None, "resnet8", data, out=tmp_path / "resumed", **keys, **{"train.checkpoint_every_steps": 3})
    first, second = (contrastill.load_student(tmp_path / name).state_dict() for name in ("whole", "resumed"))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_data_without_classes_is_refused(tmp_path):
    data = torch.utils.data.TensorDataset(torch.randint(0, 255, (31, 3, 12, 12), dtype=torch.uint8))
    with pytest.raises(UsageError, match=r"train\.class_balanced needs one class"):
        contrastill.distill(
            build_network("resnet8", num_classes=4),
            "resnet8",
            data,
            out=tmp_path,
            epochs=1,
            quiet=True,
            **{"train.class_balanced": True},
        )
