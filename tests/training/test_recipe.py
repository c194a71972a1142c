"""What contrastill.distill trains by default: objectives, weights, length, rate and views, from what is known of
teachers and data; and the line that says so.
"""

import re
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import contrastill
from contrastill.cli.main import main
from contrastill.core import epochs as core_epochs
from contrastill.core.config.loading import load_config
from contrastill.core.config.train_section import TrainConfig
from contrastill.core.epochs import default_epochs
from contrastill.core.errors import ContrastillError, UsageError
from contrastill.core.representation import Network, Preprocess, Representation, Taps
from contrastill.core.run import Run
from contrastill.core.term import Term
from contrastill.core.transfer import Transfer
from contrastill.models.build import build_network, save_student
from contrastill.objectives.cross_entropy import CrossEntropy
from contrastill.objectives.kd import KD
from contrastill.objectives.wttm import WTTM
from contrastill.training.assemble import assemble
from contrastill.training.recipe import compares_maps, default_evaluations, default_objectives, default_training
from contrastill.training.schedule import learning_rate

LABELLED = SimpleNamespace(targets=torch.arange(8) % 4, num_classes=4, classes=None, num_samples=8)
UNLABELLED = SimpleNamespace(targets=None, num_classes=None, classes=None, num_samples=8)
ONE_CLASS = SimpleNamespace(targets=torch.zeros(8, dtype=torch.int64), num_classes=1, classes=["all"])
UNKNOWN = {"model": "resnet20"}
OWN, OTHER = UNKNOWN | {"num_classes": 4}, UNKNOWN | {"num_classes": 1000}
MAPPED = OTHER | {"class_map": [7, 3, 5, 0]}


# What is chosen


@pytest.mark.parametrize(
    ("teachers", "split", "weights"),
    [
        ([OWN], LABELLED, {"cross_entropy": 1, "fresh_crd": 0.8, "wttm": 1}),
        ([MAPPED], LABELLED, {"cross_entropy": 1, "fresh_crd": 0.8, "wttm": 1}),
        ([OTHER], LABELLED, {"cross_entropy": 1, "fresh_crd": 0.8}),
        ([UNKNOWN], LABELLED, {"cross_entropy": 1, "fresh_crd": 0.8}),
        ([OWN], UNLABELLED, {"fresh_crd": 0.8}),
        ([], LABELLED, {"cross_entropy": 1}),
        ([OWN] * 2, LABELLED, {"cross_entropy": 1, "fresh_crd": 0.4, "wttm": 0.5}),
        ([OWN] * 3, LABELLED, {"cross_entropy": 1, "fresh_crd": 0.2667, "wttm": 0.3333}),
        ([OWN | {"num_classes": 1}], ONE_CLASS, {"fresh_crd": 0.8}),
        ([OWN, OTHER], LABELLED, {"cross_entropy": 1, "fresh_crd": 0.4}),
    ],
)
def test_objectives_follow_from_labels_and_classes(teachers, split, weights):
    chosen = default_objectives(teachers, split)
    assert {name: entry["weight"] for name, entry in chosen.items()} == weights
    assert {name for name, entry in chosen.items() if entry.get("full_doubt")} == {"wttm"} & set(weights)


@pytest.mark.parametrize(
    ("samples", "epochs", "weighted"),
    [
        (20_000, 6, True),
        (20_000, 10, True),
        (20_000, 11, False),
        (5_000, 40, True),
        (20_000, None, False),
        (8, None, True),
    ],
)
def test_samples_count_alike_in_the_matching_of_long_trainings(samples, epochs, weighted):
    """Long by the samples that are shown: of few images many epochs are short."""
    split = SimpleNamespace(**{**vars(LABELLED), "num_samples": samples})
    assert default_objectives([OWN], split, epochs)["wttm"].get("weighted", True) is weighted


