"""Classes that a class_map of places leaves out, and label maps without names of which a split lacks the highest."""

import h5py
import numpy as np
import pytest

import contrastill
from contrastill.core.errors import UsageError

TINY = {"epochs": 1, "quiet": True, "batch_size": 8}
BRIGHTNESS = {"A": 0, "B": 1, "C": 2, "D": 3, "E": 4, "a": 0, "b": 2, "c": 4}
MAPS = {"rgb": "rgb", "semantics": "semantics"}


def classes(path, names, *, named=True):
    """Grey images, as bright as their class says."""
    random = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        if named:
            file.attrs["classes"] = [*names]
        for split, count in (("train", 60), ("test", 30)):
            targets = np.arange(count) % len(names)
            values = np.array([45 * BRIGHTNESS[names[target]] for target in targets]) + random.normal(0, 30, count)
            grey = np.clip(values, 0, 255)[:, None, None, None] * np.ones((1, 16, 16, 3))
            file[f"{split}/rgb"], file[f"{split}/target"] = grey.astype(np.uint8), targets
    return path


def label_maps(path, train, test):
    """Images with label maps without names, up to so high a class in either split."""
    random = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        for split, count, highest in (("train", 24, train), ("test", 8, test)):
            labels = random.integers(1, highest + 1, (count, 16, 16)).astype(np.uint8)
            file[f"{split}/rgb"] = (40 * labels[..., None] + random.integers(0, 20, (count, 16, 16, 3))).astype(
                np.uint8
            )
            file[f"{split}/semantics"] = labels
    return path


def segmenter(path, out, **settings):
    return contrastill.distill(None, "linear/resnet8", {"path": path, "fields": MAPS}, out=out, **TINY, **settings)


@pytest.fixture(scope="module")
def five(tmp_path_factory):
    """A teacher of five classes, and data of three of them with and without names."""
    folder = tmp_path_factory.mktemp("five")
    data = classes(folder / "five.h5", "ABCDE")
    teacher = contrastill.distill(None, "resnet8", {"path": data}, out=folder / "five", **{**TINY, "epochs": 3}).out
    return teacher, classes(folder / "three.h5", "abc"), classes(folder / "nameless.h5", "abc", named=False)


def teachers_score(teacher, data, class_map, out):
    contrastill.distill(
        {"model": "resnet8", "weights": str(teacher), "class_map": class_map},
        "resnet8",
        {"path": data},
        out=out,
        objectives={"kd": 1.0},
        **TINY,
    )
    rows = contrastill.evaluate_runs([out], teachers=True, progress=False).to_dict()
    return next(row["top1"] for row in rows if row["role"] == "teacher")


def test_a_teachers_accuracy_is_one_however_its_class_map_is_written(five, tmp_path):
    teacher, data, nameless = five
    written = [{"A": "a", "C": "b", "E": "c"}, [0, 2, 4], ["a", "x", "b", "y", "c"]]
    scores = [teachers_score(teacher, data, each, tmp_path / str(number)) for number, each in enumerate(written)]
    assert len({*scores}) == 1
    assert teachers_score(teacher, nameless, [0, 2, 4], tmp_path / "nameless") == scores[0]


def test_a_test_split_without_the_highest_class_is_measured_by_the_classes_of_both(tmp_path):
    run = segmenter(label_maps(tmp_path / "maps.h5", train=4, test=3), tmp_path / "run")
    (row,) = contrastill.evaluate_runs([run.out], progress=False).to_dict()
    assert row["miou"] == pytest.approx(run.metrics["miou"], abs=1e-3)


def test_an_unfinished_segmenter_has_the_classes_of_both_splits(tmp_path):
    run = segmenter(label_maps(tmp_path / "maps.h5", train=3, test=4), tmp_path / "run")
    (run.out / "student.safetensors").unlink()
    (row,) = contrastill.evaluate_runs([run.out], progress=False).to_dict()
    assert row["miou"] == pytest.approx(run.metrics["miou"], abs=1e-3)


def test_int8_counts_the_classes_of_both_splits(tmp_path):
    pytest.importorskip("onnxruntime")
    run = segmenter(label_maps(tmp_path / "maps.h5", train=4, test=3), tmp_path / "run")
    exported = contrastill.export_run(run.out, int8=True)
    assert exported.int8.miou_fp32 == pytest.approx(run.metrics["miou"], abs=1)


def test_a_segmenter_as_teacher_of_a_classifier_has_a_row_without_accuracy(five, tmp_path):
    _, data, _ = five
    teacher = segmenter(label_maps(tmp_path / "maps.h5", train=3, test=3), tmp_path / "segmenter").out
    contrastill.distill(
        {"model": "linear/resnet8", "weights": str(teacher)},
        "resnet8",
        {"path": data},
        out=tmp_path / "run",
        objectives={"cross_entropy": 1.0, "fresh_crd": 1.0},
        **TINY,
    )
    student, segments = contrastill.evaluate_runs([tmp_path / "run"], teachers=True, progress=False).to_dict()
    assert student["top1"] is not None
    assert segments["role"] == "teacher"
    assert segments.get("top1") is None


def test_label_maps_of_other_classes_are_still_refused(tmp_path):
    run = segmenter(label_maps(tmp_path / "maps.h5", train=4, test=4), tmp_path / "run")
    other = label_maps(tmp_path / "other.h5", train=3, test=3)
    with pytest.raises(UsageError, match="nothing of"):
        contrastill.evaluate_runs([run.out], {"data.path": str(other)}, progress=False)


def test_places_of_other_data_give_a_teacher_no_accuracy(five, tmp_path):
    teacher, _, nameless = five
    whole = classes(tmp_path / "five.h5", "ABCDE", named=False)
    teachers_score(teacher, nameless, [4, 0, 2], tmp_path / "run")
    change = {"data.path": str(whole), "evaluation.tasks": ["accuracy", "classification"]}
    result = contrastill.evaluate_runs([tmp_path / "run"], change, teachers=True, progress=False)
    scores = {row["role"]: row.get("top1") for row in result.to_dict() if row["task"] == "accuracy"}
    assert scores.get("teacher") is None


def test_an_early_student_of_a_part_of_a_teachers_classes_is_loaded(five, tmp_path):
    teacher, _, nameless = five
    with h5py.File(nameless) as file, h5py.File(tmp_path / "plain.h5", "w") as plain:
        for split in ("train", "test"):
            plain[f"{split}/rgb"] = file[f"{split}/rgb"][()]
    teacher_entry = {"model": "resnet8", "weights": str(teacher), "class_map": [0, 2, 4]}
    run = contrastill.distill(
        teacher_entry, "resnet8", {"path": tmp_path / "plain.h5"}, out=tmp_path / "run", objectives={"kd": 1.0}, **TINY
    )
    measured = []
    for early in (False, True):
        if early:
            (run.out / "student.safetensors").unlink()
        result = contrastill.evaluate_runs([run.out], {"data.path": str(nameless)}, progress=False)
        measured += [row["top1"] for row in result.to_dict() if row["task"] == "accuracy"]
    assert len(measured) == 2 and measured[0] == measured[1]


def test_places_of_the_test_labels_need_no_training_labels(tmp_path):
    run = segmenter(label_maps(tmp_path / "maps.h5", train=5, test=5), tmp_path / "run").out
    other = label_maps(tmp_path / "other.h5", train=7, test=3)
    change = {"data.path": str(other), "student.class_map": [0, 1, 2]}
    (row,) = contrastill.evaluate_runs([run], change, progress=False).to_dict()
    assert row["miou"] is not None
