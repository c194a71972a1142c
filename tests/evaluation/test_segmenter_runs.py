"""A run whose student answers for each position, probed and evaluated by its maps and embedding; what compares answers
for samples refuses it.
"""

import json

import h5py
import numpy as np
import pytest
import torch

import contrastill
from contrastill.cli.main import main
from contrastill.core.config.loading import to_yaml
from contrastill.core.config.validation import validate
from contrastill.core.errors import ContrastillError, UsageError
from contrastill.evaluation.evaluation_result import DenseScores, EvaluationResult, EvaluationRow
from contrastill.evaluation.probe_report import ProbeSpec
from contrastill.models.build import build_network, save_student


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """``distilled`` from a segmenter, ``baseline`` without a teacher, ``classifier`` a classifier's, ``students`` of a
    segmenter by a classifier.
    """
    folder = tmp_path_factory.mktemp("runs")
    generator = np.random.default_rng(0)
    with h5py.File(folder / "data.h5", "w") as file:
        for split, count in (("train", 24), ("test", 12)):
            target = np.arange(count) % 3
            file[f"{split}/rgb"] = (
                generator.integers(0, 90, (count, 16, 16, 3)) + 80 * target[:, None, None, None]
            ).astype(np.uint8)
            file[f"{split}/target"] = target
            file[f"{split}/semantics"] = np.broadcast_to(target[:, None, None] + 1, (count, 16, 16)).astype(np.uint8)
    data = {
        "name": "packed",
        "path": str(folder / "data.h5"),
        "fields": {name: name for name in ("rgb", "semantics")},
    }
    torch.manual_seed(0)
    segmenter, classifier = build_network("unet/resnet8", num_classes=3), build_network("resnet8", num_classes=3)
    (folder / "teacher").mkdir()
    save_student(classifier, folder / "teacher" / "student.safetensors")
    of_classes = {"model": "resnet8", "weights": str(folder / "teacher")}
    for name, network, teachers, objectives in (
        ("distilled", segmenter, [{"model": "unet/resnet8", "num_classes": 3}], ("pixel_cross_entropy", "dense_kd")),
        ("baseline", segmenter, [], ("pixel_cross_entropy",)),
        ("students", segmenter, [of_classes], ("pixel_cross_entropy", "similarity")),
    ):
        (folder / name).mkdir()
        made = {
            "out": str(folder / name),
            "data": data,
            "teachers": teachers,
            "student": {"model": "unet/resnet8"},
            "objectives": {each: {"weight": 1} for each in objectives},
        }
        (folder / name / "config.yaml").write_text(to_yaml(validate(made)))
        (folder / name / "metrics.jsonl").write_text(json.dumps({"epoch": 0, "step": 1, "miou": 20.0}) + "\n")
        save_student(network, folder / name / "student.safetensors")
    return folder


def test_its_maps_and_embedding_are_probed(runs):
    run, data = runs / "baseline", f"packed:{runs / 'data.h5'}"
    report = contrastill.probe_networks(run, data, ProbeSpec(layers=None, knn=3), progress=False)
    layers = {row.layer: row for row in report.rows}
    assert [*layers] == ["maps.0", "maps.1", "maps.2", "maps.3", "maps.4", "embedding"]
    assert layers["maps.0"].accuracy.top1 > 90  # classes are brightnesses
    with pytest.raises(UsageError, match=r"has no layer logits: it has maps\.0"):
        contrastill.probe_networks(run, data, ProbeSpec(layers=("logits",)), progress=False)


def test_heads_are_trained_on_its_maps_and_its_embedding(runs):
    overrides = ["evaluation.tasks=[segmentation,classification]", "evaluation.epochs=2"]
    result = contrastill.evaluate_runs(runs / "baseline", overrides, progress=False)
    scores = {row.task: row.scores for row in result.rows}
    assert scores["segmentation"].miou > 50 and scores["classification"].layers["embedding"].top1 > 60


def test_what_its_answers_are_not_measured_by_is_refused_in_one_sentence(runs, capsys):
    assert main(["evaluate", str(runs / "distilled"), "--baselines", "scratch", "-q"]) == 2
    error = capsys.readouterr().err
    assert (
        "trained on label maps it is a run of its own: contrastill train with objectives.pixel_cross_entropy" in error
    )
    assert main(["evaluate", str(runs / "distilled"), "evaluation.mode=fine_tuned", "-q"]) == 2
    error = capsys.readouterr().err
    assert "evaluation.mode=fine_tuned is for evaluation.tasks=[segmentation], whose head" in error
    assert error.count("\n") == 1, error


def test_its_answers_are_not_compared_with_those_for_samples(runs, capsys):
    for name in ("distilled", "baseline"):
        assert main(["ensemble", "diversity", str(runs / name)]) == 2
        error = capsys.readouterr().err
        assert f"unet/resnet8 of {runs / name} answers for each position, and what is compared here are" in error
        assert error.count("\n") == 1 and not (runs / name / "diversity.json").exists()
    with pytest.raises(ContrastillError, match=r"no top-1 on a test split \(its student .* and has mIoU\)"):
        contrastill.ensemble_figure(runs / "distilled")


def test_teachers_of_samples_are_compared_without_it(runs, capsys):
    result = contrastill.measure_diversity(runs / "students")
    assert [network.model for network in result.networks] == ["resnet8"] and result.student is None
    assert "answers for each position: it is left out" in capsys.readouterr().err


def test_a_picture_of_its_own_answers_may_be_named(runs, tmp_path):
    result = contrastill.evaluate_runs(runs / "baseline", picture=tmp_path / "answers.png", progress=False)
    assert result.picture == tmp_path / "answers.png" and result.picture.is_file()


def test_the_intersections_of_several_runs_name_their_runs():
    scores = [DenseScores(90.0, 80.0, miou, None, [miou, miou], ("table", "object")) for miou in (50.0, 60.0)]
    rows = [
        EvaluationRow(run, "student", "unet", 1, 2, "w", "accuracy", each)
        for run, each in zip("ab", scores, strict=True)
    ]
    columns = [EvaluationResult(tuple(part)).tables()[1].columns for part in (rows, rows[:1])]
    assert columns == [["IoU %", "a student unet", "b student unet"], ["IoU %", "student unet"]]


def test_a_class_map_of_its_channels_gives_one_number_in_each_form(runs, tmp_path, capsys):
    with h5py.File(tmp_path / "two.h5", "w") as file:
        file.attrs["semantic_classes"] = ["void", "x", "y"]
        file["test/rgb"] = np.random.default_rng(1).integers(0, 255, (4, 16, 16, 3), dtype=np.uint8)
        file["test/semantics"] = np.random.default_rng(2).integers(1, 3, (4, 16, 16), dtype=np.uint8)
    scores = []
    for class_map in ("{2: x, 0: y}", "[2,0]"):
        overrides = [f"data.path={tmp_path / 'two.h5'}", f"student.class_map={class_map}"]
        result = contrastill.evaluate_runs(runs / "baseline", overrides)
        scores.append(result.rows[0].scores)
        message = capsys.readouterr().err
        assert "has 2 of the 3 classes of student unet/resnet8" in message and "counts as wrong" in message
    assert scores[0] == scores[1] and scores[0].miou > 0
