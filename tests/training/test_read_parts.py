"""What objectives read of networks: what is cached of it, tapped, and measured."""

import h5py
import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import Dataset, TensorDataset

import contrastill
from contrastill.core.errors import UsageError
from contrastill.core.registry import OBJECTIVES

TINY = {"epochs": 1, "quiet": True, "batch_size": 8}
IMAGES = torch.rand(24, 3, 16, 16, generator=torch.Generator().manual_seed(0))


class Unlabelled(Dataset):
    """Images alone."""

    def __len__(self):
        return len(IMAGES)

    def __getitem__(self, index):
        return IMAGES[index]


class LabelMaps(Dataset):
    """Images with label maps of five classes, and none for the sample."""

    semantic_classes = ("unlabelled", "a", "b", "c", "d", "e")

    def __len__(self):
        return len(IMAGES)

    def __getitem__(self, index):
        labels = torch.randint(0, 6, (16, 16), generator=torch.Generator().manual_seed(index))
        return {"rgb": IMAGES[index], "semantics": labels}


class TwoAnswers(nn.Module):
    """Answers for each position and for the sample."""

    def __init__(self):
        super().__init__()
        self.conv, self.seg, self.fc = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 5, 1), nn.Linear(6, 7)

    def forward(self, images):
        maps = self.conv(images).relu()
        return {"seg": self.seg(maps), "cls": self.fc(maps.mean((2, 3)))}


class Pooled(nn.Module):
    """A classifier of so many logits."""

    def __init__(self, logits, width=8):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, width, 3), nn.Linear(width, logits)

    def forward(self, images):
        return self.fc(self.conv(images).relu().mean((2, 3)))


@pytest.mark.parametrize(
    ("objective", "reads"),
    [("binary_kd", "each class on its own"), ({"kd": {"standardize": True}}, "standardised logits of all classes")],
)
def test_what_reads_no_softmax_refuses_a_cache_of_the_largest_logits(tmp_path, objective, reads):
    with pytest.raises(UsageError, match=f"cache.logits=2 keeps the largest .* reads {reads}: set cache.logits=all"):
        contrastill.distill(
            Pooled(5),
            Pooled(5),
            Unlabelled(),
            out=tmp_path,
            objectives=objective,
            views=1,
            **TINY,
            **{"cache.logits": 2},
        )


def test_what_reads_a_softmax_takes_a_cache_of_the_largest_logits(tmp_path):
    contrastill.distill(
        Pooled(5), Pooled(5), Unlabelled(), out=tmp_path, objectives="kd", views=1, **TINY, **{"cache.logits": 2}
    )


@pytest.mark.parametrize("logits", ["fc", "output:cls"])
def test_taps_that_name_both_answers_are_refused(tmp_path, logits):
    network = contrastill.Network(
        TwoAnswers(),
        taps=contrastill.Taps(logits=logits, prediction="output:seg", maps=("conv",)),
        preprocess=contrastill.Preprocess((0.0,) * 3, (1.0,) * 3),
    )
    with pytest.raises(UsageError, match=rf"name logits \({logits}\) and a prediction \(output:seg\).*: leave out"):
        contrastill.distill(
            None, network, (LabelMaps(), LabelMaps()), out=tmp_path, objectives="pixel_cross_entropy", **TINY
        )


def test_cwd_of_maps_is_no_objective_on_predictions(tmp_path):
    data = TensorDataset((255 * IMAGES).to(torch.uint8), torch.arange(24) % 4)
    of_maps = {"features": "maps", "weight": 1.0, "pair": [1, 1]}
    teacher = contrastill.distill(None, "resnet8", (data, data), out=tmp_path / "teacher", **TINY).out
    student = contrastill.distill(
        teacher,
        "resnet8",
        (data, data),
        out=tmp_path / "x",
        objectives={"cross_entropy": 1.0, "cwd": of_maps},
        views=1,
        **TINY,
    )
    assert student.metrics["cwd"] >= 0
    assert OBJECTIVES["cwd"].needs_with({}) == {"prediction"}


def test_a_segmenter_that_learnt_by_maps_alone_has_no_miou(tmp_path, caplog):
    data = (LabelMaps(), LabelMaps())
    teacher = contrastill.distill(None, "linear/resnet8", data, out=tmp_path / "teacher", **TINY).out
    contrastill.distill(
        teacher,
        "linear/resnet8",
        data,
        out=tmp_path / "x",
        objectives={"cwd": {"features": "maps", "weight": 1.0}},
        views=1,
        **TINY,
        **{"cache.prediction": 2},
    )
    with h5py.File(tmp_path / "maps.h5", "w") as file:
        file.attrs["semantic_classes"] = LabelMaps.semantic_classes
        for split in ("train", "test"):
            file[f"{split}/rgb"] = (255 * IMAGES.permute(0, 2, 3, 1)).to(torch.uint8).numpy()
            file[f"{split}/semantics"] = np.stack([LabelMaps()[n]["semantics"].numpy() for n in range(24)]).astype("u1")
    other = {
        "evaluation.data": {
            "name": "packed",
            "path": str(tmp_path / "maps.h5"),
            "fields": {"rgb": "rgb", "semantics": "semantics"},
        }
    }
    with pytest.raises(UsageError, match="nothing of .* can be measured"):
        contrastill.evaluate_runs([tmp_path / "x"], other, progress=False)
    assert "none of cwd reads them, so it has no accuracy" in caplog.text


def test_map_of_labels_that_mark_nothing_is_left_out(tmp_path, caplog):
    marks = (torch.arange(72).view(24, 3) % 2).float()
    with h5py.File(tmp_path / "none.h5", "w") as file:
        for split in ("train", "test"):
            file[f"{split}/rgb"] = (255 * IMAGES.permute(0, 2, 3, 1)).to(torch.uint8).numpy()
            file[f"{split}/target"] = np.zeros((24, 3), np.float32) if split == "test" else marks.numpy()
    data = TensorDataset((255 * IMAGES).to(torch.uint8), marks)
    contrastill.distill(None, "resnet8", (data, data), out=tmp_path / "x", **TINY)
    other = {"evaluation.data": {"name": "packed", "path": str(tmp_path / "none.h5")}}
    result = contrastill.evaluate_runs([tmp_path / "x"], other, progress=False)
    assert "no sample is marked with a class, so no mAP is measured" in caplog.text
    assert "NaN" not in str(result.to_dict()) and "nan" not in str(result.to_dict())


def test_binary_kd_takes_a_single_logit(tmp_path):
    student = contrastill.distill(Pooled(1), Pooled(1, 4), Unlabelled(), out=tmp_path, objectives="binary_kd", **TINY)
    assert student.metrics["binary_kd"] >= 0
