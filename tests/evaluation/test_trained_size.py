"""A network that is evaluated on images of another size than those of its training says so, and nothing else does."""

import json
import shutil
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from contrastill.cli.main import main
from contrastill.core.run import Run
from contrastill.evaluation.trained_size import other_size, size_keys
from contrastill.models.build import build_network
from contrastill.models.recipe import METADATA, TRAINED_SIZE, read_recipe

LINE = "rgb is 16×16 in {data}, and {who} was trained on 8×8: set {key}.resolution to 8 where another size is not meant"


def pack(path, side):
    draw = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        for split in ("train", "test"):
            small = draw.integers(0, 255, (20, 8, 8, 3), dtype=np.uint8)
            file[f"{split}/rgb"] = small.repeat(side // 8, 1).repeat(side // 8, 2)
            file[f"{split}/target"] = np.arange(20) % 2
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """``run`` and its student ``small``, trained on ``own.h5``; ``other.h5`` has larger images, ``same.h5`` none."""
    folder = tmp_path_factory.mktemp("sizes")
    for name, side in (("own", 8), ("same", 8), ("other", 16)):
        pack(folder / f"{name}.h5", side)
    short = ["student.model=resnet8", "train.epochs=1", "data.crop_padding=0", f"data.path={folder / 'own.h5'}", "-q"]
    assert main(["train", "teachers/cifar100", *short, f"out={folder / 'run'}"]) == 0
    teacher = f"teachers=[{{model: resnet8, weights: {folder / 'run'}}}]"
    distilled = [teacher, "objectives.kd.weight=1", f"out={folder / 'small'}"]
    assert main(["train", "teachers/cifar100", *short, *distilled]) == 0
    return folder


def lines(run, *arguments, capsys):
    """What an evaluation says of sizes."""
    capsys.readouterr()
    assert main(["evaluate", str(run), *map(str, arguments), "--json"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)
    return [line for line in captured.err.splitlines() if "was trained on" in line]


def test_images_of_another_size_are_named_once_with_the_way_out(folder, capsys):
    run, data = folder / "run", folder / "other.h5"
    line = LINE.format(data=data, who=f"student resnet8 of {run}", key="student")
    assert lines(run, f"data.path={data}", capsys=capsys) == [line]
    probes = "evaluation.tasks=[accuracy,classification]"
    assert lines(run, f"data.path={data}", probes, "--baselines=random", capsys=capsys) == [line]
    assert lines(run, f"data.path={data}", "student.resolution=8", capsys=capsys) == []
    assert lines(run, f"data.path={folder / 'same.h5'}", capsys=capsys) == []
    assert lines(run, capsys=capsys) == []


def test_a_teacher_of_another_size_is_named_too(folder, capsys):
    run, data = folder / "small", folder / "other.h5"
    said = lines(run, f"data.path={data}", "--teachers", capsys=capsys)
    assert said == [
        LINE.format(data=data, who=f"{role} resnet8 of {run}", key=key)
        for role, key in (("student", "student"), ("teacher", "teachers.0"))
    ]
    assert lines(run, "--teachers", capsys=capsys) == []


def test_a_file_without_it_has_its_size_from_what_the_run_recorded_or_its_data(folder, tmp_path, capsys):
    run = Run(shutil.copytree(folder / "run", tmp_path / "run"))
    recipe = read_recipe(run.student)
    assert recipe.pop(TRAINED_SIZE) == (8, 8)
    save_file(load_file(run.student), run.student, {METADATA: json.dumps(recipe)})
    own = shutil.copy(folder / "own.h5", tmp_path / "own.h5")
    run.config.write_text(run.config.read_text().replace(str(folder / "own.h5"), str(own)))
    data = f"data.path={folder / 'other.h5'}"
    assert len(lines(run.path, data, capsys=capsys)) == 1
    run.data.unlink()
    assert len(lines(run.path, data, capsys=capsys)) == 1
    (tmp_path / "own.h5").unlink()
    assert lines(run.path, data, capsys=capsys) == []


def test_probes_and_diversity_name_it_too(folder, capsys):
    run, other = folder / "run", folder / "other.h5"
    line = f"rgb is 16×16 in {other}, and {run} was trained on 8×8"
    probe = ["probe", str(run), "--knn=1", "--json"]
    for data, expected in ((other, [line]), (folder / "same.h5", [])):
        capsys.readouterr()
        assert main([*probe, f"--data={data}"]) == 0
        assert [text for text in capsys.readouterr().err.splitlines() if "was trained on" in text] == expected
    for data, expected in ((other, ["student", "teachers.0"]), (folder / "same.h5", [])):
        assert main(["ensemble", "diversity", str(folder / "small"), f"data.path={data}", "--json"]) == 0
        errors = [text for text in capsys.readouterr().err.splitlines() if "was trained on" in text]
        assert sorted(text.partition(": set ")[2].partition(".resolution")[0] for text in errors) == expected


def test_data_that_have_a_size_name_that_option():
    split = SimpleNamespace(modalities={"rgb": (3, 24, 32)})
    network = build_network("resnet8", num_classes=2)
    line = other_size(
        network, split, (12, 16), "it", "data", size_keys("image_folder", "data.size", "student.resolution")
    )
    assert "24×32" in line and "12×16" in line and "set data.size or student.resolution to [12,16]" in line
