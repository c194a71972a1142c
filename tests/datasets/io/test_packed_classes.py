"""Classes in a packed file: one form in all splits, in the order of the file's names."""

import h5py
import numpy as np
import pytest

from contrastill.core.errors import UsageError
from contrastill.core.value_scale import note_once
from contrastill.datasets.packed import Packed

NUMBERS = np.arange(6) % 3


def opened(path, target, test=None, classes=None):
    with h5py.File(path / "data.h5", "w") as file:
        for split, values in (("train", target), ("test", target if test is None else test)):
            file[f"{split}/rgb"] = np.zeros((len(values), 8, 8, 3), np.uint8)
            kind = h5py.string_dtype() if isinstance(values, list) else None
            file[f"{split}/target"] = np.array(values, dtype=kind)
        if classes is not None:
            file.attrs["classes"] = classes
    return Packed(Packed.Options(path=str(path / "data.h5"))).open("train")


@pytest.mark.parametrize(
    ("target", "classes", "numbers", "names"),
    [
        (NUMBERS[:, None], None, [0, 1, 2, 0, 1, 2], None),
        (["b", "a", "c"], None, [1, 0, 2], ["a", "b", "c"]),
        (["b", "a", "c"], ["c", "b", "a", "d"], [1, 2, 0], ["c", "b", "a", "d"]),
        (NUMBERS, np.array([], "S1"), [0, 1, 2, 0, 1, 2], None),
    ],
)
def test_classes_are_numbered_as_the_file_names_them(tmp_path, target, classes, numbers, names):
    split = opened(tmp_path, target, classes=classes)
    assert split.targets.tolist() == numbers and split.classes == names
    assert split.num_classes == (3 if names is None else len(names))


def named_elsewhere(path, change):
    opened(path, NUMBERS)
    with h5py.File(path / "data.h5", "r+") as file:
        change(file)
    return Packed(Packed.Options(path=str(path / "data.h5"))).open("train")


def test_names_that_the_splits_or_a_list_in_the_file_hold_are_read(tmp_path):
    def each(file, test=("b", "a", "c")):
        file["train"].attrs["classes"], file["test"].attrs["classes"] = ["b", "a", "c"], list(test)

    assert named_elsewhere(tmp_path, each).classes == ["b", "a", "c"]
    with pytest.raises(UsageError, match=r"train names the classes b, a, c, and test a, b, c: number both by one list"):
        named_elsewhere(tmp_path, lambda file: each(file, "abc"))
    with pytest.raises(UsageError, match="data.h5: the attribute classes is 'a,b,c', and should be a list"):
        named_elsewhere(tmp_path, lambda file: file["test"].attrs.update(classes="a,b,c"))
    split = named_elsewhere(tmp_path, lambda file: file.update(classes=np.array([b"b", b"c", b"a"])))
    assert split.classes == ["b", "c", "a"] and split.num_classes == 3
    with pytest.raises(UsageError, match="target goes from 0 to 2, classes are 0 to 1"):
        named_elsewhere(tmp_path, lambda file: file.update(classes=np.array([b"b", b"c"])))


def texts(names):
    return np.array(names, h5py.string_dtype())


def test_names_in_a_list_beside_the_fields_of_a_split_are_read(tmp_path):
    def lists(file, train=("b", "a", "c"), test=("b", "a", "c")):
        file["train/classes"], file["test/classes"] = texts(list(train)), np.array(list(test), "S1")

    assert named_elsewhere(tmp_path, lists).classes == ["b", "a", "c"]
    with pytest.raises(UsageError, match=r"train names the classes b, a, c, and test a, b, c: number both by one list"):
        named_elsewhere(tmp_path, lambda file: lists(file, test="abc"))
    with pytest.raises(UsageError, match=r"train names the classes b, a, c, and test a, b, c: number both by one list"):
        named_elsewhere(
            tmp_path, lambda file: (file["train"].attrs.update(classes=list("bac")), lists(file, "zzz", "abc"))
        )
    # The class of each sample, and a list that is no text.
    assert named_elsewhere(tmp_path, lambda file: lists(file, "abcabc", "abcabc")).classes is None
    assert named_elsewhere(tmp_path, lambda file: file.update({"train/classes": np.arange(3)})).classes is None