@pytest.mark.parametrize(
    ("teachers", "student", "split", "maps"),
    [
        ([OWN], {"model": "resnet8", "modality": "depth"}, UNLABELLED, True),
        ([OWN], {"model": "resnet8", "modality": "depth"}, ONE_CLASS, True),
        ([OWN], {"model": "resnet8", "modality": "depth"}, LABELLED, False),
        ([OWN], {"model": "resnet8"}, UNLABELLED, False),
        ([OWN, OTHER | {"modality": "depth"}], {"model": "resnet8", "modality": "depth"}, UNLABELLED, False),
        ([OWN | {"modality": "normals"}] * 2, {"model": "resnet8", "modality": "depth"}, UNLABELLED, True),
        ([], {"model": "resnet8"}, LABELLED, False),
        ([], {"model": "unet/resnet8"}, LABELLED, True),
    ],
)
def test_places_are_compared_of_unlabelled_pairs(teachers, student, split, maps):
    assert compares_maps(teachers, student, split) is maps
    if maps and teachers:
        chosen = default_objectives(teachers, split, maps=True)
        assert {name: entry["weight"] for name, entry in chosen.items()} == {
            "fresh_crd": 0.8 / len(teachers),
            "dense_crd": 1 / len(teachers),
        }


def test_nothing_to_learn_from_is_refused():
    with pytest.raises(UsageError, match="neither a teacher nor a label"):
        default_objectives([], UNLABELLED)


def test_length_follows_from_the_number_of_samples():
    lengths = [default_epochs(count) for count in (1, 12_500, 12_600, 50_000, 150_000, 1_281_167, 10**9)]
    assert lengths == [240, 240, 238, 60, 20, 20, 20]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"num_samples": 50_000}, {"epochs": 60, "warmup_epochs": 3, "lr": 0.1, "views": 10}),
        ({"num_samples": 50_000, "batch_size": 256}, {"epochs": 60, "warmup_epochs": 3, "lr": 0.2, "views": 10}),
        ({"num_samples": 50_000, "optimizer": "adamw"}, {"epochs": 60, "warmup_epochs": 3, "lr": 0.001, "views": 10}),
        ({"num_samples": 50_000, "pretrained": True}, {"epochs": 60, "warmup_epochs": 3, "lr": 0.01, "views": 10}),
        (
            {"num_samples": 50_000, "optimizer": "adamw", "pretrained": True},
            {"epochs": 60, "warmup_epochs": 3, "lr": 0.0001, "views": 10},
        ),
        ({"num_samples": 50_000, "epochs": 6}, {"epochs": 6, "warmup_epochs": 0.3, "lr": 0.1, "views": 2}),
        ({"num_samples": 50_000, "epochs": 1}, {"epochs": 1, "warmup_epochs": 0.05, "lr": 0.1, "views": 1}),
        ({"num_samples": 50_000, "teachers": 0}, {"epochs": 60, "warmup_epochs": 3, "lr": 0.1}),
        ({"num_samples": 50_000, "teachers": 3}, {"epochs": 60, "warmup_epochs": 3, "lr": 0.1, "views": 3}),
        ({"num_samples": 50_000, "teachers": 6}, {"epochs": 60, "warmup_epochs": 3, "lr": 0.1}),
        ({"num_samples": 1_281_167}, {"epochs": 20, "warmup_epochs": 1, "lr": 0.1}),
        ({"num_samples": 800, "maps": True}, {"epochs": 240, "warmup_epochs": 12, "lr": 0.1, "views": 25}),
        (
            {"num_samples": 800, "optimizer": "adamw", "maps": True},
            {"epochs": 240, "warmup_epochs": 12, "lr": 0.002, "views": 25},
        ),
        (
            {"num_samples": 800, "optimizer": "adamw", "maps": True, "pairs": True},
            {"epochs": 240, "warmup_epochs": 12, "lr": 0.002, "views": 25, "batch_size": 32},
        ),
        (
            {"num_samples": 800, "batch_size": 64, "optimizer": "adamw", "maps": True, "pairs": True},
            {"epochs": 240, "warmup_epochs": 12, "lr": 0.002828, "views": 25},
        ),
        (
            {"num_samples": 2001, "optimizer": "adamw", "maps": True, "pairs": True},
            {"epochs": 240, "warmup_epochs": 12, "lr": 0.002828, "views": 9},
        ),
        ({"num_samples": 10_001, "maps": True}, {"epochs": 240, "warmup_epochs": 12, "lr": 0.1}),
    ],
)
def test_the_training_follows_from_data_batch_optimiser_and_student(arguments, expected):
    assert default_training(**arguments) == {"schedule": "cosine", **expected}


