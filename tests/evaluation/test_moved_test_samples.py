"""Options of training views and samples by which some data sets have other test samples: they are other data."""

import h5py
import numpy as np
import pytest
from PIL import Image

import contrastill

QUIET = {"progress": False}


def train(out, path, **data):
    settings = {"data.path": str(path), "train.epochs": 1, "train.batch_size": 8, "student.model": "resnet8"}
    settings |= {f"data.{key}": value for key, value in data.items()}
    contrastill.train("teachers/cifar100", {**settings, "out": str(out)}, **QUIET)
    return out


def files(run, measure="evaluation"):
    return sorted(path.name.rpartition("-")[0] or path.stem for path in run.glob(f"{measure}*.json"))


def is_apart(run, change):
    """Whether an evaluation with a change has a file of its own, and says so."""
    contrastill.evaluate_runs([run], **QUIET)
    own = (run / "evaluation.json").read_text()
    result = contrastill.evaluate_runs([run], change, **QUIET)
    assert (run / "evaluation.json").read_text() == own or len(files(run)) == 1
    assert result.rows
    return len(files(run)) > 1


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    root, draw = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for split in ("train", "test"):
        for number in range(16):
            path = root / split / "ab"[number % 2] / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(draw.integers(0, 256, (24, 32, 3), dtype=np.uint8)).save(path)
    return root


@pytest.mark.parametrize(
    ("change", "other"), [({"data.crop": "none"}, True), ({"data.flip": False}, False), ({"data.limit": 8}, True)]
)
def test_the_crop_of_pictures_is_of_their_test_views_too(pictures, tmp_path, change, other):
    run = train(tmp_path / "run", pictures, name="image_folder", size=16, workers=0)
    assert is_apart(run, change) == other


def test_one_crop_of_two_with_one_test_view_is_no_other_data(pictures, tmp_path):
    run = train(tmp_path / "run", pictures, name="image_folder", size=16, workers=0, crop="padded")
    assert not is_apart(run, {"data.crop": "none"})


@pytest.mark.parametrize(("tests", "other"), [(False, True), (True, False)])
def test_rows_that_are_held_out_of_another_split(tmp_path, tests, other):
    datasets, draw = pytest.importorskip("datasets"), np.random.default_rng(0)
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])})

    def rows(count):
        images = list(draw.integers(0, 256, (count, 16, 16, 3), dtype=np.uint8))
        return datasets.Dataset.from_dict({"image": images, "label": [0, 1] * (count // 2)}, features=features)

    parts = {"train": rows(40), "extra": rows(60)} | ({"test": rows(10)} if tests else {})
    datasets.DatasetDict(parts).save_to_disk(str(tmp_path / "rows"))
    more = {} if tests else {"test_fraction": 0.2}
    run = train(tmp_path / "run", tmp_path / "rows", name="huggingface", train="train", workers=0, **more)
    assert is_apart(run, {"data.train": "extra"}) == other


@pytest.fixture
def blocks(tmp_path):
    draw = np.random.default_rng(0)
    with h5py.File(tmp_path / "blocks.h5", "w") as file:
        for name, count in (("frames", 90), ("others", 30)):
            file[f"{name}/rgb"] = draw.integers(0, 256, (count, 16, 16, 3), dtype=np.uint8)
            file[f"{name}/target"] = np.arange(count) % 3
    return tmp_path / "blocks.h5"


@pytest.mark.parametrize("group", [None, "others"])
def test_a_group_that_is_no_longer_cut_in_blocks(blocks, tmp_path, group):
    run = train(tmp_path / "run", blocks, splits={"train": "frames", "test": "frames"}, blocks=10)
    assert is_apart(run, {"data.splits.train": group})


def test_other_groups_to_train_on_leave_a_whole_group_as_it_is(blocks, tmp_path):
    run = train(tmp_path / "run", blocks, splits={"train": "frames", "test": "others"})
    assert not is_apart(run, {"data.splits.train": None})


def test_diversity_too(pictures, tmp_path):
    for seed in range(2):
        train(tmp_path / "seeds" / f"seed-{seed}", pictures, name="image_folder", size=16, workers=0)
    contrastill.measure_diversity(tmp_path / "seeds", {"data.crop": "none"})
    assert files(tmp_path / "seeds", "diversity") == ["diversity-" + pictures.name]
