"""A modality of a user's own whose code changed since a network was trained on it is named where that is used."""

import pytest
import torch
from torch.utils.data import Dataset

import contrastill
from contrastill.core.registry import MODALITIES
from contrastill.models.recipe import read_recipe
from contrastill.xmodal.modalities import modality
from contrastill.xmodal.recorded_modality import KEY, is_made_otherwise, recorded

SHAPES = {"rgb": (3, 16, 16), "depth": (1, 16, 16), "thermal": (2, 16, 16)}


class Pairs(Dataset):
    """Colours of four classes."""

    rgb = torch.randint(0, 256, (16, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))

    def __len__(self):
        return 16

    def __getitem__(self, index):
        return {"rgb": self.rgb[index], "target": index % 4}


@pytest.fixture
def made():
    """Registers functions as modalities for the length of a test; a second one of a name is in place of the first."""
    names = []

    def register(function, name="sharpened", **options):
        MODALITIES._entries.pop(name, None)
        modality(name, **{"of": "rgb", "channels": 1, **options})(function)
        names.append(name)

    yield register
    for name in names:
        MODALITIES._entries.pop(name, None)


def sharpened(rgb):
    grey = rgb.float().mean(1, keepdim=True) / 255
    return grey - torch.nn.functional.avg_pool2d(grey, 3, 1, 1)


def doubled(rgb):
    return 2 * sharpened(rgb)


def test_a_changed_function_is_named_where_its_network_is_used(tmp_path, made, caplog):
    made(sharpened)
    data, options = (Pairs(), Pairs()), {"epochs": 1, "batch_size": 8, "quiet": True}
    contrastill.distill(
        None, "resnet8", data, out=tmp_path / "run", student_modality="sharpened", objectives="cross_entropy", **options
    )
    teacher = {"objectives": "kd", "student_modality": "rgb", **options}
    contrastill.distill(tmp_path / "run", "resnet8", data, out=tmp_path / "same", **teacher)
    assert "is made otherwise" not in caplog.text
    made(doubled)
    contrastill.distill(tmp_path / "run", "resnet8", data, out=tmp_path / "other", **teacher)
    assert "modality sharpened (" in caplog.text and "doubled) is made otherwise now than when" in caplog.text


@pytest.mark.parametrize(
    ("function", "options"),
    [
        (sharpened, {}),
        (lambda depth: depth.log().diff(dim=-1, append=depth[..., -1:]), {"of": "depth"}),
        (lambda values, camera: values * camera[:, :1, None, None], {"of": "depth", "intrinsics": True}),
        (lambda thermal: thermal.float().where(thermal > 3, torch.nan), {"of": "thermal", "channels": 2}),
    ],
)
def test_the_same_function_is_known_again(made, function, options):
    made(function, **options)
    recipe = {KEY: recorded("sharpened", SHAPES)}
    assert recipe[KEY] is not None and not is_made_otherwise("sharpened", recipe)
    made(lambda *values: 1.01 * function(*values), **options)
    assert is_made_otherwise("sharpened", recipe)


def test_what_is_not_recorded(made):
    made(lambda rgb: rgb.float() + torch.rand(rgb.shape), channels=3)  # of noise nobody knows what it should be
    assert recorded("sharpened", SHAPES) is None
    assert recorded("grey", SHAPES) is None and recorded("rgb", SHAPES) is None
    assert not is_made_otherwise("sharpened", {})
    made(lambda rgb: rgb[:, :, 64:].float())  # fails on small ones
    assert recorded("sharpened", SHAPES) is None


def test_a_run_on_a_stored_modality_records_none(tmp_path):
    contrastill.distill(
        None, "resnet8", (Pairs(), Pairs()), out=tmp_path, objectives="cross_entropy", epochs=1, quiet=True
    )
    assert KEY not in read_recipe(tmp_path / "student.safetensors")
