"""Students of teachers that predict a quantity: what they learn by default, and what is measured of them."""

import h5py
import pytest
import torch
from torch import nn
from torch.utils.data import Dataset

import contrastill
from contrastill.core.errors import UsageError
from contrastill.core.representation import Representation
from contrastill.ensemble.rules import Average
from contrastill.objectives.mlkd import MLKD

TINY = {"epochs": 1, "quiet": True, "batch_size": 8}


class Depths(Dataset):
    """Images as bright as the depth that comes with them."""

    def __len__(self):
        return 24

    def __getitem__(self, index):
        depth = 1 + 4 * torch.rand(4, 4, generator=torch.Generator().manual_seed(index))
        depth = depth.repeat_interleave(4, 0).repeat_interleave(4, 1)
        return {"rgb": (depth / 5).expand(3, 16, 16), "depth": depth}


class Relative(nn.Module):
    """Knows depth up to a scale and a shift."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 1, 1)

    def forward(self, images):
        return 7 * images[:, :1] + 100 + 0 * self.conv(images)


def test_a_student_of_a_depth_teacher_predicts_depth_by_default(tmp_path):
    run = contrastill.distill(Relative(), "unet/resnet8", (Depths(), Depths()), out=tmp_path, **TINY)
    assert {*run.config.objectives} == {"scale_invariant", "dense_regression"}
    assert run.config.student.num_classes == 1
    assert "delta1" in run.metrics


@pytest.mark.parametrize("free", [True, False])
def test_measures_of_a_student_without_a_scale_have_a_line(tmp_path, caplog, free):
    objectives = {"dense_regression": {"scale_invariant": free}}
    with h5py.File(tmp_path / "depths.h5", "w") as file:
        samples = [Depths()[index] for index in range(24)]
        for split in ("train", "test"):
            rgb = torch.stack([sample["rgb"] for sample in samples]).permute(0, 2, 3, 1)
            file[f"{split}/rgb"] = (255 * rgb).to(torch.uint8).numpy()
            file[f"{split}/depth"] = torch.stack([sample["depth"] for sample in samples]).numpy()
    data = {"path": tmp_path / "depths.h5", "fields": {"rgb": "rgb", "depth": "depth"}}
    student = {"model": "unet/resnet8", "num_classes": 1}
    contrastill.distill(Relative(), student, data, out=tmp_path / "run", objectives=objectives, **TINY)
    assert ("up to a scale and a shift" in caplog.text) == free
    caplog.clear()
    contrastill.evaluate_runs([tmp_path / "run"], progress=False)
    assert ("up to a scale and a shift" in caplog.text) == free


def test_average_reads_teachers_at_one_temperature():
    student, *teachers = (Representation(logits=3 * torch.randn(6, 5)) for _ in range(3))
    with pytest.raises(UsageError, match="reads them at 2, 4: set a single one, or rule=sum"):
        Average()([MLKD((2.0, 4.0))] * 2, student, teachers, {})
    mean = torch.stack([(teacher.logits / 4).softmax(1) for teacher in teachers]).mean(0)
    one = MLKD((4.0,))(student, Representation(logits=4 * mean.log()), {})
    assert torch.allclose(Average()([MLKD((4.0,))] * 2, student, teachers, {}), one, atol=1e-5)
