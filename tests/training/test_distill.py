"""The one call: the bits of `contrastill train`, networks and datasets of one's own, ensembles, other modalities,
stops, the Hub's folders, wrong usage.
"""

import json
import signal
from contextlib import nullcontext

import h5py
import numpy as np
import pytest
import torch
import yaml
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

import contrastill
from contrastill.cli.main import main
from contrastill.core.config.loading import find_config, shipped_configs
from contrastill.core.config.schema import TrainConfig
from contrastill.core.errors import ContrastillError, Stopped, UsageError
from contrastill.training import engine
from contrastill.training.unread_keys import unread_keys

SHORT = {"epochs": 2, "batch_size": 16, "lr": 0.02, "quiet": True}


class Tiny(nn.Module):
    """One convolution, and a squeeze whose linear layer is registered after the classifier and runs before it."""

    def __init__(self, channels=3, classes=4, width=8):
        super().__init__()
        self.head = nn.Linear(width, classes)
        self.features = nn.Sequential(nn.Conv2d(channels, width, 3, stride=2), nn.BatchNorm2d(width), nn.ReLU())
        self.gate = nn.Linear(width, width)
        self.drop = nn.Dropout(0.2)

    def preprocess(self, x):  # its own affair: the name is not contrastill's to take
        return x * 2

    def forward(self, x):
        x = self.features(self.preprocess(x))
        x = x * self.gate(x.mean((2, 3))).sigmoid()[:, :, None, None]
        return self.head(self.drop(x).mean((2, 3)))


class Noisy(Dataset):
    """Images of four classes whose views it draws itself, from all three generators."""

    def __init__(self, count=48, labelled=True):
        self.images = torch.rand(count, 3, 16, 16, generator=torch.Generator().manual_seed(count))
        self.labelled, self.read = labelled, 0

    def __len__(self):
        return len(self.images)

    def __getitem__(self, row):
        import random

        self.read += 1
        image = (self.images[row] + 0.01 * torch.rand(1) + 0.01 * np.random.rand() + 0.01 * random.random()).clamp(0, 1)
        return (image, row % 4) if self.labelled else image


class Holed(Noisy):
    """One that returns nothing where an image is broken, as a collate function may leave out."""

    def __getitem__(self, row):
        return None if row == 5 else super().__getitem__(row)


class Pairs(Dataset):
    """Depth and rgb that show the same class."""

    def __len__(self):
        return 32

    def __getitem__(self, row):
        draw = np.random.default_rng(row)
        depth = draw.uniform(0.5, 1, (16, 16)).astype(np.float32) + row % 4
        return {
            "image": np.repeat((depth * 60).astype(np.uint8)[:, :, None], 3, 2),
            "depth": depth,
            "label": row % 4,
            "name": str(row),
        }


def small_net(width=8, outputs=4):
    head = [nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, outputs)]
    return nn.Sequential(nn.Conv2d(3, width, 3, stride=2), *head)


