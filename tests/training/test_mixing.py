"""mixup and CutMix: what is drawn, what is mixed, which labels, and who may learn from it."""

import numpy as np
import pytest
import torch
from scipy import stats

from contrastill.core.config.schema import TrainConfig
from contrastill.core.errors import UsageError
from contrastill.core.representation import Representation
from contrastill.core.transfer import Transfer
from contrastill.datasets.io import file_views, views
from contrastill.datasets.io.in_memory import TensorSplit
from contrastill.datasets.io.views import PaddedImages, epoch_order
from contrastill.models.build import build_network
from contrastill.objectives.cross_entropy import CrossEntropy
from contrastill.objectives.dense_kd import DenseKD
from contrastill.objectives.dkd import DKD
from contrastill.objectives.kd import KD
from contrastill.objectives.pixel_cross_entropy import PixelCrossEntropy
from contrastill.training import balancing, mixing
from contrastill.training.mixing import MixedLoader, check_mixing

SAMPLES, SIDE = 40, 10


def split():
    """Each image is one grey, by its index, so that what it is mixed of can be read off it."""
    stored = {}
    for name, dtype, channels in (("rgb", torch.uint8, 3), ("thermal", torch.float32, 1)):
        images = PaddedImages.zeros(SAMPLES, SIDE, SIDE, channels, dtype=dtype, padding=0)
        images.interior.copy_((torch.arange(SAMPLES) * 6).view(-1, 1, 1, 1).expand(-1, SIDE, SIDE, channels))
        stored[name] = images
    return TensorSplit(stored, targets=torch.arange(SAMPLES) % 4, num_classes=4, flip=False)


def mixed(rank=0, world=1, views=None, **alphas):
    shares = {"batch_size": 9, "device": "cpu", "train": True, "rank": rank, "world": world, "views": views}
    loaders = [split().loader(seed=seed, **shares) for seed in (3, 77)]
    return MixedLoader(*loaders, seed=3, **alphas)


@pytest.mark.parametrize("views", [None, 2])
@pytest.mark.parametrize("alphas", [{"mixup": 0.4}, {"cutmix": 1.0}, {"mixup": 0.4, "cutmix": 1.0}])
def test_images_are_of_both_samples_by_their_share_and_labels_are_both_samples(views, alphas):
    blends = cuts = 0
    for batch in mixed(views=views, **alphas).epoch(1):
        for place, share in enumerate(batch["mixed_share"].tolist()):
            first, thermal = int(batch["index"][place]) * 6, batch["thermal"][place, 0]
            assert batch["target"][place] == batch["index"][place] % 4
            others = [value for value in thermal.unique().tolist() if value != first]
            if len(others) == 1 and others[0] % 6 == 0 and (thermal == first).any():
                cuts += 1
                second = others[0]
                assert share == pytest.approx((thermal == first).float().mean().item(), abs=1e-6)
                ys, xs = (thermal == second).nonzero().T
                assert len(ys) == (ys.max() - ys.min() + 1) * (xs.max() - xs.min() + 1)
                assert torch.equal(batch["rgb"][place, 0].float(), thermal)
            elif len(others) == 1 and share < 1 - 1e-3:
                blends += 1
                second = (others[0] - share * first) / (1 - share)
                assert batch["rgb"][place].unique().tolist() == [round(others[0])]
            else:
                continue
            if share < 0.99:
                assert batch["partner_target"][place] == round(second / 6) % 4
    assert (blends > 5) == ("mixup" in alphas) and (cuts > 5) == ("cutmix" in alphas)


@pytest.mark.parametrize("alpha", [0.2, 1.0])
def test_shares_are_of_the_beta_distribution(alpha):
    loader = mixed(mixup=alpha)
    shares, _ = loader._draw(torch.arange(4000), 0)
    assert stats.kstest(shares.numpy(), stats.beta(alpha, alpha).cdf).pvalue > 0.01
    assert np.corrcoef(shares.numpy(), loader._draw(torch.arange(4000), 1)[0].numpy())[0, 1] < 0.05


