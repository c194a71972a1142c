"""Classes that a probe is restricted to, by their names or numbers: what could be either is refused."""

import h5py
import numpy as np
import pytest

from contrastill.core.classes import apply_class_map
from contrastill.core.errors import UsageError
from contrastill.evaluation.probe_inputs import data_named
from contrastill.models.build import build_network


@pytest.fixture
def pack(tmp_path):
    def write(names):
        with h5py.File(tmp_path / "a.h5", "w") as file:
            for split in ("train", "test"):
                file[f"{split}/rgb"] = np.zeros((len(names), 8, 8, 3), np.uint8)
                file[f"{split}/target"] = np.arange(len(names))
            file.attrs["classes"] = names
        return tmp_path / "a.h5"

    return write


def chosen(path, classes):
    return data_named(f"packed:{path},classes=[{classes}]").open().chosen.tolist()


def test_a_name_of_two_classes_is_refused_and_their_numbers_are_not(pack):
    path = pack(["crane", "ball", "crane", "dog"])
    with pytest.raises(UsageError, match="has 2 classes called crane, numbers 0, 2: give the numbers in place of the"):
        chosen(path, "crane,ball")
    assert (
        chosen(path, "0,ball") == [0, 1] and chosen(path, "2,0,dog") == [0, 2, 3] and chosen(path, "ball,dog") == [1, 3]
    )
    with pytest.raises(UsageError, match="has 2 classes called 7, numbers 0, 2: rename them"):
        chosen(pack(["7", "8", "7"]), "7,8")


def test_numbers_that_are_names_are_not_mixed_with_places(pack):
    path = pack([str(number) for number in range(1, 13)])
    for classes in ("0,2", "2,0", "1,2,0"):
        with pytest.raises(UsageError, match=r"has [12], the name of class [01], and 0, which is no name and would be"):
            chosen(path, classes)
    assert chosen(path, "1,2,12") == [0, 1, 11]
    sorted_names = pack(sorted(map(str, range(12))))  # 0, 1, 10, 11, 2, …
    assert chosen(sorted_names, "2,10") == [2, 4]
    hundreds = pack(["100", "200", "300"])
    assert chosen(hundreds, "0,2") == [0, 2] and chosen(hundreds, "100,300") == [0, 2]
    with pytest.raises(UsageError, match="has 100, the name of class 0, and 1, which is no name"):
        chosen(hundreds, "100,1")
    assert chosen(pack(["cat", "dog", "elk"]), "0,elk") == [0, 2]


def test_text_in_a_class_map_is_no_place_beside_names_that_are_numbers():
    network = build_network("resnet8", num_classes=3)
    network.recipe = {**network.recipe, "classes": ("1", "2", "3")}
    with pytest.raises(UsageError, match="has '0', which is none of its own classes"):
        apply_class_map(network, {"0": "a", "2": "b"}, 2, ["a", "b"], "it")
    apply_class_map(network, {0: "a", "2": "b"}, 2, ["a", "b"], "it")  # a number is a place
    assert network.recipe["classes"] == ("a", "b", "3")
