"""Exported students answer as PyTorch does, and a failed export leaves nothing; `contrastill export` as a user runs
it.
"""

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from torch import nn

import contrastill
from contrastill.cli.main import main
from contrastill.compress import export as exporting
from contrastill.compress import exported
from contrastill.compress.export import Export, export_student
from contrastill.compress.exported import Takes, accuracy, answering
from contrastill.compress.quantize import quantize
from contrastill.core.config.loading import load_config, to_yaml
from contrastill.core.config.validation import validate
from contrastill.core.errors import ContrastillError, UsageError
from contrastill.core.registry import MODELS
from contrastill.core.representation import Preprocess, Taps
from contrastill.datasets.rendered_rooms import Rooms
from contrastill.models.build import build_network, save_student

for package in ("onnx", "onnxscript", "onnxruntime"):
    pytest.importorskip(package, reason=f"{package} is not installed: pip install contrastill[export]")

ROOMS = ["data.size=16", "data.train_samples=48", "data.test_samples=36"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A student of an epoch on rooms."""
    out = tmp_path_factory.mktemp("runs") / "student"
    arguments = ["student.model=resnet8", "train.epochs=1", "train.lr=0.02", "train.batch_size=16", "-q", f"out={out}"]
    assert main(["train", "teachers/rooms", *ROOMS, *arguments]) == 0
    return out


@pytest.fixture(scope="module")
def rooms():
    """The run's test images and their classes."""
    split = Rooms(Rooms.Options(size=16, train_samples=48, test_samples=36)).open("test")
    return next(iter(split.loader(batch_size=36, device="cpu", train=False).epoch(0)))


@pytest.fixture(scope="module")
def report(run, tmp_path_factory):
    """What the command says of an ONNX file and its 8 bits; the file is shared by the tests."""
    import contextlib
    import io

    path = tmp_path_factory.mktemp("exports") / "kept.onnx"
    with contextlib.redirect_stdout(io.StringIO()) as output:
        assert main(["export", str(run), "--out", str(path), "--int8", "--opset", "18", "--json"]) == 0
    return json.loads(output.getvalue())


def by_hand(run, images):
    student = contrastill.load_student(run)
    with torch.no_grad():
        return student(student.preprocess(images))


def test_onnx_answers_as_pytorch_for_any_batch(run, rooms, report):
    import onnx
    import onnxruntime

    session = onnxruntime.InferenceSession(report["path"], providers=["CPUExecutionProvider"])
    student = contrastill.load_student(run)
    for length in (1, 3, 36):
        (logits,) = session.run(["logits"], {"images": student.preprocess(rooms["rgb"][:length]).numpy()})
        torch.testing.assert_close(torch.from_numpy(logits), by_hand(run, rooms["rgb"][:length]), rtol=1e-4, atol=1e-5)
    graph = onnx.load(report["path"])
    assert {entry.domain: entry.version for entry in graph.opset_import}[""] == report["opset"] == 18
    assert graph.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"


def test_the_report_says_what_was_compared(run, report):
    assert report["real_images"] and 0 <= report["difference"] <= 1e-4 and report["format"] == "onnx"
    assert report["bytes"] == Path(report["path"]).stat().st_size
    assert report["input"] == {"shape": ["batch", 3, 16, 16], "dtype": "float32"}
    assert report["mean"] == list(contrastill.load_student(run).preprocess.mean)


def test_eight_bits_are_smaller_and_both_accuracies_are_counted(run, rooms, report):
    import onnxruntime

    int8 = report["int8"]
    assert int8["bytes"] < report["bytes"] / 2 and int8["path"].endswith("kept.int8.onnx")
    right = (by_hand(run, rooms["rgb"]).argmax(1) == rooms["target"]).double().mean()
    assert int8["top1_fp32"] == pytest.approx(100 * float(right)) and int8["images"] == 36
    session = onnxruntime.InferenceSession(int8["path"], providers=["CPUExecutionProvider"])
    student = contrastill.load_student(run)
    logits = torch.from_numpy(session.run(None, {"images": student.preprocess(rooms["rgb"]).numpy()})[0])
    assert int8["top1"] == pytest.approx(100 * float((logits.argmax(1) == rooms["target"]).double().mean()))
    assert 0 < (logits - by_hand(run, rooms["rgb"])).abs().max()


def test_the_calibration_images_set_the_ranges(run, rooms, report, tmp_path):
    takes = Takes((3, 16, 16), contrastill.load_student(run).preprocess, inside=False, dynamic=True)
    exported = Export(Path(report["path"]), "onnx", takes, 12, report["bytes"], 18, None, False)
    expected, differences = by_hand(run, rooms["rgb"]), []
    for name, images in (("seen", rooms["rgb"]), ("black", torch.zeros_like(rooms["rgb"]))):
        assert quantize(exported, tmp_path / name, images.split(12)) == (tmp_path / name).stat().st_size
        differences.append(
            float((answering(tmp_path / name, "onnx", takes)(takes(rooms["rgb"])) - expected).abs().max())
        )
    assert differences[0] < 0.1 * differences[1]  # ranges of black images clip everything else


def test_accuracy_counts_over_batches(run, rooms, report):
    takes = Takes((3, 16, 16), contrastill.load_student(run).preprocess, inside=False, dynamic=True)
    targets = by_hand(run, rooms["rgb"]).argmax(1)
    targets[:9] = (targets[:9] + 1) % 12
    assert accuracy(report["path"], "onnx", takes, zip(rooms["rgb"].split(10), targets.split(10), strict=True)) == 75


def test_eight_bits_on_data_of_other_classes_leave_nothing(run, tmp_path, capsys):
    with h5py.File(tmp_path / "three.h5", "w") as file:
        for split in ("train", "test"):
            file[f"{split}/rgb"], file[f"{split}/target"] = np.zeros((6, 16, 16, 3), np.uint8), np.arange(6) % 3
    (tmp_path / "out").mkdir()
    assert (
        main(
            [
                "export",
                str(run),
                "--int8",
                "--data",
                str(tmp_path / "three.h5"),
                "--out",
                str(tmp_path / "out" / "h.onnx"),
            ]
        )
        == 2
    )
    assert "tells 12 classes apart" in capsys.readouterr().err and not list((tmp_path / "out").iterdir())


def test_eight_bits_of_constant_images_are_named(run, tmp_path, capsys):
    with h5py.File(tmp_path / "black.h5", "w") as file:
        for split in ("train", "test"):
            file[f"{split}/rgb"], file[f"{split}/target"] = np.zeros((12, 16, 16, 3), np.uint8), np.arange(12)
    contrastill.export_run(run, tmp_path / "a.onnx", int8=True, check=False, data=str(tmp_path / "black.h5"))
    assert "black.h5 have the value 0 throughout, by which no range of the 8 bits" in capsys.readouterr().err


def test_torch_answers_as_pytorch_with_the_preprocessing_inside(run, rooms, tmp_path, capsys):
    assert main(["export", str(run), "--format", "torch", "--with-preprocess", "--out", str(tmp_path / "a.pt2")]) == 0
    output = " ".join(capsys.readouterr().out.split())
    assert "input: images (batch, 3, 16, 16) uint8" in output and "real images of the test split" in output
    module = torch.export.load(tmp_path / "a.pt2").module()
    for length in (1, 3):
        torch.testing.assert_close(
            module(rooms["rgb"][:length]), by_hand(run, rooms["rgb"][:length]), rtol=1e-4, atol=1e-5
        )


def test_onnx_with_resizing_inside_and_batches_of_one(tmp_path):
    save_student(build_network("resnet8", num_classes=5, resolution=16), tmp_path / "student.safetensors")
    exported = export_student(tmp_path, tmp_path / "b.onnx", with_preprocess=True, dynamic=False, size=(24, 40))
    assert (
        exported.takes.shape == (3, 24, 40)
        and exported.num_classes == 5
        and not exported.real_images
        and exported.difference < 1e-4
    )
    images = torch.randint(256, (3, 3, 24, 40), dtype=torch.uint8)
    torch.testing.assert_close(
        answering(exported.path, "onnx", exported.takes)(images), by_hand(tmp_path, images), rtol=1e-3, atol=1e-4
    )
    import onnx

    assert onnx.load(exported.path).graph.input[0].type.tensor_type.shape.dim[0].dim_value == 1


@MODELS.register("test_deciding")
class Deciding(nn.Module):
    """Takes another way by what it sees: no graph can hold that."""

    def __init__(self, num_classes=2, in_chans=3):
        super().__init__()
        self.fc = nn.Linear(in_chans, num_classes)
        self.taps, self.preprocess = Taps("input:fc"), Preprocess((0.5,) * in_chans, (0.25,) * in_chans)

    def forward(self, images):
        pooled = images.mean((2, 3))
        return self.fc(pooled if pooled.sum().item() > 0 else -pooled)


@MODELS.register("test_eigen")
class Eigen(Deciding):
    """Has an operation that ONNX lacks."""

    def forward(self, images):
        pooled = images.mean((2, 3))
        return self.fc(pooled) + torch.linalg.eigvals(pooled.unsqueeze(2) * pooled.unsqueeze(1)).real.sum(
            1, keepdim=True
        )


@pytest.mark.parametrize(("name", "format"), [("test_deciding", "torch"), ("test_eigen", "onnx")])
def test_a_network_that_cannot_be_exported(name, format, tmp_path, capfd):
    out = tmp_path / "run"
    out.mkdir()
    (tmp_path / "made.yaml").write_text(
        f"out: {out}\ndata: {{name: rooms, size: 8, train_samples: 4, test_samples: 4}}\nstudent: {{model: "
        f"{name}}}\nobjectives: {{cross_entropy: {{}}}}"
    )
    (out / "config.yaml").write_text(to_yaml(load_config(str(tmp_path / "made.yaml"))))
    save_student(build_network(name, num_classes=2), out / "student.safetensors")
    assert main(["export", str(out), "--format", format]) == 1
    output = capfd.readouterr()
    assert (
        f"cannot be exported to {format}" in output.err
        and "Traceback" not in output.err
        and len(output.err.strip().splitlines()) == 1
    )
    assert sorted(path.name for path in out.iterdir()) == ["config.yaml", "student.safetensors"]


@pytest.mark.parametrize("opset", [3, 17, 999])
def test_an_opset_that_cannot_be(run, tmp_path, capsys, opset):
    assert main(["export", str(run), "--opset", str(opset), "--out", str(tmp_path / "c.onnx")]) == 2
    assert f"opset {opset} cannot be exported: choose one of 18 to " in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("error", [0.01, float("nan")])
def test_an_answer_that_differs_leaves_the_file_that_was_there(run, tmp_path, monkeypatch, error):
    (tmp_path / "d.pt2").write_bytes(b"an older one")
    student = contrastill.load_student(run)
    monkeypatch.setattr(exporting, "_write", lambda module, name, example, path, *rest: path.write_bytes(b"a new one"))
    monkeypatch.setattr(
        exporting, "answering", lambda *arguments: torch.no_grad()(lambda inputs: student(inputs) + error)
    )
    with pytest.raises(ContrastillError, match="differ from PyTorch's"):
        export_student(run, tmp_path / "d.pt2", format="torch", size=16)
    assert [path.name for path in tmp_path.iterdir()] == ["d.pt2"] and (
        tmp_path / "d.pt2"
    ).read_bytes() == b"an older one"


def test_a_file_that_cannot_be_loaded_again_leaves_nothing(run, tmp_path, monkeypatch):
    monkeypatch.setattr(
        exporting, "_write", lambda module, name, example, path, *rest: path.write_bytes(b"no such thing")
    )
    with pytest.raises(ContrastillError, match="cannot be loaded again"):
        export_student(run, tmp_path / "e.pt2", format="torch", size=16)
    assert not list(tmp_path.iterdir())


def test_missing_packages_are_named(run, tmp_path, monkeypatch):
    monkeypatch.setattr(exported, "find_spec", lambda name: None if name == "onnxscript" else True)
    with pytest.raises(UsageError, match=r"needs onnxscript: pip install contrastill\[export\]"):
        export_student(run, tmp_path / "f.onnx", size=16)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--format", "onxx"], "did you mean onnx"),
        (["--format", "torch", "--int8"], "--int8 is for ONNX"),
        (["--format", "torch", "--opset", "18"], "opset=18 is of ONNX"),
        (["--out", "no/such/folder/g.onnx"], "is no folder"),
        (["--data", "nowhere.h5"], "nowhere.h5"),
    ],
)
def test_what_is_refused(run, capsys, arguments, message):
    assert main(["export", str(run), *arguments]) == 2
    assert message in capsys.readouterr().err


