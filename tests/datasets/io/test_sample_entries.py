"""A sample's entries and a dataset's names: nothing that could be two things, and no order that a set lacks."""

import logging
import re
from collections import namedtuple

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import Dataset, TensorDataset

import contrastill
from contrastill.core.errors import ContrastillError, UsageError
from contrastill.datasets.io.camera import warn_of_unit
from contrastill.datasets.io.user_samples import UserSamples
from contrastill.datasets.user_dataset import UserDataset
from contrastill.models.module_facts import module_classes

RGB = np.random.default_rng(0).integers(0, 256, (8, 8, 8, 3)).astype(np.uint8)


class Samples(Dataset):
    """Dicts: the image under ``image``, and what is given."""

    def __init__(self, **entries):
        self.entries = entries

    def __len__(self):
        return len(RGB)

    def __getitem__(self, row):
        return {name: values[row] for name, values in {"image": RGB, **self.entries}.items()}


def test_two_entries_for_one_thing_are_refused():
    labels = np.arange(8) % 2
    with pytest.raises(
        UsageError, match="sample 0 of Samples holds both 'target' and 'label', and either .* its class"
    ):
        UserSamples(Samples(label=labels, target=1 - labels))
    with pytest.raises(UsageError, match="sample 0 of Samples holds both 'rgb' and 'image', and either .* its picture"):
        UserSamples(Samples(rgb=RGB // 2, label=labels))


def test_whole_numbers_of_unlabelled_samples_are_named():
    unlabelled = UserSamples(Samples(labels=np.arange(8) % 2))
    (note,) = unlabelled.notes
    assert "samples of Samples have no target or label, so they are unlabelled: what is called labels is" in note
    assert unlabelled.targets is None
    assert not UserSamples(Samples(label=np.arange(8) % 2, patient=np.arange(8))).notes
    assert not UserSamples(Samples()).notes


@pytest.mark.parametrize("kind", [set, frozenset])
@pytest.mark.parametrize("attribute", ["classes", "class_to_idx"])
def test_names_in_a_set_are_refused(kind, attribute):
    data = TensorDataset(torch.from_numpy(RGB).permute(0, 3, 1, 2), torch.arange(8) % 2)
    setattr(data, attribute, kind(["cat", "dog"]))
    with pytest.raises(
        UsageError, match=f"TensorDataset.classes is a {kind.__name__}, which has no order, and a class"
    ):
        UserSamples(data)


def test_a_modules_names_in_a_set_are_refused():
    module = nn.Linear(2, 2)
    module.classes = {"cat", "dog"}
    with pytest.raises(UsageError, match="the attribute classes of Linear is a set, which has no order"):
        module_classes(module)
    module.classes = {3, 4}  # an affair of its own
    assert module_classes(module) is None


def test_a_set_is_no_list_where_the_order_counts():
    with pytest.raises(UsageError, match="mean is {0.5}: pass a list"):
        contrastill.Preprocess({0.5}, (1.0,))
    with pytest.raises(ContrastillError, match="maps is {'layer1'}: pass a list"):
        contrastill.Taps(maps={"layer1"})


@pytest.mark.parametrize("names", ["depth target", "target depth", "image depth label", "img depth target"])
def test_fields_of_a_namedtuple_are_read_by_their_names(names):
    kind, values = namedtuple("Sample", names), {"depth": np.full((8, 9), 2.0, np.float32)}
    values |= {name: np.zeros((8, 9, 3), np.uint8) for name in ("image", "img")} | {"target": 3, "label": 3}
    samples = [kind(*(values[name] for name in names.split())) for _ in range(4)]
    split = UserDataset(samples)(UserDataset.Options()).open("train")
    assert split.modalities["depth"] == (1, 8, 9) and split.targets.tolist() == [3] * 4
    assert ("rgb" in split.modalities) == ("image" in names)
    assert not split.samples.notes


@pytest.mark.parametrize("names", ["image label", "img target", "x y", "a b"])
def test_a_namedtuple_of_an_image_and_its_label_is_read_by_place(names):
    samples = [namedtuple("Sample", names)(np.zeros((8, 9, 3), np.uint8), 3)] * 4
    split = UserDataset(samples)(UserDataset.Options()).open("train")
    assert [*split.modalities] == ["rgb"] and split.targets.tolist() == [3] * 4


def test_the_share_of_depth_below_0_is_of_classes_that_take_turns(caplog):
    samples = [{"depth": np.full((4, 4), value, np.float32), "target": 0} for value in (-1.5, 2.0, 3.0, 4.0) * 8]
    samples += [{"depth": np.full((4, 4), 2.5, np.float32), "target": 0}]
    with caplog.at_level(logging.WARNING):
        UserDataset(samples)(UserDataset.Options()).open("train")
        warn_of_unit(torch.full((2, 4, 4), -4.0), "m", "all")
    shares = [re.search(r"\(m; (.*) of the values read\)", line).group(1) for line in caplog.messages if "(m; " in line]
    assert shares[1:] == ["100 %"] and int(shares[0].removesuffix(" %")) < 60
