"""Modules that return a dict, a dataclass or a tuple: which of it are logits and embedding, or a sentence."""

from collections import namedtuple
from dataclasses import dataclass

import pytest
import torch
from torch import nn
from torchvision import models

import contrastill
from contrastill.core.errors import UsageError
from contrastill.core.outputs import part_of
from contrastill.core.representation import Network, Preprocess, Taps
from contrastill.models.user_module import UserModule

PLAIN = Preprocess((0.0,) * 3, (1.0,) * 3)


@dataclass
class Answer:
    logits: torch.Tensor
    hidden_states: tuple = ()


Pair = namedtuple("Pair", ["scores", "other"])


class Body(nn.Module):
    """Returns what ``form`` makes of logits (B, 4), features (B, 8) and other logits (B, 4)."""

    def __init__(self, form):
        super().__init__()
        self.conv, self.fc, self.other = nn.Conv2d(3, 8, 3), nn.Linear(8, 4), nn.Linear(8, 4)
        self.form = form

    def forward(self, images):
        maps = self.conv(images).relu()
        features = maps.mean((2, 3))
        return self.form(self.fc(features), features, self.other(features))

    def parts(self, images):
        features = self.conv(images).relu().mean((2, 3))
        return self.fc(features), features


def dataclass_of(logits, features, other):
    return Answer(logits, (features,))


def dict_of(logits, features, other):
    return {"aux": other, "out": logits}


def nested(logits, features, other):
    return {"loss": None, "heads": {"aux": features, "main": logits}}


def named_tuple(logits, features, other):
    return Pair(logits, other)


def auxiliary(logits, features, other):
    return logits, other


def features_first(logits, features, other):
    return features, logits


def lightning(logits, features, other):
    return {"y_hat": logits, "features": features}


FORMS = (dataclass_of, dict_of, nested, named_tuple, auxiliary, features_first, lightning)


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)
def test_logits_and_embedding_in_what_a_module_returns(form):
    module, images = Body(form), torch.rand(2, 3, 16, 16)
    own = UserModule(module, Taps(), PLAIN, (3, 16, 16), data_classes=4)
    representation = Network(module, taps=own.taps, preprocess=PLAIN).freeze()(images)
    logits, embedding = module.parts(images)
    assert torch.equal(representation.logits, logits) and torch.equal(representation.embedding, embedding)
    assert own.num_logits == 4 and own.classifiers == ("fc",) and own.taps.maps == ("conv",)


def test_features_without_logits_are_an_embedding():
    module, images = (
        Body(lambda logits, features, other: {"features": features, "mask": images}),
        torch.rand(2, 3, 9, 9),
    )
    own = UserModule(module, Taps(), PLAIN, (3, 9, 9), data_classes=4)
    assert own.taps.embedding == "output:features" and own.taps.logits is None and own.num_logits is None
    representation = Network(module, taps=own.taps, preprocess=PLAIN)(images)
    assert representation.logits is None and torch.equal(representation.embedding, module.parts(images)[1])


class Beside(nn.Module):
    """Returns what ``form`` makes of features (B, 4) before a classifier, and its logits (B, 4)."""

    def __init__(self, form, linear=False):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(3)  # of other weights none of the four features may be above 0
            self.conv, self.fc, self.form = nn.Conv2d(3, 4, 3), nn.Linear(4, 4), form
            self.neck = nn.Linear(4, 4) if linear else nn.Identity()

    def forward(self, images):
        features = self.neck(self.conv(images).mean((2, 3)))
        return self.form(features, self.fc(features.relu()))


BESIDE = {
    "features first": (lambda features, logits: (features, logits), "1"),
    "logits first": (lambda features, logits: (logits, features), "0"),
    "normalised features": (lambda features, logits: (nn.functional.normalize(features), logits), "1"),
    "scaled logits": (lambda features, logits: (features, 3 * logits), "1"),
    "probabilities": (lambda features, logits: {"shares": logits.softmax(1), "answer": logits}, "answer"),
    "keys": (lambda features, logits: {"angles": features, "answer": logits}, "answer"),
}


@pytest.mark.parametrize("linear", [False, True])
@pytest.mark.parametrize(("form", "logits"), BESIDE.values(), ids=BESIDE)
def test_of_outputs_of_one_length_the_classifiers_is_read_and_named(form, logits, linear, caplog):
    own = UserModule(Beside(form, linear), Taps(), PLAIN, (3, 9, 9), data_classes=4)
    assert own.taps.logits == f"output:{logits}" and own.taps.embedding == "input:fc"
    assert f"of which {logits} is read as its logits: if another is, pass contrastill.Network(module" in caplog.text
    caplog.clear()
    UserModule(Beside(form, linear), Taps(logits=f"output:{logits}"), PLAIN, (3, 9, 9), data_classes=4)
    assert not caplog.records


