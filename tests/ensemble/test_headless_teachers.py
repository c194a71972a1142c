"""A teacher without a classifier has no logits that a rule could weigh it by."""

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

import contrastill
from contrastill.core.errors import UsageError


def backbone():
    return nn.Sequential(nn.Conv2d(3, 6, 3, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())


def classifier():
    return nn.Sequential(*backbone(), nn.Linear(6, 3))


def of_timm():
    return pytest.importorskip("timm").create_model("test_vit", num_classes=0, img_size=16, patch_size=4)


def own():
    return {"model": backbone(), "embedding": "output:"}


@pytest.mark.parametrize("rule", ["entropy", "confidence"])
@pytest.mark.parametrize("headless", [of_timm, own])
def test_rules_that_read_logits_refuse_a_teacher_that_returns_its_embedding(tmp_path, headless, rule):
    data = TensorDataset(torch.randint(256, (12, 3, 16, 16), dtype=torch.uint8), torch.arange(12) % 3)
    with pytest.raises(UsageError, match=f"ensemble.rule={rule} .* teacher 0 returns its embedding, as a network"):
        contrastill.distill(
            [headless(), classifier()],
            classifier(),
            data,
            out=tmp_path / "run",
            objectives={"crd": 1.0},
            ensemble={"rule": rule},
            epochs=1,
            quiet=True,
        )
