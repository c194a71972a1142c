"""What a run's folder holds is its own: weights that changed under their paths, other runs, other processes."""

import json
import shutil
import subprocess
import sys

import h5py
import numpy as np
import pytest
import torch
from torch import nn

import contrastill
from contrastill.cli.main import main
from contrastill.core.config.loading import load_config, make_data_config
from contrastill.core.run import Run
from contrastill.datasets.io.folders import walk
from contrastill.evaluation.evaluation_data import carried_settings, data_keys
from contrastill.models.build import build_network, save_student
from contrastill.training.student import Student

LOCKING = """
import sys
from pathlib import Path
from contrastill.core.run_lock import run_lock
with run_lock(Path(sys.argv[1])):
    print("locked", flush=True)
    sys.stdin.read()
"""


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "two.h5"
    with h5py.File(path, "w") as file:
        for split in ("train", "test"):
            file[f"{split}/rgb"] = np.random.default_rng(0).integers(0, 256, (16, 8, 8, 3), dtype=np.uint8)
            file[f"{split}/target"] = np.arange(16) % 2
    return str(path)


def save_teacher(path, seed):
    torch.manual_seed(seed)
    save_student(build_network("resnet8", num_classes=2), path)


def train_command(packed, out, *overrides):
    return ["train", "teachers/cifar100", f"data.path={packed}", "student.model=resnet8", "train.epochs=1", "-q",
            f"out={out}", *overrides]  # fmt: skip


def test_a_run_of_before_a_key_existed_goes_on_unless_the_key_is_set_now(packed, tmp_path, capsys):
    out = tmp_path / "run"
    assert main(train_command(packed, out)) == 0
    config = out / "config.yaml"
    lines = config.read_text().splitlines(keepends=True)
    later = ("decay_biases", "optimizer_options", "ema", "mixup", "freeze", "validation")
    config.write_text("".join(line for line in lines if not line.strip().startswith(later)))
    assert len(config.read_text().splitlines()) < len(lines) - 4
    assert main(train_command(packed, out)) == 0
    assert main(["evaluate", str(out), "--json"]) == 0
    capsys.readouterr()
    config.write_text("".join(line for line in lines if not line.strip().startswith(later)))
    assert main(train_command(packed, out, "train.decay_biases=false")) == 2
    assert "train.decay_biases: None, now False" in capsys.readouterr().err


def test_a_finished_run_that_lost_its_rows_is_there_and_says_so(packed, tmp_path, caplog):
    options = {"objectives": "cross_entropy", "epochs": 2, "quiet": True, "out": tmp_path / "run"}
    first = contrastill.distill(None, "resnet8", packed, **options)
    rows = first.paths.metrics.read_text().splitlines(keepends=True)
    first.paths.metrics.unlink()
    lost = f"{first.paths.metrics} lacks the row"
    again = contrastill.distill(None, "resnet8", packed, **options)
    assert again.metrics == {} and "no metrics after 2 epochs" in str(again)
    assert all(map(torch.equal, first.student.state_dict().values(), again.student.state_dict().values()))
    assert sum(f"{lost}s of epoch 0, 1, as if removed" in record.getMessage() for record in caplog.records) == 1
    first.paths.metrics.write_text(rows[1])
    assert contrastill.distill(None, "resnet8", packed, **options).metrics == first.metrics
    assert sum(f"{lost} of epoch 0, as if removed" in record.getMessage() for record in caplog.records) == 1
    caplog.clear()
    first.paths.metrics.write_text("".join(rows))
    contrastill.distill(None, "resnet8", packed, **options)
    assert lost not in caplog.text


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a: [", "line 1, column 5"),
        ("a:\n\tb: 1", "YAML is indented by spaces"),
        ("\0", "unacceptable character"),
        ("", "it holds no settings of a run"),
        ("- 1", "it holds no settings of a run"),
    ],
)
def test_a_damaged_config_in_the_folder_is_one_sentence(packed, tmp_path, text, problem):
    config, student = tmp_path / "config.yaml", tmp_path / "student.safetensors"
    config.write_text(text)
    message = rf"config {config} cannot be read: .*{problem}.*; put it back, choose another out=…, or remove the folder"
    with pytest.raises(contrastill.UsageError, match=message):
        contrastill.distill(None, "resnet8", packed, objectives="cross_entropy", out=tmp_path, quiet=True)
    assert config.read_text() == text
    save_teacher(student, 0)
    with pytest.raises(contrastill.UsageError, match=rf"config {config} cannot be read: .*{problem}"):
        load_config("compression/cifar100_crd", [f"data.path={packed}", f"teachers.0={{weights: {tmp_path}}}"])
    assert Student.from_run(tmp_path).trained is None