@pytest.mark.parametrize("seed", [0, 7])
def test_shares_do_not_follow_the_order_of_an_epoch(seed):
    loader = mixed(mixup=1.0)
    loader._seed = seed
    shares, _ = loader._draw(torch.arange(4000), 5)
    assert abs(stats.spearmanr(shares[epoch_order(seed, 5, 4000)], np.arange(4000)).statistic) < 0.05


def test_no_two_purposes_share_their_random_bits():
    modules = {
        views: ("_VIEWS", "_ORDER"),
        file_views: ("_CROPS", "_JITTER", "_TRANSFORMS"),
        mixing: ("_PARTNERS", "_SHARES", "_KINDS", "_CENTRES", "_CLASSES"),
        balancing: ("_WITHIN", "_CLASSES", "_SHUFFLED"),
    }
    purposes = [getattr(module, name) for module, names in modules.items() for name in names] + [mixing._CENTRES + 1]
    assert len(purposes) == len(set(purposes))


@pytest.mark.parametrize("views", [None, 2])
def test_ranks_and_a_resumed_epoch_have_the_same_samples(views):
    options = {"mixup": 0.4, "cutmix": 1.0, "views": views}
    batches = list(mixed(**options).epoch(3))
    ranks = [list(mixed(rank, 2, **options).epoch(3, 1)) for rank in range(2)]
    assert len(batches) == 5
    for batch, shares in zip(batches[1:], zip(*ranks, strict=True), strict=True):
        for key, value in batch.items():
            assert torch.equal(value, torch.cat([share[key] for share in shares])), key


def test_a_view_is_the_same_in_whatever_order_it_comes():
    loader = mixed(mixup=0.4, cutmix=1.0, views=2)
    (whole,) = loader.in_order(1, batch_size=SAMPLES)
    for batch in loader.epoch(3):
        for key in ("rgb", "thermal", "mixed_share", "partner_target"):
            assert torch.equal(batch[key], whole[key][batch["index"]]), key
    assert not torch.equal(whole["rgb"], next(iter(loader.in_order(0, batch_size=SAMPLES)))["rgb"])


def test_cross_entropy_is_with_both_labels_by_their_shares():
    torch.manual_seed(0)
    logits = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    batch = {
        "target": torch.tensor([0, 1, 2]),
        "partner_target": torch.tensor([3, 1, 0]),
        "mixed_share": torch.tensor([0.25, 0.5, 1.0]),
    }
    loss = CrossEntropy(label_smoothing=0.1)(Representation(logits=logits), None, batch)
    soft = torch.zeros(3, 4, dtype=torch.float64)
    for row, (one, other, share) in enumerate(zip(*(value.tolist() for value in batch.values()), strict=True)):
        soft[row, one] += share
        soft[row, other] += 1 - share
    soft = 0.9 * soft + 0.1 / 4
    expected = -(soft * logits.log_softmax(1)).sum(1).mean()
    assert loss.item() == pytest.approx(expected.item(), abs=1e-12)
    (gradient,) = torch.autograd.grad(loss, logits, retain_graph=True)
    assert torch.allclose(gradient, torch.autograd.grad(expected, logits)[0], atol=1e-12)


def test_objectives_that_ask_whose_sample_an_image_is_are_refused():
    teacher, student = (build_network("resnet8", num_classes=4) for _ in range(2))
    config = TrainConfig(cutmix=1.0)
    check_mixing(Transfer([teacher], student, {"cross_entropy": CrossEntropy(), "kd": KD()}), config)
    with pytest.raises(
        UsageError, match="dkd compares samples by their number or class, and with train.cutmix .*: leave out train.cu"
    ):
        check_mixing(Transfer([teacher], student, {"dkd": DKD()}), config)


@pytest.mark.parametrize("objective", [DenseKD, PixelCrossEntropy])
def test_segmenters_are_told_that_mixing_is_for_classifiers(objective):
    teacher, student = (build_network("unet/resnet8", num_classes=4) for _ in range(2))
    with pytest.raises(
        UsageError, match=r"which is for classifiers, .*: leave train.mixup and train.cutmix out$"
    ) as refusal:
        check_mixing(Transfer([teacher], student, {"term": objective()}), TrainConfig(mixup=0.2, cutmix=1.0))
    assert "kd" not in str(refusal.value)