def test_a_folder_gets_a_file_of_the_formats_name(run, tmp_path):
    result = contrastill.export_run(run, tmp_path, format="torch", check=False)
    assert result.path == tmp_path / "student.pt2" and torch.export.load(result.path)
    for path in (tmp_path / "new", f"{tmp_path}/new/", tmp_path / "student.onnx"):
        for export in (contrastill.export_run, export_student):
            with pytest.raises(UsageError, match=r"the name of a file of format torch: end it in \.pt2"):
                export(run, path, format="torch", check=False)
    assert [path.name for path in tmp_path.iterdir()] == ["student.pt2"]


@pytest.mark.parametrize("size", ["15", 0, (32,), -1, float("nan"), True, (0, 5), (5, -1)])
def test_a_size_that_is_none(run, tmp_path, size):
    for export in (contrastill.export_run, export_student):
        with pytest.raises(UsageError, match=r"size is .*: pass a whole number from 1 on"):
            export(run, tmp_path / "h.pt2", format="torch", size=size, check=False)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("shape", [(0, 3, 16, 16), (3, 16, 16)])
def test_images_that_are_none(run, tmp_path, shape):
    with pytest.raises(UsageError, match=r"images has shape .*: pass one image or more, \(N, C, H, W\)"):
        export_student(run, tmp_path / "i.pt2", format="torch", images=torch.zeros(shape))


