"""Several teachers through the command line and as one batched network: real small runs on rendered rooms."""

import pytest
import torch
from torch import nn

from contrastill.cli.main import main
from contrastill.core.representation import Network, Preprocess, Taps
from contrastill.core.run import Run
from contrastill.core.teachers.live import LiveTeachers
from contrastill.core.term import Term
from contrastill.core.transfer import Transfer
from contrastill.ensemble.batched import BatchedTeachers
from contrastill.ensemble.rules import Random
from contrastill.models.build import build_network
from contrastill.objectives.kd import KD

ROOMS = [
    "data.train_samples=64",
    "data.test_samples=32",
    "data.size=24",
    "train.epochs=2",
    "train.batch_size=32",
    "train.lr=0.01",
]
NEEDS = frozenset({"logits", "embedding", "maps"})


@pytest.fixture(scope="module")
def teachers(tmp_path_factory):
    """A CIFAR resnet twice, by two seeds, and a small timm ViT at another resolution."""
    root = tmp_path_factory.mktemp("teachers")
    common = ["train", "teachers/rooms", *ROOMS, "train.epochs=1", "-q"]
    for seed in (0, 1):
        assert main([*common, "student.model=resnet8", f"seed={seed}", f"out={root / f'resnet8-{seed}'}"]) == 0
    assert (
        main([*common, "student.model=timm/vit_tiny_patch16_224", "student.resolution=32", f"out={root / 'vit'}"]) == 0
    )
    return root


def command(teachers, out, names=("resnet8-0", "resnet8-1", "vit"), *more):
    chosen = []
    for number, name in enumerate(names):
        model = "timm/vit_tiny_patch16_224" if name == "vit" else "resnet8"
        chosen += [f"teachers.{number}.model={model}", f"teachers.{number}.weights={teachers / name}"]
    return ["train", "compression/rooms_crd", *ROOMS, *chosen, "objectives.crd.bias=3.0", f"out={out}", "-q", *more]


def test_a_resnet_and_a_vit_at_another_resolution_teach_together(teachers, tmp_path):
    assert main(command(teachers, tmp_path / "run")) == 0
    row = Run(tmp_path / "run").history()[-1]
    assert {f"kd/weight.{number}" for number in range(3)} | {
        f"crd/weight.{number}" for number in range(3)
    } <= row.keys()
    assert row["kd/weight.2"] == 1 and {"crd/score_student.0", "crd/score_student.2"} <= row.keys()


@pytest.mark.parametrize(
    ("rule", "more"),
    [
        ("entropy", ()),
        ("confidence", ()),
        ("gradient", ("ensemble.cap=0.8",)),
        ("random", ()),
        ("average", ("objectives.crd.rule=sum",)),
        ("sum", ("objectives.crd.student_side=shared",)),
    ],
)
def test_every_rule_trains_and_logs_its_weights(teachers, tmp_path, rule, more):
    names = ("resnet8-0", "resnet8-1")
    assert main(command(teachers, tmp_path / "run", names, f"ensemble.rule={rule}", *more)) == 0
    row = Run(tmp_path / "run").history()[-1]
    total = row["kd/weight.0"] + row["kd/weight.1"]
    assert total == pytest.approx(2 if rule == "sum" else 1, abs=1e-4)
    assert torch.isfinite(torch.tensor(row["loss"]))


@pytest.mark.parametrize(
    "more",
    [("ensemble.batched=true",), ("train.views=1", "data.flip=false", "data.crop_padding=0")],
    ids=["batched", "memory"],
)
def test_however_the_teachers_are_asked_the_training_is_the_same(teachers, tmp_path, more):
    plain = ("data.flip=false", "data.crop_padding=0") if "train.views=1" in more else ()
    assert main(command(teachers, tmp_path / "turn", ("resnet8-0", "resnet8-1"), *plain)) == 0
    assert main(command(teachers, tmp_path / "other", ("resnet8-0", "resnet8-1"), *more)) == 0
    one, other = (Run(tmp_path / name).history()[-1]["loss"] for name in ("turn", "other"))
    assert one == pytest.approx(other, rel=1e-4)