@pytest.mark.parametrize("other", ["train", "test"])
def test_names_of_one_split_are_matched_by_number_with_a_line(tmp_path, other, caplog):
    note_once.cache_clear()
    named = "test" if other == "train" else "train"
    line = f"the classes of {named} and {other} are matched by number alone, as {other} has no names for them: write "
    for change in (
        lambda file: file[named].attrs.update(classes=["b", "a", "c"]),
        lambda file: file.update({f"{named}/classes": texts(["b", "a", "c"])}),
    ):
        caplog.clear()
        note_once.cache_clear()
        assert named_elsewhere(tmp_path, change).classes == ["b", "a", "c"]
        test = Packed(Packed.Options(path=str(tmp_path / "data.h5"))).open("test")
        assert test.classes == ["b", "a", "c"] and caplog.text.count(line) == 1
    with pytest.raises(
        UsageError, match=f"the classes of .*:{named} are called 9, 8, 10, .*, and .*:{other} has no na"
    ):
        named_elsewhere(tmp_path, lambda file: file[named].attrs.update(classes=["9", "8", "10"]))
    caplog.clear()
    note_once.cache_clear()
    opened(tmp_path, ["b", "a"], ["a"])
    with h5py.File(tmp_path / "data.h5", "r+") as file:
        file["train"].attrs["classes"] = ["b", "a"]
    assert Packed(Packed.Options(path=str(tmp_path / "data.h5"))).open("test").targets.tolist() == [1]
    assert not caplog.text  # the samples themselves have names


