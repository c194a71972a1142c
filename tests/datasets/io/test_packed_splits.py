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
    with pytest.raises(UsageError, match=r"differ in rgb: \(3, 6, 6\) and \(3, 7, 7\)"):
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
        with pytest.raises(
            UsageError, match="differ in the names of their classes: cat, dog, and dog, elk: number all"
        ):
            joined(["cat", "dog"], ["dog", "elk"], attribute)


def test_groups_without_names_have_the_classes_of_all(tmp_path):
    with h5py.File(tmp_path / "groups.h5", "w") as file:
        for name, highest in (("a", 1), ("b", 4)):
            file[f"{name}/rgb"], file[f"{name}/target"] = np.zeros((2, 8, 8, 3), np.uint8), np.array([0, highest])
    options = {"fields": {"rgb": "rgb"}, "target": "target", "splits": {"train": ["a", "b"], "test": None}}
    assert opened(str(tmp_path / "groups.h5"), **options).num_classes == 5
