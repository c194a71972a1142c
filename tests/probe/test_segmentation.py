"""Segmentation on top of an encoder: measures by hand, what is ignored, what stays frozen, and that a better encoder
does better.
"""

import hashlib

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from contrastill.core.errors import UsageError
from contrastill.core.representation import Network, Preprocess, Taps
from contrastill.datasets.io.in_memory import TensorSplit
from contrastill.datasets.io.views import PaddedImages
from contrastill.datasets.rendered_rooms import Rooms
from contrastill.models.decoders import LinearHead, UNetHead
from contrastill.probe import maps as kept_maps
from contrastill.probe import segmentation
from contrastill.probe.labels import labelled_part
from contrastill.probe.segmentation import Segmenter, count_confusion, measures_of, pixel_loss, segment

SHAPES = ((4, 8, 8), (6, 8, 8), (5, 4, 4), (7, 2, 2))
QUICK = {"num_classes": 3, "epochs": 3, "batch_size": 8}


def fingerprint(network):
    """Of every parameter and buffer, bit by bit, and of every flag."""
    digest = hashlib.sha256()
    for name, value in network.state_dict().items():
        digest.update(name.encode() + value.contiguous().numpy().tobytes())
    return (
        digest.hexdigest(),
        [module.training for module in network.modules()],
        [parameter.requires_grad for parameter in network.parameters()],
    )


def split(count, seed, *, informative=True, unlabelled=0.3):
    """Frames of 12×12 with a label map of blocks of classes 1 to 3 which are as bright as their class; part of it is
    unlabelled.
    """
    generator = torch.Generator().manual_seed(seed)
    blocks = torch.randint(1, 4, (count, 3, 3, 1), generator=generator).repeat_interleave(4, 1).repeat_interleave(4, 2)
    rgb = (blocks * 60 if informative else 100) + torch.randint(0, 40, (count, 12, 12, 3), generator=generator)
    labels = torch.where(torch.rand(blocks.shape, generator=generator) < unlabelled, 0, blocks)
    images = {"rgb": PaddedImages(rgb.to(torch.uint8), 0), "semantics": PaddedImages(labels.to(torch.uint8), 0)}
    return TensorSplit(images, targets=torch.arange(count) % 2, num_classes=2, flip=True)


def network(seed=0):
    torch.manual_seed(seed)
    module = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 8, 3, padding=1),
        nn.BatchNorm2d(8), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2),
    )  # fmt: skip
    return Network(
        module, taps=Taps(embedding="input:9", maps=("2", "6")), preprocess=Preprocess((0.5,) * 3, (0.25,) * 3)
    ).train()


# Heads


def test_the_linear_head_is_one_convolution_over_the_enlarged_maps():
    torch.manual_seed(0)
    head = LinearHead(SHAPES, 3).double()
    for parameter in head.parameters():
        nn.init.normal_(parameter)
    maps = [torch.randn(2, *shape, dtype=torch.float64) for shape in SHAPES]
    together = torch.cat([F.interpolate(value, size=(24, 32), mode="bilinear") for value in maps], 1)
    logits = F.conv2d(together, torch.cat([conv.weight for conv in head.convs], 1), head.convs[0].bias)
    assert torch.allclose(head.classify(maps, (24, 32)), logits, atol=1e-10)


@pytest.mark.parametrize("head", [LinearHead, UNetHead])
def test_heads_take_maps_of_any_size_in_any_order(head):
    maps = [torch.randn(2, *shape) for shape in (*SHAPES, (3, 9, 7))]
    shapes = [tuple(value.shape[1:]) for value in maps]
    assert head(shapes, 5)(maps, (20, 30)).shape == (2, 5, 20, 30)
    assert head(shapes[::-1], 5)(maps[::-1], (20, 30)).shape == (2, 5, 20, 30)
    with pytest.raises(UsageError, match="no tap for any"):
        head((), 5)


# Measures


def by_hand(predictions, labels, classes):
    """Pixel accuracy, mean accuracy and mIoU, by loops over pixels and classes; None is a class in neither."""
    pairs = [
        (prediction, label)
        for prediction, label in zip(predictions.flatten().tolist(), labels.flatten().tolist(), strict=True)
        if label != 0
    ]
    accuracies, ious = [], []
    for c in range(1, classes + 1):
        both = sum(prediction == label == c for prediction, label in pairs)
        labelled, either = sum(label == c for _, label in pairs), sum(c in pair for pair in pairs)
        accuracies += [both / labelled] if labelled else []
        ious.append(both / either if either else None)
    there = [iou for iou in ious if iou is not None]
    return (
        sum(prediction == label for prediction, label in pairs) / len(pairs),
        sum(accuracies) / len(accuracies),
        sum(there) / len(there),
        ious,
    )


class Told(nn.Module):
    """Predicts what a list says."""

    def __init__(self, predictions):
        super().__init__()
        self.left = list(predictions)

    def predict(self, batch, size):
        return self.left.pop(0)


class Batches:
    def __init__(self, labels):
        self.labels = labels

    def epoch(self, k):
        return ({"semantics": value} for value in self.labels)