@pytest.mark.parametrize(("name", "count"), [("compression/cifar100", 1), ("ensemble/cifar100", 3)])
def test_the_shipped_configs_of_cifar100_are_the_recipe(name, count):
    overrides = [
        "data.name=packed",
        "data.path=x.h5",
        *(f"teachers.{number}.{key}" for number in range(count) for key in ("model=resnet20", "weights=x")),
    ]
    config = load_config(name, overrides)
    objectives = default_objectives([OWN] * count, SimpleNamespace(**{**vars(LABELLED), "num_samples": 50_000}))
    assert {name: entry.weight for name, entry in config.objectives.items()} == {
        name: entry["weight"] for name, entry in objectives.items()
    }
    for option in ("full_doubt", "weighted"):
        assert config.objectives["wttm"].options()[option] == objectives["wttm"][option]
    training = default_training(50_000, config.train.batch_size, teachers=count)
    assert {key: getattr(config.train, key) for key in training} == training


# One call


def network(width, seed=0, classes=4):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(3, width, 3, stride=2),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(width, classes),
        )


def images(count=32, labelled=True, size=8):
    values = torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(count))
    return TensorDataset(values, torch.arange(count) % 4) if labelled else TensorDataset(values)


@pytest.fixture
def short(monkeypatch):
    """Trainings of default length are of two epochs."""
    monkeypatch.setattr(core_epochs, "LONGEST", 2)


def start_lines(err):
    return [line for line in err.splitlines() if "samples; " in line]


def test_no_further_word_trains_this_config_and_says_so_in_one_line(short, tmp_path, capsys):
    result = contrastill.distill(network(12), network(6, seed=1), images(), out=tmp_path / "run")
    assert result.config.model_dump()["objectives"].keys() == {"cross_entropy", "fresh_crd", "wttm"}
    assert {name: entry.weight for name, entry in result.config.objectives.items()} == {
        "cross_entropy": 1,
        "fresh_crd": 0.8,
        "wttm": 1,
    }
    assert result.config.objectives["wttm"].options()["full_doubt"] == 0.02
    expected = {
        "epochs": 2,
        "schedule": "cosine",
        "warmup_epochs": 0.1,
        "lr": 0.1,
        "views": 2,
        "batch_size": 64,
        "optimizer": "sgd",
    }
    assert {key: getattr(result.config.train, key) for key in expected} == expected
    assert {"cross_entropy", "fresh_crd", "wttm", "epoch"} <= set(result.metrics) and result.metrics["epoch"] == 1
    line = "cross_entropy 1 + fresh_crd 0.8 + wttm 1: 2 epochs of 32 samples; sgd, learning rate 0.1, cosine"
    assert start_lines(capsys.readouterr().err) == [line]


def test_words_that_are_given_win_over_the_recipe(short, tmp_path):
    loader = DataLoader(images(), batch_size=16, shuffle=True)
    words = {
        "epochs": 3,
        "lr": 0.02,
        "views": 1,
        "warmup_epochs": 0,
        "schedule": "constant",
        "objectives.fresh_crd.weight": 0.5,
        "objectives.wttm": None,
    }
    result = contrastill.distill(network(12), network(6), loader, out=tmp_path / "run", quiet=True, **words)
    train = result.config.train
    assert (train.epochs, train.lr, train.views, train.warmup_epochs, train.schedule, train.batch_size) == (
        3,
        0.02,
        1,
        0,
        "constant",
        16,
    )
    assert {name: entry.weight for name, entry in result.config.objectives.items()} == {
        "cross_entropy": 1,
        "fresh_crd": 0.5,
    }
    # The rate and the rise are those of what is given.
    other = contrastill.distill(
        network(12),
        network(6),
        loader,
        out=tmp_path / "other",
        quiet=True,
        epochs=1,
        optimizer="adamw",
        train={"views": 1},
    )
    assert (other.config.train.lr, other.config.train.warmup_epochs, other.config.train.views) == (0.0005, 0.05, 1)


