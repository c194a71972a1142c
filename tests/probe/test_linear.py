"""The linear probe: its optimum, what it leaves alone, and which labels it uses."""

import hashlib

import pytest
import torch
from torch import nn

import contrastill
from contrastill.core.errors import UsageError
from contrastill.core.representation import Network, Preprocess, Taps
from contrastill.datasets.io.in_memory import TensorSplit
from contrastill.datasets.io.views import PaddedImages
from contrastill.probe.features import Features, features, features_of
from contrastill.probe.labels import labelled_part
from contrastill.probe.linear import fit_logistic, fit_probe, linear_probes


def fingerprint(network):
    """Of every parameter and buffer, bit by bit, and of every training flag."""
    digest = hashlib.sha256()
    for name, value in network.state_dict().items():
        digest.update(name.encode() + value.contiguous().numpy().tobytes())
    return (
        digest.hexdigest(),
        [module.training for module in network.modules()],
        [parameter.requires_grad for parameter in network.parameters()],
    )


def split(count, seed, classes=3, size=8):
    """Frames whose brightness is their class, with noise."""
    generator = torch.Generator().manual_seed(seed)
    targets = torch.arange(count) % classes
    images = targets[:, None, None, None] * 60 + torch.randint(0, 50, (count, size, size, 3), generator=generator)
    return TensorSplit(
        {"rgb": PaddedImages(images.to(torch.uint8), 0)}, targets=targets, num_classes=classes, flip=True
    )


def network():
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 5, 3),
        nn.BatchNorm2d(5), nn.Dropout(0.5),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 3),
    )  # fmt: skip
    return Network(
        module, taps=Taps(embedding="input:9", maps=("2", "5")), preprocess=Preprocess((0.5,) * 3, (0.25,) * 3)
    ).train()


def test_the_network_is_as_before():
    net, train = network(), split(24, 0)
    net.module[1].eval()  # flags are put back one by one
    before = fingerprint(net)
    loader = train.loader(batch_size=7, device="cpu", train=False)
    first, again = (features(net, loader, "embedding").values for _ in range(2))
    assert torch.equal(first, again) and first.shape == (24, 5) and not first.requires_grad
    linear_probes(net, train, split(12, 1), layers=("embedding", "maps.0"))
    assert fingerprint(net) == before


def test_positions_of_layers_that_have_none_are_named(caplog):
    for layers, lines in ((("embedding", "logits"), 1), (("embedding", "maps.0"), 0)):
        caplog.clear()
        linear_probes(network(), split(24, 0), split(12, 1), layers=layers, spatial=2)
        assert [record.getMessage() for record in caplog.records] == lines * [
            "spatial=2 changes nothing, as embedding and logits have no positions and it is of maps.0, maps.1, …: "
            "leave it out"
        ]


def test_layers_are_those_of_the_representation():
    net, loader = network(), split(10, 0).loader(batch_size=4, device="cpu", train=False)
    by_layer = features_of(net, loader, ("logits", "embedding", "maps.0", "maps.1"), spatial=2)
    assert {name: tuple(value.values.shape) for name, value in by_layer.items()} == {
        "logits": (10, 3),
        "embedding": (10, 5),
        "maps.0": (10, 24),
        "maps.1": (10, 20),
    }
    with torch.no_grad():
        batch = next(split(10, 0).loader(batch_size=10, device="cpu", train=False).epoch(0))
        outputs = net.eval()(batch)
    assert torch.allclose(by_layer["embedding"].values, outputs.embedding, atol=1e-6)
    quarters = torch.stack(
        [outputs.maps[0][:, :, y : y + 4, x : x + 4].mean((2, 3)) for y in (0, 4) for x in (0, 4)], 2
    )
    assert torch.allclose(by_layer["maps.0"].values, quarters.flatten(1), atol=1e-6)
    for layer, message in (("maps.2", "does not exist"), ("pooled", "none of a representation's")):
        with pytest.raises(UsageError, match=message):
            features(net, loader, layer)