def with_enums(path, train, test=None, change=lambda file: None):
    opened(path, NUMBERS)
    with h5py.File(path / "data.h5", "r+") as file:
        for split, numbers in (("train", train), ("test", test)):
            if numbers is not None:
                del file[f"{split}/target"]
                values = np.array([*numbers.values()] * (6 // len(numbers)), np.int8)
                file.create_dataset(f"{split}/target", data=values, dtype=h5py.enum_dtype(numbers, "i1"))
        change(file)
    splits = Packed(Packed.Options(path=str(path / "data.h5")))
    return splits.open("train"), splits.open("test")


@pytest.mark.parametrize("first", [0, 1])
def test_names_of_an_enum_are_those_of_its_numbers(tmp_path, first):
    own = {name: number + first for number, name in enumerate(["cat", "ant", "bee"])}
    other = {name: number + first for number, name in enumerate(["bee", "cat", "ant"])}
    train, test = with_enums(tmp_path, own, other)
    assert train.classes == test.classes == ["cat", "ant", "bee"] and train.num_classes == 3
    assert train.targets.tolist() == [0, 1, 2] * 2 and test.targets.tolist() == [2, 0, 1] * 2
    listed = with_enums(tmp_path, own, other, lambda file: file.attrs.update(classes=["ant", "bee", "cat", "dog"]))
    assert listed[0].classes == ["ant", "bee", "cat", "dog"] and listed[0].targets.tolist() == [2, 0, 1] * 2
    with pytest.raises(
        UsageError, match="target of test has the class elk, which the enum of train lacks .cat, ant, bee"
    ):
        with_enums(tmp_path, own, {"elk": 0, "cat": 1})
    with pytest.raises(
        UsageError, match="of train has the class ant, which the attribute classes lacks .*delete the at"
    ):
        with_enums(tmp_path, own, other, lambda file: file.attrs.update(classes=["a", "b", "c"]))
    with pytest.raises(
        UsageError, match="train are names of classes, and those of .*test are numbers of classes: give"
    ):
        with_enums(tmp_path, own)

    def unnamed(file):
        file["train/target"][4] = 7

    with pytest.raises(
        UsageError, match="train/target of sample 4 is 7, which its enum does not name .cat, ant, bee.:"
    ):
        with_enums(tmp_path, own, other, unnamed)


@pytest.mark.parametrize(
    ("target", "test", "classes", "message"),
    [
        (NUMBERS, None, ["a", "", "c"], "data.h5: the attribute classes has no name for class 1"),
        (["a", "b"], None, ["a", "c"], r"target of train has the class b, which the attribute classes lacks \(a, c\)"),
        (["a", ""], None, None, "data.h5: target of sample 1 of train is empty: leave out samples without a class"),
        (
            np.eye(3)[NUMBERS],
            NUMBERS,
            None,
            "data.h5:train are a number for each class, and those of .*data.h5:test are numbers of classes: give both",
        ),
        (NUMBERS, np.eye(3)[NUMBERS], None, "data.h5:train are numbers of classes, and those of .*are a number for"),
        (["a", "b"], NUMBERS, None, "data.h5:train are names of classes, and those of .*are numbers of classes"),
        (NUMBERS * 1.0, None, None, r"classes, store target.astype\('int64'\); data.target=null leaves them out"),
        (NUMBERS > 0, None, None, r"train/target is bool \(6,\).*store target.astype\('int64'\)"),
    ],
)
def test_classes_that_could_be_others_are_refused(tmp_path, target, test, classes, message):
    with pytest.raises(UsageError, match=message):
        opened(tmp_path, target, test, classes)


@pytest.mark.parametrize("name", ["label", "labels"])
def test_classes_under_another_name_are_named(tmp_path, name, caplog):
    path = tmp_path / "data.h5"
    with h5py.File(path, "w") as file:
        file["train/rgb"], file[f"train/{name}"] = np.zeros((6, 8, 8, 3), np.uint8), NUMBERS
    assert Packed(Packed.Options(path=str(path))).open("train").targets is None
    line = f"{path}:train has no field target, so its samples are unlabelled: data.target={name} reads their classes"
    assert [record.getMessage() for record in caplog.records if line in record.getMessage()]
    assert Packed(Packed.Options(path=str(path), target=name)).open("train").targets.tolist() == NUMBERS.tolist()
    caplog.clear()
    Packed(Packed.Options(path=str(path), target=None)).open("train")
    assert not caplog.records


def test_names_of_pixel_classes_are_none_of_the_samples(tmp_path):
    """One attribute ``classes`` that ``data.semantic_names`` takes for the label maps, and scenes by their names."""
    with h5py.File(tmp_path / "data.h5", "w") as file:
        file["train/rgb"] = np.zeros((4, 8, 8, 3), np.uint8)
        file["train/semantics"] = np.ones((4, 8, 8), np.uint8)
        file["train/scene"] = np.array(["office", "bedroom", "office", "kitchen"], h5py.string_dtype())
        file["train/number"] = np.array([0, 1, 2, 3])
        file.attrs["classes"] = ["unlabelled", "wall", "floor"]
    options = {"path": str(tmp_path / "data.h5"), "fields": {"rgb": "rgb", "semantics": "semantics"},
               "splits": {"train": "train", "test": None}, "semantic_names": "classes"}  # fmt: skip
    split = Packed(Packed.Options(target="scene", **options)).open("train")
    assert split.classes == ["bedroom", "kitchen", "office"] and split.targets.tolist() == [2, 0, 2, 1]
    assert split.semantic_classes == ["unlabelled", "wall", "floor"]
    numbered = Packed(Packed.Options(target="number", **options)).open("train")
    assert numbered.classes is None and numbered.num_classes == 4


def coded(path, **attributes):
    opened(path, NUMBERS)
    with h5py.File(path / "data.h5", "r+") as file:
        file["test/target"].attrs.update(attributes)
    return Packed(Packed.Options(path=str(path / "data.h5"))).open("train")


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        (
            {"add_offset": -1},
            "test/target has the attribute add_offset = -1, which is not applied here: store",
        ),
        ({"scale_factor": 2.0}, "test/target has the attribute scale_factor = 2, which is not applied"),
        ({"_FillValue": 2}, "test/target has the attribute _FillValue = 2, which would be read as a class: leave out"),
    ],
)
def test_coded_classes_are_refused(tmp_path, attributes, message):
    with pytest.raises(UsageError, match=message):
        coded(tmp_path, **attributes)


def test_a_mark_for_none_that_does_not_occur_does_no_harm(tmp_path):
    assert coded(tmp_path, _FillValue=-1, add_offset=0, scale_factor=1.0).num_classes == 3