def test_measures_are_those_of_a_loop():
    generator = torch.Generator().manual_seed(0)
    # Class 4 is predicted and never there, 5 is there and never predicted, 6 is neither.
    labels = [
        torch.tensor([0, 1, 2, 3, 5])[torch.randint(0, 5, (n, 1, 6, 7), generator=generator)].to(torch.uint8)
        for n in (3, 2)
    ]
    predictions = [torch.randint(1, 5, value.shape, generator=generator).to(torch.uint8) for value in labels]
    measures = measures_of(count_confusion(Told(predictions), Batches(labels), 6))
    pixel, mean, miou, ious = by_hand(torch.cat(predictions), torch.cat(labels), 6)
    assert [measures[name] for name in ("pixel_accuracy", "mean_accuracy", "miou")] == pytest.approx(
        [100 * pixel, 100 * mean, 100 * miou]
    )
    assert measures["per_class_iou"] == pytest.approx(
        [float("nan") if iou is None else 100 * iou for iou in ious], nan_ok=True
    )
    with pytest.raises(UsageError, match="no pixel of the test frames"):
        measures_of(torch.zeros(3, 3))


def test_the_loss_is_that_of_a_loop_and_does_not_see_0():
    torch.manual_seed(0)
    logits = torch.randn(2, 3, 4, 5, dtype=torch.float64, requires_grad=True)
    labels = torch.randint(0, 4, (2, 1, 4, 5))
    labelled = [(b, y, x) for b in range(2) for y in range(4) for x in range(5) if labels[b, 0, y, x] != 0]
    by_loop = -sum(logits[b, :, y, x].log_softmax(0)[labels[b, 0, y, x] - 1] for b, y, x in labelled) / len(labelled)
    assert torch.allclose(pixel_loss(logits, labels), by_loop)
    (gradient,) = torch.autograd.grad(pixel_loss(logits, labels), logits)
    assert (gradient.permute(0, 2, 3, 1)[labels[:, 0] == 0] == 0).all() and (
        gradient.permute(0, 2, 3, 1)[labels[:, 0] > 0] != 0
    ).all()
    assert pixel_loss(logits, torch.zeros_like(labels)) == 0
    with pytest.raises(UsageError, match="hold class 4, and num_classes is 3"):
        pixel_loss(logits, labels.fill_(4))


# Training


def weights(model):
    return [value.clone() for value in model.state_dict().values()]


@pytest.mark.parametrize("head", ["linear", "unet"])
@pytest.mark.parametrize("mode", ["frozen", "fine_tuned", "scratch"])
def test_the_callers_network_is_as_before_and_a_frozen_encoder_too(head, mode):
    net = network()
    before = fingerprint(net)
    result, model = segment(net, split(16, 0), split(8, 1), head=head, mode=mode, **QUICK)
    assert fingerprint(net) == before and result.num_train == 16 and result.num_test == 8
    assert not {p.data_ptr() for p in net.parameters()} & {p.data_ptr() for p in model.parameters()}
    same = [torch.equal(a, b) for a, b in zip(weights(net), weights(model.encoder), strict=True)]
    assert all(same) if mode == "frozen" else not any(same[:4])  # BatchNorm's statistics among them
    assert not any(module.training for module in model.modules())


def test_a_teacher_can_be_fine_tuned_and_stays_a_teacher():
    net = network().freeze()
    _, model = segment(net, split(16, 0), split(8, 1), mode="fine_tuned", **QUICK)
    assert not torch.equal(model.encoder.module[0].weight, net.module[0].weight) and not net.train().training
    assert not any(parameter.requires_grad for parameter in net.parameters())