def test_features_are_in_the_order_of_the_index():
    train = split(20, 0)
    shuffled = features(network(), train.loader(batch_size=6, device="cpu", seed=3, train=True), "embedding")
    assert torch.equal(shuffled.targets, train.targets)


@pytest.mark.parametrize("weight_decay", [1e-1, 1e-3])
def test_the_optimum_is_newtons(weight_decay):
    """Against Newton's method in float64, its Hessian by autograd."""
    generator = torch.Generator().manual_seed(1)
    x, y = torch.randn(60, 4, generator=generator), torch.randint(0, 3, (60,), generator=generator)
    solution = fit_logistic(x, y, torch.zeros(5, 3), weight_decay)
    wide = x.double()

    def loss(weight):
        logits = wide @ weight[:-1] + weight[-1]
        picked = sum(logits[i, y[i]] - logits[i].exp().sum().log() for i in range(60))
        return -picked / 60 + 0.5 * weight_decay * (weight[:-1] ** 2).sum()

    weight = torch.zeros(5, 3, dtype=torch.float64)
    for _ in range(12):
        gradient = torch.autograd.functional.jacobian(loss, weight).flatten()
        hessian = torch.autograd.functional.hessian(loss, weight).reshape(15, 15)
        weight = weight - (torch.linalg.pinv(hessian) @ gradient).view(5, 3)
    assert gradient.abs().max() < 1e-9
    assert loss(solution.double()) - loss(weight) < 1e-6
    probabilities = [(wide @ each[:-1] + each[-1]).softmax(1) for each in (solution.double(), weight)]
    assert torch.allclose(*probabilities, atol=2e-3)


def clusters(count, seed, classes=7, dim=12, spread=0.2):
    generator = torch.Generator().manual_seed(seed)
    targets = torch.arange(count) % classes
    centres = torch.randn(classes, dim, generator=torch.Generator().manual_seed(99))
    # Scales far apart, and one channel that never changes: standardising takes care of both.
    values = (centres[targets] + spread * torch.randn(count, dim, generator=generator)) * torch.logspace(-3, 3, dim)
    values[:, 0] = 5.0
    return Features(values, targets)


def test_what_is_separable_is_separated():
    result = fit_probe(clusters(140, 0), clusters(70, 1), "embedding")
    assert result.top1 == result.top5 == 100 and result.correct.all() and result.correct.dtype == torch.bool
    noise = clusters(140, 0)
    chance = fit_probe(
        Features(torch.randn(140, 12, generator=torch.Generator().manual_seed(5)), noise.targets),
        clusters(70, 1),
        "embedding",
    )
    assert chance.top1 < 40


def test_the_strength_is_chosen_without_the_test_split():
    noisy = clusters(80, 0, spread=2.0)
    first, second = (fit_probe(noisy, clusters(70, seed, spread=2.0), "embedding") for seed in (1, 2))
    assert first.weight_decay == second.weight_decay and not torch.equal(first.correct, second.correct)
    again = fit_probe(noisy, clusters(70, 1, spread=2.0), "embedding")
    assert torch.equal(first.correct, again.correct)


def test_a_part_is_stratified_and_lies_in_the_larger_one():
    targets = torch.tensor([0] * 100 + [1] * 60 + [2] * 40)[
        torch.randperm(200, generator=torch.Generator().manual_seed(0))
    ]
    parts = {fraction: labelled_part(200, targets, fraction, seed=4) for fraction in (0.05, 0.1, 0.5, 1.0)}
    assert torch.bincount(targets[parts[0.05]]).tolist() == [5, 3, 2] and torch.bincount(
        targets[parts[0.5]]
    ).tolist() == [50, 30, 20]
    rows = [set(part.tolist()) for part in parts.values()]
    assert all(small < large for small, large in zip(rows, rows[1:], strict=False)) and rows[-1] == set(range(200))
    assert (
        not torch.equal(parts[0.1], labelled_part(200, targets, 0.1, seed=5))
        and len(labelled_part(200, None, 0.1)) == 20
    )
    for fraction in (0, 1.5):
        with pytest.raises(UsageError, match="label_fraction"):
            labelled_part(200, targets, fraction)


