"""What a fingerprint has of data: pictures in shards, arrays in tables, and what values stand for."""

import io
import json
import tarfile

import h5py
import numpy as np
import pytest
from PIL import Image

from contrastill.core.data_facts import compared_facts
from contrastill.core.errors import UsageError
from contrastill.core.registry import DATASETS
from contrastill.core.run import Run
from contrastill.datasets.io import arrow_rows, tar_pictures
from contrastill.datasets.io.fingerprint import fingerprint

PICTURES = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 3), dtype=np.uint8)
# None of the eight samples that are read of each split.
UNSEEN = [1, 2, 3, 4, 6, 7, 8]


def _shard(path, pictures):
    with tarfile.open(path, "w") as tar:
        for number, pixels in enumerate(pictures):
            for suffix, content in (("ppm", b"P6 8 8 255\n" + pixels.tobytes()), ("cls", str(number % 2).encode())):
                member = tarfile.TarInfo(f"{number:03}.{suffix}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))


def _of_shards(root, pictures, **options):
    for split in ("train", "test"):
        _shard(root / f"{split}-0.tar", pictures)
    data = DATASETS["webdataset"]
    return fingerprint(data(data.Options(path=str(root), size=8, workers=0, **options)).open("train"))


@pytest.mark.parametrize("cached", [False, True])
def test_pictures_that_were_replaced_in_shards_are_noticed(tmp_path, monkeypatch, cached):
    options = {"decoded_cache": str(tmp_path / "cache")} if cached else {}
    before, black = _of_shards(tmp_path, PICTURES, **options), PICTURES.copy()
    assert _of_shards(tmp_path, PICTURES, **options) == before
    black[UNSEEN] = 0
    after = _of_shards(tmp_path, black, **options)
    assert {name for name in before if before[name] != after[name]} == {"values"}
    monkeypatch.setattr(tar_pictures, "BYTES_READ", 1000)
    assert "values" not in _of_shards(tmp_path, black, **options)


def _of_table(values, kind, rows=None, **options):
    hf = pytest.importorskip("datasets", reason="pip install 'contrastill[datasets]'")
    from contrastill.datasets.huggingface import LoadedHuggingFace

    pictures = []
    for pixels in PICTURES:
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG")
        pictures.append({"path": None, "bytes": buffer.getvalue()})
    features = {"image": hf.Image(), "depth": kind(hf), "label": hf.ClassLabel(names=["a", "b"])}
    columns = {"image": pictures, "depth": values, "label": [0, 1] * 20}
    table = hf.Dataset.from_dict(columns, features=hf.Features(features))
    if rows is not None:  # the same rows, in tables that are cut in other pieces
        table = hf.concatenate_datasets([table.select(part) for part in rows])
    loaded = LoadedHuggingFace({"train": table, "test": table}, holds_out=False)
    options = {"modalities": {"depth": "depth"}, "workers": 0, **options}
    return fingerprint(loaded(LoadedHuggingFace.Options(**options)).open("train"))


@pytest.mark.parametrize(
    "kind",
    [
        lambda hf: hf.Array2D((8, 8), "float32"),
        lambda hf: hf.Array2D((None, 8), "float32"),
        lambda hf: hf.Array3D((8, 8, 1), "float32"),
    ],
)
def test_arrays_that_were_replaced_in_a_table_are_noticed(monkeypatch, kind):
    hf = pytest.importorskip("datasets", reason="pip install 'contrastill[datasets]'")
    shape = (40, 8, 8, 1) if isinstance(kind(hf), hf.Array3D) else (40, 8, 8)
    values = np.random.default_rng(1).random(shape).astype(np.float32) + 1
    before, other = _of_table([*values], kind), values.copy()
    assert before["values"]
    assert _of_table([*values], kind, [range(7), range(7, 40)]) == before
    other[UNSEEN] = 9
    after = _of_table([*other], kind)
    assert {name for name in before if before[name] != after[name]} == {"values"}
    monkeypatch.setattr(arrow_rows, "BYTES_READ", 1000)
    assert "values" not in _of_table([*values], kind)


def test_pictures_that_were_replaced_in_a_table_are_noticed(tmp_path):
    hf = pytest.importorskip("datasets", reason="pip install 'contrastill[datasets]'")
    from contrastill.datasets.huggingface import LoadedHuggingFace

    def facts(pictures, *, stored):
        cells = []
        for number, pixels in enumerate(pictures):
            content, path = b"P6 8 8 255\n" + pixels.tobytes(), tmp_path / f"{number}.ppm"
            path.write_bytes(content)
            cells.append({"path": None, "bytes": content} if stored else {"path": str(path), "bytes": None})
        features = hf.Features({"image": hf.Image(), "label": hf.ClassLabel(names=["a", "b"])})
        table = hf.Dataset.from_dict({"image": cells, "label": [0, 1] * 20}, features=features)
        loaded = LoadedHuggingFace({"train": table, "test": table}, holds_out=False)
        return fingerprint(loaded(LoadedHuggingFace.Options(size=8, workers=0)).open("train"))

    black = PICTURES.copy()
    black[UNSEEN] = 0
    for stored in (True, False):
        before, after = facts(PICTURES, stored=stored), facts(black, stored=stored)
        assert {name for name in before if before[name] != after[name]} == {"values"}
        assert facts(PICTURES, stored=stored) == before


@pytest.fixture
def packed(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.attrs["semantic_classes"] = ["unlabelled", "bed", "wall"]
        file.attrs["depth_unit"], file.attrs["intrinsics"] = "mm", [20.0, 20.0, 4.0, 4.0]
        file.attrs["vectors"] = ["flow"]
        for split in ("train", "test"):
            group = file.create_group(split)
            group["rgb"] = PICTURES
            group["depth"] = np.full((40, 8, 8), 1500, np.uint16)
            group["semantics"] = np.ones((40, 8, 8), np.uint8)
            group["flow"] = np.zeros((40, 8, 8, 2), np.float32)
    return tmp_path / "a.h5"


def _of_packed(path):
    fields = {name: name for name in ("rgb", "depth", "semantics", "flow")}
    data = DATASETS["packed"]
    return json.loads(json.dumps(fingerprint(data(data.Options(path=str(path), fields=fields)).open("train"))))


@pytest.mark.parametrize(
    ("attribute", "value", "fact"),
    [
        ("semantic_classes", ["unlabelled", "wall", "bed"], "names of classes of label maps"),
        ("depth_unit", 0.0002, r"unit of depth of train differ \(mm, now 0.0002\)"),
        ("intrinsics", [40.0, 40.0, 4.0, 4.0], r"intrinsics of train differ \(20.0, 20.0, 4.0, 4.0, now 40.0"),
        ("intrinsics", None, r"intrinsics of train differ \(20.0, 20.0, 4.0, 4.0, now not known\)"),
        ("vectors", [], r"vectors of train differ \(flow, now none\)"),
    ],
)
def test_a_run_goes_on_only_where_values_mean_what_they_did(tmp_path, packed, attribute, value, fact):
    before, run, older = _of_packed(packed), Run(tmp_path / "run"), Run(tmp_path / "older")
    run.claim("name: a\n", {"train": before})
    later = ("names of classes of label maps", "unit of depth", "intrinsics", "vectors")
    older.claim("name: a\n", {"train": {name: seen for name, seen in before.items() if name not in later}})
    with h5py.File(packed, "a") as file:
        del file.attrs[attribute]
        if value is not None:
            file.attrs.create(
                attribute, value, dtype=h5py.string_dtype() if isinstance(value, list) and not value else None
            )
    after = _of_packed(packed)
    with pytest.raises(UsageError, match=fact):
        run.claim("name: a\n", {"train": after})
    older.claim("name: a\n", {"train": after})  # of an earlier version, which did not record it
    recorded = older.data_facts()["train"]
    assert compared_facts(recorded, after) == recorded


def test_the_order_of_lines_in_classes_txt_is_noticed(tmp_path):
    for split in ("train", "test"):
        for number in range(4):
            for name, values in (("rgb", PICTURES[number]), ("semantics", np.ones((8, 8), np.uint8))):
                path = tmp_path / split / name / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(values).save(path)
    data, seen = DATASETS["paired_folder"], []
    for names in ("bed\nwall\n", "wall\nbed\n", "bed\nwall\n"):
        (tmp_path / "classes.txt").write_text(names)
        seen.append(fingerprint(data(data.Options(path=str(tmp_path), workers=0)).open("train")))
    assert seen[0] != seen[1] and seen[0] == seen[2]