def test_a_teacher_replaced_under_its_path_is_refused(packed, tmp_path, capsys):
    out, file = tmp_path / "run", tmp_path / "teacher.safetensors"
    save_teacher(file, 0)
    shutil.copy(file, tmp_path / "former.safetensors")
    command = train_command(packed, out, "objectives.kd.weight=1", "teachers.0.model=resnet8",
                            f"teachers.0.weights={file}")  # fmt: skip
    assert main(command) == 0
    save_teacher(file, 1)
    assert main(command) == 2
    assert f"the weights of teachers.0 ({file}) changed since {out} began" in " ".join(capsys.readouterr().err.split())
    assert main(["evaluate", str(out), "--teachers", "-q"]) == 2
    assert "so this is not its teacher any more" in " ".join(capsys.readouterr().err.split())
    assert main(["evaluate", str(out), "-q"]) == 0  # the student is the run's own
    moved = f"teachers.0.weights={tmp_path / 'former.safetensors'}"
    assert main(["evaluate", str(out), "--teachers", moved, "-q"]) == 0
    shutil.copy(tmp_path / "former.safetensors", file)
    assert main(command) == 0
    assert main(["evaluate", str(out), "--teachers", "-q"]) == 0


class Scaled(nn.Module):
    """Its temperature is an attribute, and no weight."""

    def __init__(self, scale):
        super().__init__()
        self.scale, self.inner, self.classifier = scale, nn.Conv2d(3, 4, 3), nn.Linear(4, 2)

    def forward(self, images):
        return self.scale * self.classifier(self.inner(images).mean((2, 3)))


def test_a_teacher_with_the_same_weights_and_another_attribute_is_refused(packed, tmp_path):
    def distilled(scale):
        torch.manual_seed(0)
        options = {"objectives": "kd", "epochs": 1, "quiet": True, "out": tmp_path / "run"}
        return contrastill.distill(Scaled(scale), "resnet8", packed, **options)

    first = distilled(1.0)
    assert distilled(1.0).metrics == first.metrics
    with pytest.raises(contrastill.UsageError, match=r"teachers.0 has the weights of .* and does not answer as it did"):
        distilled(3.0)
    entries = json.loads(first.paths.weights.read_text())
    entries["teachers.0"].pop("answer")  # an older run recorded none
    first.paths.weights.write_text(json.dumps(entries))
    assert distilled(3.0).metrics == first.metrics


def test_a_run_that_recorded_no_weights_goes_on_with_a_line(packed, tmp_path, caplog):
    out, file = tmp_path / "run", tmp_path / "student.safetensors"
    save_teacher(file, 0)
    command = train_command(packed, out, f"student.weights={file}")
    assert main(command) == 0
    Run(out).weights.unlink()
    assert main(command) == 0
    assert "does not record which weights it began with" in caplog.text
    assert main(command) == 0 and Run(out).weights.is_file()


def test_other_initial_weights_of_a_student(packed, tmp_path, caplog):
    def network(seed):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2))

    file = tmp_path / "initial.safetensors"
    save_teacher(file, 0)
    options = {"objectives": "cross_entropy", "epochs": 1, "quiet": True}
    by_file = {"model": "resnet8", "weights": str(file)}
    contrastill.distill(None, by_file, packed, out=tmp_path / "file", **options)
    save_teacher(file, 1)
    with pytest.raises(contrastill.UsageError, match="the weights of student .* changed since"):
        contrastill.distill(None, by_file, packed, out=tmp_path / "file", **options)

    # A script that is started again makes its module anew, and its run goes on as before.
    contrastill.distill(None, network(0), packed, out=tmp_path / "module", **options)
    contrastill.distill(None, network(0), packed, out=tmp_path / "module", **options)
    assert "initial weights" not in caplog.text
    contrastill.distill(None, network(1), packed, out=tmp_path / "module", **options)
    assert "the student's initial weights are others than those that" in caplog.text


