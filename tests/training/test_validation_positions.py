"""With samples apart for validation: bad batches name positions in the data set, and an evaluation on the way sees
what the training saw.
"""

import json

import h5py
import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import Dataset

import contrastill
from contrastill.core.config.loading import load_config
from contrastill.core.errors import ContrastillError
from contrastill.core.run import Run
from contrastill.datasets.io.in_memory import TensorSplit
from contrastill.datasets.io.subset import subset
from contrastill.datasets.io.views import PaddedImages
from contrastill.evaluation.networks import EvaluatedNetworks
from contrastill.training import engine

BAD = (41, 45, 50, 55, 60)
OPTIONS = {"epochs": 1, "batch_size": 1, "objectives": "cross_entropy", "quiet": True}


class Numbered(Dataset):
    """Images that are as bright as their position is high."""

    targets = [place % 4 for place in range(64)]

    def __len__(self):
        return 64

    def __getitem__(self, place):
        return torch.full((3, 8, 8), place / 64), place % 4


class BadForSome(nn.Module):
    """NaN in training for the images at the positions of BAD."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3, 4)

    def forward(self, images):
        answers = self.fc(images.mean((2, 3)))
        place = round(float(images.max()) * 64)
        return answers * torch.nan if self.training and place in BAD else answers


@pytest.mark.parametrize("share", [None, 0.25])
def test_skipped_batches_name_positions_in_the_data_set(tmp_path, share):
    out = tmp_path / "run"
    contrastill.distill(
        None, BadForSome(), (Numbered(), Numbered()), out=out, on_nan="skip", validation=share, **OPTIONS
    )
    lines = (out / "skipped_batches.jsonl").read_text().splitlines()
    (places,) = zip(*(json.loads(line)["indices"] for line in lines), strict=True)
    assert {*places} <= {*BAD} and len(places) >= (3 if share else 5)


def test_the_bad_batch_names_positions_in_the_data_set(tmp_path):
    out = tmp_path / "run"
    with pytest.raises(ContrastillError, match=r"bad_batch\.json"):
        contrastill.distill(
            None, BadForSome(), (Numbered(), Numbered()), out=out, validation=0.25, drop_last=True, **OPTIONS
        )
    assert json.loads((out / "bad_batch.json").read_text())["indices"][0] in BAD


def test_a_part_of_a_part_has_the_positions_of_the_whole():
    images = PaddedImages.zeros(8, 2, 2, 3, dtype=torch.uint8, padding=0)
    whole = TensorSplit({"rgb": images}, targets=torch.arange(8) % 2, num_classes=2)
    part = subset(subset(whole, torch.tensor([1, 4, 6, 7])), torch.tensor([0, 3]))
    assert part.positions.tolist() == [1, 7]


def test_an_unfinished_run_is_measured_as_it_is_trained(tmp_path, monkeypatch):
    """Mean and deviation of a modality are of the samples that were trained on, not of those for validation too."""
    generator = np.random.default_rng(0)
    with h5py.File(tmp_path / "depth.h5", "w") as file:
        for split, count in (("train", 60), ("test", 20)):
            file[f"{split}/depth"] = generator.integers(500, 4000, (count, 8, 8)).astype(np.uint16)
            file[f"{split}/target"] = np.arange(count) % 2
    overrides = {
        "data.path": str(tmp_path / "depth.h5"),
        "data.fields": {"depth": "depth"},
        "student.model": "resnet8",
        "student.modality": "depth",
        "train.epochs": 2,
        "train.batch_size": 16,
        "train.validation": 0.3,
        "out": str(tmp_path / "run"),
    }
    epoch = engine._Training._epoch

    def first_epoch(training):
        if training.position.epoch:
            raise ContrastillError("stopped")
        return epoch(training)

    monkeypatch.setattr(engine._Training, "_epoch", first_epoch)
    with pytest.raises(ContrastillError, match="stopped"):
        contrastill.train("teachers/cifar100", overrides, progress=False)
    measured = EvaluatedNetworks(Run(tmp_path / "run"), load_config(str(tmp_path / "run/config.yaml"))).student()
    assert measured.is_early
    monkeypatch.setattr(engine._Training, "_epoch", epoch)
    contrastill.train("teachers/cifar100", overrides, progress=False)
    trained = contrastill.load_student(tmp_path / "run").preprocess
    seen = measured.network.preprocess
    assert (seen.mean, seen.std) == (trained.mean, trained.std)
