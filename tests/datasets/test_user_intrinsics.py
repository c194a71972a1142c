"""A dataset of one's own has intrinsics by data.intrinsics, and gives the normals that a packed file of them gives."""

import logging

import h5py
import numpy as np
import pytest
import torch
from torch.utils.data import Dataset

import contrastill
from contrastill import UsageError
from contrastill.datasets.io.values import warn_once
from contrastill.datasets.packed import Packed
from contrastill.datasets.paired_folder import PairedFolder
from contrastill.datasets.user_dataset import UserDataset
from contrastill.xmodal.derive import DerivedLoader

CAMERA = (30.0, 28.0, 15.5, 11.5)
NAN, INF = float("nan"), float("inf")


class Frames(Dataset):
    """Depth in metres and rgb of four classes."""

    def __init__(self, count=24, size=(24, 32), depth=True):
        self.count, self.size, self.depth = count, size, depth

    def __len__(self):
        return self.count

    def __getitem__(self, row):
        draw = np.random.default_rng(row)
        frame = {"rgb": draw.integers(0, 256, (*self.size, 3), dtype=np.uint8), "label": row % 4}
        slope = draw.uniform(-0.02, 0.02, 2)[:, None, None] * np.indices(self.size)
        return frame | ({"depth": (2 + row % 4 + slope.sum(0)).astype(np.float32)} if self.depth else {})


@pytest.mark.parametrize("modality", ["normals", "hha"])
@pytest.mark.parametrize("workers", [0, 1])
def test_normals_are_those_of_a_packed_file(tmp_path, modality, workers):
    frames = Frames(4)
    with h5py.File(tmp_path / "data.h5", "w") as file:
        for split in ("train", "test"):
            file[f"{split}/depth"] = np.stack([frames[row]["depth"] for row in range(4)])
            file[f"{split}/target"] = np.arange(4)
    packed = Packed(Packed.Options(path=str(tmp_path / "data.h5"), fields={"depth": "depth"}, intrinsics=CAMERA))
    own = UserDataset(frames, Frames(4))(UserDataset.Options(intrinsics=list(CAMERA), workers=workers))
    values = []
    for data in (packed, own):
        split = data.open("test")
        loader = DerivedLoader(split.loader(batch_size=4, device="cpu", train=False), [modality], split.camera)
        values.append(next(iter(loader.epoch(0)))[modality])
    assert torch.equal(*(each.nan_to_num(-9) for each in values)) and values[0].isfinite().any()


def test_the_advice_of_the_message_works(tmp_path):
    def train(**options):
        options = {"objectives": "cross_entropy", "epochs": 1, "batch_size": 8, "quiet": True} | options
        return contrastill.distill(None, "resnet8", (Frames(), Frames(8)), out=tmp_path / "run", **options)

    with pytest.raises(UsageError, match=r"set data.intrinsics=\[fx,fy,cx,cy\]"):
        train(student_modality="normals")
    run = train(student_modality="normals", **{"data.intrinsics": list(CAMERA)})
    assert run.config.data.options()["intrinsics"] == list(CAMERA) and run.metrics["top1"] >= 0


@pytest.mark.parametrize(
    ("train", "test", "message"),
    [
        (Frames(depth=False), Frames(4), "samples of Frames have none: leave them out"),
        (Frames(), Frames(4, size=(12, 16)), "depth is 24×32 in training and 12×16 in the test: hand out one size"),
    ],
)
def test_frames_that_have_no_one_camera_are_refused(train, test, message):
    with pytest.raises(UsageError, match=message):
        UserDataset(train, test)(UserDataset.Options(intrinsics=CAMERA))


def packed_of(folder, intrinsics, *, stored=False):
    with h5py.File(folder / "data.h5", "w") as file:
        for split in ("train", "test"):
            file[f"{split}/depth"] = np.stack([Frames(2)[row]["depth"] for row in range(2)])
            file[f"{split}/target"] = np.arange(2)
        if stored:
            file.attrs["intrinsics"] = intrinsics
    given = {} if stored else {"intrinsics": intrinsics}
    Packed(Packed.Options(path=str(folder / "data.h5"), fields={"depth": "depth"}, **given)).open("train")


def packed_with(folder, intrinsics):
    packed_of(folder, intrinsics, stored=True)


def paired_of(folder, intrinsics):
    for name in ("rgb", "depth"):
        (folder / name).mkdir()
        for row in range(4):
            np.save(folder / name / f"{row}.npy", Frames(4)[row][name])
    PairedFolder(PairedFolder.Options(path=str(folder), test_fraction=0.5, intrinsics=intrinsics)).open("train")


def own_of(folder, intrinsics):
    UserDataset(Frames(4), Frames(4))(UserDataset.Options(intrinsics=intrinsics)).open("train")


KINDS = [packed_of, packed_with, paired_of, own_of]


@pytest.mark.parametrize("make", KINDS)
@pytest.mark.parametrize(
    ("intrinsics", "message"),
    [
        ((0.0, 28.0, 15.5, 11.5), "have fx=0, and a focal length is above 0"),
        ((30.0, -28.0, 15.5, 11.5), "have fy=-28, and a focal length"),
        ((NAN, 28.0, 15.5, 11.5), "have fx=nan, and a focal length"),
        ((30.0, INF, 15.5, 11.5), "have fy=inf, and a focal length"),
        ((30.0, 28.0, NAN, 11.5), r"have cx=nan, which is far outside of the frame: its frames are 24×32"),
        (
            (30.0, 28.0, 320.0, 11.5),
            r"have cx=320, which is far outside .* 24×32 \(height, width\); .* of another size",
        ),
        ((30.0, 28.0, 15.5, 50.0), "have cy=50, which is far outside of the frame"),
    ],
)
def test_intrinsics_that_no_camera_has_are_refused(make, intrinsics, message, tmp_path):
    with pytest.raises(UsageError, match=message):
        make(tmp_path, intrinsics)


@pytest.mark.parametrize("make", KINDS)
@pytest.mark.parametrize(
    ("intrinsics", "odd"),
    [
        (CAMERA, None),
        ((30.0, 28.0, 4.0, 11.5), "cx"),
        ((30.0, 28.0, 15.5, 22.0), "cy"),
        ((30.0, 28.0, -10.0, 30.0), "cx and cy"),
        ((3.0, 2.0, 15.5, 11.5), "fx and fy"),
        ((30.0, 700.0, 15.5, 11.5), "fy"),
    ],
)
def test_intrinsics_that_are_unlikely_have_a_line(make, intrinsics, odd, tmp_path, caplog):
    warn_once.cache_clear()
    with caplog.at_level(logging.WARNING):
        make(tmp_path, intrinsics)
    lines = [record.getMessage() for record in caplog.records if "are unlikely in" in record.getMessage()]
    assert len(lines) == (odd is not None)
    assert all(f"are unlikely in {odd}, as its frames are 24×32" in line for line in lines)
