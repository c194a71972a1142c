"""Heads of a teacher on its student, and retrieval between both: a real small run through the command, against the
parts of the package put together by hand.
"""

import json
import math
import shutil

import h5py
import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch.nn import functional as F

import contrastill
from contrastill import Representation, UsageError
from contrastill.cli.main import main
from contrastill.core.config.loading import load_config
from contrastill.core.loaded_network import as_network
from contrastill.ensemble.adaptors import Adaptor
from contrastill.evaluation import teacher_space
from contrastill.evaluation.evaluation_split import EvaluationSplit
from contrastill.probe.features import features_of
from contrastill.probe.linear import fit_classifier
from contrastill.probe.segmentation import segment
from contrastill.training.data import open_split

DATA = ["data.name=rooms", "data.size=16", "data.train_samples=32", "data.test_samples=12"]
SHORT = ["train.epochs=2", "train.batch_size=8", "train.views=1", "train.lr=0.01", "-q"]
HEADS = ["evaluation.epochs=3", "evaluation.batch_size=8", "-q", "--json"]


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    out = tmp_path_factory.mktemp("teacher") / "rgb"
    short = [word for word in SHORT if "views" not in word]
    assert main(["train", "teachers/rooms", *DATA, "student.model=resnet8", *short, f"out={out}"]) == 0
    return out


def distil(teacher, out, *more):
    command = [
        "train",
        "xmodal/rooms_rgb_to_depth_crd",
        *DATA,
        "teachers.0.model=resnet8",
        f"teachers.0.weights={teacher}",
    ]
    tasks = ["objectives.dense_crd=null", "evaluation.tasks=[segmentation,classification,retrieval]"]
    assert main([*command, *tasks, *SHORT, f"out={out}", *more]) == 0
    return out


@pytest.fixture(scope="module")
def run(teacher, tmp_path_factory):
    """A depth student whose map is of another size than its teacher's."""
    out = tmp_path_factory.mktemp("runs") / "depth"
    return distil(teacher, out, "objectives.agglomerate={pair: [-2, -1], estimate_steps: 4}")


@pytest.fixture(scope="module")
def rows(run):
    result = contrastill.evaluate_runs([run], [*HEADS[:2], "evaluation.head_of=teacher"], progress=False)
    return result


