"""What a packed file holds: all of each picture, and all fields, unless something else was chosen."""

import io
import tarfile

import h5py
import numpy as np
import pytest
from PIL import Image

import contrastill
from contrastill.core.errors import UsageError

PICTURES = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), dtype=np.uint8)


def _encoded(pixels):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def _folder(root):
    for split in ("train", "test"):
        for number, pixels in enumerate(PICTURES):
            path = root / split / str(number // 4) / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(_encoded(pixels))


def _shards(root):
    root.mkdir()
    for split in ("train", "test"):
        with tarfile.open(root / f"{split}-0.tar", "w") as tar:
            for number, pixels in enumerate(PICTURES):
                for suffix, content in (("png", _encoded(pixels)), ("cls", str(number // 4).encode())):
                    member = tarfile.TarInfo(f"{number}.{suffix}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))


def _table(root):
    hf = pytest.importorskip("datasets", reason="pip install 'contrastill[datasets]'")
    hf.disable_progress_bars()
    features = hf.Features({"image": hf.Image(), "label": hf.ClassLabel(names=["a", "b"])})
    rows = {"image": [{"path": None, "bytes": _encoded(pixels)} for pixels in PICTURES], "label": [0] * 4 + [1] * 4}
    table = hf.Dataset.from_dict(rows, features=features)
    hf.DatasetDict({"train": table, "test": table}).save_to_disk(root)


def _packed(source, out, *options):
    contrastill.pack_data(source, out, options=[*options, "workers=0"], progress=False)
    with h5py.File(out) as file:
        return {split: file[split]["rgb"][()] for split in ("train", "test")}


@pytest.mark.parametrize(
    ("name", "write"), [("image_folder", _folder), ("webdataset", _shards), ("huggingface", _table)]
)
def test_pictures_are_packed_whole(tmp_path, name, write):
    write(tmp_path / "data")
    source = f"{name}:{tmp_path / 'data'}"
    for values in _packed(source, tmp_path / "whole.h5", "size=32").values():
        assert np.array_equal(values, PICTURES)
    for values in _packed(source, tmp_path / "zoomed.h5", "size=32", "crop=random_resized").values():
        assert not np.array_equal(values, PICTURES)  # the view of testing, for those who ask for it


@pytest.fixture
def several(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.attrs["semantic_classes"] = ["unlabelled", "bed"]
        file.attrs["depth_unit"], file.attrs["intrinsics"] = "mm", [8.0, 8.0, 4.0, 4.0]
        for split in ("train", "test"):
            group = file.create_group(split)
            group["rgb"] = PICTURES[:, :8, :8]
            group["depth"] = np.full((8, 8, 8), 1500, np.uint16)
            group["semantics"] = np.ones((8, 8, 8), np.uint8)
    return tmp_path / "a.h5"


def test_fields_of_a_packed_file_are_not_left_out_unnoticed(tmp_path, several):
    with pytest.raises(UsageError) as error:
        contrastill.pack_data(several, tmp_path / "b.h5", options=["limit=5"], progress=False)
    both, alone = "fields={rgb: rgb, depth: depth, semantics: semantics}", "fields={rgb: rgb}"
    assert "has the fields depth, semantics too" in str(error.value)
    assert f"'{both}'" in str(error.value) and f"'{alone}'" in str(error.value)
    contrastill.pack_data(several, tmp_path / "b.h5", options=[both], progress=False)
    with h5py.File(tmp_path / "b.h5") as file:
        assert {*file["train"]} == {"rgb", "depth", "semantics"} and file.attrs["depth_unit"] == "mm"
        assert file.attrs["intrinsics"].tolist() == [8, 8, 4, 4]
        assert file.attrs["semantic_classes"].tolist() == ["unlabelled", "bed"]
    contrastill.pack_data(several, tmp_path / "c.h5", options=[alone], progress=False)
    with h5py.File(tmp_path / "c.h5") as file:
        assert [*file["train"]] == ["rgb"]


def test_an_option_beside_a_folder_of_images_names_the_data_set_that_takes_it(tmp_path):
    _folder(tmp_path / "data")
    for option, way in (("size=8", "resize a folder's images with --size, or give it"), ("limit=3", ": give it")):
        with pytest.raises(UsageError, match=f"{option} is an option of a data set.*{way} with NAME:PATH, as image_f"):
            contrastill.pack_data(tmp_path / "data", tmp_path / "x.h5", options=[option])
