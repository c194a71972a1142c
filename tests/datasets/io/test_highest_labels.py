"""Labels that are marks or identifiers end in a sentence: nothing is made as long as the highest of them."""

import logging
import subprocess
import sys

import h5py
import numpy as np
import pytest
import torch
from torch.utils.data import TensorDataset

import contrastill
from contrastill.core.errors import ContrastillError, UsageError
from contrastill.datasets.io.split_agreement import check_splits
from contrastill.datasets.packed import Packed
from contrastill.probe.features import Features
from contrastill.probe.few_shot import few_shot
from contrastill.probe.linear import fit_probe
from contrastill.probe.neighbours import knn

RGB = np.random.default_rng(0).integers(0, 256, (12, 6, 6, 3)).astype(np.uint8)


def packed(tmp_path, target, *, test_target=None, **maps):
    path = tmp_path / "own.h5"
    with h5py.File(path, "w") as file:
        for split in ("train", "test"):
            labels = target if split == "train" or test_target is None else test_target
            for name, values in {"rgb": RGB, "target": labels, **maps}.items():
                file[f"{split}/{name}"] = values
    return path


def marked(dtype, mark):
    labels = (np.arange(12) % 3).astype(dtype)
    labels[5] = mark
    return labels


_OPEN = """
import resource, sys
resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30))
from contrastill.datasets.packed import Packed
Packed(Packed.Options(path=sys.argv[1])).open("train")
"""


def test_a_mark_of_32_bits_is_refused_in_little_memory(tmp_path):
    path = packed(tmp_path, marked(np.uint32, 2**32 - 1))
    done = subprocess.run([sys.executable, "-c", _OPEN, path], capture_output=True, text=True, timeout=100)
    assert "UsageError: labels go to 4294967295 (−1 in 32 unsigned bits, a mark for none?), as if" in done.stderr


@pytest.mark.parametrize(("dtype", "mark"), [("int32", 2**31 - 1), ("int64", 2**24), ("uint32", 2**32 - 1)])
def test_marks_are_refused_where_a_packed_file_is_opened(tmp_path, dtype, mark):
    path = packed(tmp_path, marked(dtype, mark))
    with pytest.raises(UsageError, match=f"labels go to {mark}.* as if there were as many classes.* without a class"):
        Packed(Packed.Options(path=str(path))).open("train")


def test_gaps_are_counted_without_a_list_of_them(tmp_path, caplog):
    path = packed(tmp_path, marked(np.int64, 2**24 - 1))
    with caplog.at_level(logging.WARNING):
        Packed(Packed.Options(path=str(path))).open("train")
    assert f"no training sample is of class 3, 4, 5 and {2**24 - 1 - 6} more" in caplog.text


def test_a_dataset_of_ones_own_has_the_line_about_gaps_too(tmp_path, caplog):
    data = TensorDataset(torch.from_numpy(RGB).permute(0, 3, 1, 2), torch.from_numpy(marked(np.int64, 255)))
    with caplog.at_level(logging.WARNING):
        contrastill.distill(None, "resnet8", (data, data), out=tmp_path / "out", epochs=1, batch_size=6, quiet=True)
    assert "TensorDataset: no training sample is of class 3, 4, 5 and 249 more" in caplog.text


def test_classes_of_the_test_split_alone_are_named(tmp_path, caplog):
    labels = torch.arange(12) % 3
    images = torch.from_numpy(RGB).permute(0, 3, 1, 2)
    pair = (TensorDataset(images, labels), TensorDataset(images, labels + 1))
    line = (
        "no training sample is of class 3, and 4 of the 12 test samples are, which nothing teaches: number both splits "
        "alike, or train on these classes too"
    )
    for data in (pair, str(packed(tmp_path, labels.numpy(), test_target=labels.numpy() + 1))):
        caplog.clear()
        contrastill.distill(None, "resnet8", data, out=tmp_path / str(len(data)), epochs=1, batch_size=6, quiet=True)
        assert [record.getMessage() for record in caplog.records if "class" in record.getMessage()] == [line]


@pytest.mark.parametrize("name", ["Depth", "RGB", "Semantics", "Normals"])
def test_a_modality_in_capitals_is_refused_by_its_name(tmp_path, name):
    maps = {name: np.zeros((12, 6, 6), np.uint16)}
    path = packed(tmp_path, np.arange(12) % 3, **maps)
    data = Packed(Packed.Options(path=str(path), fields={"rgb": "rgb", name: name}))
    with pytest.raises(UsageError, match=f"the samples have {name}, .* call it {name.lower()}"):
        check_splits(data.open("train"), data.open("test"))
    # A modality of one's own is called as one likes.
    data = Packed(Packed.Options(path=str(path), fields={"rgb": "rgb", "Tactile": name}))
    check_splits(data.open("train"), data.open("test"))


@pytest.mark.parametrize(("limit", "warns"), [(3, True), (5, False), (12, False)])
def test_a_test_split_of_few_classes_has_a_line(tmp_path, caplog, limit, warns):
    data = Packed(Packed.Options(path=str(packed(tmp_path, np.arange(12) % 4)), limit=limit))
    check_splits(data.open("train"), data.open("test"))
    assert ("the 3 test samples are of 1 of the 4 classes, so accuracies say nothing" in caplog.text) is warns


def test_a_probe_refuses_marks_before_it_fits_a_class_for_each():
    features = Features(torch.randn(12, 4), torch.from_numpy(marked(np.int64, 2**32 - 1)))
    for probe, options in ((fit_probe, {"layer": "embedding"}), (knn, {}), (few_shot, {})):
        with pytest.raises(UsageError, match="labels go to 4294967295"):
            probe(features, features, **options)


def test_wide_label_maps_name_the_way_out(tmp_path):
    maps = np.ones((12, 6, 6), np.uint32)
    maps[0, 0, 0] = 2**32 - 1
    options = {"path": str(packed(tmp_path, marked(np.int64, 1), semantics=maps)), "fields": {"semantics": "semantics"}}
    with pytest.raises(ContrastillError, match="beyond 31 bits: set data.void=4294967295 if it stands for no label"):
        Packed(Packed.Options(**options)).open("train")
    opened = Packed(Packed.Options(**options, void=2**32 - 1)).open("train")
    assert opened.images["semantics"].interior.max() == 1