def test_the_command_prints_the_rows_and_writes_them_beside_the_runs_own(run, rows, capsys):
    own = run / "evaluation.json"
    own.write_text("{}")
    assert main(["evaluate", str(run), "--head-of", "teacher", *HEADS]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert [(row["task"], row["role"], row.get("mode")) for row in printed] == [
        ("segmentation", "teacher", "head of teacher"),
        ("segmentation", "student", "head of teacher"),
        ("classification", "teacher", "head of teacher"),
        ("classification", "student", "head of teacher"),
        ("retrieval", "student", None),
    ]
    again = [row.to_dict() for row in rows.rows]
    for row in (*printed, *again):
        row.pop("seconds", None)
    assert printed == json.loads(json.dumps(again))
    written = json.loads((run / "evaluation-head-of-teacher.json").read_text())
    assert len(written["rows"]) == 5 and own.read_text() == "{}"
    assert rows.picture == run / "predictions-head-of-teacher.png" and rows.picture.is_file()
    own.unlink()


def miou(predictions, labels, classes):
    """Pixel by pixel; 0 is unlabelled."""
    inside, union = [0] * (classes + 1), [0] * (classes + 1)
    for ours, truth in zip(predictions.flatten().tolist(), labels.flatten().tolist(), strict=True):
        if truth == 0:
            continue
        inside[truth] += ours == truth
        union[truth] += 1
        union[ours] += ours != truth
    ious = [a / b for a, b in zip(inside[1:], union[1:], strict=True) if b]
    return 100 * sum(ious) / len(ious)


def splits(run):
    config = load_config(str(run / "config.yaml"), ["data.modalities=[rgb,depth,semantics]"], trains=False)
    return open_split(config, "train"), open_split(config, "test")


def test_the_numbers_are_those_of_the_parts_put_together(run, teacher, rows):
    by_task = {(row.task, row.role): row for row in rows.rows}
    first, second = (by_task["segmentation", role].scores for role in ("teacher", "student"))
    train, test = splits(run)
    eye = as_network(contrastill.load_student(teacher))
    # A teacher of the config has one map, layer3.
    eye = contrastill.Network(eye.module, taps=contrastill.Taps(embedding=eye.taps.embedding, maps=("layer3",)),
                              preprocess=eye.preprocess).freeze()  # fmt: skip
    classes = len(first.per_class_iou)
    sources = [EvaluationSplit(split, ("rgb",)) for split in (train, test)]
    result, model = segment(eye, *sources, num_classes=classes, epochs=3, batch_size=8)
    assert result.miou == pytest.approx(first.miou, abs=1e-3)
    network = contrastill.in_teacher_space(run, map_size=(4, 4))
    loader = EvaluationSplit(test, ("normalized_depth",)).loader(batch_size=12, device="cpu", seed=0, train=False)
    batch = next(iter(loader.epoch(0)))
    assert network(batch).maps[0].shape == (12, 64, 4, 4)
    with torch.no_grad():
        predictions = model.head(network(batch).maps, (16, 16)).argmax(1) + 1
    expected = miou(predictions, batch["semantics"], classes)
    assert expected == pytest.approx(second.miou, abs=1e-3)
    assert second.share_of_teacher == pytest.approx(100 * second.miou / first.miou, abs=1e-3)
    assert first.share_of_teacher is None

    first, second = (by_task["classification", role].scores for role in ("teacher", "student"))
    eyes = {
        name: features_of(eye, EvaluationSplit(split, ("rgb",)).loader(batch_size=8, device="cpu", seed=0, train=False),
                          ("embedding",))["embedding"]
        for name, split in (("train", train), ("test", test))
    }  # fmt: skip
    classifier = fit_classifier(eyes["train"], "embedding")
    with torch.no_grad():
        answers = network(batch).embedding
    right = (classifier(answers).argmax(1) == batch["target"]).double().mean().item()
    assert second.layers["embedding"].top1 == pytest.approx(100 * right)
    assert first.layers["embedding"].top1 == pytest.approx(classifier.measure(eyes["test"]).top1)
    assert second.share_of_teacher == pytest.approx(
        100 * second.layers["embedding"].top1 / first.layers["embedding"].top1
    )

    scores = by_task["retrieval", "student"].scores
    ours, theirs = (F.normalize(side.double(), dim=1) for side in (answers, eyes["test"].values))
    for k in (1, 5, 10):
        hits = [sum(float(a @ b) >= float(a @ theirs[i]) for b in theirs) <= k for i, a in enumerate(ours)]
        back = [sum(float(a @ b) >= float(a @ ours[i]) for b in ours) <= k for i, a in enumerate(theirs)]
        assert scores.recall[k] == pytest.approx(100 * sum(hits) / 12, abs=1e-3)
        assert scores.reverse[k] == pytest.approx(100 * sum(back) / 12, abs=1e-3)
        assert scores.chance[k] == pytest.approx(100 * k / 12, abs=1e-3)
    assert scores.modalities == ("normalized_depth", "rgb")


def test_the_table_has_the_share_and_chance(rows):
    table = rows.tables()[0]
    assert {"of teacher %", "mIoU %", "top-1 %", "R@1 %", "R@5 %", "R@10 %"} <= {*table.columns}
    tasks = [line[table.columns.index("task")] for line in table.rows]
    assert tasks == [
        *["segmentation (linear), head of teacher"] * 2,
        *["linear probe, embedding, head of teacher"] * 2,
        "retrieval, normalized_depth → rgb of teacher 0",
        "retrieval, rgb of teacher 0 → normalized_depth",
        "retrieval",
    ]
    assert table.rows[-1][table.columns.index("network")] == "chance"
    assert table.rows[-1][table.columns.index("R@1 %")] == "8.33"
    by_teacher, by_student, *_ = rows.rows
    assert by_student.parameters > 77_884  # with its adaptor
    assert by_teacher.parameters == 78_172
    assert [row.parameters for row in rows.rows if row.task == "retrieval"] == [rows.rows[3].parameters]


class Same(Adaptor):
    """Of a student that is its teacher."""

    def forward(self, student):
        return Representation(embedding=student.embedding, maps=(student.maps[self.pair[0]],))


@pytest.mark.parametrize("head", ["linear", "fpn"])
def test_a_student_that_is_its_teacher_has_all_of_it(run, teacher, tmp_path, monkeypatch, head):
    out = tmp_path / "same"
    shutil.copytree(run, out, ignore=shutil.ignore_patterns("checkpoints", "*.png"))
    shutil.copy(teacher / "student.safetensors", out / "student.safetensors")
    same = Same(summary=(64, 64), dense=(64, 64))
    same.number = 0
    monkeypatch.setattr(teacher_space, "adaptor_of", lambda *_: same)
    result = contrastill.evaluate_runs(
        [out],
        [*HEADS[:2], f"evaluation.head={head}", "evaluation.head_of=teachers.0", "student.modality=rgb"],
        progress=False,
    )
    *pairs, retrieved = [row.scores for row in result.rows]
    assert [scores.share_of_teacher for scores in pairs] == [None, 100.0, None, 100.0]
    assert pairs[0].mode == "head of teachers.0" and pairs[0].miou == pairs[1].miou > 0
    assert pairs[0].per_class_iou == pairs[1].per_class_iou and pairs[2].layers == pairs[3].layers
    assert retrieved.recall[1] == retrieved.reverse[1] == 100.0


def test_retrieval_needs_no_labels(run, tmp_path, capsys):
    path = tmp_path / "sensors.h5"
    generator = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        depth = generator.integers(900, 4000, (7, 4, 4)).repeat(4, 1).repeat(4, 2).astype(np.uint16)
        file["test/depth"], file["test/rgb"] = depth, np.stack([depth // 16] * 3, 3).astype(np.uint8)
    data = f"{{name: packed, path: {path}, fields: {{rgb: rgb, depth: depth}}, target: null, splits: {{test: test}}}}"
    words = ["evaluation.tasks=[retrieval]", f"evaluation.data={data}", "evaluation.data.depth_unit=mm", "-q", "--json"]
    assert main(["evaluate", str(run), *words]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["images"] == 7 and row["recall"].keys() == {"1", "5", "10"} and row["recall"]["10"] == 100.0
    assert row["chance"]["5"] == pytest.approx(500 / 7, abs=1e-3)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--head-of", "teachers.1"], "has 1 teacher(s): say whose head with --head-of, one of teachers.0"),
        (["--head-of", "student"], "name the teacher whose features heads are trained on: teacher, or"),
        (["--head-of", "teacher", "evaluation.mode=fine_tuned"], "evaluation.mode=fine_tuned trains a network along"),
        (
            ["--head-of", "teacher", "evaluation.tasks=[classification]", "evaluation.layers=[maps.0]"],
            "evaluation.layers=[maps.0] are of a probe of each network's own, and --head-of teacher takes heads on",
        ),
        (["--head-of", "teacher", "--baselines", "scratch,random"], "a network that is random or scratch does not"),
    ],
)
def test_what_does_not_go_with_a_head_of_the_teacher(run, capsys, words, message):
    assert main(["evaluate", str(run), *words]) == 2
    assert message in " ".join(capsys.readouterr().err.split())


def test_runs_without_adaptors_or_without_what_a_task_reads(teacher, run, tmp_path, capsys):
    out = tmp_path / "partial"
    shutil.copytree(run, out, ignore=shutil.ignore_patterns("checkpoints", "*.png"))
    (out / "adaptors.safetensors").unlink()
    for words in (["--head-of", "teacher"], ["evaluation.tasks=[retrieval]"]):
        assert main(["evaluate", str(out), *words]) == 2
        error = " ".join(capsys.readouterr().err.split())
        assert "has no adaptors.safetensors" in error and "train it with objectives.agglomerate={}" in error
    with pytest.raises(UsageError, match="has no adaptors.safetensors"):
        contrastill.in_teacher_space(out)
    with pytest.raises(UsageError, match="no adaptor towards teacher 3: it has those towards 0"):
        contrastill.in_teacher_space(run, 3)
    assert main(["evaluate", str(teacher), "evaluation.tasks=[classification]", "--head-of", "teacher"]) == 2
    assert "has no teacher whose head could be taken" in " ".join(capsys.readouterr().err.split())


def test_several_teachers_and_an_adaptor_of_maps_alone(teacher, tmp_path, capsys):
    second = ["teachers.1.model=resnet8", f"teachers.1.weights={teacher}"]
    out = distil(teacher, tmp_path / "two", *second, "objectives.agglomerate={summary: false}", "train.epochs=1")
    capsys.readouterr()
    assert main(["evaluate", str(out), "evaluation.tasks=[segmentation]", "--head-of", "teacher"]) == 2
    message = "has 2 teacher(s): say whose head with --head-of, one of teachers.0, teachers.1"
    assert message in " ".join(capsys.readouterr().err.split())
    words = ["evaluation.tasks=[segmentation]", "--head-of", "teachers.1", "evaluation.label_fractions=[0.5,1]", *HEADS]
    assert main(["evaluate", str(out), *words]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [(row["role"], row["labels"]) for row in rows] == [
        ("teacher", 0.5),
        ("student", 0.5),
        ("teacher", 1.0),
        ("student", 1.0),
    ]
    assert all(row["mode"] == "head of teachers.1" and not math.isnan(row["miou"]) for row in rows)
    for task, way in (("classification", "towards teacher 0 gives no embedding"), ("retrieval", "no adaptor of")):
        head = ["--head-of", "teachers.0"] if task == "classification" else []
        assert main(["evaluate", str(out), f"evaluation.tasks=[{task}]", *head]) == 2
        error = " ".join(capsys.readouterr().err.split())
        assert way in error and "objectives.agglomerate.summary=true" in error


def test_adaptors_are_measured_with_the_networks_of_their_training_alone(teacher, run, tmp_path, capsys):
    best, copied, other = tmp_path / "student_best.safetensors", tmp_path / "same.safetensors", tmp_path / "other"
    changed(run, best)
    shutil.copy(run / "student.safetensors", copied)
    shutil.copytree(run, other)
    shutil.copy(best, other / "student.safetensors")
    for tasks, head in (("[retrieval]", ["--json"]), ("[classification]", ["--head-of", "teacher"])):
        command = ["evaluate", str(run), f"evaluation.tasks={tasks}", *head]
        moved, another = shutil.copytree(teacher, tmp_path / tasks), changed(teacher, tmp_path / "another.safetensors")
        for override, code, message in (
            (f"student.weights={best}", 2, f"not with {best}: leave student.weights out"),
            (f"student.weights={other}", 2, f"evaluate {other}, which has adaptors of its own"),
            (f"student.weights={copied}", 0, ""),
            (f"teachers.0.weights={moved}", 0, ""),
            (
                f"teachers.0.weights={another}",
                2,
                "trained towards other weights than those of",
            ),
        ):
            assert main([*command, override]) == code
            assert message in " ".join(capsys.readouterr().err.split())
    unfinished = shutil.copytree(run, tmp_path / "unfinished")
    (unfinished / "student.safetensors").unlink()
    assert main(["evaluate", str(unfinished), "evaluation.tasks=[retrieval]"]) == 2
    assert "belong to its finished student" in " ".join(capsys.readouterr().err.split())


def changed(run, file):
    """The student of a run with other weights."""
    with safe_open(run / "student.safetensors", "pt") as opened:
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - it is no dict
        tensors["conv1.weight"] = tensors["conv1.weight"] + 0.01
        save_file(tensors, file, opened.metadata())
    return file