def small_data(count=48):
    images = torch.rand(count, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    return (TensorDataset(images, torch.arange(count) % 4),) * 2


@pytest.mark.parametrize("role", ["student", "teachers.0"])
def test_a_module_has_the_outputs_that_it_has(tmp_path, role):
    teacher = None if role == "student" else small_net()
    message = f"{role}.num_classes=9, and Sequential returns 4 logits for each sample: leave it out, or give the module"
    with pytest.raises(UsageError, match=message):
        contrastill.distill(teacher, small_net(), small_data(), out=tmp_path, **SHORT, **{f"{role}.num_classes": 9})
    assert not (tmp_path / "student.safetensors").exists()


@pytest.mark.parametrize(
    ("settings", "lines"),
    [
        ({"optimizer": "adamw", "momentum": 0.3}, ["train.momentum=0.3 changes nothing, as train.optimizer=adamw"]),
        ({"optimizer": "timm/lamb", "nesterov": True}, ["train.nesterov=True changes nothing, as train.optimizer="]),
        ({"optimizer": "timm/momentum", "momentum": 0.3}, []),
        (
            {"schedule": "cosine", "milestones": [0.1], "gamma": 0.5},
            ["train.milestones=(0.1,) changes nothing, as train.schedule=cosine", "train.gamma=0.5 changes nothing"],
        ),
        ({"schedule": "constant", "gamma": 0.5}, ["train.gamma=0.5 changes nothing, as train.schedule=constant"]),
        (
            {"warmup_epochs": 4},
            ["train.warmup_epochs=4 is longer than the training of 2 epochs, so the rate"],
        ),
        ({"optimizer": "adamw", "momentum": 0.9, "schedule": "cosine", "gamma": 0.1, "warmup_epochs": 2}, []),
        ({"momentum": 0.3, "milestones": [0.1], "gamma": 0.5, "schedule": "step"}, []),
    ],
    ids=str,
)
def test_keys_that_change_nothing_are_named(tmp_path, caplog, settings, lines):
    contrastill.distill(None, small_net(), small_data(), out=tmp_path, **SHORT, **settings)
    there = [record.getMessage() for record in caplog.records if "train." in record.getMessage()]
    assert len(there) == len(lines) and all(map(str.startswith, there, lines)), there


def test_every_key_of_a_shipped_config_is_read():
    for name in shipped_configs():
        written = yaml.safe_load(find_config(name).read_text(encoding="utf-8")).get("train", {})
        config = TrainConfig(**{key: value for key, value in written.items() if value != "???"})
        assert unread_keys(config, config.epochs or 20) == [], name


def test_nesterov_without_momentum(tmp_path):
    with pytest.raises(UsageError, match="train.nesterov is a kind of momentum, and train.momentum=0: give one, or"):
        contrastill.distill(None, small_net(), small_data(), out=tmp_path, **SHORT, nesterov=True, momentum=0)


@pytest.mark.parametrize("objective", ["dkd", "review"])
def test_a_training_of_one_step_learns_from_an_objective_that_warms_up(tmp_path, objective):
    settings = {**SHORT, "epochs": 1}
    data = small_data(16)
    result = contrastill.distill(small_net(), small_net(), data, out=tmp_path, objectives=[objective], **settings)
    assert result.metrics["step"] == 1 and result.metrics["loss"] > 0


def seeded(kind, *arguments, seed=0, **options):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return kind(*arguments, **options)


def same(one, two):
    one, two = one.state_dict(), two.state_dict()
    return one.keys() == two.keys() and all(torch.equal(value, two[name]) for name, value in one.items())


@pytest.fixture(scope="module")
def teacher(four_classes, tmp_path_factory):
    """A run that learnt from labels alone, by the call."""
    return contrastill.distill(None, "resnet8", four_classes, out=tmp_path_factory.mktemp("runs") / "teacher", **SHORT)


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """What a teacher and a dataset of one's own teach a student of one's own."""
    out = tmp_path_factory.mktemp("runs") / "own"
    return contrastill.distill(seeded(Tiny, width=12), seeded(Tiny, seed=1), (Noisy(), Noisy(16)), out=out, **SHORT)


# The twin of the command


def test_it_is_the_bits_of_the_command(four_classes, teacher, tmp_path):
    result = contrastill.distill(teacher.out, "resnet8", str(four_classes), out=tmp_path / "call", seed=3, **SHORT)
    assert {name: entry.weight for name, entry in result.config.objectives.items()} == {
        "cross_entropy": 1,
        "fresh_crd": 0.8,
        "wttm": 1,
    }
    command = ["train", "compression/cifar100", f"data.path={four_classes}", "teachers.0.model=resnet8",
        f"teachers.0.weights={teacher.out}",
               "student.model=resnet8", "train.epochs=2", "train.warmup_epochs=0.1", "train.views=2",
               "train.batch_size=16", "train.lr=0.02", "objectives.wttm.weighted=true", "seed=3"]  # fmt: skip
    assert main([*command, f"out={tmp_path / 'command'}", "-q"]) == 0
    assert main(["train", str(result.paths.config), f"out={tmp_path / 'again'}", "-q"]) == 0
    for name in ("command", "again"):
        assert same(result.student, contrastill.load_student(tmp_path / name))
    rows = [json.loads(line) for line in (tmp_path / "command" / "metrics.jsonl").read_text().splitlines()]
    assert {**result.metrics, "seconds": 0, "samples_per_second": 0} == {
        **rows[-1],
        "seconds": 0,
        "samples_per_second": 0,
    }
    assert (
        f"resnet8 distilled from resnet8 (cross_entropy 1, fresh_crd 0.8, wttm 1): top-1 {rows[-1]['top1']:.2f} % "
        "after 2 epochs" in str(result)
    )


def test_a_call_leaves_the_generators_and_what_it_was_given_as_they_were(tmp_path):
    teacher, student, data = Tiny(), Tiny(), Noisy(16)
    before, state = (
        [value.clone() for value in [*teacher.state_dict().values(), *student.state_dict().values()]],
        torch.get_rng_state(),
    )
    result = contrastill.distill(teacher, student, data, out=tmp_path / "run", **SHORT)
    assert torch.equal(state, torch.get_rng_state())
    assert all(
        torch.equal(one, two)
        for one, two in zip(before, [*teacher.state_dict().values(), *student.state_dict().values()], strict=True)
    )
    assert teacher.training and all(parameter.requires_grad for parameter in teacher.parameters())
    assert not same(result.student, student) and "top1" not in result.metrics


# Of one's own


def test_own_networks_and_datasets(own):
    assert type(own.student) is Tiny and not own.student.training and own.metrics["top1"] >= 0
    entry = own.config.student
    assert (
        entry.model.endswith("test_distill.Tiny")
        and entry.embedding == "input:head"
        and entry.num_classes == 4
        and entry.maps == ("drop",)
    )
    assert set(own.config.objectives) == {"cross_entropy", "fresh_crd", "wttm"}
    assert own.student.taps.embedding == "input:head" and own.student.preprocess(1) == 2
    assert same(own.student, contrastill.load_student(own.out, module=Tiny()))


def test_a_run_of_objects_says_so_to_the_command(own, capsys):
    assert main(["train", str(own.paths.config)]) == 2
    assert (
        "Tiny' was an object in Python, which no config can make: in Python, contrastill.load_student(RUN, module="
        in capsys.readouterr().err
    )
    with pytest.raises(UsageError, match=r"Tiny' was an object in Python.*module=…"):
        contrastill.load_student(own.out)


def test_a_run_of_an_own_class_is_no_teacher_by_its_folder(own, tmp_path):
    """Another module of the class in the call may have been made with other arguments."""
    call = {"data": Noisy(), "out": tmp_path / "run", "objectives": "kd", **SHORT}
    with pytest.raises(
        UsageError, match=r"is a run of .*Tiny, which only you can make: pass .*load_student\(.*Tiny\(…\)"
    ):
        contrastill.distill(own.out, Tiny(width=4), **call)
    assert not (tmp_path / "run").exists()
    loaded = contrastill.load_student(own.out, module=Tiny())
    assert contrastill.distill(loaded, Tiny(width=4), **call).metrics["kd"] >= 0


def test_what_the_message_names_for_a_run_of_objects_works(own, four_classes, tmp_path):
    for refused in (
        lambda: contrastill.evaluate_runs(own.out),
        lambda: contrastill.probe_networks(str(own.out), str(four_classes)),
        lambda: contrastill.export_run(own.out),
        lambda: contrastill.export_student(own.out, tmp_path / "student.pt2", format="torch"),
    ):
        with pytest.raises(
            UsageError, match=r"load_student\(RUN, module=…\).*linear_probe.*export_student\(RUN, FILE, mo"
        ):
            refused()
    run = contrastill.distill(None, small_net(), small_data(), out=tmp_path / "run", **SHORT)
    student = contrastill.load_student(run.out, module=small_net())
    assert 0 <= contrastill.linear_probe(student, *small_data()).top1 <= 100
    report = contrastill.probe_networks([student], str(four_classes), progress=False)
    assert len(report.rows) == 1
    for path, module in ((own.out, Tiny()), (run.out, small_net())):
        file = tmp_path / f"{type(module).__name__}.pt2"
        export = contrastill.export_student(path, file, module=module, format="torch", size=16)
        assert export.difference <= 1e-4 and file.is_file()


def test_views_are_functions_of_seed_view_and_index_with_any_workers(own, tmp_path):
    loader = DataLoader(Noisy(), batch_size=16, shuffle=True, num_workers=2)
    settings = {name: value for name, value in SHORT.items() if name != "batch_size"}
    read = contrastill.distill(
        seeded(Tiny, width=12), seeded(Tiny, seed=1), (loader, Noisy(16)), out=tmp_path / "run", **settings
    )
    assert read.config.train.batch_size == 16 and read.config.data.workers == 2
    assert same(read.student, own.student)


def test_listed_labels_save_reading_all_samples_and_are_not_believed_blindly():
    from contrastill.datasets.io.user_samples import UserSamples

    data = Noisy()
    assert UserSamples(data).targets.tolist() == [row % 4 for row in range(48)] and data.read > 48
    for listed, all_read in ((torch.arange(48) % 4, False), (torch.zeros(48, dtype=torch.int64), True)):
        data = Noisy()
        data.targets = listed
        assert UserSamples(data).targets.tolist() == [row % 4 for row in range(48)]
        assert (data.read > 48) == all_read


def test_several_teachers_are_an_ensemble(four_classes, teacher, tmp_path):
    result = contrastill.distill(
        [teacher.out, seeded(Tiny), {"model": "resnet14"}],
        "resnet8",
        four_classes,
        out=tmp_path / "run",
        objectives=["crd", "kd"],
        **SHORT,
    )
    assert result.config.ensemble.rule == "sum" and len(result.config.teachers) == 3
    assert {"crd/weight.2", "kd/weight.0"} <= set(result.metrics) and "cross_entropy" not in result.metrics


def test_from_rgb_to_depth(tmp_path):
    result = contrastill.distill(
        Tiny(), "resnet8", (Pairs(), Pairs()), out=tmp_path / "run", student_modality="depth", **SHORT
    )
    assert [network.modality for network in (*result.config.teachers, result.config.student)] == ["rgb", "depth"]
    assert result.student.preprocess.mean[0] == pytest.approx(2.25, abs=0.05) and result.student.conv1.in_channels == 1
    assert {"fresh_crd", "wttm", "top1"} <= set(result.metrics)
    distilled = contrastill.distill(
        Tiny(),
        Tiny(channels=1),
        Pairs(),
        out=tmp_path / "made",
        student_modality="inverse_depth",
        objectives="crd",
        **SHORT,
    )
    assert distilled.config.student.mean == (0.0,) and set(distilled.config.objectives) == {"crd"}


# Stops


def test_stopped_and_called_again_it_ends_in_the_same_bits(own, tmp_path, monkeypatch):
    stop, log = {"after": 2}, engine._Training._epoch

    def stopping(training):
        if training.position.epoch == 1 and stop.pop("after", None):
            training.stop.signal = signal.SIGTERM
        return log(training)

    monkeypatch.setattr(engine._Training, "_epoch", stopping)
    call = {"out": tmp_path / "run", **SHORT}
    with pytest.raises(Stopped, match="the same command goes on"):
        contrastill.distill(seeded(Tiny, width=12), seeded(Tiny, seed=1), (Noisy(), Noisy(16)), **call)
    # The student is made anew, as a script does without a seed; its weights come from the checkpoint.
    again = contrastill.distill(seeded(Tiny, width=12), seeded(Tiny, seed=2), (Noisy(), Noisy(16)), **call)
    assert same(again.student, own.student)
    with pytest.raises(UsageError, match="other settings .teachers.0.model"):
        contrastill.distill(seeded(Tiny, width=12, seed=5), Tiny(), (Noisy(), Noisy(16)), **call)
    with pytest.raises(UsageError, match="the data changed"):
        contrastill.distill(seeded(Tiny, width=12), Tiny(), (Noisy(52), Noisy(16)), **call)


# The Hub's folders


def test_the_card_of_changed_weights_has_no_figures_of_the_run(teacher, own, tmp_path, caplog):
    row, sentence = "| measured on the test split", "Its weights were changed after that training"
    for result, made in ((teacher, dict), (own, lambda: {"module": Tiny()})):
        name = result.out.name
        student = contrastill.Student.from_run(result.out, **made())
        card = student.generate_model_card().content
        assert row in card and sentence not in card
        with torch.no_grad():
            for weights in student.module.parameters():
                weights.zero_()
        for step in ("first", "second"):
            folder = tmp_path / f"{name} {step}"
            student.save_pretrained(folder)
            card = (folder / "README.md").read_text()
            assert row not in card and sentence in card and "| objectives |" in card
            student = contrastill.Student.from_pretrained(folder, **made())
        assert "does not answer" not in caplog.text


def test_a_card_that_is_there_stays_and_a_line_says_so_where_it_would_be_another(teacher, tmp_path, caplog):
    student = contrastill.Student.from_run(teacher.out)
    for _ in range(2):
        student.save_pretrained(tmp_path / "hub")
    assert "stays as it is" not in caplog.text
    with torch.no_grad():
        next(student.module.parameters()).zero_()
    student.save_pretrained(tmp_path / "hub")
    assert f"{tmp_path / 'hub' / 'README.md'} stays as it is, and its figures may be of other weights" in caplog.text


def test_a_student_comes_back_from_a_folder_with_the_same_bits(four_classes, teacher, own, tmp_path):
    images = torch.randint(0, 256, (3, 3, 16, 16), dtype=torch.uint8)
    for result, module in ((teacher, None), (own, Tiny())):
        folder = tmp_path / result.out.name
        student = contrastill.Student.from_run(result.out, module=module)
        student.save_pretrained(folder)
        loaded = contrastill.Student.from_pretrained(folder, **({} if module is None else {"module": Tiny()}))
        assert sorted(path.name for path in folder.iterdir()) == ["README.md", "config.json", "model.safetensors"]
        assert torch.equal(loaded(images), student(images)) and not loaded.training
        assert torch.equal(student(images), result.student(student.preprocess(images)))
        assert loaded.generate_model_card().content == (folder / "README.md").read_text()
    recipe = json.loads((tmp_path / "teacher" / "config.json").read_text())["recipe"]
    assert (
        recipe["model"] == "resnet8"
        and recipe["modality"] == "rgb"
        and recipe["num_classes"] == 4
        and len(recipe["preprocess"]["mean"]) == 3
    )
    card = (tmp_path / "own" / "README.md").read_text()
    assert (
        f"top-1 {own.metrics['top1']:.2f} %" in card
        and "distilled from Tiny (rgb)" in card
        and f"torch {torch.__version__.split('+')[0]}" in card
    )
    assert "fresh_crd (weight 0.8)" in card and card.startswith("---\n")


def test_a_folder_that_is_no_students(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ContrastillError, match="no config.json of a student"):
        contrastill.Student.from_pretrained(tmp_path)


# Wrong usage


class Stream(IterableDataset):
    def __iter__(self):
        yield torch.zeros(3, 16, 16), 0


class Broken(Noisy):
    def __getitem__(self, row):
        if row == 7:
            raise OSError("no such disk")
        return super().__getitem__(row)


class Uneven(Noisy):
    def __getitem__(self, row):
        image, label = super().__getitem__(row)
        return image[:, : 16 - row // 8], label


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"teacher": "resnt8"}, "teacher 'resnt8' is neither a folder or file that exists nor the name of a "
            "network.*did you mean resnet8"),
        ({"teacher": "runs/not-there"}, "'runs/not-there' is neither a folder"),
        ({"teacher": "resnet8"}, "resnet8 has no published weights"),
        ({"teacher": 3}, "teacher is a int"),
        ({"teacher": {"weights": "x"}}, "teacher has no model"),
        ({"teacher": Tiny(classes=5), "objectives": "kd"}, "the teacher has 5 classes and the student 4"),
        ({"teacher": {"model": Tiny(), "embedding": "haed"}, "objectives": "crd"},
            "module 'haed' does not exist: did you mean head"),
        ({"teacher": Tiny(channels=1)}, r"Tiny fails on images \(3, 16, 16\).*its first convolution takes 1: .*'grey'"),
        ({"student": Tiny(classes=2), "objectives": "cross_entropy"}, "the student has 2 classes and the data 4"),
        ({"data": "not-there"}, "data.path=not-there does not exist"),
        ({"data": Noisy(labelled=False), "objectives": "cross_entropy"},
            "cross_entropy needs labels, and this data has none"),
        ({"data": Noisy(labelled=False), "teacher": None}, "neither a teacher nor a label"),
        ({"data": Stream()}, "Stream has no length"),
        ({"data": Broken()}, "sample 7 of Broken cannot be read: OSError: no such disk"),
        ({"data": Uneven(), "objectives": "crd"}, r"sample \d+ of Uneven is rgb \(3, 1\d, 16\)"),
        ({"data": TensorDataset(torch.randn(8, 3, 16, 16), torch.arange(8) % 4)},
            "images go from -.* to .*, and resnet8 normalises"),
        ({"data": TensorDataset(torch.rand(8, 3, 16, 16), torch.rand(8))}, "classes are whole numbers"),
        ({"data": (Noisy(), Noisy(), Noisy())}, "a sequence of 3"),
        ({"data": Holed()}, "sample 5 of Holed is None: leave it out of the dataset"),
        ({"student_modality": "depth"}, "modality depth is not in this data"),
        ({"objectives": {"crdd": 1}}, "objective 'crdd' does not exist: did you mean crd"),
        ({"objectives": {"crd": {"num_negative": 3}}}, "objectives.crd.num_negative is not a key.*num_negatives"),
        ({"student_resolution": 8}, r"'student_resolution' does not exist: a key of a section is "
            r"\*\*{'student.resolution': …}"),
        ({"temperature": 4}, r"'temperature' does not exist: it is an option of .*objectives={'kd': {'temperature': "),
        ({"optimizer": torch.optim.SGD}, "train.optimizer=.*SGD.* is no value: .*; pass numbers, text, lists"),
        ({"device": "cuda"}, "keyword of distill .device. does not exist: the device is no setting: .*CUDA_VISIBLE"),
        ({"epoch": 3}, "keyword of distill 'epoch' does not exist: did you mean epochs"),
        ({"lr": "fast"}, "train.lr='fast' is not allowed"),
        ({"seeds": 3}, "seeds is of the command"),
        ({"seeds": [0, 1]}, "seeds is of the command contrastill train: call distill once for each seed"),
    ],
)  # fmt: skip
def test_errors_are_one_sentence_and_nothing_is_written(changes, message, tmp_path):
    call = {"teacher": Tiny(), "student": "resnet8", "data": Noisy(), "out": tmp_path / "run", **SHORT, **changes}
    with pytest.raises(ContrastillError, match=message):
        contrastill.distill(**call)
    assert not (tmp_path / "run").exists()


