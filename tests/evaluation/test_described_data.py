"""What `data info` shows: the camera of the frames that it shows, what its fields have, and names wherever they are."""

import h5py
import numpy as np
import pytest
from PIL import Image

import contrastill
from contrastill.core.errors import UsageError
from contrastill.core.registry import DATASETS


@pytest.fixture
def pairs(tmp_path):
    for split in ("train", "test"):
        for name, values in (("rgb", np.zeros((12, 16, 3), np.uint8)), ("depth", np.full((12, 16), 900, np.uint16))):
            (tmp_path / split / name).mkdir(parents=True)
            for number in range(2):
                Image.fromarray(values).save(tmp_path / split / name / f"{number}.png")
    return tmp_path


def test_intrinsics_are_of_the_frames_that_are_shown(pairs):
    camera = "intrinsics=[20,20,8,6]"
    stored = contrastill.describe_data(f"paired_folder:{pairs},{camera}")
    assert stored.intrinsics == [20, 20, 8, 6] and stored.splits["train"].fields["depth"].shape == (2, 12, 16, 1)
    shown = contrastill.describe_data(f"paired_folder:{pairs},size=[6,8],{camera}")
    assert shown.intrinsics == [10, 10, 3.75, 2.75] and shown.splits["train"].fields["depth"].shape == (2, 6, 8, 1)
    contrastill.pack_data(f"paired_folder:{pairs}", pairs / "p.h5", options=["size=[6,8]", camera], progress=False)
    assert contrastill.describe_data(pairs / "p.h5").intrinsics == shown.intrinsics


def test_nothing_is_described_of_fields_that_are_not_there(tmp_path):
    rooms = "rooms,size=16,train_samples=4,test_samples=4"
    alone = contrastill.describe_data(rooms)
    assert (alone.depth_unit, alone.intrinsics, alone.semantic_classes) == (None, None, None)
    both = contrastill.describe_data(f"{rooms},modalities=[depth,semantics]")
    assert both.depth_unit == "m" and len(both.intrinsics) == 4 and both.semantic_classes[0] == "unlabelled"
    options = [option for option in rooms.split(",")[1:]]
    contrastill.pack_data("rooms", tmp_path / "alone.h5", options=options, progress=False)
    with h5py.File(tmp_path / "alone.h5") as file:
        assert not {"depth_unit", "intrinsics", "semantic_classes"} & {*file.attrs}


def test_a_file_of_which_no_split_is_read_is_refused(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["train/rgb"] = np.zeros((4, 8, 8, 3), np.uint8)
    with pytest.raises(UsageError, match="has no split train or test with these options"):
        contrastill.describe_data(f"packed:{tmp_path / 'a.h5'},splits={{train: null, test: null}}")


@pytest.mark.parametrize("place", ["file", "beside", "group", "list", "enum", "texts"])
def test_names_of_classes_are_those_that_are_read(tmp_path, place):
    names, numbers = ["cat", "dog"], np.arange(6) % 2
    with h5py.File(tmp_path / "a.h5", "w") as file:
        if place == "file":
            file.attrs["classes"] = names
        elif place == "beside":
            file["classes"] = names
        for split in ("train", "test"):
            group = file.create_group(split)
            group["rgb"] = np.zeros((6, 8, 8, 3), np.uint8)
            if place == "enum":
                kind = h5py.enum_dtype({"cat": 0, "dog": 1}, basetype="u1")
                group.create_dataset("target", data=numbers.astype(np.uint8), dtype=kind)
            else:
                group["target"] = np.array(names, dtype=object)[numbers] if place == "texts" else numbers
            if place == "group":
                group.attrs["classes"] = names
            elif place == "list":
                group["classes"] = names
    data = DATASETS["packed"]
    assert data(data.Options(path=str(tmp_path / "a.h5"))).open("train").classes == names
    described = contrastill.describe_data(tmp_path / "a.h5")
    assert described.classes == names and described.splits["train"].samples == 6
    assert "2 classes: cat, dog" in described.tables()[0].notes[0]
    assert not any("differ in length" in cell for row in described.tables()[0].rows for cell in row)


def test_fields_that_differ_in_length_are_shown(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["train/rgb"], file["train/target"] = np.zeros((6, 8, 8, 3), np.uint8), np.zeros(5, np.int64)
    assert contrastill.describe_data(tmp_path / "a.h5").splits["train"].samples is None
