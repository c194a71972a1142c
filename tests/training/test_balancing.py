"""Class-balanced sampling: how often each class and each sample comes, on every rank and after a resume."""

import pytest
import torch

import contrastill
from contrastill.core.config.schema import TrainConfig
from contrastill.core.errors import UsageError
from contrastill.datasets.io.in_memory import TensorSplit
from contrastill.datasets.io.views import PaddedImages
from contrastill.models.build import build_network
from contrastill.training.balancing import BalancedLoader, balanced_order, balanced_partners
from contrastill.training.data import training_loader

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


def test_partners_are_of_each_class_equally_often_and_never_the_sample_itself():
    targets = torch.cat([TARGETS, torch.tensor([7])])  # one that is alone in its class
    generator = torch.Generator().manual_seed(0)
    index = torch.arange(len(targets)).repeat(2000)
    classes, drawn = (torch.randint(2**55, (len(index),), generator=generator) for _ in range(2))
    partners = balanced_partners(targets, index, classes, drawn)
    assert (partners != index).all()
    for row in (0, 19, 25, 30, 31):
        times = partners[index == row].bincount(minlength=len(targets)).float()
        for label in (0, 1, 3, 7):
            others = (targets == label) & (torch.arange(len(targets)) != row)
            alone = row == 31
            expected = (0.0 if alone and label == 7 else 2000 / 3 if alone else 500) / max(1, int(others.sum()))
            assert times[others].sum().item() == pytest.approx(expected * int(others.sum()), abs=90)
            assert all(abs(value - expected) < 6 * expected**0.5 for value in times[others].tolist())


@pytest.mark.parametrize("views", [None, 2])
def test_second_samples_of_mixup_are_balanced_too_with_views_and_without(views):
    images = PaddedImages.zeros(len(TARGETS), 4, 4, 3, dtype=torch.uint8, padding=0)
    split = TensorSplit({"rgb": images}, targets=TARGETS, num_classes=4, flip=False)
    config = TrainConfig(batch_size=8, class_balanced=True, mixup=1.0, views=views)
    counts = torch.zeros(4, dtype=torch.int64)
    # Of one seed each view of a sample has one partner, however often the sample comes.
    for seed in range(60):
        shares = {"device": torch.device("cpu"), "seed": seed, "rank": 0, "world": 1}
        for batch in training_loader(split, ["rgb"], config, shares).epoch(seed % 2):
            counts += batch["partner_target"].bincount(minlength=4)
    assert counts[2] == 0 and all(abs(counts[label] / counts.sum() - 1 / 3) < 0.06 for label in (0, 1, 3)), counts


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
