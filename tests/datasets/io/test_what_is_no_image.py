"""What a dataset of one's own cannot be read for: its shape or type is named, and what to hand out."""

import numpy as np
import pytest
import torch
from torch.utils.data import ChainDataset, DataLoader, Dataset, IterableDataset

import contrastill
from contrastill.core.errors import UsageError
from contrastill.datasets.io.user_samples import UserSamples


class Sensors(Dataset):
    def __init__(self, **fields):
        self.fields = fields

    def __len__(self):
        return 6

    def __getitem__(self, row):
        return self.fields | {"target": row % 3}


class Stream(IterableDataset):
    def __iter__(self):
        yield from ((torch.rand(3, 8, 8), row % 3) for row in range(6))


class Counted(Stream):
    def __len__(self):
        return 6


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (
            torch.rand(5, 2, 8, 8),
            r"a tensor of shape \(5, 2, 8, 8\) of float32, and tensors are \(channels, height, wid",
        ),
        (
            np.ones((1, 2, 8, 8)),
            r"an array of shape \(1, 2, 8, 8\) of float64, and arrays are \(height, width, channels",
        ),
        (np.ones((8, 8), object), r"an array of shape \(8, 8\) of object: return numbers"),
        (np.ones((8, 8), np.complex64), r"an array of shape \(8, 8\) of complex64: return real numbers"),
        (torch.ones(8, 8, dtype=torch.complex64), r"a tensor of shape \(8, 8\) of complex64: return real numbers"),
        (np.ones((8, 8)).tolist(), "a list, and no image: return a picture of Pillow, an array or a tensor"),
    ],
)
@pytest.mark.parametrize("name", ["events", "depth"])
def test_a_modality_that_is_no_image_is_named_by_its_shape_or_type(tmp_path, name, value, message):
    data = Sensors(rgb=np.zeros((8, 8, 3), np.uint8), **{name: value})
    with pytest.raises(UsageError, match=f"resnet8 cannot read this data: {name} of Sensors is {message}"):
        contrastill.distill(None, "resnet8", data, out=tmp_path / "out", student_modality=name, epochs=1, quiet=True)
    with pytest.raises(UsageError, match="modality 'other' does not exist"):
        contrastill.distill(None, "resnet8", data, out=tmp_path / "out", student_modality="other", epochs=1)


def test_a_sample_without_an_image_shows_the_shapes_of_what_it_has():
    with pytest.raises(UsageError, match=r"no image \(rgb a Tensor of shape \(1, 3, 8, 8\), target a int\)"):
        UserSamples(Sensors(rgb=torch.rand(1, 3, 8, 8)))


@pytest.mark.parametrize(
    "data", [Stream(), ChainDataset([Stream(), Stream()]), Counted(), DataLoader(Counted(), batch_size=2)]
)
def test_what_streams_its_samples_is_refused_with_the_way_out(tmp_path, data):
    with pytest.raises(UsageError, match="has no length or cannot be read by place, .*pass a map-style Dataset, or"):
        contrastill.distill(None, "resnet8", data, out=tmp_path / "out", epochs=1, quiet=True)
