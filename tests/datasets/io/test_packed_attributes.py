"""Packed files as other tools write them: links, attributes in arrays and bytes, fields without values."""

import h5py
import numpy as np
import pytest

from contrastill.core.errors import UsageError
from contrastill.datasets.packed import Packed
from contrastill.evaluation.data import describe_data

MATRIX = [[20.0, 0.0, 5.5], [0.0, 21.0, 4.5], [0.0, 0.0, 1.0]]


def write(path, fields=None, **attributes):
    with h5py.File(path / "data.h5", "w") as file:
        for split in ("train", "test"):
            file[f"{split}/rgb"] = np.zeros((4, 9, 11, 3), np.uint8)
            file[f"{split}/depth"] = np.full((4, 9, 11), 2000, np.uint16)
            for name, stored in (fields or {}).items():
                file[f"{split}/{name}"] = stored
        file.attrs.update(attributes)
    return str(path / "data.h5")


def opened(path, split="train", **options):
    return Packed(Packed.Options(path=str(path), **options)).open(split)


def with_depth(path):
    return opened(path, fields={"rgb": "rgb", "depth": "depth"}).camera


@pytest.mark.parametrize("external", [True, False])
@pytest.mark.parametrize(
    ("target", "rows"),
    [
        (np.array([0, 1, 2, 1]), [0, 1, 2, 1]),
        (np.array([b"b", b"a", b"c", b"a"]), [1, 0, 2, 0]),
        (np.eye(3)[[2, 0, 1, 0]], [2, 0, 1, 0]),
    ],
)
def test_splits_that_are_links_have_their_labels(tmp_path, external, target, rows):
    write(tmp_path, {"target": target})
    with h5py.File(tmp_path / "links.h5", "w") as file:
        for split, own in (("training", "train"), ("testing", "test")):
            elsewhere = h5py.ExternalLink("data.h5", f"/{own}")
            if external:
                file[split] = elsewhere
            else:
                file[own], file[split] = elsewhere, h5py.SoftLink(f"/{own}")
    splits = {"train": "training", "test": "testing"}
    for split in splits:
        labels = opened(tmp_path / "links.h5", split, splits=splits)
        assert labels.targets.tolist() == rows and labels.num_classes == 3


@pytest.mark.parametrize(
    ("unit", "read"),
    [
        (np.array([0.001]), 0.001),  # as MATLAB writes a number
        (np.array([[0.001]]), 0.001),
        (np.float32(0.001), 0.001),
        (np.array([b"mm"]), "mm"),
        (np.bytes_("mm"), "mm"),
        ("mm", "mm"),
        (1, 1.0),
    ],
)
def test_a_unit_is_read_however_it_is_stored(tmp_path, unit, read):
    path = write(tmp_path, depth_unit=unit)
    assert with_depth(path).unit == read == describe_data(path).depth_unit


@pytest.mark.parametrize("unit", ["MM", b"\xb5m", np.array([0.001, 0.001]), np.inf, -1, True, h5py.Empty("f4")])
def test_what_is_no_unit_is_refused_alike(tmp_path, unit):
    path = write(tmp_path, depth_unit=unit)
    for read in (with_depth, describe_data):
        with pytest.raises(UsageError, match="the attribute depth_unit is .*, and should be m, mm, relative or the me"):
            read(path)


@pytest.mark.parametrize("stored", [MATRIX, [20.0, 21.0, 5.5, 4.5], np.array([20, 21, 5.5, 4.5], "f4")])
def test_intrinsics_are_described_as_they_are_read(tmp_path, stored):
    path = write(tmp_path, intrinsics=stored)
    description = describe_data(path)
    assert list(with_depth(path).intrinsics) == description.intrinsics == [20.0, 21.0, 5.5, 4.5]
    assert "intrinsics in pixels: fx 20, fy 21, cx 5.5, cy 4.5" in str(description)


