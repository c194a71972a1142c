"""What pack_data refuses before it writes anything."""

import numpy as np
import pytest
from PIL import Image

import contrastill
from contrastill.core.errors import ContrastillError, UsageError


@pytest.mark.parametrize("size", [0, -3])
def test_a_size_without_pixels_is_refused(tmp_path, size):
    for name in ("train/a/0.png", "test/a/0.png"):
        (tmp_path / "data" / name).parent.mkdir(parents=True)
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "data" / name)
    with pytest.raises(UsageError, match=f"size is {size}: pass a whole number from 1 on"):
        contrastill.pack_data(tmp_path / "data", tmp_path / "out.h5", size=size)
    assert not (tmp_path / "out.h5").exists()


def test_a_file_is_packed_by_its_kind(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "A.h5").write_bytes(b"x")
    (tmp_path / "d" / "A.txt").write_bytes(b"x")
    with pytest.raises(ContrastillError, match="d/A.h5 cannot be read: .* no HDF5 file"):
        contrastill.pack_data("d/A.h5", "out.h5")
    with pytest.raises(UsageError, match="d/A.txt is neither a folder nor NAME:PATH: did you mean d/A.h5"):
        contrastill.pack_data("d/A.txt", "out.h5")
