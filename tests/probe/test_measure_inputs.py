"""What the measures of a representation are given: arrays and lists that they take, and what they refuse."""

import numpy as np
import pytest
import torch

from contrastill import Network, Preprocess, ProbeSpec, Taps, UsageError
from contrastill.ensemble.diversity import diversity
from contrastill.probe.cka import MinibatchCKA, linear_cka
from contrastill.probe.class_correlation import class_correlation, correlation_difference
from contrastill.probe.features import Features, features_of
from contrastill.probe.few_shot import few_shot
from contrastill.probe.linear import fit_probe, linear_probe
from contrastill.probe.logme import logme
from contrastill.probe.neighbours import knn
from contrastill.probe.retrieval import retrieval

X, Y = torch.randn(20, 5, generator=torch.Generator().manual_seed(0)), torch.arange(20) % 4
FEATURES = Features(X, Y)


def network():
    module = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 4))
    return Network(module, taps=Taps(embedding="0"), preprocess=Preprocess((0.5,) * 3, (0.2,) * 3))


class Batches:
    """A loader of one batch."""

    def epoch(self, k):
        yield {"rgb": torch.zeros(2, 3, 2, 2, dtype=torch.uint8), "index": torch.arange(2)}


def test_arrays_are_taken_for_tensors():
    x, y = X.numpy(), Y.numpy()
    assert linear_cka(x, x[::-1]) == linear_cka(X, X.flip(0)) == linear_cka(x.astype(">f4"), X.flip(0))
    assert logme(x, y) == logme(X, Y)
    assert correlation_difference(x, -x).mean_absolute == correlation_difference(X, -X).mean_absolute
    assert knn(Features(x, y), FEATURES, k=np.int64(3)).top1 == knn(FEATURES, FEATURES, k=3).top1
    cka = MinibatchCKA()
    cka.update(x, x)
    assert cka.compute() == pytest.approx(1)


@pytest.mark.parametrize("dtype", [torch.int32, torch.uint8, torch.int16, np.uint16])
def test_classes_of_any_dtype_of_integers_are_taken(dtype):
    stored = Features(X, Y.numpy().astype(dtype) if dtype is np.uint16 else Y.to(dtype))
    assert stored.targets.dtype == torch.int64
    assert knn(stored, stored, k=3).top1 == knn(FEATURES, FEATURES, k=3).top1
    assert fit_probe(stored, stored, "embedding").top1 == fit_probe(FEATURES, FEATURES, "embedding").top1
    assert few_shot(stored, stored, shots=(2,)) == few_shot(FEATURES, FEATURES, shots=(2,))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: linear_cka("a", X), "x is 'a': pass an object of the class Tensor"),
        (lambda: linear_cka(np.array(["a"]), X), "x is array.* pass an object of the class Tensor"),
        (lambda: logme(X, Y, iterations=0), "iterations is 0: pass a whole number from 1 on"),
        (lambda: logme(X, Y, tolerance=float("nan")), "tolerance=nan is no difference"),
        (lambda: logme(X, Y - 1), "LogME needs classes as whole numbers from 0 on"),
        (lambda: logme(X, Y.float()), "LogME needs classes as whole numbers from 0 on"),
        (lambda: knn(FEATURES, FEATURES, k=5.0), "k is 5.0: pass a whole number"),
        (lambda: knn(FEATURES, FEATURES, k=None), "k is None: pass a whole number"),
        (lambda: knn(FEATURES, FEATURES, temperature=float("nan")), "temperature=nan is not positive"),
        (lambda: knn(X, FEATURES), "train is Tensor: pass an object of the class Features"),
        (lambda: few_shot(FEATURES, FEATURES, shots=3), r"shots is 3: pass a list \[a whole number, …\]"),
        (lambda: few_shot(FEATURES, FEATURES, shots="12"), r"shots is '12': pass a list"),
        (lambda: few_shot(FEATURES, FEATURES, shots=(1.5,)), r"shots is \(1.5,\): pass a list"),
        (lambda: few_shot(FEATURES, FEATURES, draws="2"), "draws is '2': pass a whole number"),
        (lambda: few_shot(FEATURES, FEATURES, seed=None), "seed is None: pass a whole number"),
        (
            lambda: features_of("net", Batches(), ("embedding",)),
            "network is 'net': pass an object of the class Network",
        ),
        (lambda: features_of(network(), "x", ("embedding",)), r"loader is of the class str, which has no epoch\(k\)"),
        (lambda: features_of(network(), Batches(), "embedding"), r"layers is 'embedding': pass a list \[text, …\]"),
        (lambda: features_of(network(), Batches(), ("embedding",), 1.5), "spatial is 1.5: pass a whole number"),
        (lambda: ProbeSpec(layers=()), "layers is empty: name a layer such as embedding, or None for all"),
    ],
)
def test_arguments_of_another_kind_are_named(call, message):
    with pytest.raises(UsageError, match=message):
        call()