@pytest.mark.parametrize(
    "module",
    [
        Beside(lambda features, logits: (features, 2 * features)),
        Beside(lambda features, logits: (logits.softmax(1), 2 * logits)),
        Body(lambda logits, features, other: {"coarse": logits, "fine": other}),
    ],
    ids=["no classifier's", "both of one classifier", "two classifiers"],
)
@pytest.mark.parametrize("role", ["teacher", "student"])
def test_two_outputs_that_may_be_the_logits_are_refused(module, role, tmp_path):
    data = torch.utils.data.TensorDataset(torch.rand(16, 3, 9, 9), torch.arange(16) % 4)
    plain = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 4))
    teacher, student = (module, plain) if role == "teacher" else (plain, module)
    with pytest.raises(UsageError, match="it is not clear what of it are logits .*: pass contrastill.Network"):
        contrastill.distill(teacher, student, (data, data), out=tmp_path, objectives=["kd"], epochs=1, quiet=True)


def test_an_auxiliary_classifier_under_its_name_is_none():
    module = Body(lambda logits, features, other: {"auxiliary": other, "main": logits})
    assert UserModule(module, Taps(), PLAIN, (3, 9, 9), data_classes=4).taps.logits == "output:main"


def test_what_is_not_clear_is_refused_with_the_way_out():
    def projections(logits, features, other):
        return {"left": logits, "right": features @ torch.ones(8, 5)}

    module = Body(lambda logits, features, other: (other[:, :3] + logits[:, :3], logits.softmax(1)))
    message = (
        r"Body returns a tuple \(0 \(2, 3\), 1 \(2, 4\)\), and it is not clear .*: pass contrastill.Network\(module, "
        r"taps=contrastill.Taps\(logits='output:KEY'"
    )
    with pytest.raises(UsageError, match=message):
        UserModule(module, Taps(), PLAIN, (3, 16, 16), data_classes=7)
    own = UserModule(module, Taps(logits="output:1", embedding="input:fc"), PLAIN, (3, 16, 16), data_classes=7)
    assert own.taps.logits == "output:1" and own.num_logits == 4
    assert UserModule(Body(projections), Taps(), PLAIN, (3, 16, 16), data_classes=4).taps.logits == "output:left"
    with pytest.raises(UsageError, match=r"Body returns a tuple .*, and nothing at logits"):
        Network(module, taps=Taps(logits="output:logits"), preprocess=PLAIN)(torch.rand(2, 3, 16, 16))


def test_a_part_is_never_another():
    logits = torch.rand(2, 4)
    assert part_of(logits, "logits", "net") is logits and part_of(logits, "0", "net") is logits
    with pytest.raises(UsageError, match=r"net returns a tensor \(2, 4\), and nothing at features"):
        part_of(logits, "features", "net")
    tokens = torch.rand(2, 5, 8)
    assert torch.equal(part_of({"last": tokens}, "last.0", "net"), tokens[:, 0])


def test_torchvisions_networks_that_return_more_in_training():
    module = models.googlenet(weights=None, num_classes=4, aux_logits=True, init_weights=False)
    own = UserModule(module, Taps(), PLAIN, (3, 64, 64), data_classes=4)
    network = Network(module, taps=own.taps, preprocess=PLAIN)
    images = torch.rand(2, 3, 64, 64)
    assert own.taps.logits == "output:logits" and own.taps.embedding == "input:fc"
    for training in (True, False):
        assert network.train(training)(images, {"logits"}).logits.shape == (2, 4)


@pytest.mark.parametrize("form", (dataclass_of, auxiliary), ids=lambda form: form.__name__)
def test_a_student_that_returns_more_is_distilled_and_loaded(form, four_classes, tmp_path):
    result = contrastill.distill(
        Body(lightning),
        Body(form),
        four_classes,
        out=tmp_path / "run",
        objectives=["crd", "kd", "cross_entropy"],
        epochs=1,
        batch_size=16,
        quiet=True,
    )
    student = contrastill.load_student(tmp_path / "run", module=Body(form))
    images = torch.rand(2, 3, 16, 16)
    assert torch.equal(part_of(student(images), result.student.taps.logits[7:], "student"), student.parts(images)[0])
    assert torch.equal(student.parts(images)[0], result.student.parts(images)[0])
