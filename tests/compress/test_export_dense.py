"""Exported segmenters answer as PyTorch does for images of any size, and say what their channels are."""

import json

import h5py
import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import contrastill
from contrastill.cli.main import main
from contrastill.compress import export as exporting
from contrastill.compress.export import export_student
from contrastill.core.config.loading import load_config, to_yaml
from contrastill.core.errors import ContrastillError
from contrastill.core.registry import MODELS
from contrastill.core.representation import Preprocess, Taps
from contrastill.models.build import build_network, save_student

for package in ("onnx", "onnxscript", "onnxruntime"):
    pytest.importorskip(package, reason=f"{package} is not installed: pip install contrastill[export]")

NAMES = ["unlabelled", "road", "car", "tree"]


def saved(name, folder, num_classes=3, classes=("road", "car", "tree"), **options):
    """A student whose statistics are those of no untrained network."""
    torch.manual_seed(0)
    network = build_network(name, num_classes=num_classes, **options)
    for inner in network.modules():
        if isinstance(inner, nn.BatchNorm2d):
            inner.running_mean.normal_(std=0.1)
            inner.running_var.uniform_(0.5, 2)
    network.recipe = {**network.recipe, "classes": classes}
    save_student(network, folder / "student.safetensors")
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run's folder, whose data has label maps."""
    folder = tmp_path_factory.mktemp("runs") / "segmenter"
    folder.mkdir()
    generator = np.random.default_rng(0)
    with h5py.File(folder / "data.h5", "w") as file:
        file.attrs["semantic_classes"] = NAMES
        for split in ("train", "test"):
            file[f"{split}/rgb"] = generator.integers(0, 256, (12, 16, 24, 3), dtype=np.uint8)
            file[f"{split}/semantics"] = generator.integers(0, 4, (12, 16, 24), dtype=np.uint8)
    data = {"name": "packed", "path": str(folder / "data.h5"), "fields": {"rgb": "rgb", "semantics": "semantics"}}
    (folder / "made.yaml").write_text(
        f"out: {folder}\ndata: {json.dumps(data)}\n"
        "student: {model: unet/resnet8}\nobjectives: {pixel_cross_entropy: {}}"
    )
    (folder / "config.yaml").write_text(to_yaml(load_config(str(folder / "made.yaml"))))
    return saved("unet/resnet8", folder)


def by_hand(run, images):
    student = contrastill.load_student(run)
    with torch.no_grad():
        output = student(student.preprocess(images))
    return output if isinstance(output, torch.Tensor) else output["out"]


