"""Paths, data of another kind and broken YAML: each is understood, or refused with the way out."""

import os

import pytest

import contrastill
from contrastill.cli.main import main
from contrastill.core.config.loading import load_config
from contrastill.core.config.validation import validate
from contrastill.core.errors import UsageError
from contrastill.training.data import open_split


def values(**changes):
    return {
        "out": "runs/x",
        "data": {"name": "rooms"},
        "student": {"model": "resnet8"},
        "objectives": {"cross_entropy": {}},
        **changes,
    }


def test_a_home_folder_is_expanded_where_the_shell_does_not(four_classes, monkeypatch):
    monkeypatch.setenv("HOME", str(four_classes.parent))
    config = load_config("teachers/cifar100", [f"data.path=~/{four_classes.name}", "out=~/run"])
    assert config.data.path == str(four_classes) and config.out == str(four_classes.parent / "run")
    network = {"model": "resnet8", "weights": "~/w"}
    config = validate(values(teachers=[network], student=network, train={"views": 2, "teacher_cache": "~/c"}))
    home = str(four_classes.parent)
    assert config.teachers[0].weights == config.student.weights == os.path.join(home, "w")
    assert config.train.teacher_cache == os.path.join(home, "c")
    assert validate(values(out="a~b")).out == "a~b"


def test_pythons_none_is_no_folder(four_classes, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["train", "teachers/cifar100", f"data.path={four_classes}", "out=None", "--dry-run"]) == 2
    assert "out='None' is not allowed: name the folder that the run is to be written to" in capsys.readouterr().err
    with pytest.raises(UsageError, match="out"):
        contrastill.distill(None, "resnet8", str(four_classes), out=None, epochs=1)
    assert not list(tmp_path.iterdir())


def test_rooms_are_rendered_and_take_no_path(tmp_path):
    for overrides in ([f"data.path={tmp_path}"], ["data.path=photos", "data.name=rooms"]):
        with pytest.raises(UsageError) as caught:
            load_config("teachers/rooms", overrides)
        path = overrides[0].partition("=")[2]
        assert str(caught.value).startswith("data.name=rooms is rendered and takes no data.path: for the data of ")
        assert f"'data={{name: image_folder, path: {path}}}'" in str(caught.value)


@pytest.mark.parametrize("key", ["student", "teachers.1"])
@pytest.mark.parametrize("model", ["unet/resnet8", "timm/resnet200", "unet/timm/resnet200"])
def test_networks_without_published_weights_are_named_by_their_key(model, key):
    networks = {name: {"model": model, "num_classes": 3} for name in ("student", "teachers.0", "teachers.1")}
    networks[key]["weights"] = "pretrained"
    teachers = [networks["teachers.0"], networks["teachers.1"]]
    with pytest.raises(
        UsageError, match=f"^{model} has no published weights, and {key}.weights is pretrained: set {key}.weights"
    ):
        validate(values(student=networks["student"], teachers=teachers))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("data:\n\tname: rooms\n", "line 2, column 1: .*indented by spaces, not by tabs"),
        ("data: {name: rooms\nstudent: {model: x}\n", "line 2, column .*"),
    ],
)
def test_broken_yaml_is_refused_with_its_line(tmp_path, text, message):
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(UsageError, match=f"c.yaml cannot be read: {message}"):
        load_config(str(tmp_path / "c.yaml"))


@pytest.fixture
def folder(tmp_path):
    from PIL import Image

    for split in ("train", "test"):
        for number, name in enumerate(("a", "b", "c", "d")):
            (tmp_path / "images" / split / name).mkdir(parents=True)
            for count in range(3):
                Image.new("RGB", (16, 16), (60 * number, count, 0)).save(
                    tmp_path / "images" / split / name / f"{count}.png"
                )
    return tmp_path / "images"


def test_all_keys_of_a_recipe_that_other_data_lack_are_named_at_once(four_classes):
    message = (
        "data.train_samples, data.modalities, evaluation.data.modalities of config xmodal/rooms_segmentation are of "
        f"data.name=rooms, and packed has no such key: write 'data={{name: packed, path: {four_classes}}}' "
        "evaluation.data={} in the place of data.name=packed, which leaves the config's out"
    )
    with pytest.raises(UsageError) as refusal:
        load_config("xmodal/rooms_segmentation", ["data.name=packed", f"data.path={four_classes}"])
    assert str(refusal.value) == message
    section = f"data={{name: packed, path: {four_classes}}}"
    assert load_config("xmodal/rooms_segmentation", [section, "evaluation.data={}"]).data.name == "packed"
    with pytest.raises(UsageError, match="^data.path, data.train_split of config .* write 'data={name: rooms}' in the"):
        load_config("teachers/stl10_chrominance", ["data.name=rooms"])
    # A key that both have, and what who overrides wrote, are no such keys.
    assert load_config("compression/rooms_crd", ["data.name=rooms", "data.train_samples=9"]).data.train_samples == 9
    with pytest.raises(UsageError, match="data.limt is not a key of the config: did you mean limit"):
        load_config("teachers/cifar100", [f"data.path={four_classes}", "data.name=packed", "data.limt=3"])


def test_data_of_another_kind_is_refused_with_the_section_that_names_it(folder, four_classes):
    section = {"name": "image_folder", "path": str(four_classes), "size": 16}
    message = rf"kind packed, and data.name is image_folder: .*'data=\{{name: packed, path: {four_classes}\}}'"
    with pytest.raises(UsageError, match=message):
        open_split(validate(values(data=section)), "test")
    with pytest.raises(UsageError, match="kind image_folder, and data.name is packed"):
        validate(values(data={"name": "packed", "path": str(folder), "size": 16}))
    with pytest.raises(UsageError, match=r"kind image_folder, and data.name is packed: .*'data=\{name: image_folder"):
        open_split(validate(values(data={"name": "packed", "path": str(folder)})), "test")


def test_a_run_of_a_python_dataset_is_evaluated_on_other_data(four_classes, tmp_path, capsys):
    import torch

    images = torch.rand(16, 3, 16, 16)
    data = torch.utils.data.TensorDataset(images, torch.arange(16) % 4)
    out = str(tmp_path / "run")
    contrastill.distill(None, "resnet8", (data, data), out=out, epochs=1, batch_size=8, quiet=True)
    assert main(["evaluate", out, f"data.path={four_classes}", "--json"]) == 0
    assert main(["cost", out, "--size", "16", "--json", "--rounds", "1"]) == 0
    assert main(["evaluate", out]) == 2
    assert "was an object in Python, which no config can make" in capsys.readouterr().err
