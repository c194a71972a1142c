"""Classes registered in a package of one's own: by ``imports`` in a config, by ``--import``, by an entry point."""

import importlib
import json
import sys

import pytest
import yaml

import contrastill
from contrastill.cli.main import main
from contrastill.core import plugins
from contrastill.core.config.loading import load_config
from contrastill.core.errors import UsageError
from contrastill.core.registry import DATASETS, MODALITIES, MODELS, OBJECTIVES, TEACHER_AGGREGATIONS

REGISTRIES = (DATASETS, MODALITIES, MODELS, OBJECTIVES, TEACHER_AGGREGATIONS)
PACKAGE = '''
import torch
from torch import nn

from contrastill import DATASETS, MODELS, OBJECTIVES, Network, Objective, Options, Preprocess, Taps, modality
from contrastill.datasets.io.in_memory import AugmentOptions, TensorSplit
from contrastill.datasets.io.views import PaddedImages


@OBJECTIVES.register("squares")
class Squares(Objective):
    """Squared difference of the logits."""

    class Options(Options):
        power: float = 2.0

    def __init__(self, power=2.0):
        super().__init__()
        self.power = power

    def per_sample(self, student, teacher, batch):
        return (student.logits - teacher.logits).abs().pow(self.power).mean(1)


@MODELS.register("tiny_network")
def tiny_network(num_classes, in_chans=3):
    layers = nn.Sequential(nn.Conv2d(in_chans, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, num_classes))
    return Network(layers, taps=Taps(embedding="input:3", maps=("0",)), preprocess=Preprocess((0.5,) * 3, (0.25,) * 3))


@modality("inverted", of="rgb", channels=3)
def inverted(rgb):
    """1 − rgb."""
    return 1 - rgb


@DATASETS.register("halves")
class Halves:
    """Noise with a bright left or right half."""

    class Options(AugmentOptions):
        pass

    def __init__(self, options):
        self.options = options

    def open(self, split):
        target = torch.arange(16) % 2
        images = PaddedImages.zeros(16, 16, 16, 3, dtype=torch.uint8, padding=0)
        images.interior[:] = torch.randint(128, (16, 16, 16, 3), generator=torch.Generator().manual_seed(0))
        images.interior[target == 0, :, :8] += 96
        images.interior[target == 1, :, 8:] += 96
        return TensorSplit({"rgb": images}, targets=target, num_classes=2, classes=["left", "right"])
'''


@pytest.fixture
def registries():
    """What is registered within a test is forgotten after it."""
    before = [dict(registry._entries) for registry in REGISTRIES if len(registry)]
    requested, imported = dict(plugins._requested), dict(plugins._imported)
    yield
    for registry, entries in zip(REGISTRIES, before, strict=True):
        registry._entries.clear()
        registry._entries.update(entries)
    plugins._requested.clear()
    plugins._requested.update(requested)
    plugins._imported.clear()
    plugins._imported.update(imported)
    sys.modules.pop("my_sensors", None)


@pytest.fixture
def package(registries, tmp_path, monkeypatch):
    """A package that defines one of each kind, in a folder that Python searches."""
    folder = tmp_path / "elsewhere" / "my_sensors"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text(PACKAGE)
    monkeypatch.syspath_prepend(str(folder.parent))
    return "my_sensors"


def test_all_kinds_are_named_in_a_config_that_imports_their_package(package, tmp_path, capsys):
    teacher, out = str(tmp_path / "teacher"), str(tmp_path / "out")
    values = {
        "imports": [package],
        "out": out,
        "data": {"name": "halves"},
        "teachers": [{"model": "tiny_network", "weights": teacher}],
        "student": {"model": "tiny_network", "modality": "inverted"},
        "objectives": {"squares": {"power": 1.5, "weight": 1}},
        "train": {"epochs": 1, "batch_size": 8},
    }
    alone = {**values, "out": teacher, "teachers": [], "student": {"model": "tiny_network"}}
    for name, config in (("teacher", {**alone, "objectives": {"cross_entropy": {}}}), ("mine", values)):
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump(config))
        assert main(["train", str(path), "-q"]) == 0
    assert load_config(f"{out}/config.yaml").imports == [package]
    # Another process would import it by the run's own config.
    assert main(["evaluate", out, "--json"]) == 0
    assert 0 <= json.loads(capsys.readouterr().out)[0]["top1"] <= 100
    assert list(contrastill.load_student(out).classes) == ["left", "right"]
    # A derived modality in bytes is normalised by the mean of those bytes.
    assert all(1 < mean < 255 for mean in contrastill.load_student(out).preprocess.mean)