def test_a_size_that_a_student_does_not_take(tmp_path):
    save_student(build_network("torchvision/squeezenet1_1", num_classes=2), tmp_path / "student.safetensors")
    with pytest.raises(UsageError, match=r"SqueezeNet does not take images of 1×1 pixels \(.+\): choose another size"):
        export_student(tmp_path, tmp_path / "j.pt2", format="torch", size=1)


def test_a_resolution_of_the_students_own_and_another_size(tmp_path):
    weights = tmp_path / "student.safetensors"
    save_student(build_network("resnet8", num_classes=2, resolution=24), weights)
    with pytest.raises(UsageError, match=r"takes images of 24×24 pixels alone.*leave out size.*with_preprocess"):
        export_student(tmp_path, tmp_path / "k.pt2", format="torch", size=40)
    assert not (tmp_path / "k.pt2").exists()
    for options in ({}, {"size": 24}):
        made = export_student(tmp_path, tmp_path / "k.pt2", format="torch", **options)
        assert made.takes.shape == (3, 24, 24)
    made = export_student(tmp_path, tmp_path / "k.pt2", format="torch", size=40, with_preprocess=True)
    assert made.takes.shape == (3, 40, 40)


def test_the_size_of_the_data_is_no_size_that_was_asked_for(tmp_path):
    out = tmp_path / "run"
    arguments = ["student.model=resnet8", "train.epochs=1", "train.batch_size=16", "-q", f"out={out}"]
    assert main(["train", "teachers/rooms", *ROOMS, *arguments, "student.resolution=24"]) == 0
    assert contrastill.export_run(out, format="torch", check=False).export.takes.shape == (3, 24, 24)


def test_without_its_data_images_are_random_and_eight_bits_are_refused(run, tmp_path, capsys):
    out = tmp_path / "gone"
    out.mkdir()
    config = load_config(str(run / "config.yaml")).model_dump(mode="json")
    config["data"] = {"name": "packed", "path": str(tmp_path / "gone.h5")}
    (out / "config.yaml").write_text(to_yaml(validate(config)))
    (out / "student.safetensors").write_bytes((run / "student.safetensors").read_bytes())
    assert main(["export", str(out), "--format", "torch"]) == 2
    assert "--size" in capsys.readouterr().err
    assert main(["export", str(out), "--format", "torch", "--size", "16"]) == 0
    output = capsys.readouterr()
    assert "compared with PyTorch on random images" in output.out and "takes random images" in output.err
    assert main(["export", str(out), "--int8", "--size", "16"]) == 2
    assert "--int8 calibrates and measures on the run's data, which cannot be had" in capsys.readouterr().err
    assert not (out / "student.onnx").exists()


def test_what_is_no_run(tmp_path, capsys):
    assert main(["export", str(tmp_path)]) == 2
    assert "is no run" in capsys.readouterr().err
