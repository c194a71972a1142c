"""Intrinsics are in pixels of a frame, so one set of them is of training and test frames of one size."""

import h5py
import numpy as np
import pytest
from PIL import Image

from contrastill.core.errors import UsageError
from contrastill.datasets.io.split_agreement import check_splits
from contrastill.datasets.packed import Packed
from contrastill.datasets.paired_folder import PairedFolder

CAMERA, SIZES = (57.6, 57.6, 31.5, 23.5), {"train": (48, 64), "test": (60, 80)}


def folders(root, sizes, **options):
    for split, (height, width) in sizes.items():
        for name in ("rgb", "depth"):
            (root / split / name).mkdir(parents=True)
        for number in range(2):
            Image.fromarray(np.zeros((height, width, 3), np.uint8)).save(root / split / "rgb" / f"{number}.png")
            np.save(root / split / "depth" / f"{number}.npy", np.full((height, width), 2, np.float32))
    return PairedFolder(PairedFolder.Options(path=str(root), size=(48, 64), workers=0, **options))


def packed(root, sizes, *, stored=False, **options):
    with h5py.File(root / "data.h5", "w") as file:
        for split, (height, width) in sizes.items():
            file[f"{split}/rgb"] = np.zeros((2, height, width, 3), np.uint8)
            file[f"{split}/depth"] = np.full((2, height, width), 2, np.float32)
        if stored:
            file.attrs["intrinsics"] = CAMERA
    return Packed(Packed.Options(path=str(root / "data.h5"), fields={"rgb": "rgb", "depth": "depth"}, **options))


@pytest.mark.parametrize(
    ("make", "options"),
    [(folders, {"intrinsics": CAMERA}), (packed, {"intrinsics": CAMERA}), (packed, {"stored": True})],
)
def test_one_set_of_intrinsics_for_frames_of_two_sizes_is_refused(make, options, tmp_path):
    data = make(tmp_path, SIZES, **options)
    with pytest.raises(UsageError, match="depth is 48×64 in training and 60×80 in the test: bring both to one size"):
        check_splits(data.open("train"), data.open("test"))


@pytest.mark.parametrize("make", [folders, packed])
def test_without_intrinsics_or_of_one_size_they_are_not(make, tmp_path):
    for name, sizes, options in (("two", SIZES, {}), ("one", dict.fromkeys(SIZES, (48, 64)), {"intrinsics": CAMERA})):
        (tmp_path / name).mkdir()
        data = make(tmp_path / name, sizes, **options)
        check_splits(data.open("train"), data.open("test"))