def test_import_on_the_command_line_is_kept_in_the_config(package, four_classes, capsys):
    command = ["train", "teachers/cifar100", f"data.path={four_classes}", "student.model=tiny_network", "--dry-run"]
    assert main(command) == 2 and "model 'tiny_network' does not exist" in capsys.readouterr().err
    assert main([*command, "--import", package]) == 0
    assert yaml.safe_load(capsys.readouterr().out)["imports"] == [package]
    assert main([f"--import={package}", *command]) == 0
    assert load_config(command[1], command[2:-1]).command.endswith(f"student.model=tiny_network --import {package}")


def test_an_entry_point_needs_to_be_named_nowhere(package, tmp_path, monkeypatch):
    info = tmp_path / "elsewhere" / "my_sensors-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-sensors\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[{plugins.GROUP}]\nsensors = my_sensors\n")
    monkeypatch.setattr(plugins, "_entry_points_imported", False)
    plugins.import_entry_points()
    assert OBJECTIVES["squares"].__module__ == package
    monkeypatch.setattr(plugins, "_entry_points_imported", False)
    (info / "entry_points.txt").write_text(f"[{plugins.GROUP}]\nsensors = my_sensor\n")
    with pytest.raises(UsageError, match=r"entry point sensors \(contrastill.plugins\) of my-sensors names my_sensor"):
        plugins.import_entry_points()


@pytest.mark.parametrize(
    ("module", "source", "message"),
    [
        ("no_such_package", None, "no_such_package, and there is no such module: install it .pip install -e FOLDER"),
        ("my package", None, "no name of a module: write it as Python imports it"),
        ("my_sensors", "import no_such_library", "cannot be imported: No module named 'no_such_library'; install what"),
        ("my_sensors", "1 / 0", "my_sensors, which fails as it is imported: ZeroDivisionError: division by zero"),
        ("my_sensors", "from contrastill import MODELS\n@MODELS.register('resnet8')\ndef mine(**options): ...",
         "model 'resnet8' is defined twice, by contrastill.models.resnet.* and my_sensors.mine: rename one of them"),
        ("my_sensors", "raise SystemExit", "which fails as it is imported: SystemExit .my_sensors.py, line 1"),
        ("my_sensors.py", None, "no name of a module: write it as Python imports it, such as my_sensors"),
        ("my_losses/__init__.py", None, "no name of a module: write it as Python imports it, such as my_losses$"),
        (3, None, "no name of a module: write it as Python imports it, such as my_package"),
        ("statistics", None, "statistics, which is a module of Python itself: give yours another name, such as my_"),
    ],
)  # fmt: skip
def test_what_cannot_be_imported_is_said(registries, tmp_path, monkeypatch, module, source, message):
    if source is not None:
        (tmp_path / "my_sensors.py").write_text(source)
        monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(UsageError, match=message):
        plugins.import_plugins([module])