def images_of(*shape):
    return torch.randint(256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def answers(session, images, run):
    inputs = contrastill.load_student(run).preprocess(images)
    return torch.from_numpy(session.run(["prediction"], {"images": inputs.numpy()})[0])


@pytest.fixture(scope="module")
def report(run, tmp_path_factory):
    """What the command says of an ONNX file and its 8 bits."""
    import contextlib
    import io

    path = tmp_path_factory.mktemp("exports") / "any.onnx"
    with contextlib.redirect_stdout(io.StringIO()) as output:
        assert main(["export", str(run), "--out", str(path), "--int8", "--json"]) == 0
    return json.loads(output.getvalue())


def test_onnx_answers_as_pytorch_for_any_batch_height_and_width(run, report):
    import onnx
    import onnxruntime

    session = onnxruntime.InferenceSession(report["path"], providers=["CPUExecutionProvider"])
    for shape in ((1, 3, 16, 24), (2, 3, 40, 56), (5, 3, 33, 17)):
        expected = by_hand(run, images_of(*shape))
        assert expected.shape == (shape[0], 3, *shape[2:])
        torch.testing.assert_close(answers(session, images_of(*shape), run), expected, rtol=1e-4, atol=1e-5)
    model = onnx.load(report["path"])
    for value, name, channels in ((model.graph.input[0], "images", 3), (model.graph.output[0], "prediction", 3)):
        dims = [side.dim_param or side.dim_value for side in value.type.tensor_type.shape.dim]
        assert value.name == name and dims == ["batch", channels, "height", "width"]
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    assert json.loads(metadata["classes"]) == NAMES[1:] and metadata["modality"] == "rgb"
    assert "(B, C, H, W)" in metadata["output"] and "channel c, from 0 on, is class c + 1" in metadata["output"]


def test_the_report_says_on_which_sizes_it_was_compared(report):
    assert report["input"] == {"shape": ["batch", 3, "height", "width"], "dtype": "float32"}
    assert report["output"] == "prediction" and report["real_images"] and 0 < report["difference"] <= 1e-4
    assert report["sizes"] == [[16, 24], [25, 31], [32, 48]]


def test_eight_bits_are_measured_by_their_miou(run, report):
    import onnxruntime

    with h5py.File(run / "data.h5") as file:
        images, labels = (torch.from_numpy(file[f"test/{name}"][:]) for name in ("rgb", "semantics"))
    images, labels, int8 = images.permute(0, 3, 1, 2).contiguous(), labels.long(), report["int8"]
    for path, name in ((report["path"], "miou_fp32"), (int8["path"], "miou")):
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        predicted = answers(session, images, run).argmax(1) + 1
        ious = []
        for c in (1, 2, 3):
            ours, theirs = (predicted == c) & (labels > 0), labels == c
            ious.append(float((ours & theirs).sum() / (ours | theirs).sum()))
        assert int8[name] == pytest.approx(100 * sum(ious) / 3, abs=1e-4)
    assert "top1" not in int8 and int8["images"] == 12 and int8["bytes"] < report["bytes"] / 2


def test_torch_has_the_preprocessing_inside_and_takes_any_size(run, tmp_path, capsys):
    path = tmp_path / "a.pt2"
    assert main(["export", str(run), "--format", "torch", "--with-preprocess", "--out", str(path)]) == 0
    output = " ".join(capsys.readouterr().out.split())
    assert "input: images (batch, 3, height, width) uint8" in output
    assert "output: prediction, logits of 3 classes at each position (road, car, tree)" in output
    assert "real images of the test split of 16×24, 25×31 and 32×48: the largest difference of a value" in output
    files = {"output.txt": "", "classes.json": ""}
    module = torch.export.load(path, extra_files=files).module()
    assert "class c + 1 of the label maps" in files["output.txt"] and json.loads(files["classes.json"]) == NAMES[1:]
    for shape in ((1, 3, 16, 24), (3, 3, 47, 20)):
        images = images_of(*shape)
        torch.testing.assert_close(module(images), by_hand(run, images), rtol=1e-4, atol=1e-5)


def test_a_size_that_is_asked_for_is_the_only_one(run, tmp_path):
    result = contrastill.export_run(run, tmp_path / "b.pt2", format="torch", size=32)
    assert result.export.takes.dims == ["batch", 3, 32, 32] and result.export.sizes == ((32, 32),)
    module = torch.export.load(result.path).module()
    assert module(torch.zeros(4, 3, 32, 32)).shape == (4, 3, 32, 32)
    with pytest.raises(Exception, match="32"):
        module(torch.zeros(4, 3, 40, 32))


def test_an_encoder_of_one_size_keeps_it(tmp_path):
    saved("linear/timm/test_vit", tmp_path)
    made = export_student(tmp_path, tmp_path / "c.pt2", format="torch")
    side = contrastill.load_student(tmp_path).preprocess.resolution
    assert made.takes.dims == ["batch", 3, side, side] and made.difference <= 1e-4 and made.output == "prediction"


@MODELS.register("test_of_a_dict")
class OfADict(nn.Module):
    """Answers at half the resolution, with an auxiliary answer beside."""

    def __init__(self, num_classes=2, in_chans=3):
        super().__init__()
        self.conv, self.other = nn.Conv2d(in_chans, num_classes, 3, 2, 1), nn.Conv2d(in_chans, num_classes + 1, 1)
        self.taps, self.preprocess = Taps(prediction="output:out"), Preprocess((0.5,) * in_chans, (0.25,) * in_chans)

    def forward(self, images):
        return {"aux": self.other(images), "out": self.conv(images)}


@MODELS.register("test_tapped_inside")
class TappedInside(OfADict):
    """Returns classes; a tap says where their logits are."""

    def __init__(self, num_classes=2, in_chans=3):
        super().__init__(num_classes, in_chans)
        self.taps = Taps(prediction="conv")

    def forward(self, images):
        return self.conv(images).argmax(1)


@MODELS.register("test_of_one_size")
class OfOneSize(OfADict):
    """Computes with the size of the image as a number."""

    def forward(self, images):
        scale = torch.full((1,), int(images.shape[2]) * 0.01)
        return {"out": self.conv(images) * scale}


@pytest.mark.parametrize("name", ["test_of_a_dict", "test_tapped_inside"])
def test_of_several_outputs_the_tapped_one_is_exported(name, tmp_path):
    saved(name, tmp_path)
    made = export_student(tmp_path, tmp_path / "d.pt2", format="torch")
    files, images = {"output.txt": ""}, torch.randn(3, 3, 30, 41)
    answer = torch.export.load(made.path, extra_files=files).module()(images)
    student = contrastill.load_student(tmp_path)
    torch.testing.assert_close(answer, F.conv2d(images, student.conv.weight, student.conv.bias, 2, 1))
    assert made.num_classes == 3 and made.sizes == ((128, 128), (193, 161), (64, 96))
    assert "(B, C, h, w)" in files["output.txt"] and "enlarged bilinearly" in files["output.txt"]


def test_a_network_traced_with_one_size_is_exported_for_it(tmp_path):
    saved("test_of_one_size", tmp_path)
    made = export_student(tmp_path, tmp_path / "e.pt2", format="torch", images=images_of(2, 3, 24, 32))
    assert made.takes.dims == ["batch", 3, 24, 32] and made.sizes == ((24, 32),) and made.difference <= 1e-4


def test_torch_names_the_way_out_where_its_program_takes_no_smaller_images(tmp_path):
    saved("fpn/timm/resnet18", tmp_path)
    file = tmp_path / "student.pt2"
    with pytest.raises(ContrastillError, match=r"not take those of 32×48, which .*\(--size\), or as ONNX") as refused:
        export_student(tmp_path, file, format="torch", images=torch.rand(2, 3, 64, 64))
    assert "Guard" not in str(refused.value) and not file.exists()
    assert export_student(tmp_path, file, format="torch", size=64).difference < 1e-4


def test_an_answer_that_differs_at_another_size_leaves_nothing(tmp_path, monkeypatch):
    saved("test_of_a_dict", tmp_path)
    student, original = contrastill.load_student(tmp_path), exporting.answering

    def wrong_at_another(*arguments):
        answer = original(*arguments)
        return lambda inputs: answer(inputs) + 0.01 * (inputs.shape[2] != 16)

    monkeypatch.setattr(exporting, "answering", wrong_at_another)
    with pytest.raises(ContrastillError, match="file's prediction differs from PyTorch's by .* images of 25×31"):
        export_student(tmp_path, tmp_path / "f.pt2", format="torch", images=images_of(2, 3, 16, 24))
    assert not (tmp_path / "f.pt2").exists() and student is not None


def test_depth_is_no_class_and_is_not_made_8_bits(run, tmp_path, capsys):
    (tmp_path / "config.yaml").write_text((run / "config.yaml").read_text())
    saved("unet/resnet8", tmp_path, num_classes=1, classes=None)
    assert main(["export", str(tmp_path), "--int8"]) == 2
    error = capsys.readouterr().err
    assert "the student of" in error and "gives a quantity at each position: leave it out" in error
    assert not (tmp_path / "student.onnx").exists()
    result = contrastill.export_run(tmp_path, format="torch")
    files = {"output.txt": ""}
    torch.export.load(result.path, extra_files=files)
    assert "C = 1, a quantity at each position" in files["output.txt"]
    assert "output: prediction, a quantity at each position" in str(result)
