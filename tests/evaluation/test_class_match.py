"""What compares logits with classes matches them in one way, by name, or by number with a line that says so; logits
that were not trained are not measured.
"""

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

import contrastill
from contrastill.cli.main import main
from contrastill.core.config.loading import to_yaml
from contrastill.core.config.schema import DataConfig, NetworkConfig
from contrastill.core.config.validation import validate
from contrastill.core.errors import UsageError
from contrastill.core.registry import PRETRAINED
from contrastill.evaluation.benchmark_accuracy import correct
from contrastill.models.build import build_network, save_student
from contrastill.models.trained_logits import untrained_logits

NAMES = ["0", "1", "10", "2"]  # as folders are sorted


def pack(path, images, targets, names):
    with h5py.File(path, "w") as file:
        for split in ("train", "test"):
            file[f"{split}/rgb"], file[f"{split}/target"] = images, targets
        if names:
            file.attrs["classes"] = names
    return path


def write_run(folder, network, data, teachers=(), objectives=("cross_entropy",), **student):
    """A finished run without its training."""
    folder.mkdir()
    config = {
        "out": str(folder),
        "data": {"name": "packed", "path": str(data)},
        "teachers": [{"model": "resnet8", "weights": str(weights)} for weights in teachers],
        "student": {"model": "resnet8", **student},
        "objectives": {name: {"weight": 1} for name in objectives},
    }
    (folder / "config.yaml").write_text(to_yaml(validate(config)))
    (folder / "metrics.jsonl").write_text(json.dumps({"epoch": 0, "step": 1, "loss": 1.0}) + "\n")
    save_student(network, folder / "student.safetensors")
    return folder


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """``teacher`` is right of all images of ``own.h5``; ``student`` has its weights and was distilled from it by KD,
    ``crd`` by an objective that reads no logits. The same images are in ``plain.h5`` without names, and in ``part.h5``
    those of the classes called 2 and 1. ``words`` and ``of_words`` have names in words, and data without names.
    """
    folder = tmp_path_factory.mktemp("world")
    images = np.random.default_rng(0).integers(0, 256, (60, 8, 8, 3), dtype=np.uint8)
    torch.manual_seed(0)
    network = build_network("resnet8", num_classes=4)
    network.recipe = {**network.recipe, "classes": tuple(NAMES)}
    with torch.no_grad():
        read = {"rgb": torch.from_numpy(images).permute(0, 3, 1, 2)}
        logits = network.eval()(read, frozenset({"logits"})).logits
        network.module.fc.bias -= logits.median(0).values  # so that each class is the answer for some images
        targets = network(read, frozenset({"logits"})).logits.argmax(1).numpy()
    assert len({*targets.tolist()}) == 4
    own = pack(folder / "own.h5", images, targets, NAMES)
    pack(folder / "plain.h5", images, targets, None)
    part = np.isin(targets, (1, 3))
    pack(folder / "part.h5", images[part], (targets[part] == 1).astype(int), ["2", "1"])
    write_run(folder / "teacher", network, own)
    write_run(folder / "student", network, own, [folder / "teacher"], ("kd",))
    write_run(folder / "crd", network, own, [folder / "teacher"], ("dense_crd",))
    network.recipe = {**network.recipe, "classes": ("ant", "bee", "cow", "dog")}
    words = pack(folder / "words.h5", images, targets, None)
    write_run(folder / "words", network, words)
    write_run(folder / "of_words", network, words, [folder / "words"], ("kd",))
    return folder


@pytest.fixture
def onnx():
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package, reason=f"{package} is not installed: pip install contrastill[export]")


def test_what_evaluate_refuses_to_match_by_number_all_refuse(world, onnx, tmp_path):
    """Numbers as names, in another order than their own, and data without names."""
    data, line = str(world / "plain.h5"), r"are called 0, 1, 10, …, numbers in another order, and .*plain.h5 has no"
    with pytest.raises(UsageError, match=line):
        contrastill.evaluate_runs(world / "teacher", [f"data.path={data}"], progress=False)
    with pytest.raises(UsageError, match=line + ".*name them, or name other data with --data"):
        contrastill.export_run(world / "teacher", tmp_path / "a.onnx", int8=True, data=f"packed:{data}")
    with pytest.raises(UsageError, match=line + r".*teachers\.0\.class_map=\[PLACE,…\]"):
        contrastill.measure_diversity(world / "student", [f"data.path={data}"])
    maps = [f"{key}.class_map=[0,1,2,3]" for key in ("teachers.0", "student")]
    result = contrastill.measure_diversity(world / "student", [f"data.path={data}", *maps])
    assert result.networks[0].top1 == result.student.top1 == 100
    with pytest.raises(UsageError, match=r"class_map of teachers\.0 .* names 3 classes, and .*plain.h5 has 4"):
        contrastill.measure_diversity(world / "student", [f"data.path={data}", "teachers.0.class_map=[0,1,2]", maps[1]])
    with pytest.raises(UsageError, match=line):
        correct(NetworkConfig(model="resnet8"), world / "teacher", DataConfig(name="packed", path=data))
    assert not list(tmp_path.iterdir())


