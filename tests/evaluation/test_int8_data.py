"""What `export --int8` cannot measure on the data that were named is refused in a sentence."""

import h5py
import numpy as np
import pytest
import torch
from torch.utils.data import TensorDataset

import contrastill
from contrastill.core.errors import UsageError


def test_classes_of_a_probe_are_refused_where_all_samples_are_taken(four_classes, tmp_path):
    contrastill.distill(None, "resnet8", str(four_classes), out=str(tmp_path / "run"), epochs=1, quiet=True)
    for data in (f"packed:{four_classes},classes=[0,1]", "rooms,size=8,train_samples=24,classes=[chair,table]"):
        for int8 in (True, False):
            with pytest.raises(UsageError, match="classes=.*chooses what a probe measures, and an export takes all"):
                contrastill.export_run(tmp_path / "run", tmp_path / "s.onnx", int8=int8, data=data)
        with pytest.raises(UsageError, match="chooses what a probe measures, and a description takes all samples"):
            contrastill.describe_data(data)
    assert not [*tmp_path.glob("s*")]


def test_a_student_of_several_classes_has_no_top1(tmp_path):
    images = torch.randint(0, 256, (32, 3, 12, 12), dtype=torch.uint8)
    marks = (torch.arange(32)[:, None] % torch.tensor([2, 3, 4]) == 0).float()
    data = (TensorDataset(images[:20], marks[:20]), TensorDataset(images[20:], marks[20:]))
    contrastill.distill(None, "resnet8", data, out=tmp_path / "run", epochs=1, quiet=True)
    with h5py.File(tmp_path / "single.h5", "w") as file:
        for split in ("train", "test"):
            file[f"{split}/rgb"] = images.permute(0, 2, 3, 1).numpy()
            file[f"{split}/target"] = np.arange(32) % 3
    with pytest.raises(UsageError, match="--int8 measures top-1, and the student of .* any number of classes for each"):
        contrastill.export_run(tmp_path / "run", tmp_path / "s.onnx", int8=True, data=f"packed:{tmp_path}/single.h5")
    assert not [*tmp_path.glob("s.*")]