MEASURES = {
    "retrieval": lambda x: retrieval(x, x),
    "cka": lambda x: linear_cka(X, x),
    "minibatches": lambda x: MinibatchCKA().update(x, x),
    "logme": lambda x: logme(x, Y),
    "correlation": lambda x: class_correlation(x),
    "difference": lambda x: correlation_difference(X, x),
    "knn": lambda x: knn(FEATURES, Features(x, Y)),
    "few shots": lambda x: few_shot(Features(x, Y), FEATURES, shots=(2,)),
    "probe": lambda x: fit_probe(Features(x, Y), Features(x, Y), "embedding"),
    "diversity": lambda x: diversity(x.softmax(1)[None] if x.is_meta else x, Y),
}


@pytest.mark.parametrize("measure", MEASURES.values(), ids=MEASURES)
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: torch.zeros(20, 0), "shape|is .20, 0.|0 classes|features that are not all 0"),
        (lambda: X.to_sparse(), r"is a sparse tensor \(sparse_coo\): give .* as its to_dense\(\) is"),
        (lambda: torch.zeros(20, 5, device="meta"), "is on the device meta and has no values"),
        (lambda: X + 1j, "is torch.complex64, and what is measured are real numbers"),
        (lambda: X.to(torch.float8_e4m3fn), r"is torch.float8_e4m3fn, which is not computed with: give its float\(\)"),
    ],
    ids=["empty", "sparse", "meta", "complex", "8 bits"],
)
def test_tensors_that_cannot_be_measured_are_refused(measure, make, message):
    with pytest.raises(UsageError, match=message):
        measure(make())


@pytest.mark.parametrize("targets", [Y.float(), Y > 1, Y.to("meta"), Y + 0j])
def test_classes_that_are_none_are_refused(targets):
    for call in (knn, lambda train, test: few_shot(train, test, shots=(2,))):
        with pytest.raises(UsageError, match="give whole numbers from 0 on|targets is "):
            call(Features(X, targets), FEATURES)


def test_whole_numbers_are_features_as_floats_are():
    whole = (10 * X).long()
    assert knn(Features(whole, Y), Features(whole, Y)).top1 == knn(Features(whole.float(), Y), Features(whole, Y)).top1
    assert fit_probe(Features(X > 0, Y), Features(X > 0, Y), "embedding").num_test == 20


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("protocol", ["exact", "grid", "crd"])
def test_features_of_any_precision_are_measured(dtype, protocol):
    other = Features(X.to(dtype), Y)
    same = Features(other.values.float(), Y)
    for train, test in ((other, other), (same, other), (other, same)):
        assert (
            fit_probe(train, test, "it", protocol=protocol).top1 == fit_probe(same, same, "it", protocol=protocol).top1
        )
        assert few_shot(train, test, shots=(2,)) == few_shot(same, same, shots=(2,))
    assert knn(same, other, k=3).top1 == knn(other, same, k=3).top1 == knn(same, same, k=3).top1


class LabelledBatches:
    """A loader that has epoch(k) and nothing else."""

    def epoch(self, k, start=0):
        yield {"rgb": torch.arange(96).view(8, 3, 2, 2).byte(), "index": torch.arange(8), "target": torch.arange(8) % 2}


def test_a_loader_without_names_of_classes_is_probed():
    assert linear_probe(network(), LabelledBatches(), LabelledBatches()).num_test == 8


def test_a_layer_that_is_named_twice_counts_once():
    layers = ("embedding", "logits", "embedding")
    assert list(features_of(network(), Batches(), layers)) == ["embedding", "logits"]
    assert ProbeSpec(layers=layers).layers == ("embedding", "logits")