@pytest.mark.parametrize("change", [{"width": 6}, {"stride": 1}, {"activation": nn.Tanh}])
def test_a_student_that_is_built_of_other_layers_does_not_go_on(packed, tmp_path, change):
    def network(width=8, stride=2, activation=nn.ReLU):
        layers = nn.Conv2d(3, width, 3, stride), activation(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        return nn.Sequential(*layers, nn.Linear(width, 2))

    options = {"objectives": "cross_entropy", "epochs": 1, "quiet": True, "out": tmp_path / "run"}
    contrastill.distill(None, network(), packed, **options)
    with pytest.raises(contrastill.UsageError, match="student is built of other layers, or of other sizes, than the"):
        contrastill.distill(None, network(**change), packed, **options)
    record = json.loads(Run(tmp_path / "run").weights.read_text())
    record["student"].pop("modules")  # as older runs are
    Run(tmp_path / "run").weights.write_text(json.dumps(record))
    contrastill.distill(None, network(), packed, **options)


class Activated(nn.Module):
    def __init__(self, activation):
        super().__init__()
        self.conv, self.fc, self.activation = nn.Conv2d(3, 8, 3), nn.Linear(8, 2), activation

    def forward(self, images):
        return self.fc(self.activation(self.conv(images)).mean((2, 3)))


def test_a_student_with_another_argument_is_not_taken_for_the_one_that_was_trained(packed, tmp_path):
    options = {"objectives": "cross_entropy", "epochs": 1, "quiet": True, "out": tmp_path / "run"}
    contrastill.distill(None, Activated(torch.relu), packed, **options)
    before = Run(tmp_path / "run").student.read_bytes()
    with pytest.raises(contrastill.UsageError, match="Activated with the weights of .* does not answer as the network"):
        contrastill.distill(None, Activated(torch.tanh), packed, **options)
    contrastill.distill(None, Activated(torch.relu), packed, **options)
    assert Run(tmp_path / "run").student.read_bytes() == before


def test_modules_and_datasets_of_the_same_kind_with_other_contents_are_refused(tmp_path):
    def network(seed):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2))

    def data(seed):
        images = torch.randint(0, 256, (16, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
        dataset = torch.utils.data.TensorDataset(images, torch.arange(16) % 2)
        return dataset, dataset

    options = {"objectives": "kd", "epochs": 1, "quiet": True, "out": tmp_path}
    contrastill.distill(network(0), network(1), data(0), **options)
    with pytest.raises(contrastill.UsageError, match=r"other settings \(teachers.0.model"):
        contrastill.distill(network(2), network(1), data(0), **options)
    with pytest.raises(contrastill.UsageError, match="the data changed since"):
        contrastill.distill(network(0), network(1), data(1), **options)


def test_a_folder_of_seeds_takes_no_run_of_its_own(packed, tmp_path, capsys):
    out = tmp_path / "several"
    assert main(train_command(packed, out, "seeds=1")) == 0
    assert main(train_command(packed, out)) == 2
    assert f"{out} is a folder of several runs, such as seed-0" in " ".join(capsys.readouterr().err.split())
    assert not (out / "config.yaml").exists()
    assert main(train_command(packed, tmp_path / "run")) == 0
    assert main(train_command(packed, tmp_path / "run", "seeds=2")) == 2
    assert "holds a run by itself" in " ".join(capsys.readouterr().err.split())


def test_two_processes_do_not_write_one_run(packed, tmp_path, capsys):
    out = tmp_path / "run"
    out.mkdir()
    with subprocess.Popen(
        [sys.executable, "-c", LOCKING, str(out)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout.readline() == "locked\n"
        assert main(train_command(packed, out)) == 2
        error = " ".join(capsys.readouterr().err.split())
        assert f"{out} is being written by process {other.pid} on " in error
        assert not (out / "config.yaml").exists()
        other.kill()
    assert (out / ".lock").exists()
    assert main(train_command(packed, out)) == 0
    assert not (out / ".lock").exists() and len(Run(out).history()) == 1


def test_a_file_system_without_locks_is_used_without(packed, tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr("contrastill.core.run_lock.fcntl.lockf", refuse)
    assert main(train_command(packed, tmp_path / "run")) == 0


def test_an_evaluation_on_other_data_is_kept_apart(packed, tmp_path, capsys):
    out = tmp_path / "lr=0.1" / "run"  # no override: a folder
    assert main(train_command(packed, out)) == 0
    assert main(["evaluate", str(out), "-q"]) == 0
    own = (out / "evaluation.json").read_text()
    copied, other = tmp_path / "copied.h5", tmp_path / "other.h5"
    shutil.copy(packed, copied)
    with h5py.File(other, "w") as file:
        for split in ("train", "test"):
            file[f"{split}/rgb"] = np.zeros((4, 8, 8, 3), np.uint8)
            file[f"{split}/target"] = np.arange(4) % 2
    assert main(["evaluate", str(out), f"data.path={other}"]) == 0
    written = next(out.glob("evaluation-other-*.json"))
    assert str(written) in "".join(capsys.readouterr().err.split())
    assert (out / "evaluation.json").read_text() == own
    assert json.loads(written.read_text())["rows"][0]["images"] == 4
    assert main(["evaluate", str(out), f"data.path={copied}", "-q"]) == 0
    assert len([*out.glob("evaluation*.json")]) == 2


def _replaced(source, path, **fields):
    """A copy of a packed file, some fields of its test split changed by a function."""
    shutil.copy(source, path)
    with h5py.File(path, "r+") as file:
        for name, change in fields.items():
            file[f"test/{name}"][:] = change(file[f"test/{name}"][()])


def test_data_that_were_replaced_since_the_training_are_kept_apart(packed, tmp_path, capsys, caplog):
    out, data = tmp_path / "run", tmp_path / "own.h5"
    _replaced(packed, data)
    assert main(train_command(data, out)) == 0 and main(["evaluate", str(out), "-q"]) == 0
    own = (out / "evaluation.json").read_text()
    for number, (fact, fields) in enumerate(
        (("contents", {"rgb": lambda values: 255 - values}), ("labels", {"target": lambda values: values[::-1]})), 1
    ):
        _replaced(packed, data, **fields)
        capsys.readouterr()
        assert main(["evaluate", str(out)]) == 0
        message = f"the data of {data} are no longer those that {out} was trained with ({fact} of test differ)"
        captured = capsys.readouterr()
        assert message in captured.err and len([*out.glob("evaluation-own-*.json")]) == number
        assert (out / "evaluation.json").read_text() == own
    caplog.clear()
    result = contrastill.evaluate_runs([out], progress=False)
    assert message in result.notes[0] and message in caplog.text and message in str(result)
    # What the evaluation changes on purpose is no replacement, and does not hide one.
    fields = "evaluation.data.fields={rgb: rgb}"
    assert message in contrastill.evaluate_runs([out], [fields], progress=False).notes[0]
    _replaced(packed, data)
    before = [*out.glob("evaluation*.json")]
    for overrides in ([], [fields]):
        assert contrastill.evaluate_runs([out], overrides, progress=False).notes == ()
    assert [*out.glob("evaluation*.json")] == before
    # Other samples of the same file are other data: the run's own rows stay.
    own = (out / "evaluation.json").read_text()
    for overrides in (["evaluation.data.splits={train: test, test: train}"], ["data.limit=2"]):
        assert contrastill.evaluate_runs([out], overrides, progress=False).notes == ()
    assert len([*out.glob("evaluation*.json")]) == len(before) + 2
    assert (out / "evaluation.json").read_text() == own


def _one_changed(count, place=None):
    images = torch.randint(0, 256, (count, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    if place is not None:
        images[place, 0, 0, 0] ^= 1
    return torch.utils.data.TensorDataset(images, torch.arange(count) % 2)


def _forget_values(run):
    """As runs of an older version are."""
    facts = json.loads(run.data.read_text())
    for split in facts.values():
        del split["values"]
    run.data.write_text(json.dumps(facts))


def test_one_changed_sample_of_hundreds_is_other_data(tmp_path):
    options = {"objectives": "cross_entropy", "epochs": 1, "quiet": True, "out": tmp_path / "run", "batch_size": 128}
    contrastill.distill(None, "resnet8", _one_changed(200), **options)
    contrastill.distill(None, "resnet8", _one_changed(200), **options)
    with pytest.raises(contrastill.UsageError, match="the data changed since .*: values of train differ"):
        contrastill.distill(None, "resnet8", _one_changed(200, 7), **options)
    _forget_values(Run(tmp_path / "run"))
    contrastill.distill(None, "resnet8", _one_changed(200), **options)


def test_one_changed_sample_is_not_read_from_a_cache_of_the_others(tmp_path):
    teacher = nn.Sequential(nn.Conv2d(3, 2, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    options = {"objectives": "kd", "epochs": 1, "quiet": True, "views": 1, "batch_size": 128}
    options |= {"teacher_cache": str(tmp_path / "cache"), "student.num_classes": 2}
    for out in ("first", "again"):
        contrastill.distill(teacher, "resnet8", (_one_changed(200), None), out=tmp_path / out, **options)
    with pytest.raises(contrastill.UsageError, match="is of other samples: some changed since it was written"):
        contrastill.distill(teacher, "resnet8", (_one_changed(200, 7), None), out=tmp_path / "other", **options)
    for path in (tmp_path / "cache").rglob("*.h5"):  # as of an older version
        with h5py.File(path, "r+") as file:
            del file.attrs["values"]
    contrastill.distill(teacher, "resnet8", (_one_changed(200, 7), None), out=tmp_path / "older", **options)


def test_a_copy_of_the_data_of_an_older_run_is_its_own(packed, tmp_path):
    out, copy = tmp_path / "run", tmp_path / "copy.h5"
    assert main(train_command(packed, out)) == 0
    shutil.copy(packed, copy)
    _forget_values(Run(out))
    contrastill.evaluate_runs([out], [f"data.path={copy}"], progress=False)
    assert [path.name for path in out.glob("evaluation*.json")] == ["evaluation.json"]


def test_settings_of_the_files_of_one_data_set_are_named_where_others_are_read_with_them(tmp_path):
    own = make_data_config({"name": "packed", "path": "a.h5", "fields": {"depth": "depth"}, "depth_unit": "mm"}, {})
    other = own.model_copy(update={"path": "b.h5"})
    assert carried_settings(own, other, {"path"}) == ["data.depth_unit=mm"]
    assert carried_settings(own, other, data_keys(["data.path=b.h5", "data.depth_unit=mm"])) == []
    assert carried_settings(own, own, set()) == []


def test_a_report_says_how_far_a_run_is(packed, tmp_path, capsys):
    out = tmp_path / "run"
    assert main(train_command(packed, out, "train.epochs=2")) == 0
    assert main(["report", str(out), "-q"]) == 0 and "of 2 epochs" not in capsys.readouterr().out
    metrics = Run(out).metrics
    metrics.write_text(metrics.read_text()[:-20])
    assert main(["report", str(out), "-q"]) == 0
    line = "metrics.jsonl is cut off after 1 of 2 epochs"
    assert line in capsys.readouterr().out and line in (out / "report.html").read_text()
    Run(out).student.unlink()
    assert main(["report", str(out), "-q"]) == 0
    assert "unfinished: 1 of 2 epochs" in capsys.readouterr().out


def test_a_link_to_a_folder_around_it_counts_no_image_twice(tmp_path):
    picture, inside = tmp_path / "cat" / "a.png", tmp_path / "cat" / "more"
    inside.mkdir(parents=True)
    picture.touch()
    (inside / "loop").symlink_to(tmp_path / "cat")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "b.png").touch()
    (inside / "linked").symlink_to(tmp_path / "elsewhere")
    assert sorted(walk(tmp_path / "cat")) == [picture, inside / "linked" / "b.png"]
