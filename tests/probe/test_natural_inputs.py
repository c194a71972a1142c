"""What people pass to a probe: a student as it is loaded, datasets of their own; label maps without a label."""

import pytest
import torch
from torch.utils.data import TensorDataset

import contrastill
from contrastill.core.errors import UsageError
from contrastill.datasets.rendered_rooms import Rooms
from contrastill.models.build import build_network, load_student, save_student
from contrastill.probe.segmentation import segment

TARGETS = torch.arange(24) % 3
IMAGES = (60 * TARGETS[:, None, None, None] + torch.randint(0, 40, (24, 3, 16, 16))).to(torch.uint8)


def test_a_loaded_student_is_probed_on_datasets(tmp_path):
    network = build_network("resnet8", num_classes=3)
    save_student(network, tmp_path / "student.safetensors")
    data = TensorDataset(IMAGES, TARGETS)
    data.loader, data.epoch = open, 3  # of the dataset's own, as ImageFolder of torchvision has a loader
    result = contrastill.linear_probe(load_student(tmp_path / "student.safetensors"), data, data)
    assert result.num_train == result.num_test == 24
    assert result.top1 == contrastill.linear_probe(network, data, data).top1 > 90


def test_a_module_that_says_nothing_is_refused():
    data = TensorDataset(IMAGES, TARGETS)
    with pytest.raises(
        UsageError, match="a Flatten does not say where its representation is: pass contrastill.Network"
    ):
        contrastill.linear_probe(torch.nn.Flatten(), data, data)


def test_label_maps_without_a_label_are_no_task():
    rooms = Rooms(Rooms.Options(size=16, train_samples=8, test_samples=8))
    network = build_network("resnet8", num_classes=3)
    with pytest.raises(UsageError, match="no pixel of the label maps .semantics. is labelled: 0 stands for no label"):
        segment(network, rooms.open("train"), rooms.open("test"), num_classes=0)