@pytest.mark.parametrize(
    ("stored", "message"),
    [
        (np.ones((4, 1)), r"has the shape \(4, 1\): it holds fx, fy, cx, cy, or the matrix"),
        (np.ones(5), r"has the shape \(5,\): it holds"),
        ("20,21,5.5,4.5", "is '20,21,5.5,4.5': it holds fx, fy, cx, cy"),
        (["20", "21", "5", "4"], "is .*: it holds fx, fy, cx, cy"),
        (h5py.Empty("f4"), "is .*Empty.*: it holds fx, fy, cx, cy"),
        (np.transpose(MATRIX), "is a matrix whose last row is 5.5, 4.5, 1, and should be 0, 0, 1: .* not transposed"),
    ],
)
def test_what_are_no_intrinsics_is_refused_alike(tmp_path, stored, message):
    path = write(tmp_path, intrinsics=stored)
    for read in (with_depth, describe_data):
        with pytest.raises(UsageError, match=f"the attribute intrinsics {message}"):
            read(path)


LATIN = b"caf\xe9"
NO_UTF_8 = r"has the name b'caf\\xe9', whose bytes are no UTF-8, .*: write the names as str"


@pytest.mark.parametrize("dtype", ["S4", h5py.string_dtype()])
def test_names_in_another_charset_are_refused_and_those_in_utf_8_are_read(tmp_path, dtype):
    def names(first):
        return np.array([first, b"b"], dtype if dtype == "S4" else object)

    def stored(first):
        path = write(tmp_path, {"labels": np.ones((4, 9, 11), np.uint8)})
        with h5py.File(path, "r+") as file:
            for split in ("train", "test"):
                values = np.array([first, b"b", b"b", b"b"], names(first).dtype)
                file[split].create_dataset("name", data=values, dtype=dtype)
                file[split]["number"] = np.array([0, 1, 1, 1])
            for attribute in ("classes", "semantic_classes"):
                file.attrs.create(attribute, names(first), dtype=dtype)
        return path

    fields = {"rgb": "rgb", "semantics": "labels"}
    path = stored(LATIN)
    for attribute, options in (
        ("the attribute classes", {"target": "number"}),
        ("the attribute semantic_classes", {"target": None, "fields": fields}),
        ("data.h5:train/name", {"target": "name", "semantic_names": "classes"}),
    ):
        with pytest.raises(UsageError, match=f"{attribute} {NO_UTF_8}"):
            opened(path, **options)
    with pytest.raises(UsageError, match=f"the attribute classes {NO_UTF_8}"):
        describe_data(path)
    path = stored("té".encode())
    assert opened(path, target="name", semantic_names="classes").classes == ["b", "té"]
    assert opened(path, target="number").classes == describe_data(path).classes == ["té", "b"]
    assert opened(path, target=None, fields=fields).semantic_classes == ["té", "b"]


def test_a_mark_for_no_void_label_may_be_bytes(tmp_path):
    path = write(tmp_path, {"labels": np.full((4, 9, 11), 255, np.uint8)}, void=b"none")
    labels = opened(path, fields={"semantics": "labels"}).images["semantics"].interior
    assert labels.eq(255).all()


def test_a_field_without_values_is_described_and_refused_as_classes(tmp_path):
    path = write(tmp_path, {"empty": h5py.Empty("f4"), "target": h5py.Empty("i8")})
    description = describe_data(path).splits["train"]
    assert description.samples is None and description.fields["empty"].shape == ()
    with pytest.raises(UsageError, match="fields of .*:train differ in length: rgb 4, empty 0"):
        opened(path, fields={"rgb": "rgb", "x": "empty"}, target=None)
    with h5py.File(path, "r+") as file:
        del file["train/target"]
        file["train/target"] = np.arange(4)
    with pytest.raises(UsageError, match="test/target is int64 None: classes are integers or names"):
        opened(path)


@pytest.mark.parametrize("attribute", ["_FillValue", "missing_value"])
def test_a_text_stands_for_no_missing_value_of_numbers(tmp_path, attribute):
    path = write(tmp_path)
    with h5py.File(path, "r+") as file:
        file["train/depth"].attrs[attribute] = "NaN"
    assert with_depth(path).unit == "mm"
    with h5py.File(path, "r+") as file:
        file["train/depth"].attrs["scale_factor"] = "0.001"
    with pytest.raises(UsageError, match="has the attribute scale_factor = 0.001, which is not applied here"):
        with_depth(path)
