"""A split of a packed file from several groups, of which some have no label maps."""

import h5py
import numpy as np
import pytest
import torch

from contrastill.core.errors import UsageError
from contrastill.datasets.packed import Packed

FIELDS = {"rgb": "rgb", "depth": "depth", "semantics": "labels"}


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """12 frames without labels, 18 with them; each frame is of one value."""
    path, draw = tmp_path_factory.mktemp("packed") / "pairs.h5", np.random.default_rng(0)
    with h5py.File(path, "w") as packed:
        for name, count, first in (("pairs", 12, 0), ("labelled", 18, 100)):
            values = np.arange(first, first + count, dtype=np.uint8)
            packed[f"{name}/rgb"] = np.broadcast_to(values[:, None, None, None], (count, 6, 8, 3))
            packed[f"{name}/depth"] = np.broadcast_to(values[:, None, None] / 10 + 0.1, (count, 6, 8)).astype(
                np.float32
            )
        packed["labelled/labels"] = draw.integers(1, 4, (18, 6, 8)).astype(np.uint8)
        packed.attrs["semantic_classes"] = ["unlabelled", "bed", "wall", "floor"]
    return str(path)


def opened(file, split="train", **options):
    options = {"fields": FIELDS, "target": None, "crop_padding": 0, **options}
    return Packed(Packed.Options(path=file, **options)).open(split)


def values(split):
    return split.images["rgb"].interior[:, 0, 0, 0].tolist()


def test_groups_follow_each_other_and_one_without_label_maps_is_unlabelled(file):
    split = opened(file, splits={"train": ["pairs", "labelled"], "test": "labelled"}, blocks=3)
    # Every third block of three frames is held out.
    trained = [*range(100, 106), *range(109, 115)]
    assert values(split) == [*range(12), *trained]
    labels = split.images["semantics"].interior
    assert not labels[:12].any() and labels[12:].flatten(1).all(1).all()
    assert split.semantic_classes == ["unlabelled", "bed", "wall", "floor"] and split.camera.unit == "m"
    test = opened(file, "test", splits={"train": ["pairs", "labelled"], "test": "labelled"}, blocks=3)
    assert values(test) == [106, 107, 108, 115, 116, 117]


def test_labels_stay_with_the_frames_they_are_of(file):
    alone = opened(file, splits={"train": "labelled", "test": "labelled"}, blocks=3)
    joined = opened(file, splits={"train": ["labelled", "pairs"], "test": "labelled"}, blocks=3)
    assert torch.equal(joined.images["semantics"].interior[:12], alone.images["semantics"].interior)


def test_a_single_group_without_label_maps_is_unlabelled_where_the_other_split_has_them(file):
    split = opened(file, splits={"train": "pairs", "test": "labelled"})
    assert list(split.modalities) == ["rgb", "depth"]
    assert list(opened(file, "test", splits={"train": "pairs", "test": "labelled"}).modalities) == [*FIELDS]
    with pytest.raises(UsageError, match=r"pairs/labels does not exist"):
        opened(file, splits={"train": "pairs", "test": None})