def test_named_objectives_have_the_papers_rate_and_the_default_length(short, tmp_path, capsys):
    result = contrastill.distill(network(12), network(6), images(), out=tmp_path / "run", objectives=["crd", "kd"])
    train = result.config.train
    assert (train.epochs, train.lr, train.schedule, train.milestones, train.warmup_epochs, train.views) == (
        2,
        0.05,
        "step",
        (0.625, 0.75, 0.875),
        0,
        None,
    )
    assert start_lines(capsys.readouterr().err) == [
        "crd 0.8 + kd 0.9: 2 epochs of 32 samples; sgd, learning rate 0.05, step"
    ]


def test_data_without_labels_and_teachers_of_other_classes(short, tmp_path):
    unlabelled = contrastill.distill(
        network(12), network(6), images(labelled=False), out=tmp_path / "unlabelled", quiet=True
    )
    assert {name: entry.weight for name, entry in unlabelled.config.objectives.items()} == {
        "fresh_crd": 0.8
    } and "top1" not in unlabelled.metrics
    other = contrastill.distill(
        [network(12, classes=7), network(8)], network(6), images(), out=tmp_path / "other", quiet=True
    )
    assert {name: entry.weight for name, entry in other.config.objectives.items()} == {
        "cross_entropy": 1,
        "fresh_crd": 0.4,
    }


def test_a_folder_of_seeds_counts_as_its_teachers(four_classes, tmp_path):
    for seed in (0, 1):
        contrastill.distill(
            None, "resnet8", four_classes, out=tmp_path / "two" / f"seed-{seed}", epochs=1, seed=seed, quiet=True
        )
    result = contrastill.distill(tmp_path / "two", "resnet8", four_classes, out=tmp_path / "run", epochs=1, quiet=True)
    assert len(result.config.teachers) == 2
    assert {name: entry.weight for name, entry in result.config.objectives.items()} == {
        "cross_entropy": 1,
        "fresh_crd": 0.4,
        "wttm": 0.5,
    }


def test_a_student_that_starts_from_weights_has_a_tenth_of_the_rate(four_classes, tmp_path):
    first = contrastill.distill(None, "resnet8", four_classes, out=tmp_path / "first", epochs=1, quiet=True)
    again = contrastill.distill(network(12), first.out, four_classes, out=tmp_path / "again", epochs=1, quiet=True)
    assert first.config.train.lr == 0.1 and again.config.train.lr == 0.01 and first.config.train.views is None


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"epochs": 0}, "train.epochs=0 is not allowed"),
        ({"epochs": "ten"}, "epochs is 'ten': pass a whole number"),
        ({"batch_size": -1}, "train.batch_size=-1 is not allowed"),
        ({"batch_size": "large"}, "train.batch_size='large' is not allowed"),
        ({"optimizer": "adam"}, "train.optimizer='adam' is not allowed"),
    ],
)
def test_values_that_are_not_allowed_are_named_as_such(words, message, tmp_path):
    with pytest.raises(UsageError, match=message):
        contrastill.distill(network(12), network(6), images(), out=tmp_path / "run", quiet=True, **words)
    assert not (tmp_path / "run").exists()


# A teacher that has memorised its training images


class Memory(nn.Module):
    """More weights than it has images to learn."""

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(nn.Flatten(), nn.Linear(192, 32), nn.ReLU())
        self.fc = nn.Linear(32, 4)

    def forward(self, x):
        return self.fc(self.features(x))


def test_the_line_at_the_start_names_a_long_training_s_matching(tmp_path, capsys, monkeypatch):
    from contrastill.training import recipe

    monkeypatch.setattr(recipe, "WEIGHTED_SAMPLES", 31)
    result = contrastill.distill([network(8), network(8, 1)], network(6), images(), out=tmp_path / "x", epochs=1)
    assert " + wttm 0.5 (each sample alike): 1 epoch" in start_lines(capsys.readouterr().err)[0]
    assert result.config.objectives["wttm"].options()["weighted"] is False