@pytest.mark.parametrize("mode", ["frozen", "fine_tuned"])
@pytest.mark.parametrize("fraction", [1.0, 0.5])
def test_a_seed_gives_the_same_bits(mode, fraction):
    def trained(seed):
        net = network()
        state = torch.random.get_rng_state()
        result, model = segment(
            net, split(16, 0), split(8, 1), head="unet", mode=mode, label_fraction=fraction, seed=seed, **QUICK
        )
        assert torch.equal(torch.random.get_rng_state(), state)
        torch.rand(7)  # what happens between two calls has no part in the next
        return result.miou, weights(model)

    (first, ones), (again, same), (_, other) = trained(0), trained(0), trained(1)
    assert first == again and all(torch.equal(a, b) for a, b in zip(ones, same, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(ones, other, strict=True))


@pytest.mark.parametrize("mode", ["frozen", "fine_tuned"])
def test_frames_that_are_not_in_the_part_teach_nothing(mode):
    def changed(train, pixels):
        """The same frames with other labels."""
        images = {**train.images, "semantics": PaddedImages(pixels(train.images["semantics"].storage), 0)}
        return TensorSplit(images, targets=train.targets, num_classes=2, flip=True)

    train = split(16, 0)
    options = {"mode": mode, "label_fraction": 0.5, "head": "linear", **QUICK}
    _, first = segment(network(), train, split(8, 1), **options)
    part = labelled_part(16, train.targets, 0.5)
    out = torch.ones(16, dtype=torch.bool)
    out[part] = False
    _, second = segment(
        network(),
        changed(train, lambda labels: torch.where(out[:, None, None, None], 3, labels).to(torch.uint8)),
        split(8, 1),
        **options,
    )
    assert all(torch.equal(a, b) for a, b in zip(weights(first), weights(second), strict=True))
    _, third = segment(network(), changed(train, lambda labels: (4 - labels) % 4), split(8, 1), **options)
    assert not all(torch.equal(a, b) for a, b in zip(weights(first), weights(third), strict=True))


@pytest.mark.parametrize("fraction", [1.0, 0.5, 0.1])
def test_a_part_of_the_labels_gets_as_many_steps_as_all(fraction, monkeypatch):
    steps = []
    loss = segmentation.pixel_loss
    monkeypatch.setattr(segmentation, "pixel_loss", lambda *given: steps.append(1) or loss(*given))
    segment(network(), split(40, 0), split(8, 1), label_fraction=fraction, **{**QUICK, "epochs": 2, "batch_size": 8})
    assert len(steps) == 2 * (40 // 8)


def test_maps_too_big_to_keep_are_computed_again(monkeypatch):
    cached, _ = segment(network(), split(32, 0), split(16, 1), **{**QUICK, "epochs": 10})
    monkeypatch.setattr(kept_maps, "_SINGLE_BYTES", 0)
    half, _ = segment(network(), split(32, 0), split(16, 1), **{**QUICK, "epochs": 10})
    monkeypatch.setattr(kept_maps, "_MOST_BYTES", 0)
    net = network()
    before = fingerprint(net)
    again, model = segment(net, split(32, 0), split(16, 1), **{**QUICK, "epochs": 10})
    assert half.miou == pytest.approx(cached.miou, abs=1) and again.miou == pytest.approx(cached.miou, abs=8)
    assert fingerprint(net) == before and all(
        torch.equal(a, b) for a, b in zip(weights(net), weights(model.encoder), strict=True)
    )


def test_kept_maps_are_standardised_as_the_model_does_it():
    train = split(16, 0)
    _, model = segment(network(), train, split(8, 1), **{**QUICK, "epochs": 1})
    rows = torch.arange(16)
    fresh = Segmenter(model.encoder, LinearHead([tuple(shape) for shape in ((8, 12, 12), (8, 6, 6))], 3))
    cached = kept_maps.keep_maps(fresh, train.loader(batch_size=5, device="cpu", train=False), rows, "semantics")
    batch = next(train.loader(batch_size=16, device="cpu", train=False).epoch(0))
    with torch.no_grad():
        maps = fresh.eval().head.standardise(fresh.encoder(batch, ("maps",)).maps)
    picked, labels = cached.batch(rows, torch.device("cpu"))
    for value, same in zip(picked, maps, strict=True):
        assert torch.allclose(value, same, atol=1e-4)
        spread = value.var((0, 2, 3), correction=0)
        assert ((spread - 1).abs().lt(0.1) | spread.eq(0)).all() and value.mean((0, 2, 3)).abs().max() < 1e-3
    assert torch.equal(labels, batch["semantics"])


@pytest.mark.parametrize("head", ["linear", "unet"])
def test_an_encoder_that_sees_beats_one_that_does_not(head):
    options = {**QUICK, "epochs": 10, "head": head}
    seeing, _ = segment(network(), split(32, 0), split(16, 1), **options)
    blind, _ = segment(network(), split(32, 0, informative=False), split(16, 1, informative=False), **options)
    assert seeing.miou > blind.miou + 30 and seeing.pixel_accuracy > 75


def test_rooms_and_a_part_of_their_labels():
    rooms = Rooms(
        Rooms.Options(
            modalities=["rgb", "depth", "semantics"], size=16, train_samples=48, test_samples=24, crop_padding=2
        )
    )
    result, model = segment(
        network(), rooms.open("train"), rooms.open("test"), num_classes=15, label_fraction=0.25, epochs=4, batch_size=8
    )
    assert result.num_train == 12 and 0 < result.miou <= result.mean_accuracy < result.pixel_accuracy < 100
    batch = next(rooms.open("test").loader(batch_size=3, device="cpu", train=False).epoch(0))
    prediction = model.predict(batch, (20, 24))
    assert prediction.shape == (3, 1, 20, 24) and prediction.dtype == torch.int64 and prediction.min() >= 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"head": "linaer"}, "did you mean linear"),
        ({"mode": "frosen"}, "did you mean frozen"),
        ({"labels": "label13"}, "no label maps called label13: it has rgb, semantics"),
        ({"num_classes": 2}, "hold class 3, and num_classes is 2"),
        ({"label_fraction": 0.05}, "leaves 1 of 16 labelled training frames"),
    ],
)
def test_what_cannot_work_says_so(changes, message):
    with pytest.raises(UsageError, match=message):
        segment(network(), split(16, 0), split(8, 1), **{**QUICK, **changes})
