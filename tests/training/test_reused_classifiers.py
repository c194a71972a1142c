"""A classifier that comes from another run: its rows are matched with the data's classes by name, or left out."""

import h5py
import numpy as np
import pytest
import torch

import contrastill
from contrastill.cli.main import main
from contrastill.core.classes import apply_class_map
from contrastill.core.errors import UsageError
from contrastill.models.build import build_network, save_student

NAMES = ["cat", "dog", "elk", "fox"]


def packed(path, names):
    """Images whose brightness says which of NAMES they are; their numbers are places in ``names``."""
    draw = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        file.attrs["classes"] = names
        for split, count in (("train", 48), ("test", 24)):
            targets = np.arange(count) % 4
            level = np.array([60 * (NAMES.index(name) if name in NAMES else place) for place, name in enumerate(names)])
            images = level[targets][:, None, None, None] + draw.integers(0, 20, (count, 16, 16, 3))
            file[f"{split}/rgb"], file[f"{split}/target"] = images.astype(np.uint8), targets
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run whose classes are in the reverse order; it is right on all images."""
    folder = tmp_path_factory.mktemp("reverse")
    data = packed(folder / "reverse.h5", NAMES[::-1])
    command = ["train", "teachers/cifar100", f"data.path={data}", "student.model=resnet8", "train.epochs=5"]
    assert main([*command, "train.batch_size=8", "train.lr=0.05", f"out={folder / 'run'}", "-q"]) == 0
    return folder / "run"


def trained(run, data, out):
    """top-1 of a student that begins with the run's weights and hardly learns."""
    command = ["train", "teachers/cifar100", f"data.path={data}", "student.model=resnet8", f"student.weights={run}"]
    assert main([*command, "train.epochs=1", "train.batch_size=8", "train.lr=1e-9", f"out={out}", "-q"]) == 0
    return out


def test_a_student_from_a_run_of_another_order_answers_in_the_datas(run, tmp_path):
    first = contrastill.load_student(run)
    out = trained(run, packed(tmp_path / "data.h5", NAMES), tmp_path / "out")
    second = contrastill.load_student(out)
    assert list(second.classes) == NAMES and list(first.classes) == NAMES[::-1]
    torch.testing.assert_close(second.fc.weight, first.fc.weight.flip(0), rtol=0, atol=1e-5)


def test_the_classifier_of_other_classes_is_left_out(run, tmp_path, caplog):
    first = contrastill.load_student(run)
    with caplog.at_level("INFO"):
        out = trained(run, packed(tmp_path / "data.h5", ["w", "x", "y", "z"]), tmp_path / "out")
    second = contrastill.load_student(out)
    assert "but for fc, which is new" in caplog.text
    assert (second.fc.weight - first.fc.weight).abs().max() > 0.01
    torch.testing.assert_close(second.conv1.weight, first.conv1.weight, rtol=0, atol=1e-5)


def test_classes_of_one_name_get_a_new_classifier_with_a_line(tmp_path, caplog):
    own = build_network("resnet8", num_classes=3)
    own.recipe = {**own.recipe, "classes": ("a", "b", "a")}
    save_student(own, tmp_path / "s.safetensors")

    def reused(classes):
        return build_network("resnet8", num_classes=3, weights=tmp_path / "s.safetensors", new_classifier=True,
            classes=classes)  # fmt: skip

    torch.testing.assert_close(reused(("a", "b", "a")).module.fc.weight, own.module.fc.weight)
    new = reused(("b", "a", "a"))
    assert "two classes are called a, so those of the student's weights cannot be matched" in caplog.text
    assert not any(torch.equal(row, other) for row in new.module.fc.weight for other in own.module.fc.weight)
    torch.testing.assert_close(new.module.conv1.weight, own.module.conv1.weight)