def test_of_a_teacher_that_has_memorised_its_images_logits_count_less(tmp_path, capsys):
    data = images(labelled=False).tensors[0]
    # Labels without any rule: nothing can be learnt of them but which image has which.
    labels = torch.randint(4, (32,), generator=torch.Generator().manual_seed(0))
    dataset = TensorDataset(data, labels)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        teacher = Memory()
    first = {name: value.clone() for name, value in teacher.state_dict().items()}
    optimizer = torch.optim.Adam(teacher.parameters(), lr=0.01)
    for _ in range(300):
        optimizer.zero_grad()
        nn.functional.cross_entropy(teacher(data), labels).backward()
        optimizer.step()
    with torch.no_grad():
        certainty = float(teacher(data).softmax(1).max(1).values.double().mean())
    assert certainty > 0.99 and teacher(data).argmax(1).equal(labels)
    scale = (1 - certainty) / 0.02
    call = {"epochs": 1, "lr": 1e-6}
    scaled = contrastill.distill(teacher, network(6), dataset, out=tmp_path / "scaled", **call)
    line = start_lines(capsys.readouterr().err)[0]
    assert (
        f"+ wttm 1 (× {scale:.2g}, as the teacher's mean probability on training samples is {certainty:.3f}): 1 "
        "epoch of 32 samples" in line
    )
    full = contrastill.distill(
        teacher, network(6), dataset, out=tmp_path / "full", **call, **{"objectives.wttm.full_doubt": 0}
    )
    assert "wttm 1: " in start_lines(capsys.readouterr().err)[0]
    assert 0 < scale < 0.5 and scaled.metrics["wttm"] == pytest.approx(scale * full.metrics["wttm"], rel=1e-4)
    assert full.metrics["loss"] - scaled.metrics["loss"] == pytest.approx((1 - scale) * full.metrics["wttm"], rel=1e-3)
    teacher.load_state_dict(first)
    contrastill.distill(teacher, network(6), dataset, out=tmp_path / "untrained", **call)
    assert "wttm 1: " in start_lines(capsys.readouterr().err)[0]


# The line


def transfer(terms, teachers=1):
    def made(width):
        return Network(
            network(width),
            taps=Taps(embedding="input:4", maps=("1",)),
            preprocess=Preprocess(mean=(0.5,) * 3, std=(0.25,) * 3),
        )

    return Transfer([made(8) for _ in range(teachers)], made(4), terms)


class Outputs:
    """Of a teacher whose largest probability on each of 5 samples is this one, over 4 classes."""

    cached = False

    def __init__(self, probability):
        self.logits = torch.tensor([probability, *[(1 - probability) / 3] * 3], dtype=torch.float64).log().expand(5, 4)

    def sample(self, needs):
        assert set(needs) == {"logits"}
        return Representation(logits=self.logits)


class Source:
    """A source whose teachers' outputs of the training samples are these."""

    complete = False

    def __init__(self, *outputs):
        self.outputs = outputs

    def training_outputs(self, number, loader):
        return self.outputs[number]


def test_the_line_names_terms_weights_and_what_they_decided():
    one = transfer({"cross_entropy": CrossEntropy(), "kd": Term(KD(full_doubt=0.1), 0.25), "soft": Term(WTTM(), 1e-3)})
    assert str(one) == "cross_entropy 1 + kd 0.25 + soft 0.001"
    one.source = Source(Outputs(0.96))
    one.prepare(None)
    assert (
        str(one)
        == "cross_entropy 1 + kd 0.25 (× 0.4, as the teacher's mean probability on training samples is 0.960) + "
        "soft 0.001"
    )


def test_the_line_says_which_of_several_teachers():
    several = transfer({"kd": Term([KD(full_doubt=0.1) for _ in range(3)], 1)}, teachers=3)
    several.source = Source(Outputs(0.98), Outputs(0.5), Outputs(0.99))
    several.prepare(None)
    match = re.fullmatch(
        r"kd 1 \(teacher 0: × 0\.2, as (.+) is 0\.980; teacher 2: × 0\.1, as (.+) is 0\.990\)", str(several)
    )
    assert match and match[1] == match[2]