def test_a_module_that_registers_nothing_is_named_where_a_name_is_not_known(registries, tmp_path, monkeypatch):
    (tmp_path / "my_sensors.py").write_text("class Undecorated: ...\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(plugins, "_imported", {})
    plugins.import_plugins(["my_sensors"])
    with pytest.raises(UsageError, match="undecorated' does not .*my_sensors was imported, and nothing in it is regis"):
        OBJECTIVES["undecorated"]
    (tmp_path / "my_sensors.py").write_text("from contrastill import MODELS\n@MODELS.register('mine')\ndef f(**o): ...")
    importlib.reload(sys.modules["my_sensors"])
    with pytest.raises(UsageError, match=r"undecorated' does not exist: [^(]*\(imports=[^(]*$"):
        OBJECTIVES["undecorated"]


@pytest.mark.parametrize(
    ("modules", "names"),
    [("my_package", ["my_package"]), (json, ["json"]), ([json, "yaml"], ["json", "yaml"]), (None, []), (3, [3])],
)
def test_modules_are_named_alone_or_several_by_name_or_as_they_are(modules, names):
    assert plugins.module_names(modules) == names


def test_imports_is_no_option_of_the_command_line(capsys):
    assert main(["doctor", "--imports", "my_package"]) == 2 and "did you mean --import" in capsys.readouterr().err


def test_a_package_in_the_working_folder_says_how_it_is_reached(registries, tmp_path, monkeypatch, capsys):
    (tmp_path / "beside_me.py").write_text("")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path not in ("", str(tmp_path))])
    assert main(["train", "teachers/cifar100", "--dry-run", "--import", "beside_me"]) == 2
    assert "set PYTHONPATH=., or call python -m contrastill" in capsys.readouterr().err


def test_import_without_a_module_is_a_usage_error(capsys):
    assert main(["doctor", "--import"]) == 2 and "--import names a module" in capsys.readouterr().err


def test_a_call_in_python_names_the_modules_of_what_it_uses(package, four_classes, tmp_path, capsys):
    __import__(package)
    out = tmp_path / "run"
    words = {"out": str(out), "epochs": 1, "batch_size": 16, "quiet": True}
    teacher = contrastill.distill(
        None, "tiny_network", str(four_classes), **{**words, "out": str(tmp_path / "teacher")}
    )
    contrastill.distill(str(teacher.out), "resnet8", str(four_classes), objectives=["squares"], **words)
    assert load_config(str(out / "config.yaml")).imports == [package]
    assert main(["report", str(out)]) == 0
    assert "does not exist" not in (out / "report.html").read_text()


def test_imports_of_a_call_are_imported_before_names_are_looked_up(package, four_classes, tmp_path):
    with pytest.raises(
        UsageError, match="squares.* does not exist: .*imported .imports=.MY_PACKAGE., --import MY_PACK"
    ):
        contrastill.distill(None, "resnet8", str(four_classes), out=str(tmp_path / "a"), objectives=["squares"])
    config = contrastill.distill(
        contrastill.load_student(trained_teacher(four_classes, tmp_path)), "resnet8", str(four_classes),
        out=str(tmp_path / "run"), epochs=1, objectives=["squares"], imports=[package], quiet=True,
    ).config  # fmt: skip
    assert config.imports == [package]


def test_what_reads_a_student_alone_needs_no_package_of_its_objective(registries, four_classes, tmp_path, capsys):
    run, out = trained_teacher(four_classes, tmp_path), str(tmp_path / "out")
    path = tmp_path / "teacher" / "config.yaml"
    config = yaml.safe_load(path.read_text())
    config |= {"imports": ["not_installed_here"], "objectives": {"of_it": {"weight": 1.0, "power": 2}}}
    path.write_text(yaml.safe_dump(config))
    assert main(["evaluate", run, "--json"]) == 0
    assert 0 <= json.loads(capsys.readouterr().out)[0]["top1"] <= 100
    assert main(["cost", run]) == 0 and main(["export", run, "--out", f"{out}.onnx"]) == 0
    capsys.readouterr()
    assert main(["train", str(path), f"out={out}"]) == 2
    assert "imports names not_installed_here, and there is no such module" in capsys.readouterr().err
    path.write_text(yaml.safe_dump(config | {"data": {"name": "of_it"}}))
    assert main(["evaluate", run]) == 2
    error = capsys.readouterr().err
    assert "dataset 'of_it' does not exist" in error and "imports names not_installed_here" in error


def trained_teacher(data, tmp_path):
    out = str(tmp_path / "teacher")
    contrastill.distill(None, "resnet8", str(data), out=out, epochs=1, batch_size=16, quiet=True)
    return out