def test_what_evaluate_matches_by_number_all_say(world, onnx, tmp_path, capsys, caplog):
    line = "are matched by number alone, as"
    data = f"{world / 'plain.h5'}"
    (row,) = contrastill.evaluate_runs(world / "words", [f"data.path={data}"]).to_dict()
    assert row["top1"] == 100 and line in capsys.readouterr().err
    exported = contrastill.export_run(world / "words", tmp_path / "a.onnx", int8=True, data=f"packed:{data}")
    assert exported.int8.top1_fp32 == 100 and capsys.readouterr().err.count(line) == 1
    result = contrastill.measure_diversity(world / "of_words", [f"data.path={data}"])
    message = capsys.readouterr().err
    assert result.networks[0].top1 == result.student.top1 == 100
    assert [f"classes of {who} (resnet8" in message for who in ("teachers.0", "student")] == [True, True]
    assert message.count(line) == 2
    assert correct(NetworkConfig(model="resnet8"), world / "words", DataConfig(name="packed", path=data)).all()
    assert line in caplog.text
    # Of its own data its training said so.
    contrastill.measure_diversity(world / "of_words")
    assert line not in capsys.readouterr().err


def test_fewer_classes_are_matched_by_name(world, onnx, tmp_path, capsys):
    data = f"{world / 'part.h5'}"
    (row,) = contrastill.evaluate_runs(world / "teacher", [f"data.path={data}"], progress=False).to_dict()
    exported = contrastill.export_run(world / "teacher", tmp_path / "a.onnx", int8=True, data=f"packed:{data}")
    assert row["top1"] == exported.int8.top1_fp32 == 100
    assert "part.h5 has 2 of the 4 classes of the student, matched by name" in capsys.readouterr().err
    result = contrastill.measure_diversity(world / "student", [f"data.path={data}"])
    assert result.networks[0].top1 == result.student.top1 == 100
    message = capsys.readouterr().err
    assert "left out" not in message
    for who in ("teachers.0 (resnet8", "student (resnet8"):
        assert f"{who}" in message and "has 4 classes: its probabilities are those among the 2 of" in message


def test_a_student_that_is_left_out_of_diversity_is_left_out_for_its_reason(world, tmp_path, capsys):
    three = build_network("resnet8", num_classes=3)
    three.recipe = {**three.recipe, "classes": ("1", "2", "3")}
    other = write_run(tmp_path / "other", three, world / "own.h5", [world / "teacher"], ("kd",))
    for run, reason in ((other, "has no class 0, 10, which"), (world / "crd", "as none of dense_crd reads them")):
        assert contrastill.measure_diversity(run).student is None
        (line,) = [line for line in capsys.readouterr().err.splitlines() if "left out" in line]
        assert reason in line


def test_logits_that_were_not_trained_are_exported_with_a_line_and_not_measured(world, onnx, tmp_path, capsys, caplog):
    line = f"the logits of the student of {world / 'crd'} were not trained, as none of dense_crd reads them"
    assert main(["export", str(world / "crd"), "--int8", "--out", str(tmp_path / "a.onnx")]) == 0
    output = capsys.readouterr().out
    assert caplog.text.count(line) == 1 and "is not measured, as the student's logits were not" in output
    assert "top-1 on" not in output and (tmp_path / "a.int8.onnx").is_file()
    assert main(["export", str(world / "crd"), "--int8", "--out", str(tmp_path / "a.onnx"), "--json"]) == 0
    assert not {"top1", "top1_fp32", "miou"} & {*json.loads(capsys.readouterr().out)["int8"]}
    caplog.clear()
    contrastill.export_student(world / "crd", tmp_path / "a.pt2", format="torch", size=8, check=False)
    assert line in caplog.text
    caplog.clear()
    contrastill.export_student(world / "student", tmp_path / "b.pt2", format="torch", size=8, check=False)
    assert "were not trained" not in caplog.text


def test_the_card_says_that_no_objective_trained_the_logits(world, tmp_path):
    for run, untrained in (("crd", True), ("student", False)):
        contrastill.Student.from_run(world / run).save_pretrained(tmp_path / run)
        card = Path(tmp_path / run / "README.md").read_text(encoding="utf-8")
        assert ("nothing: no objective trained its logits" in card) == untrained


def test_logits_came_with_weights_of_the_same_classes_alone(world, tmp_path):
    seven = build_network("resnet8", num_classes=7)
    save_student(seven, tmp_path / "seven.safetensors")
    recipe = build_network("resnet8", weights=world / "teacher").recipe
    for number, (weights, trained) in enumerate(
        (
            (world / "teacher", True),
            (tmp_path / "seven.safetensors", False),
            (world / "words", False),
            (PRETRAINED, False),
            (None, False),
        )
    ):
        network = build_network("resnet8", weights=world / "teacher")
        given = {} if weights is None else {"weights": str(weights)}
        # Published weights are of libraries' networks; nothing is loaded here.
        given |= {"model": "timm/resnet18"} if weights == PRETRAINED else {}
        run = write_run(tmp_path / str(number), network, world / "own.h5", [world / "teacher"], ("crd",), **given)
        assert (untrained_logits(run, recipe) == "") == trained, weights


def test_correlations_of_logits_that_were_not_trained_have_a_line(world, caplog):
    spec = contrastill.ProbeSpec(layers=("embedding",), correlation=str(world / "teacher"))
    for run, untrained in (("crd", True), ("student", False)):
        caplog.clear()
        contrastill.probe_networks([world / run], f"packed:{world / 'own.h5'}", spec, progress=False)
        assert ("were not trained, as none of dense_crd reads them: their correl" in caplog.text) == untrained