def test_quiet_says_nothing_and_a_long_line_stays_one(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    call = {"epochs": 1, "objectives": {"cross_entropy": 1, "kd": {"weight": 1, "full_doubt": 0.9}}}
    contrastill.distill(network(12), network(6), images(), out=tmp_path / "quiet", quiet=True, **call)
    assert capsys.readouterr().err == ""
    contrastill.distill(network(12), network(6), images(), out=tmp_path / "run", **call)
    (line,) = start_lines(capsys.readouterr().err)
    assert re.fullmatch(
        r"cross_entropy 1 \+ kd 1 \(× .+ is 0\.\d{3}\): 1 epoch of 32 samples; sgd, learning rate 0\.05, step", line
    )
    contrastill.distill(network(12), network(6), images(), out=tmp_path / "run", **call)
    assert start_lines(capsys.readouterr().err) == []  # there is nothing left to train


# A config that does not say how long


def test_a_config_without_epochs_is_as_long_as_the_data_asks(short, four_classes, tmp_path, capsys):
    path = tmp_path / "mine.yaml"
    path.write_text(
        f"data: {{path: {four_classes}}}\nteachers: []\nstudent: {{model: resnet8}}\nobjectives: {{cross_entropy: "
        f"{{weight: 1}}}}\n"
    )
    command = ["train", str(path), f"out={tmp_path / 'run'}", "-q"]
    assert main([*command, "--dry-run"]) == 0 and "epochs: null" in capsys.readouterr().out
    assert main(command) == 0
    assert (
        load_config(str(tmp_path / "run" / "config.yaml")).train.epochs == 2
        and len(Run(tmp_path / "run").history()) == 2
    )
    # Both the same command and the config that was kept go on with that run.
    assert (
        main(command) == 0
        and main(["train", str(tmp_path / "run" / "config.yaml"), f"out={tmp_path / 'run'}", "-q"]) == 0
    )
    config = load_config(str(tmp_path / "run" / "config.yaml"), ["train.epochs=null"])
    parts = assemble(config)
    result = contrastill.fit(parts.transfer, parts.train, None, config.train, progress=False)
    assert len(result.history) == 2 and result.last["lr"] == pytest.approx(0.05 * 0.1) and config.train.epochs is None
    with pytest.raises(ValueError, match="epochs is not set"):
        learning_rate(config.train, 0, 1)


def test_of_data_of_one_class_each_other_sample_is_a_negative(short, tmp_path, capsys):
    data = TensorDataset(images(12).tensors[0], torch.full((12,), 2))
    result = contrastill.distill(network(12), network(6, seed=1), data, out=tmp_path / "run", quiet=True)
    assert result.config.model_dump()["objectives"]["fresh_crd"]["negatives_from"] == "other_sample"
    assert "fresh_crd/mi_bound_student" in result.metrics
    with pytest.raises(UsageError, match="only one sample: use more samples"):
        contrastill.distill(network(12), network(6, seed=1), images(1), out=tmp_path / "one", quiet=True)


class Root(nn.Module):
    """No number where a pixel is below zero."""

    def forward(self, values):
        return values.sqrt()


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"rows": "seen", "row_variance": 0.9}, ContrastillError, "loss is not a finite number since step 1"),
        ({"rows": "ahead"}, ContrastillError, "output for training sample 3 is not a finite number"),
        ({"rows": "seen", "teacher_map": "whitened"}, ContrastillError, "loss is not a finite number since step 1"),
    ],
)
def test_a_teacher_that_gives_no_number_for_one_sample_stops_in_a_sentence(options, kind, message, tmp_path):
    data = images(12)
    data.tensors[0][3] = -1
    teacher, objectives = nn.Sequential(Root(), *network(12)), {"fresh_crd": options}
    with pytest.raises(kind, match=message):
        contrastill.distill(
            teacher, network(6, seed=1), data, out=tmp_path / "run", objectives=objectives, epochs=1, quiet=True
        )