class Wandering(Noisy):
    """Images whose augmentation draws from a generator of its own, or from one that is seeded by NumPy's."""

    def __init__(self, seeded):
        super().__init__()
        self.seeded, self.own = seeded, np.random.default_rng(0)

    def __getitem__(self, index):
        image, label = super().__getitem__(index)
        own = np.random.default_rng(np.random.randint(2**31)) if self.seeded else self.own
        return torch.roll(image, int(own.integers(1, 9)), 2), label


@pytest.mark.parametrize("seeded", [False, True])
def test_views_that_change_are_not_cached_and_the_samples_are_named(seeded, tmp_path):
    refused = nullcontext() if seeded else pytest.raises(UsageError, match="samples of one view are others each time")
    with refused:
        contrastill.distill(Tiny(), "resnet8", Wandering(seeded), out=tmp_path / "run", **SHORT, views=2)


def test_a_file_of_weights_without_a_name(tmp_path):
    torch.save(Tiny().state_dict(), tmp_path / "tiny.pth")
    with pytest.raises(UsageError, match="does not say which network its weights are of"):
        contrastill.distill(tmp_path / "tiny.pth", "resnet8", Noisy(), out=tmp_path / "run")


def test_packed_depth_of_a_file_is_a_path_like_any_other(tmp_path):
    with h5py.File(tmp_path / "pairs.h5", "w") as file:
        file["train/rgb"] = np.random.default_rng(0).integers(0, 256, (16, 16, 16, 3), dtype=np.uint8)
        file["train/depth"] = np.random.default_rng(0).integers(500, 4000, (16, 16, 16), dtype=np.uint16)
    options = {"data.fields": {"rgb": "rgb", "depth": "depth"}, "data.splits": {"train": "train", "test": None}}
    options |= {"student_modality": "depth", **SHORT}
    result = contrastill.distill(
        Tiny(), "resnet8", tmp_path / "pairs.h5", out=tmp_path / "run", **options, **{"student.num_classes": 4}
    )
    assert {*result.config.objectives} == {"fresh_crd", "dense_crd"} and result.config.data.name == "packed"
    assert result.config.train.optimizer == "adamw"
    without_maps = nn.Sequential(nn.Flatten(), nn.Linear(256, 8), nn.ReLU(), nn.Linear(8, 4))
    result = contrastill.distill(Tiny(), without_maps, tmp_path / "pairs.h5", out=tmp_path / "flat", **options)
    assert {*result.config.objectives} == {"fresh_crd"} and result.config.train.optimizer == "sgd"