@pytest.mark.parametrize("name", ["resnet8", "timm/vit_tiny_patch16_224"])
def test_batched_teachers_say_what_each_says_alone(name):
    networks = []
    for seed in range(3):
        torch.manual_seed(seed)
        networks.append(build_network(name, num_classes=6, resolution=32).freeze())
    torch.manual_seed(9)
    networks.insert(1, build_network("resnet14", num_classes=6).freeze())
    images = {"rgb": torch.randint(256, (4, 3, 32, 32), dtype=torch.uint8)}
    together, alone = (source(networks).outputs(images, range(4), NEEDS) for source in (BatchedTeachers, LiveTeachers))
    assert not torch.allclose(alone[0].logits, alone[2].logits)
    for one, other in zip(together, alone, strict=True):
        torch.testing.assert_close(one.logits, other.logits, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(one.embedding, other.embedding, rtol=1e-4, atol=1e-5)
        for ours, theirs in zip(one.maps, other.maps, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    outputs = BatchedTeachers(networks).outputs(images, (0, 2, 3), frozenset({"embedding"}))
    assert len(outputs) == 3 and all(one.logits is None and one.maps == () for one in outputs)


class Counting(nn.Module):
    """A network that counts how often it looks."""

    def __init__(self, bias):
        super().__init__()
        self.fc = nn.Linear(3, 4)
        nn.init.constant_(self.fc.bias, bias)
        self.looks = 0

    def forward(self, x):
        self.looks += 1
        return self.fc(x.mean((2, 3)))


def test_with_random_only_the_teacher_that_is_drawn_looks():
    networks = [
        Network(Counting(float(number)), taps=Taps(), preprocess=Preprocess((0.0,) * 3, (1.0,) * 3))
        for number in range(4)
    ]
    transfer = Transfer(networks[:3], networks[3], {"kd": Term([KD() for _ in range(3)], 1.0, Random(seed=1))}).train()
    batch = {"rgb": torch.rand(2, 3, 4, 4), "index": torch.arange(2)}
    for _ in range(12):
        transfer(batch).loss.backward()
    looks = [teacher.module.looks for teacher in transfer.teachers]
    assert sum(looks) == 12 and min(looks) > 0
    state = transfer.trained_state()
    assert int(state["terms.kd.rule._extra_state"]) == 12


def test_random_draws_once_an_optimiser_step_however_many_passes_it_is_made_of():
    networks = [
        Network(Counting(float(number)), taps=Taps(), preprocess=Preprocess((0.0,) * 3, (1.0,) * 3))
        for number in range(4)
    ]
    rule = Random(seed=1)
    transfer = Transfer(networks[:3], networks[3], {"kd": Term([KD() for _ in range(3)], 1.0, rule)}).train()
    batch = {"rgb": torch.rand(4, 3, 16, 16), "index": torch.arange(4)}
    alone = []
    for _ in range(8):
        transfer(batch)
        alone.append(int(rule.weights.argmax()))
    rule.steps, drawn = 0, []
    transfer.defer(samples=4, passes=2)
    for step in range(8):
        passes = []
        for _ in range(2):
            transfer(batch)
            passes.append(int(rule.weights.argmax()))
        assert passes[0] == passes[1]
        if step == 3:  # not made: the same draw is due again
            transfer.rollback()
            assert rule.steps == 3
            transfer(batch)
        drawn.append(passes[0])
        transfer.commit()
    transfer.commit()  # no pass since: no draw
    assert drawn == alone and rule.steps == 8 and len(set(drawn)) == 3
    transfer.stop_deferring()
    transfer(batch)
    assert rule.steps == 9


# What does not fit


@pytest.fixture(scope="module")
def of_seven_classes(tmp_path_factory):
    import h5py
    import numpy as np

    root = tmp_path_factory.mktemp("seven")
    with h5py.File(root / "seven.h5", "w") as file:
        for split in ("train", "test"):
            file[f"{split}/rgb"] = np.random.default_rng(0).integers(0, 256, (28, 24, 24, 3), dtype=np.uint8)
            file[f"{split}/target"] = np.arange(28, dtype=np.int64) % 7
        file["unlabelled/rgb"] = np.zeros((28, 24, 24, 3), np.uint8)
        file.attrs["classes"] = list("abcdefg")
    assert (
        main(
            [
                "train",
                "teachers/cifar100",
                f"data.path={root / 'seven.h5'}",
                "student.model=resnet8",
                "train.epochs=1",
                "-q",
                f"out={root / 'run'}",
            ]
        )
        == 0
    )
    return root


def test_classes_that_differ_are_refused_or_mapped(teachers, of_seven_classes, tmp_path, capsys):
    other = ["teachers.1.model=resnet8", f"teachers.1.weights={of_seven_classes / 'run'}"]
    base = command(teachers, tmp_path / "run", ("resnet8-0",), *other)
    assert main(base) == 2
    assert "teacher 1 (resnet8) has no class ball, barrel, chair and 9 more, which the data has" in " ".join(
        capsys.readouterr().err.split()
    )
    assert main([*base, "teachers.1.class_map=[0,1,2]"]) == 2
    assert "names 3 classes, and the data has 12" in " ".join(capsys.readouterr().err.split())
    assert main([*base, f"teachers.1.class_map={[*range(7), 0, 1, 2, 3, 7]}"]) == 2
    assert "a place outside 0 … 6" in " ".join(capsys.readouterr().err.split())
    assert main([*base, f"teachers.1.class_map={[*range(7), 0, 1, 2, 3, 4]}"]) == 2
    assert "has the place 0 twice" in " ".join(capsys.readouterr().err.split())
    assert main([*base, "objectives.kd=null", f"out={tmp_path / 'crd'}"]) == 0  # embeddings need no classes in common


def test_a_class_map_turns_the_logits():
    torch.manual_seed(0)
    network = build_network("resnet8", num_classes=5).freeze()
    images = {"rgb": torch.randint(256, (2, 3, 32, 32), dtype=torch.uint8)}
    own = network(images).logits
    assert torch.equal(network.map_classes((4, 0, 0)).to("cpu")(images).logits, own[:, [4, 0, 0]])
    assert "classes" not in network.state_dict()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["teachers=[]"], "objectives.crd compares with a teacher, and teachers is empty"),
        (["ensemble.rule=average"], "objective crd reads embedding"),
        (["ensemble.rule=best"], "rule of an ensemble 'best' does not exist: there are average"),
        (["ensemble.rule=gradient", "ensemble.cap=2"], "ensemble.cap=2"),
        (["ensemble.rule=gradient", "objectives.crd.student_side=shared"], "objective crd reads all teachers at once"),
        (["teachers.1.model=resnet14"], "resnet14"),
        (["student.class_map=[0,1]"], "class_map is for teachers"),
    ],
)
def test_wrong_usage_is_one_sentence(teachers, tmp_path, capsys, more, message):
    assert main(command(teachers, tmp_path / "run", ("resnet8-0", "resnet8-1"), *more)) == 2
    stderr = " ".join(capsys.readouterr().err.split())
    assert message in stderr and "Traceback" not in stderr


def test_a_rule_that_needs_labels_is_refused_on_unlabelled_data(teachers, of_seven_classes, tmp_path, capsys):
    unlabelled = [
        f"data.path={of_seven_classes / 'seven.h5'}",
        "data.target=null",
        "data.splits={train: unlabelled, test: null}",
    ]
    chosen = [
        f"teachers.{number}.{key}"
        for number in (0, 1)
        for key in ("model=resnet8", f"weights={teachers / f'resnet8-{number}'}")
    ]
    command = [
        "train",
        "compression/cifar100_crd",
        *unlabelled,
        *chosen,
        "objectives.cross_entropy=null",
        "objectives.crd.bias=3.0",
        "train.epochs=1",
    ]
    command += ["student.model=resnet8", "objectives.kd.weight=1", f"out={tmp_path / 'run'}", "-q"]
    assert main([*command, "ensemble.rule=confidence"]) == 2
    assert "ensemble.rule=confidence compares the teachers with the labels, and this data has none" in " ".join(
        capsys.readouterr().err.split()
    )
    assert main([*command, "ensemble.rule=entropy"]) == 0