def test_the_warm_up_begins_above_0_as_its_reference_says():
    config = TrainConfig(epochs=4, lr=0.2, warmup_epochs=1)
    assert [learning_rate(config, step, 4) for step in range(4)] == pytest.approx([0.05, 0.1, 0.15, 0.2])
    assert "over their n steps from lr/n to lr" in TrainConfig.model_fields["warmup_epochs"].description


@pytest.mark.parametrize(("given", "batch", "rate"), [({}, 32, 0.002), ({"batch_size": 8}, 8, 0.001)])
def test_unlabelled_pairs_are_trained_in_small_batches(tmp_path, capsys, given, batch, rate):
    path, generator = tmp_path / "pairs.h5", np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        file["train/rgb"] = generator.integers(0, 256, (40, 16, 16, 3), dtype=np.uint8)
        file["train/depth"] = generator.random((40, 16, 16), dtype=np.float32) + 1
    data = {"data.splits": {"train": "train", "test": None}, "data.fields": {"rgb": "rgb", "depth": "depth"}}
    save_student(build_network("resnet8", num_classes=4), tmp_path / "teacher.safetensors")
    result = contrastill.distill(
        str(tmp_path / "teacher.safetensors"),
        "resnet8",
        str(path),
        out=tmp_path / "run",
        epochs=1,
        student_modality="depth",
        **{"student.num_classes": 4},
        **data,
        **given,
    )
    train = result.config.train
    assert {*result.config.objectives} == {"fresh_crd", "dense_crd"}
    assert (train.optimizer, train.batch_size, train.lr) == ("adamw", batch, rate)
    (line,) = start_lines(capsys.readouterr().err)
    assert f"40 samples; adamw, batches of {batch}, learning rate {rate:g}" in line


# How often it is measured


@pytest.mark.parametrize(
    ("sizes", "epochs", "every"),
    [((500, 10_000), 240, 20), ((500, 10_000), 12, 4), ((500, 10_000), 3, 1), ((500, 501), 60, 2), ((500, 500), 60, 1)],
)
def test_a_test_split_that_is_larger_than_the_training_split_is_measured_less_often(sizes, epochs, every):
    assert default_evaluations(*sizes, epochs).get("evaluate_every", 1) == every


@pytest.mark.parametrize(
    ("keywords", "measured"),
    [
        ({}, [1, 3, 5, 6]),
        ({"objectives": "cross_entropy"}, [1, 3, 5, 6]),
        ({"evaluate_every": 1}, [*range(7)]),
        ({"validation": 0.5}, [*range(7)]),
    ],
)
def test_a_run_has_accuracies_of_the_epochs_that_were_measured(tmp_path, keywords, measured, caplog):
    images = torch.rand(24, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    parts = [TensorDataset(images[rows], torch.arange(len(images[rows])) % 2) for rows in (slice(8), slice(8, None))]
    contrastill.distill(None, "conv5", parts, out=tmp_path / "run", epochs=7, batch_size=8, quiet=True, **keywords)
    assert [row["epoch"] for row in Run(tmp_path / "run").history() if "top1" in row] == measured
    line = "the test split has 16 samples, the training split 8: it is measured every 2 epochs and after the last"
    assert (line in caplog.text) == (len(measured) < 7)


def test_a_teacher_is_known_by_its_weights_however_it_is_written(tmp_path):
    data = TensorDataset(torch.rand(16, 3, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(16) % 4)
    contrastill.distill(None, "resnet8", data, out=tmp_path / "teacher", epochs=1, batch_size=8, quiet=True)
    plain = contrastill.load_student(tmp_path / "teacher").state_dict()
    torch.save(plain, tmp_path / "elsewhere.pth")
    for number, weights in enumerate(["teacher", "teacher/student.safetensors", "elsewhere.pth"]):
        teacher = {"model": "resnet8", "weights": str(tmp_path / weights)}
        result = contrastill.distill(
            teacher, "resnet8", data, out=tmp_path / str(number), epochs=1, batch_size=8, quiet=True
        )
        assert [*result.config.objectives] == ["cross_entropy", "fresh_crd", "wttm"]
