"""What a cost counts does not depend on the order of the names, nor on what an option of one's own data is called."""

import pytest
import torch
from pydantic import Field

import contrastill
from contrastill.core.config.loading import load_config
from contrastill.core.registry import DATASETS
from contrastill.datasets.io.in_memory import AugmentOptions, TensorSplit
from contrastill.datasets.io.views import PaddedImages
from contrastill.evaluation.cost import data_size
from contrastill.evaluation.trained_size import size_keys
from contrastill.models.build import build_network, save_student


@pytest.fixture
def twelve(tmp_path):
    path = tmp_path / "twelve.safetensors"
    save_student(build_network("resnet14", num_classes=12), path)
    return f"resnet14@{path}"


def parameters(names):
    rows = contrastill.measure_cost(names, size=16, rounds=1).rows
    return {row.network: row.cost.parameters for row in rows}


def test_networks_without_weights_have_the_classes_of_the_others_in_any_order(twelve, tmp_path, capsys):
    expected = contrastill.measure_cost("resnet8", size=16, classes=12, rounds=1).rows[0].cost.parameters
    for names in (["resnet8", twelve], [twelve, "resnet8"]):
        assert parameters(names)["resnet8"] == expected
    assert capsys.readouterr().err == ""
    save_student(build_network("resnet14", num_classes=5), tmp_path / "five.safetensors")
    five = f"resnet14@{tmp_path / 'five.safetensors'}"
    expected = contrastill.measure_cost("resnet8", size=16, rounds=1).rows[0].cost.parameters  # 1000
    for names in (["resnet8", twelve, five], [five, "resnet8", twelve]):
        assert parameters(names)["resnet8"] == expected
        output = capsys.readouterr()
        assert (
            "resnet8 without weights: counted with 1000 classes, as the numbers of classes of the others differ (5, 12)"
            in output.err + output.out
        )


@pytest.fixture(scope="module")
def dots():
    """A data set whose option ``size`` is how many samples it has."""

    class Dots:
        class Options(AugmentOptions):
            size: int = Field(64, gt=0)

        def __init__(self, options):
            self.options = options

        def open(self, split):
            count = self.options.size
            images = PaddedImages.zeros(count, 16, 20, 3, dtype=torch.uint8, padding=0)
            return TensorSplit({"rgb": images}, targets=torch.arange(count) % 2, num_classes=2)

    name = "dots_of_a_test"
    DATASETS.register(name)(Dots)
    yield name
    del DATASETS._entries[name], DATASETS._specs[name]


def test_the_option_size_of_ones_own_data_is_no_number_of_pixels(dots, tmp_path):
    config = load_config("teachers/rooms", [f"data={{name: {dots}, size: 48}}", f"out={tmp_path}"])
    assert data_size(config, None, "rgb") == (16, 20)
    assert data_size(load_config("teachers/rooms", ["data.size=24", "out=x"]), None, "rgb") == 24
    assert size_keys(dots, "data.size") == [] and size_keys("rooms", "data.size") == ["data.size"]