def test_a_class_map_by_a_name_of_two_classes_is_refused():
    network = build_network("resnet8", num_classes=3)
    network.recipe = {**network.recipe, "classes": ("a", "b", "a")}
    with pytest.raises(UsageError, match="several of its classes are called a: write a list of places"):
        apply_class_map(network, {"a": "cat"}, 2, ("cat", "b"), "the teacher")
    apply_class_map(network, {0: "cat"}, 2, ("cat", "b"), "the teacher")
    assert network.recipe["classes"] == ("cat", "b", "a")


def test_a_module_whose_classes_are_in_another_order_is_refused(run, tmp_path):
    student = contrastill.load_student(run)
    with pytest.raises(UsageError, match="the student's logits are of the classes fox, elk, dog"):
        contrastill.distill(
            None, student, str(packed(tmp_path / "data.h5", NAMES)), out=str(tmp_path / "out"), epochs=1
        )


def network(tmp_path, classes):
    network = build_network("resnet8", num_classes=4)
    network.recipe = {**network.recipe, "classes": classes}
    save_student(network, tmp_path / "s.safetensors")
    return build_network("resnet8", weights=tmp_path / "s.safetensors")


def test_a_class_map_of_names_does_not_overrule_names(tmp_path):
    named = network(tmp_path, tuple(NAMES[::-1]))
    with pytest.raises(
        UsageError, match="calls another of its classes cat than the names it has, which are, in its own order, fox"
    ):
        apply_class_map(named, tuple(NAMES), 4, NAMES, "teacher 0")
    apply_class_map(named, tuple(NAMES[::-1]), 4, NAMES, "teacher 0")
    nameless = network(tmp_path, None)
    apply_class_map(nameless, tuple(NAMES), 4, NAMES, "teacher 0")
    assert nameless.recipe["classes"] == tuple(NAMES)


def test_a_place_answers_for_one_class(tmp_path):
    with pytest.raises(UsageError, match="class_map of teacher 0 has the place 3 twice"):
        apply_class_map(network(tmp_path, None), (3, 3, 1, 0), 4, NAMES, "teacher 0")


@pytest.mark.parametrize(("teacher_ends", "student_ends"), [(True, False), (False, True)])
def test_a_softmax_at_the_end_is_refused(tmp_path, teacher_ends, student_ends):
    from torch import nn

    def ending(softmax):
        layers = [nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)]
        return nn.Sequential(*layers, *([nn.Softmax(1)] if softmax else []))

    data, out = str(packed(tmp_path / "data.h5", NAMES)), str(tmp_path / "out")
    who = "teacher 0" if teacher_ends else "the student"
    with pytest.raises(UsageError, match=f"{who} returns probabilities .* leave the softmax at its end out"):
        contrastill.distill(ending(teacher_ends), ending(student_ends), data, out=out, epochs=1, objectives=["kd"])
    if teacher_ends:  # whoever reads no logits does not mind
        contrastill.distill(ending(True), ending(False), data, out=out, epochs=1, objectives=["rkd"], quiet=True)


def test_matching_by_number_is_told_without_progress_too(run, tmp_path, caplog):
    data = packed(tmp_path / "nameless.h5", NAMES)
    with h5py.File(data, "a") as file:
        del file.attrs["classes"]
    assert main(["evaluate", str(run), f"data.path={data}", "-q", "--json"]) == 0
    assert "are matched by number alone, as " in caplog.text
    caplog.clear()
    contrastill.distill(
        str(run), "resnet8", str(data), out=str(tmp_path / "out"), epochs=1, objectives=["kd"], quiet=True
    )
    assert "are matched by number alone, as the data has no names for them" in caplog.text


def test_the_embedding_of_a_module_is_told(tmp_path, capsys):
    from torch import nn

    module = nn.Sequential(nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))
    data, out = str(packed(tmp_path / "data.h5", NAMES)), str(tmp_path / "out")
    contrastill.distill(module, "resnet8", data, out=out, epochs=1, objectives=["rkd"])
    stderr = capsys.readouterr().err
    assert "teacher 0's embedding is the input of 3, 8 values" in stderr and "the student's embedding" not in stderr
