"""Users' own modules of unusual shape: where their embedding is, or a sentence."""

import json
import shutil
import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import prune

import contrastill
from contrastill.cli.main import main
from contrastill.core.errors import UsageError
from contrastill.core.objective import Setting
from contrastill.core.registry import MODELS, OBJECTIVES
from contrastill.core.representation import Preprocess, Taps
from contrastill.core.representation_spec import RepresentationSpec
from contrastill.core.run import Run
from contrastill.models.user_module import UserModule

PLAIN = Preprocess((0.0,) * 3, (1.0,) * 3)


class Body(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.fc, self.other = (
            nn.Conv2d(3, 8, 3, 2),
            nn.BatchNorm2d(8),
            nn.Linear(8, 4),
            nn.Linear(8, 4),
        )

    def features(self, x):
        return self.norm(self.conv(x)).relu().mean((2, 3))


class Keyword(Body):
    def forward(self, x):
        return self.fc(input=self.features(x))


class Auxiliary(Body):
    """Runs another classifier after its own, whose outputs only a training reads."""

    def forward(self, x):
        features = self.features(x)
        logits = self.fc(features)
        self.auxiliary = self.other(features)
        return logits.clone()


class Convolved(Body):
    """Classes by a convolution, after a linear layer."""

    def __init__(self):
        super().__init__()
        self.fc, self.classes_of = nn.Linear(8, 6), nn.Conv2d(6, 4, 1)

    def forward(self, x):
        return self.classes_of(self.fc(self.features(x))[:, :, None, None]).flatten(1)


class Projected(Body):
    """Codes of a linear layer, brought to classes by a fixed matrix."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(8, 7)
        self.register_buffer("codes", torch.randn(7, 4, generator=torch.Generator().manual_seed(0)))

    def forward(self, x):
        return self.fc(self.features(x)) @ self.codes


class Cosine(Body):
    def forward(self, x):
        return 10 * F.linear(F.normalize(self.features(x)), F.normalize(self.fc.weight))


class Twice(Body):
    def forward(self, x):
        features = self.features(x)
        return self.fc(features) + self.fc(features.square())


class Backbone(Body):
    def forward(self, x):
        return self.features(x)


class Whispering(Body):
    """A backbone whose outputs are close to zero, as of an untrained MobileNet."""

    def forward(self, x):
        return (self.conv(x) * 1e-9).square().mean((2, 3))


class Unflattened(Body):
    def forward(self, x):
        return self.features(x)[:, :, None, None]


class Places(Body):
    """Returns (B, C, 1, 1)."""

    def forward(self, x):
        return self.fc(self.features(x))[:, :, None, None]


@pytest.mark.parametrize(
    ("kind", "tap"),
    [
        (Keyword, "input:fc"),
        (Auxiliary, "input:fc"),
        (Cosine, None),
        (Twice, None),
        (Backbone, "output:"),
        (Unflattened, "output:"),
        (Whispering, "output:"),
    ],
)
def test_logits_are_not_taken_for_the_embedding(kind, tap):
    assert UserModule(kind(), Taps(), PLAIN, (3, 16, 16), data_classes=4).taps.embedding == tap


@pytest.mark.parametrize("kind", [Convolved, Projected])
def test_classes_that_something_makes_of_a_linear_layer_are_as_many_as_it_returns(kind, data, tmp_path):
    torch.manual_seed(0)
    own = UserModule(kind(), Taps(), PLAIN, (3, 16, 16), data_classes=4)
    assert own.num_logits == 4 and own.classifiers == () and own.taps.embedding == "input:fc"
    contrastill.distill(
        kind(), kind(), data, out=tmp_path / "run", objectives={"kd": {}, "fresh_crd": {}}, epochs=1, quiet=True
    )
    assert Run(tmp_path / "run").finished


def test_a_backbone_that_ends_in_an_untrained_batchnorm_has_an_embedding():
    backbone = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    assert UserModule(backbone, Taps(), PLAIN, (3, 16, 16), data_classes=4).taps.embedding == "output:"


def test_layers_without_a_size_are_refused():
    with pytest.raises(UsageError, match="Sequential has layers without a size yet .*: show it an image"):
        UserModule(nn.Sequential(nn.Flatten(), nn.LazyLinear(4)), Taps(), PLAIN, (3, 16, 16))


def test_a_module_that_returns_its_loss_is_refused():
    class Mean(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(3, 2)

        def forward(self, images):
            return self.linear(images.mean(dim=(2, 3))).mean()

    with pytest.raises(UsageError, match=r"Mean returns a single number, such as a loss .* logits are \(B, C\)"):
        UserModule(Mean(), Taps(), PLAIN, (3, 16, 16))


@pytest.mark.parametrize(
    ("name", "options"), [("crd", {}), ("fitnet", {"features": "embedding"}), ("dense_crd", {"pairing": "both"})]
)
@pytest.mark.parametrize("teachers", [1, 2])
def test_objectives_on_embeddings_name_the_side_that_has_none(name, options, teachers):
    with_one, without = (RepresentationSpec(4, dim, ((8, 8, 8),)) for dim in (8, None))
    objective = OBJECTIVES[name]
    with pytest.raises(
        UsageError, match=f"objective {name} compares pooled embeddings, and the teacher has none: name the module"
    ):
        objective.build_each(
            objective.Options(**options), [Setting(with_one, without, 8, torch.arange(8) % 4, 0)] * teachers
        )


@pytest.fixture
def data():
    images = torch.randint(0, 256, (16, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return torch.utils.data.TensorDataset(images, torch.arange(16) % 4)


def distilled(teacher, student, data, out, objectives):
    return contrastill.distill(
        teacher, student, (data, data), out=out, objectives=objectives, epochs=1, batch_size=8, quiet=True
    )


@pytest.mark.parametrize(
    ("role", "kind", "objective", "message"),
    [
        ("teacher", Cosine, "crd", "the teacher has none: name the module"),
        ("student", Cosine, "crd", "the student has none: name the module"),
        ("student", Places, "cross_entropy", r"Places returns \(2, 4, 1, 1\), and logits are \(B, C\)"),
        ("teacher", Places, "kd", "the teacher returns none: let it return them flat"),
    ],
)
def test_what_a_network_lacks_is_reported_in_a_sentence(role, kind, objective, message, data, tmp_path):
    networks = {"teacher": Keyword(), "student": Keyword(), role: kind()}
    with pytest.raises(UsageError, match=message):
        distilled(networks["teacher"], networks["student"], data, tmp_path / "run", [objective])
    assert not (tmp_path / "run").exists()


class Scaled(Body):
    def __init__(self, scale):
        super().__init__()
        self.scale = scale

    def forward(self, x):
        return self.fc(self.features(x)) * self.scale


def test_teachers_of_the_same_weights_answer_each_for_itself(data, tmp_path):
    torch.manual_seed(0)
    small, large, student = Scaled(1.0), Scaled(25.0), Keyword()
    large.load_state_dict(small.state_dict())
    names = {"one": small, "other": large, "both": [small, large]}
    kd = {name: distilled(teachers, student, data, tmp_path / name, ["kd"]) for name, teachers in names.items()}
    first, second = kd["both"].config.teachers
    assert first.model != second.model
    # At the first steps of so short a training the loss is that of each, added up.
    values = {name: result.metrics["kd"] for name, result in kd.items()}
    assert (
        values["both"] == pytest.approx(values["one"] + values["other"], rel=0.05)
        and values["other"] > 1.5 * values["one"]
    )


def test_a_quantised_network_teaches_and_does_not_learn(data, tmp_path):
    warnings.simplefilter("ignore")  # torch announces another package for it
    quantised = torch.ao.quantization.quantize_dynamic(Auxiliary().eval(), {nn.Linear}, dtype=torch.qint8)
    assert distilled(quantised, Keyword(), data, tmp_path / "taught", ["kd"]).metrics["kd"] >= 0
    with pytest.raises(
        UsageError,
        match="no gradient comes from what the student returns .*: hand over the network before it was quantised",
    ):
        distilled(None, quantised, data, tmp_path / "learner", ["cross_entropy"])


def test_a_student_is_loaded_into_a_compiled_module(data, tmp_path):
    distilled(None, torch.compile(Keyword()), data, tmp_path / "run", ["cross_entropy"])
    plain = contrastill.load_student(tmp_path / "run", module=Keyword())
    compiled = contrastill.load_student(tmp_path / "run", module=torch.compile(Keyword(), backend="eager"))
    images = torch.rand(2, 3, 16, 16)
    assert torch.equal(compiled(images), plain(images))


class Configured(Body):
    """What its weights do not say: an activation, a factor, a buffer that is not saved."""

    def __init__(self, activation=F.relu, factor=1.0, shift=0.0):
        super().__init__()
        self.activation, self.factor = activation, factor
        self.register_buffer("shift", torch.full((), shift), persistent=False)

    def forward(self, x):
        return self.factor * self.fc(self.activation(self.norm(self.conv(x))).mean((2, 3))) + self.shift


def test_a_module_that_answers_otherwise_than_the_trained_one_is_named(data, tmp_path, caplog):
    run = tmp_path / "run"
    contrastill.distill(None, Configured(F.gelu, 3.0, 0.5), data, out=run, epochs=1, quiet=True)
    same = Configured(F.gelu, 3.0, 0.5)
    contrastill.Student.from_run(run, module=same).save_pretrained(tmp_path / "hub")
    contrastill.Student.from_pretrained(tmp_path / "hub", module=nn.DataParallel(Configured(F.gelu, 3.0, 0.5)))
    contrastill.load_student(run, module=Configured(F.gelu, 3.0, 0.5).half())
    assert "does not answer" not in caplog.text and not same.training
    for number, options in enumerate([{}, {"factor": 1.0}, {"shift": 0.0}, {"activation": F.relu}]):
        other = Configured(**{"activation": F.gelu, "factor": 3.0, "shift": 0.5} | options) if options else Configured()
        contrastill.load_student(run, module=other)
        assert caplog.text.count("Configured with the weights of") == number + 1
    assert "does not answer as the network that was trained: pass module= with the same arguments" in caplog.text


class Registered(Configured):
    """What a package of one's own registers."""

    taps = Taps(embedding="input:fc", maps=("conv",))
    preprocess = PLAIN


def test_a_registered_network_whose_code_changed_since_is_named_wherever_its_weights_are_loaded(
    four_classes, tmp_path, caplog, monkeypatch
):
    run, options = tmp_path / "run", {"epochs": 1, "batch_size": 16, "quiet": True, "objectives": ["cross_entropy"]}
    teacher = {"model": "changing", "weights": str(run)}

    def uses():
        yield lambda: contrastill.evaluate_runs([run], progress=False)
        yield lambda: contrastill.load_student(run)
        yield lambda: contrastill.Student.from_run(run)
        yield lambda: contrastill.distill(
            teacher, "resnet8", four_classes, out=tmp_path / "taught", **options | {"objectives": ["kd"]}
        )
        yield lambda: contrastill.distill(None, teacher, four_classes, out=tmp_path / "goes_on", **options)

    monkeypatch.setitem(MODELS._entries, "changing", lambda num_classes=4, in_chans=3: Registered())
    contrastill.distill(None, "changing", four_classes, out=run, **options)
    for use in uses():
        use()
    assert "does not answer" not in caplog.text
    shutil.rmtree(tmp_path / "taught")
    shutil.rmtree(tmp_path / "goes_on")
    monkeypatch.setitem(MODELS._entries, "changing", lambda num_classes=4, in_chans=3: Registered(torch.tanh))
    for use in uses():
        caplog.clear()
        use()
        assert "Registered with the weights of" in caplog.text
        assert "what builds changing changed since; put it back as it was, or train it again" in caplog.text


def test_a_named_student_of_a_module_is_evaluated_from_the_command_line(four_classes, tmp_path, capsys):
    result = contrastill.distill(
        Keyword(),
        "resnet8",
        four_classes,
        out=tmp_path / "run",
        objectives=["kd", "cross_entropy"],
        epochs=1,
        batch_size=16,
        quiet=True,
    )
    assert main(["evaluate", str(tmp_path / "run"), "--json", "-q"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["top1"] == pytest.approx(result.metrics["top1"], abs=1e-3)
    assert main(["evaluate", str(tmp_path / "run"), "--teachers", "-q"]) == 2
    assert "was an object in Python" in capsys.readouterr().err


def test_a_run_from_before_a_key_existed_resumes(tmp_path):
    """A key that is off does what was done before it existed."""
    run = Run(tmp_path)
    run.claim("data: {name: packed}\ntrain: {epochs: 2}\n")
    run.claim("data: {name: packed, void: 255, vectors: null}\ntrain: {epochs: 2, drop_last: false}\n")
    other = Run(tmp_path / "other")
    other.claim("train: {epochs: 2}\n")
    with pytest.raises(UsageError, match="train.drop_last: None, now True"):
        other.claim("train: {epochs: 2, drop_last: true}\n")


def test_a_pruned_module_is_to_be_made_permanent(data, tmp_path):
    module = Keyword()
    prune.l1_unstructured(module.fc, "weight", amount=0.5)
    with pytest.raises(
        UsageError, match=r"prune computes weight of fc .*prune.remove\(module.get_submodule\('fc'\), 'weight'\)"
    ):
        distilled(None, module, data, tmp_path / "run", ["cross_entropy"])
    prune.remove(module.fc, "weight")
    distilled(None, module, data, tmp_path / "run", ["cross_entropy"])


@pytest.mark.filterwarnings("ignore:.*weight_norm.*is deprecated")
def test_the_former_weight_norm_is_to_be_made_permanent(data, tmp_path):
    module = Keyword()
    nn.utils.weight_norm(module.fc)
    with pytest.raises(
        UsageError, match=r"weight_norm computes weight of fc .*parametrizations.weight_norm in its place, or .*remove"
    ):
        distilled(None, module, data, tmp_path / "run", ["cross_entropy"])
    nn.utils.remove_weight_norm(module.fc, "weight")
    distilled(None, module, data, tmp_path / "run", ["cross_entropy"])


class NotANumber(Body):
    def forward(self, x):
        return self.fc(self.features(x)) * float("nan")


class Complex(Body):
    def forward(self, x):
        return self.fc(self.features(x)) + 0j


class Masked(Body):
    def forward(self, x):
        features = self.features(x)
        return self.fc(features) + self.other(features) + torch.tensor([0.0, 0.0, 0.0, -torch.inf])


@pytest.mark.parametrize("role", ["teacher", "student"])
@pytest.mark.parametrize(
    ("kind", "message"),
    [(NotANumber, r"NotANumber returns NaN for images \(3, 16, 16\)"), (Complex, "Complex returns complex numbers")],
)
def test_outputs_that_no_objective_compares(tmp_path, role, kind, message):
    data = torch.utils.data.TensorDataset(torch.rand(16, 3, 16, 16), torch.arange(16) % 4)
    teacher, student = (kind(), Cosine()) if role == "teacher" else (Cosine(), kind())
    with pytest.raises(UsageError, match=message):
        contrastill.distill(teacher, student, (data, data), out=tmp_path, objectives=["kd"], epochs=1, quiet=True)


def test_a_class_masked_by_infinity_beside_several_classifiers():
    own = UserModule(Masked(), Taps(), PLAIN, (3, 16, 16))
    assert own.classifiers == () and own.taps.embedding is None


class Rows(Body):
    """Its output has other rows than images came in."""

    def __init__(self, change):
        super().__init__()
        self.change = change

    def forward(self, x):
        return self.change(self.fc(self.features(x)))


@pytest.mark.parametrize(
    ("change", "shape"),
    [
        (lambda logits: logits[: len(logits) // 2], r"\(1, 4\)"),
        (lambda logits: logits.mean(0, keepdim=True), r"\(1, 4\)"),
        (lambda logits: logits.repeat(2, 1), r"\(4, 4\)"),
        (lambda logits: logits.T, r"\(4, 2\)"),
        (lambda logits: logits[:1, :, None, None].expand(-1, -1, 4, 4), r"\(1, 4, 4, 4\)"),
    ],
)
def test_a_module_that_returns_other_rows_than_images_is_refused(change, shape):
    with pytest.raises(UsageError, match=f"Rows returns a tensor of shape {shape} for 2 images, .* keep dim 0"):
        UserModule(Rows(change), Taps(), PLAIN, (3, 16, 16))


def test_a_part_of_what_a_module_returns_has_a_row_for_each_image_too():
    module = Rows(lambda logits: {"logits": logits[:1], "loss": logits.mean()})
    with pytest.raises(UsageError, match=r"Rows returns a tensor of shape \(1, 4\) for 2 images"):
        UserModule(module, Taps(), PLAIN, (3, 16, 16))