@pytest.mark.parametrize(("fraction", "stays"), [(1.0, 12), (0.5, 6), (0.25, 3)])
def test_a_share_of_the_label_maps_is_evenly_spaced(file, fraction, stays):
    options = {"splits": {"train": ["pairs", "labelled"], "test": "labelled"}, "blocks": 3}
    labelled = opened(file, **options, label_fraction=fraction).images["semantics"].interior.flatten(1).any(1)
    places = [12 + number * 12 // stays for number in range(stays)]
    assert labelled.nonzero()[:, 0].tolist() == places
    # Test labels are measured by, and all stay.
    assert opened(file, "test", **options, label_fraction=fraction).images["semantics"].interior.all()


@pytest.mark.parametrize(
    "options",
    [
        {"splits": {"train": "labelled", "test": None}, "fields": {"rgb": "rgb"}},
        {"splits": {"train": ["pairs", "labelled"], "test": None}, "fields": {"rgb": "rgb", "depth": "depth"}},
        {"splits": {"train": "pairs", "test": "labelled"}},
    ],
)
def test_a_share_of_label_maps_that_are_not_read_is_refused(file, options):
    with pytest.raises(
        UsageError, match=r"label_fraction=0.5 keeps a share of the label maps, and none are read: name"
    ):
        opened(file, **options, label_fraction=0.5)


def test_what_cannot_be_joined_is_refused(file, tmp_path):
    with pytest.raises(UsageError, match=r"label_fraction=0.01 leaves none of 12"):
        opened(file, splits={"train": "labelled", "test": "labelled"}, blocks=3, label_fraction=0.01)
    other = tmp_path / "sizes.h5"
    with h5py.File(other, "w") as packed:
        for name, side in (("one", 6), ("two", 7)):
            packed[f"{name}/rgb"] = np.zeros((2, side, side, 3), np.uint8)
    with pytest.raises(UsageError, match=r"differ in rgb: .* are \(6, 6, 3\) in one and \(7, 7, 3\) in two"):
        opened(str(other), splits={"train": ["one", "two"], "test": None}, fields={"rgb": "rgb"})
    with pytest.raises(UsageError, match="no split .group. 'three'"):
        opened(file, splits={"train": ["pairs", "three"], "test": None}, fields={"rgb": "rgb"})


def test_groups_of_one_split_number_their_classes_alike(tmp_path):
    def joined(first, second, attribute):
        path = tmp_path / "groups.h5"
        with h5py.File(path, "w") as file:
            for name, values in (("a", first), ("b", second)):
                file[f"{name}/rgb"] = np.zeros((2, 8, 8, 3), np.uint8)
                file[f"{name}/target"] = np.array([0, 1]) if attribute else np.array(values, h5py.string_dtype())
                if attribute:
                    file[name].attrs["classes"] = values
        return opened(str(path), fields={"rgb": "rgb"}, target="target", splits={"train": ["a", "b"], "test": None})

    for attribute in (True, False):
        assert joined(["cat", "dog"], ["cat", "dog"], attribute).classes == ["cat", "dog"]
    with pytest.raises(UsageError, match="a names the classes cat, dog, and b dog, elk: number both by one list"):
        joined(["cat", "dog"], ["dog", "elk"], True)
    # Samples that name their classes themselves are numbered by the names of all groups.
    split = joined(["cat", "dog"], ["elk", "dog"], False)
    assert split.classes == ["cat", "dog", "elk"] and split.targets.tolist() == [0, 1, 2, 1]


def test_groups_without_names_have_the_classes_of_all(tmp_path):
    with h5py.File(tmp_path / "groups.h5", "w") as file:
        for name, highest in (("a", 1), ("b", 4)):
            file[f"{name}/rgb"], file[f"{name}/target"] = np.zeros((2, 8, 8, 3), np.uint8), np.array([0, highest])
    options = {"fields": {"rgb": "rgb"}, "target": "target", "splits": {"train": ["a", "b"], "test": None}}
    assert opened(str(tmp_path / "groups.h5"), **options).num_classes == 5


def groups_of(path, groups, split="train", attributes=None, **options):
    """A split of two groups a and b, of three frames each unless a field says otherwise."""
    with h5py.File(path / "groups.h5", "w") as file:
        for name, fields in groups.items():
            count = len(next(iter(fields.values())))
            file[f"{name}/rgb"] = np.zeros((count, 6, 8, 3), np.uint8)
            for field, stored in fields.items():
                if field == "rgb":
                    del file[f"{name}/rgb"]
                file[f"{name}/{field}"] = stored
        file.attrs.update(attributes or {})
    names = {"splits": {"train": ["a", "b"], "test": "test" if "test" in groups else None}}
    return opened(str(path / "groups.h5"), split, **{"fields": {"rgb": "rgb"}, **names, **options})


def frames(value, dtype, *channels):
    return np.full((3, 6, 8, *channels), value, dtype)


@pytest.mark.parametrize(
    ("modality", "first", "second", "message"),
    [
        (
            "rgb",
            frames(200, "u1", 3),
            frames(0.5, "f4", 3),
            r"differ in rgb: a/rgb \(uint8\) and b/rgb \(float32\) hold 8-bit integers and floats, whose scales "
            "differ: store both as one kind",
        ),
        (
            "nir",
            frames(200, "u1"),
            frames(1000, "u2"),
            r"a/nir \(uint8\) and b/nir \(uint16\) hold 8-bit integers",
        ),
        ("normals", frames(200, "u1", 3), frames(-1, "f4", 3), r"a/normals \(uint8\) and b/normals \(float32\)"),
        (
            "depth",
            frames(2000, "u2"),
            frames(2, "f4"),
            r"differ in the unit of depth: a/depth \(uint16\) is taken for mm, and b/depth \(float32\) for m: bring "
            "both to one unit in the file",
        ),
    ],
)
@pytest.mark.parametrize("turned", [False, True])
def test_groups_of_unlike_numbers_are_refused(tmp_path, modality, first, second, message, turned):
    if turned:
        with pytest.raises(UsageError, match=r"differ in .*a/.*b/"):
            groups_of(tmp_path, {"a": {modality: second}, "b": {modality: first}}, fields={modality: modality})
    else:
        with pytest.raises(UsageError, match=message):
            groups_of(tmp_path, {"a": {modality: first}, "b": {modality: second}}, fields={modality: modality})


@pytest.mark.parametrize("turned", [False, True])
def test_groups_of_like_numbers_are_widened(tmp_path, turned):
    first = {"rgb": frames(0.25, "f2", 3), "depth": frames(20, "u1"), "labels": frames(3, "u1")}
    second = {"rgb": frames(0.75, "f8", 3), "depth": frames(2000, "u2"), "labels": frames(300, "u2")}
    groups = {"a": second, "b": first} if turned else {"a": first, "b": second}
    split = groups_of(tmp_path, groups, fields=FIELDS, depth_unit="mm")
    for modality, pair in (("rgb", [0.25, 0.75]), ("depth", [20, 2000]), ("semantics", [3, 300])):
        stored = split.images[modality].interior[:, 0, 0, 0].tolist()
        assert stored == [value for value in (reversed(pair) if turned else pair) for _ in range(3)]
    assert split.images["semantics"].storage.dtype == torch.int32 and split.kinds["depth"] == "floats"


@pytest.mark.parametrize("turned", [False, True])
def test_one_class_each_and_probabilities_are_joined_as_probabilities(tmp_path, turned):
    one_hot, soft = np.eye(3)[[0, 2, 1]], np.array([[0.5, 0.25, 0.25]] * 3)
    stored = [soft, one_hot] if turned else [one_hot, soft]
    groups = dict(zip("ab", [{"target": values} for values in stored], strict=True))
    split = groups_of(tmp_path, groups, target="target")
    assert split.label_vectors.tolist() == np.concatenate(stored).tolist()
    assert split.targets.tolist() == np.concatenate(stored).argmax(1).tolist() and split.num_classes == 3


def test_groups_of_which_one_has_no_classes_are_refused(tmp_path):
    with pytest.raises(UsageError, match="a has the field target, and b has none: add it there, or set data.target=nu"):
        groups_of(tmp_path, {"a": {"target": np.arange(3)}, "b": {"rgb": frames(0, "u1", 3)}}, target="target")


@pytest.mark.parametrize(("limit", "places"), [(2, [0, 3]), (4, [0, 1, 3, 4]), (1, [0]), (9, [0, 1, 2, 3, 4, 5])])
def test_a_limit_is_of_all_groups_together(tmp_path, limit, places):
    groups = {"a": {"target": np.arange(3)}, "b": {"target": np.arange(3, 6)}}
    assert groups_of(tmp_path, groups, target="target", limit=limit).targets.tolist() == places


def test_fields_that_are_not_read_are_those_of_all_groups(tmp_path):
    nir, depth = frames(1, "u1"), frames(1, "u2")
    split = groups_of(tmp_path, {"a": {"nir": nir, "depth": depth}, "b": {"nir": nir}}, target=None)
    assert [*split.unread] == ["nir"]


def test_the_classes_of_a_split_are_those_of_all_its_groups(tmp_path, caplog):
    text = h5py.string_dtype()
    groups = {"a": {"target": np.array(["x"] * 3, text)}, "b": {"target": np.array(["y"] * 3, text)}}
    groups["test"] = {"target": np.array(["y", "x", "y"], text)}
    assert groups_of(tmp_path, groups, target="target").targets.tolist() == [0, 0, 0, 1, 1, 1]
    test = groups_of(tmp_path, groups, "test", target="target")
    assert test.targets.tolist() == [1, 0, 1] and test.classes == ["x", "y"]
    groups["test"] = {"target": np.array(["y", "x", "z"], text)}
    with pytest.raises(UsageError, match="the split test has the class z, which a and b lack: add it there"):
        groups_of(tmp_path, groups, target="target")


def test_the_enums_of_all_training_groups_name_the_classes(tmp_path):
    with h5py.File(tmp_path / "groups.h5", "w") as file:
        for name, numbers in (("a", {"x": 1, "w": 0}), ("b", {"y": 0, "x": 1}), ("test", {"x": 0, "y": 1})):
            file[f"{name}/rgb"] = np.zeros((2, 6, 8, 3), np.uint8)
            file.create_dataset(f"{name}/target", data=np.array([0, 1], "i1"), dtype=h5py.enum_dtype(numbers, "i1"))
    options = {"fields": {"rgb": "rgb"}, "target": "target", "splits": {"train": ["a", "b"], "test": "test"}}
    split, test = (opened(str(tmp_path / "groups.h5"), name, **options) for name in ("train", "test"))
    assert split.classes == test.classes == ["w", "x", "y"]
    assert split.targets.tolist() == [0, 1, 2, 1] and test.targets.tolist() == [1, 2]


@pytest.mark.parametrize(("first", "second"), [([0, 1, 2], [3, 4, 5]), ([3, 4, 5], [0, 1, 2]), ([0, 0, 0], [1, 2, 3])])
def test_numbers_that_another_group_has_are_no_gaps(tmp_path, first, second, caplog):
    groups = {"a": {"target": np.array(first)}, "b": {"target": np.array(second)}}
    assert groups_of(tmp_path, groups, target="target").num_classes == max(*first, *second) + 1
    assert not caplog.text
    groups_of(tmp_path, {"a": {"target": np.array(first)}, "b": {"target": np.array([9, 9, 9])}}, target="target")
    assert "no training sample is of class" in caplog.text


def test_a_label_of_255_is_a_class_where_another_group_has_higher_ones(tmp_path):
    groups = {"a": {"labels": frames(255, "u1")}, "b": {"labels": frames(300, "u2")}}
    split = groups_of(tmp_path, groups, fields={"rgb": "rgb", "semantics": "labels"})
    assert split.images["semantics"].interior[:, 0, 0, 0].tolist() == [255] * 3 + [300] * 3
