"""Arguments of the one call that are of no use or mean nothing: refused in a sentence, and nothing is written."""

import pytest
import torch
from torch.utils.data import TensorDataset

import contrastill
from contrastill.core.errors import UsageError

LABELS = torch.arange(32) % 4
IMAGES = torch.randint(0, 256, (32, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def distilled(folder, teacher=None, data=None, **options):
    data = TensorDataset(IMAGES, LABELS) if data is None else data
    options = {"epochs": 1, "batch_size": 16, "quiet": True, **options}
    return contrastill.distill(teacher, "resnet8", data, out=folder / "run", **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": True}, "train.batch_size='True' is not allowed: input should be a valid integer"),
        ({"lr": True}, "train.lr='True' is not allowed: input should be a valid number"),
        ({"mixup": True}, "train.mixup='True'"),
        ({"views": True}, "train.views='True'"),
        ({"objectives": {"cross_entropy": True}}, "objectives.cross_entropy.weight='True'"),
        ({"objectives": {"cross_entropy": None}}, "objectives is empty"),
        ({"objectives": {"kd": 1, contrastill.KD: 1}}, "objectives has the class KD, and takes names: register the cl"),
        (
            {"objectives": [contrastill.KD()]},
            r"objectives has a KD, .*@contrastill.OBJECTIVES.register\(\"NAME\"\) abo",
        ),
        ({"objectives": ["cross_entropy", 3]}, "objectives has 3: pass names, such as kd"),
        ({"milestones": [0.5, True]}, "train.milestones.1='True'"),
    ],
)
def test_an_override_that_is_no_value_of_its_key(options, message, tmp_path):
    with pytest.raises(UsageError, match=message):
        distilled(tmp_path, **options)
    assert not (tmp_path / "run").exists()


def test_none_takes_an_objective_out(tmp_path):
    result = distilled(tmp_path, objectives={"cross_entropy": 1.0, "kd": None}, drop_last=True)
    assert [*result.config.objectives] == ["cross_entropy"] and result.config.train.drop_last
