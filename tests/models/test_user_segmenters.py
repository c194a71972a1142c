"""Users' own modules that answer for each position: where their prediction is, and how many channels it has."""

from dataclasses import dataclass

import pytest
import torch
from torch import nn

from contrastill.core.errors import UsageError
from contrastill.core.representation import Network, Preprocess, Taps
from contrastill.models.user_module import UserModule

PLAIN = Preprocess((0.0,) * 3, (1.0,) * 3)
SHAPE = (3, 28, 28)


@dataclass
class Output:
    features: torch.Tensor
    logits: torch.Tensor


class Body(nn.Module):
    """A quarter of the resolution, 12 channels; answers with 5."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU())
        self.deep = nn.Sequential(nn.Conv2d(8, 12, 3, 2, 1), nn.ReLU())
        self.head, self.other = nn.Conv2d(12, 5, 1), nn.Conv2d(8, 4, 1)

    def features(self, images):
        middle = self.stem(images)
        return middle, self.deep(middle)

    def forward(self, images):
        return self.head(self.features(images)[1])


class OfADict(Body):
    def forward(self, images):
        middle, deep = self.features(images)
        return {"aux": self.other(middle), "out": self.head(deep)}


class OfADataclass(Body):
    def forward(self, images):
        middle, deep = self.features(images)
        return Output(middle, self.head(deep))


class Backbone(Body):
    """Returns its deepest map."""

    def forward(self, images):
        return self.features(images)[1]


class Both(Body):
    """Classes of the image, and of its pixels."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(12, 3)

    def forward(self, images):
        deep = self.features(images)[1]
        return {"label": self.fc(deep.mean((2, 3))), "out": self.head(deep)}


def network_of(module, taps=None):
    builder = UserModule(module, taps or Taps(), PLAIN, SHAPE)
    return builder, Network(builder(), taps=builder.taps, preprocess=PLAIN).eval()


@pytest.mark.parametrize(
    ("kind", "tap"), [(Body, "output:"), (OfADict, "output:out"), (OfADataclass, "output:logits"), (Both, "output:out")]
)
def test_the_prediction_is_what_the_module_answers_for_each_position(kind, tap):
    torch.manual_seed(0)
    module = kind().eval()
    builder, network = network_of(module)
    assert builder.dense and builder.num_logits == 5 and builder.taps.dense
    assert builder.taps.prediction == network.taps.prediction == tap
    images = torch.rand(2, 3, 32, 44)
    outputs = network({"rgb": images})
    _, deep = module.features(images)
    torch.testing.assert_close(outputs.prediction, module.head(deep))
    assert outputs.prediction.shape == (2, 5, 8, 11) and outputs.logits is None
    # The prediction is no feature map; of an auxiliary answer it is not known.
    assert [tuple(value.shape[1:]) for value in outputs.maps] == [(4 if kind is OfADict else 8, 16, 22), (12, 8, 11)]
    (gradient,) = torch.autograd.grad(outputs.prediction.sum(), [next(network.module.parameters())])
    assert gradient.abs().sum() > 0


@pytest.mark.parametrize(
    ("form", "described", "key"),
    [
        (lambda answer, deep: {"seg": answer}, r"a dict \(seg \(2, 5, 7, 7\)\)", "seg"),
        (lambda answer, deep: (answer, deep), r"a tuple \(0 \(2, 5, 7, 7\), 1 \(2, 12, 7, 7\)\)", "0"),
        (lambda answer, deep: [answer], r"a list \(0 \(2, 5, 7, 7\)\)", "0"),
        (lambda answer, deep: {"heads": {"seg": answer}}, r"a dict \(heads dict\)", "heads.seg"),
    ],
)
def test_a_map_under_another_key_is_named_by_a_tap(form, described, key):
    class Keyed(Body):
        def forward(self, images):
            deep = self.features(images)[1]
            return form(self.head(deep), deep)

    with pytest.raises(
        UsageError, match=rf"Keyed returns {described}, .*contrastill.Taps\(prediction='output:{key}'\), preprocess"
    ):
        network_of(Keyed())
    builder, network = network_of(Keyed(), Taps(prediction=f"output:{key}"))
    assert builder.num_logits == 5 and network({"rgb": torch.rand(1, 3, 28, 28)}).prediction.shape == (1, 5, 7, 7)


def test_a_module_whose_embedding_is_named_stays_a_backbone():
    torch.manual_seed(0)
    module = Backbone().eval()
    for taps in (Taps(embedding="output:"), Taps(embedding="deep")):
        builder, network = network_of(module, taps)
        assert not builder.dense and not builder.taps.dense and builder.taps.prediction is None
        outputs = network({"rgb": torch.rand(2, 3, 28, 28)}, {"embedding", "maps"})
        assert outputs.embedding.shape == (2, 12) and outputs.prediction is None
        assert module(torch.rand(2, 3, 28, 28)).shape == (2, 12, 7, 7)
    # Without a name its answer of 7×7 positions is its prediction.
    builder, _ = network_of(module)
    assert builder.dense and builder.num_logits == 12


def test_a_prediction_that_is_named_is_taken():
    torch.manual_seed(0)
    module = OfADict().eval()
    builder, network = network_of(module, Taps(prediction="output:aux"))
    assert builder.num_logits == 4 and network({"rgb": torch.rand(1, 3, 28, 28)}).prediction.shape == (1, 4, 14, 14)
    builder, network = network_of(module, Taps(prediction="head", embedding="deep", maps=("stem",)))
    outputs = network({"rgb": torch.rand(1, 3, 28, 28)})
    assert outputs.prediction.shape == (1, 5, 7, 7) and outputs.embedding.shape == (1, 12)
    assert [value.shape[1] for value in outputs.maps] == [8]
    with pytest.raises(UsageError, match="nothing at out2: tap a part that is there"):
        network_of(module, Taps(prediction="output:out2"))


def test_a_map_of_one_position_is_an_embedding_as_before():
    module = nn.Sequential(nn.Conv2d(3, 6, 3), nn.AdaptiveAvgPool2d(1))
    builder, network = network_of(module)
    assert not builder.dense and network({"rgb": torch.rand(2, 3, 28, 28)}).prediction is None


def test_transformers_segformer():
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    torch.manual_seed(0)
    config = transformers.SegformerConfig(
        hidden_sizes=[8, 8, 16, 16],
        depths=[1, 1, 1, 1],
        num_attention_heads=[1, 1, 2, 2],
        decoder_hidden_size=16,
        num_labels=6,
    )
    module = transformers.SegformerForSemanticSegmentation(config).eval()
    builder = UserModule(module, Taps(), PLAIN, (3, 64, 64))
    assert builder.dense and builder.num_logits == 6 and builder.taps.prediction == "output:logits"
    network = Network(builder(), taps=builder.taps, preprocess=PLAIN).eval()
    images = torch.rand(2, 3, 64, 96)
    with torch.no_grad():
        outputs, own = network({"rgb": images}), module(images, output_hidden_states=True)
    assert torch.equal(outputs.prediction, own.logits) and outputs.prediction.shape == (2, 6, 16, 24)
    assert outputs.logits is None and len(outputs.maps) == 4
    for value, hidden in zip(outputs.maps, own.hidden_states, strict=True):
        assert torch.equal(value, hidden)
