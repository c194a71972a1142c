"""Networks in memory that are of one class, and comparisons of networks on the classes that are used."""

import h5py
import numpy as np
import pytest
import torch
from torch import nn

import contrastill
from contrastill import Network, Preprocess, ProbeSpec, Taps
from contrastill.core.errors import UsageError
from contrastill.probe.cka import linear_cka
from contrastill.probe.class_correlation import correlation_difference


def network(width):
    module = nn.Sequential(nn.Conv2d(3, width, 3), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * width, 3))
    taps = Taps(logits="output:", embedding="2")
    return Network(module, taps=taps, preprocess=Preprocess((0.5,) * 3, (0.25,) * 3)).eval()


@pytest.fixture(scope="module")
def networks():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return network(4), network(16)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "three.h5"
    generator = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        file.attrs["classes"] = ["a", "b", "c"]
        for split, count in (("train", 24), ("test", 30)):
            file[f"{split}/target"] = np.arange(count) % 3
            file[f"{split}/rgb"] = generator.integers(0, 255, (count, 8, 8, 3), dtype=np.uint8)
    return path


def test_each_has_a_cost_of_its_own(networks):
    small, large = networks
    rows = contrastill.measure_cost([small, large, small], size=8, rounds=1, device="cpu").rows
    assert [(row.network, row.cost.parameters) for row in rows] == [
        (name, sum(parameter.numel() for parameter in network.parameters()))
        for name, network in (("Sequential", small), ("Sequential 2", large))
    ]


def test_uses_of_one_module_are_one_network(networks):
    small, _ = networks
    again = Network(small.module, taps=small.taps, preprocess=small.preprocess)
    other = Network(small.module, taps=Taps(embedding="1"), preprocess=small.preprocess)
    rows = contrastill.measure_cost([small, again, other], size=8, rounds=1, device="cpu").rows
    assert [row.network for row in rows] == ["Sequential", "Sequential 2"]


@pytest.mark.parametrize("classes", [(0, 1, 2), (0, 2)], ids=["all classes", "two of three"])
def test_another_of_the_class_is_compared_on_the_samples_of_the_classes_that_are_used(networks, path, classes):
    small, large = networks
    data = f"{path},classes=[{','.join(map(str, classes))}]"
    report = contrastill.probe_networks(small, data, ProbeSpec(cka=large, correlation=large), progress=False)
    (cka,), (correlation,) = report.cka, report.correlation
    assert (cka.network, cka.other) == (correlation.network, correlation.teacher) == ("Sequential", "Sequential 2")
    with h5py.File(path) as file:
        used = np.isin(file["test/target"][:], classes)
        images = torch.from_numpy(file["test/rgb"][:][used]).permute(0, 3, 1, 2)
    with torch.no_grad():
        ours, theirs = (network({"rgb": images}) for network in networks)
    assert report.data[0].test == len(images)
    assert cka.values == [[pytest.approx(linear_cka(ours.embedding, theirs.embedding))]]
    by_hand = correlation_difference(theirs.logits, ours.logits)
    assert correlation.difference.mean_absolute == pytest.approx(by_hand.mean_absolute)


def test_classes_without_names_are_compared_by_number_with_a_line(networks, path, capsys):
    small, large = networks
    contrastill.probe_networks(small, str(path), ProbeSpec(correlation=large), progress=False)
    assert (
        "--correlation compares the classes of Sequential and Sequential 2 by their numbers, as Sequential and "
        "Sequential 2 have no names for them: it says nothing where they are numbered otherwise"
    ) in capsys.readouterr().err


def test_probabilities_have_no_correlations_of_logits(networks, path):
    small, large = networks
    ending = nn.Sequential(small.module, nn.Softmax(1))
    soft = Network(
        ending, taps=Taps(embedding=f"0.{small.taps.embedding}", logits="output:"), preprocess=small.preprocess
    )
    with pytest.raises(UsageError, match="returns probabilities .*, and --correlation compares logits: leave the soft"):
        contrastill.probe_networks(soft, str(path), ProbeSpec(correlation=large), progress=False)
