"""A dataset of one's own has intrinsics by data.intrinsics, and gives the normals that a packed file of them gives."""

import h5py
import numpy as np
import pytest
import torch
from torch.utils.data import Dataset

import contrastill
from contrastill import UsageError
from contrastill.datasets.packed import Packed
from contrastill.datasets.user_dataset import UserDataset
from contrastill.xmodal.derive import DerivedLoader

CAMERA = (30.0, 28.0, 15.5, 11.5)


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
