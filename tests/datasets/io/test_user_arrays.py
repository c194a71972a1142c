"""Arrays of a dataset of one's own: byte order changes nothing, what is masked was not measured."""

import numpy as np
import pytest
import torch

import contrastill
from contrastill.core.errors import UsageError
from contrastill.datasets.io.user_pictures import kind_of, pixels
from contrastill.datasets.io.values import number_kind
from contrastill.datasets.user_dataset import UserDataset


@pytest.mark.parametrize("kind", ["f2", "f4", "f8", "u2", "i4", "u1"])
def test_byte_order_is_no_unit(kind):
    values = np.arange(12).reshape(3, 4)
    little, big = values.astype(f"<{kind}"), values.astype(f">{kind}")
    assert number_kind(little.dtype) == number_kind(big.dtype) == kind_of(big)
    assert pixels("depth", little).equal(pixels("depth", big))
    if kind in ("u2", "f4"):
        scaled = pixels("rgb", np.repeat(big[:, :, None], 3, 2))
        assert scaled.equal(pixels("rgb", np.repeat(little[:, :, None], 3, 2)))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", ["rgb", "depth", "semantics"])
def test_memory_that_is_only_read_is_copied_in_silence(name):
    values = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    values.setflags(write=False)
    image = pixels(name, values if name == "rgb" else values[:, :, 0])
    before = values.copy()
    image.zero_()
    assert np.array_equal(values, before)


class Depth(torch.utils.data.Dataset):
    def __init__(self, depth):
        self.depth = depth

    def __len__(self):
        return len(self.depth)

    def __getitem__(self, row):
        colours = np.random.default_rng(row).integers(0, 256, (16, 16, 3), dtype=np.uint8)
        return {"rgb": colours, "depth": self.depth[row], "target": row % 2}


DEPTH = np.random.default_rng(0).uniform(30, 300, (8, 16, 16))


def mean(depth, tmp_path):
    """The mean depth that a student is normalised by."""
    options = {"student_modality": "depth", "epochs": 1, "batch_size": 4, "quiet": True}
    contrastill.distill(None, "resnet8", (Depth(depth), Depth(depth)), out=str(tmp_path / "run"), **options)
    return contrastill.load_student(tmp_path / "run").preprocess.mean[0]


@pytest.mark.parametrize("dtype", ["<f4", ">f4", ">f8"])
def test_floats_of_any_byte_order_are_metres(dtype, tmp_path):
    assert mean(DEPTH.astype(dtype), tmp_path) == pytest.approx(DEPTH.mean(), rel=1e-4)


def test_masked_pixels_were_not_measured(tmp_path):
    marked = DEPTH.astype("f4")
    marked[:, ::2] = 5000.0
    expected = DEPTH[:, 1::2].mean()
    assert mean(np.ma.masked_greater(marked, 4000), tmp_path) == pytest.approx(expected, rel=1e-4)


def test_masked_labels_are_unlabelled_and_masked_colours_refused():
    array = np.ma.masked_equal(np.array([[1, 2], [9, 3]], np.uint8), 9)
    assert pixels("semantics", array)[:, :, 0].tolist() == [[1, 2], [0, 3]]
    assert torch.isnan(pixels("thermal", array)[1, 0, 0]) and pixels("thermal", array)[1, 1, 0] == 3
    colours = np.ma.masked_equal(np.ones((2, 2, 3), np.uint8), 1)
    with pytest.raises(UsageError, match="rgb is a masked array with masked pixels: fill them"):
        pixels("rgb", colours)
    assert pixels("rgb", np.ma.masked_equal(np.ones((2, 2, 3), np.uint8), 7)).dtype == torch.uint8


@pytest.mark.parametrize(
    "hold",
    [
        np.asarray,
        torch.from_numpy,
        lambda values: torch.from_numpy(values.astype(np.int32)),
        lambda values: np.ma.masked_equal(values, 0),
    ],
)
def test_whole_numbers_that_float32_does_not_hold_are_refused_in_any_form(hold):
    for number in (2**24 + 1, -(2**24) - 1):
        with pytest.raises(UsageError, match=f"count holds whole numbers up to {number}, and modalities are float32"):
            pixels("count", hold(np.array([[0, 1], [2, number]])))
    assert pixels("count", hold(np.array([[1, 2**24], [2, 3]])))[0, 1, 0] == 2**24
    assert pixels("semantics", hold(np.array([[1, 2**24 + 1]])))[0, 1, 0] == 2**24 + 1


class OneBuffer(torch.utils.data.Dataset):
    """Fills the same arrays for each sample."""

    def __init__(self):
        draw = np.random.default_rng(0)
        self.stored = {
            "rgb": draw.integers(0, 256, (8, 16, 16, 3), dtype=np.uint8),
            "depth": draw.uniform(1, 4, (8, 16, 16)).astype(np.float32),
            "semantics": draw.integers(0, 4, (8, 16, 16), dtype=np.uint8),
            "thermal": draw.uniform(280, 310, (8, 16, 16)).astype(np.float32),
            "target": draw.dirichlet(np.ones(4), 8).astype(np.float32),
        }
        self.buffers = {name: values[0].copy() for name, values in self.stored.items()}
        self.thermal = torch.zeros(16, 16)

    def __len__(self):
        return 8

    def __getitem__(self, row):
        for name, buffer in self.buffers.items():
            np.copyto(buffer, self.stored[name][row])
        self.thermal.copy_(torch.from_numpy(self.buffers["thermal"]))
        return self.buffers | {"thermal": self.thermal}


def test_a_buffer_that_is_filled_anew_for_each_sample_is_read_as_each():
    data = OneBuffer()
    split = UserDataset(data, data)(UserDataset.Options(workers=0)).open("test")
    batch = next(iter(split.loader(batch_size=8, device="cpu", train=False).epoch(0)))
    assert batch["rgb"].permute(0, 2, 3, 1).numpy().tolist() == data.stored["rgb"].tolist()
    for name in ("depth", "thermal"):
        assert np.allclose(batch[name][:, 0].numpy(), data.stored[name], rtol=1e-5)
    assert len(batch["semantics"].double().flatten(1).sum(1).unique()) == 8
    assert np.allclose(split.samples.label_rows.numpy(), data.stored["target"])
    assert len({float(values.float().sum()) for values in split.samples.colours()}) == 8