MISTAKES = '''
from contrastill import OBJECTIVES, Objective


@OBJECTIVES.register("mistaken")
class Mistaken(Objective):
    """A mistake."""
'''


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("def per_sample(self, s, t, b): return s.embedding.sum(1)",
         "objective mistaken .my_sensors.Mistaken. fails: AttributeError: .*only what its needs name is computed: log"),
        ("def forward(self, s, t): return s.logits.mean()",
         "objective mistaken .my_sensors.Mistaken.: forward takes .s, t., and is called with .student, teacher, batch"),
        ("def forward(self, s, t, b): return s.logits.mean(1)",
         "Mistaken.forward returns a tensor of shape .16,.: it returns the loss of the batch, a scalar"),
        ("def forward(self, s, t, b): return s.logits.mean(), {}",
         "Mistaken.forward returns a tuple: it returns the loss of the batch, a scalar, as a tensor; other values"),
        ("def forward(self, s, t, b): return s.logits.mean().item()", "Mistaken.forward returns a float: it returns"),
        ("def forward(self, s, t, b): return (s.logits > 0).sum()",
         "Mistaken.forward returns a tensor of torch.int64: it returns"),
        ("def forward(self, s, t, b): return s.logits.mean().detach()",
         "Mistaken.forward returns a loss without a gradient, so nothing learns from it: compute it from the student"),
        ("def per_sample(self, s, t, b): return [0.0]",
         "Mistaken.per_sample returns a list: it returns the loss of each sample, .B,., as a tensor"),
        ("joint = True\n    def forward(self, s, t, b): return {'loss': s.logits.mean()}",
         "Mistaken.forward returns a dict: it returns"),
        ("initial_epochs = 1\n    def initial(self, s, t, b): return s.logits.mean(1)\n"
         "    def forward(self, s, t, b): return s.logits.mean()",
         "Mistaken.initial returns a tensor of shape .16,.: it returns the loss of the batch"),
        ("initial_epochs = 1\n    def initial(self, s, t, b): return 0.0\n"
         "    def forward(self, s, t, b): return s.logits.mean()",
         "Mistaken.initial returns a float: it returns the loss of the batch"),
        ("def forward(self, s, t, b): return s.logits.mean() / 0",
         "not a finite number since step 1 .epoch 0, objective mistaken."),
        ("def per_sample(self, s, t, b): return s.logits.mean()",
         "Mistaken.per_sample returns a tensor of shape ..: it returns the loss of each sample, .B,."),
        ("def per_sample(self, s, t, b): return s.logits.flatten()",
         r"Mistaken.per_sample returns a tensor of shape .64,.: it returns the loss of each sample, .B,.; here .16,."),
        ("def __init__(self, dim): super().__init__()\n    def forward(self, s, t, b): return s.logits.mean()",
         "objective mistaken .my_sensors.Mistaken. cannot be built from .*'dim'.*define the classmethod build"),
    ],
    ids=[
        "needs", "arguments", "scalar", "tuple", "float", "integers", "gradient", "list", "joint", "initial",
        "initial_float", "nan", "samples", "classes", "build",
    ],
)  # fmt: skip
def test_mistakes_in_an_objective_of_ones_own_are_explained(
    registries, four_classes, tmp_path, monkeypatch, body, message
):
    (tmp_path / "my_sensors.py").write_text(f"{MISTAKES}\n    {body}\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    teacher = trained_teacher(four_classes, tmp_path)
    with pytest.raises(contrastill.ContrastillError, match=message):
        contrastill.distill(
            teacher, "resnet8", str(four_classes), out=str(tmp_path / "run"), epochs=1, batch_size=16,
            objectives=["mistaken"], imports=["my_sensors"], quiet=True,
        )  # fmt: skip


def test_the_model_of_a_run_need_not_be_named(four_classes, tmp_path):
    run = trained_teacher(four_classes, tmp_path)
    overrides = [f"data.path={four_classes}", f"teachers.0.weights={run}", "teachers.0.model=resnet8"]
    config = load_config("compression/cifar100", [*overrides, f"teachers.1.weights={run}"])
    assert [teacher.model for teacher in config.teachers] == ["resnet8", "resnet8"]