def test_a_part_of_one_class_is_refused():
    with pytest.raises(UsageError, match="label_fraction=0.01 leaves 1 of 140 training samples, all of one class"):
        fit_probe(clusters(140, 0), clusters(70, 1), "embedding", label_fraction=0.01)


def test_a_probe_of_a_part_uses_only_its_labels():
    train = clusters(140, 0)
    part = labelled_part(140, train.targets, 0.2)
    others = torch.ones(140, dtype=torch.bool)
    others[part] = False
    spoilt = Features(torch.where(others[:, None], 1e6, train.values), train.targets)
    results = [fit_probe(known, clusters(70, 1), "embedding", label_fraction=0.2) for known in (train, spoilt)]
    assert results[0].num_train == 28 and torch.equal(results[0].correct, results[1].correct)


def test_through_a_network_and_without_labels():
    assert contrastill.linear_probe(network(), split(60, 0), split(30, 1)).top1 > 90
    empty = split(60, 0)
    empty.num_classes = 4
    with pytest.raises(UsageError, match="of 4 classes 3 has no training sample"):
        contrastill.linear_probe(network(), empty, split(30, 1))
    bare = split(12, 0)
    bare.targets = None
    with pytest.raises(UsageError, match="needs classes"):
        contrastill.linear_probe(network(), bare, split(12, 1))


@pytest.mark.parametrize("protocol", ["exact", "grid", "crd"])
def test_probes_of_features_that_are_kept_look_at_nothing_again(protocol, tmp_path):
    net, forwards = network(), []
    net.module.register_forward_hook(lambda _, inputs, output: forwards.append(len(output)))
    first, again = (
        linear_probes(
            net, split(60, 0), split(30, 1), layers=("embedding", "maps.0"), protocol=protocol, cache=tmp_path
        )
        for _ in range(2)
    )
    assert forwards == [
        60,
        30,
        8,
        8,
    ]  # the second time a few, by which what is kept is compared with what the network gives now
    for layer, result in first.items():
        assert (
            result.protocol == protocol
            and torch.equal(result.correct, again[layer].correct)
            and result.loss == again[layer].loss
        )
        assert result.low <= result.top1 <= result.high and result.top1 > 60 and 0 < result.loss < 1


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("weight_decays", [], r"weight_decays is \[\]: give one or more finite numbers from 0 on"),
        ("weight_decays", [-1], r"weight_decays is \[-1\]"),
        ("weight_decays", [0.1, float("nan")], r"weight_decays is \[0.1, nan\]"),
        ("weight_decays", [float("inf")], r"weight_decays is \[inf\]"),
        ("weight_decays", 0.1, r"weight_decays is 0.1: pass a list \[a number, …\]"),
        ("weight_decays", ["a"], r"weight_decays is \['a'\]: pass a list"),
        *(
            ("spatial", value, "spatial is .*: pass a whole number from 1 on")
            for value in (2.5, 0, -1, "2", True, None)
        ),
        *(("batch_size", value, "batch_size is .*: pass a whole number from 1 on") for value in (0, 2.5, None)),
        ("label_fraction", "a", "label_fraction is 'a': pass a number"),
        ("seed", 1.5, "seed is 1.5: pass a whole number"),
        ("protocol", None, "protocol is None: pass text"),
        ("cache", 3, "cache is 3: pass text or a path or None"),
    ],
)
def test_options_that_are_none(option, value, message):
    with pytest.raises(UsageError, match=message):
        contrastill.linear_probe(network(), split(12, 0), split(12, 1), **{option: value})
