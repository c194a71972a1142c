"""Intrinsics beside frames that EXIF's orientation turns: which frames they are of is not known."""

import io

import numpy as np
import pytest
from PIL import Image

from contrastill.core.errors import ContrastillError, UsageError
from contrastill.core.registry import DATASETS

INTRINSICS = (30, 30, 8, 8)


def _encoded(values, orientation):
    exif, buffer = Image.Exif(), io.BytesIO()
    exif[274] = orientation
    Image.fromarray(values).save(buffer, "PNG", exif=exif)
    return buffer.getvalue()


def _frames(orientations):
    draw = np.random.default_rng(0)
    for orientation in orientations:
        rgb, depth = draw.integers(0, 256, (16, 16, 3), dtype=np.uint8), draw.integers(900, 2000, (16, 16))
        yield {"rgb": _encoded(rgb, orientation), "depth": _encoded(depth.astype(np.uint16), orientation)}


def _folder(root, orientations):
    for split in ("train", "test"):
        for number, frame in enumerate(_frames(orientations)):
            for name, content in frame.items():
                path = root / split / name / f"{number:03}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)


def _table(root, orientations):
    hf = pytest.importorskip("datasets", reason="pip install 'contrastill[datasets]'")
    hf.disable_progress_bars()
    rows = [{name: {"path": None, "bytes": each} for name, each in frame.items()} for frame in _frames(orientations)]
    columns = {name: [row[name] for row in rows] for name in ("rgb", "depth")}
    table = hf.Dataset.from_dict(columns, features=hf.Features({"rgb": hf.Image(), "depth": hf.Image()}))
    hf.DatasetDict({"train": table, "test": table}).save_to_disk(root)


def _open(name, root, **options):
    data = DATASETS[name]
    return data(data.Options(path=str(root), workers=0, **options)).open("test")


@pytest.mark.parametrize(("name", "write"), [("paired_folder", _folder), ("huggingface", _table)])
@pytest.mark.parametrize("orientation", [2, 3, 6])
def test_intrinsics_of_turned_frames_are_refused(tmp_path, name, write, orientation):
    write(tmp_path / "data", [orientation] * 2)
    with pytest.raises(UsageError, match=f"is turned by its EXIF orientation {orientation}, and whether data.intrins"):
        _open(name, tmp_path / "data", intrinsics=INTRINSICS)
    assert _open(name, tmp_path / "data").num_samples == 2  # frames without a camera are turned as they were


@pytest.mark.parametrize(("name", "write"), [("paired_folder", _folder), ("huggingface", _table)])
def test_a_turned_frame_among_others_is_named_when_it_is_read(tmp_path, name, write):
    write(tmp_path / "data", [1, 3] + [1] * 30)  # of 32 frames every second is read when they are opened
    split = _open(name, tmp_path / "data", intrinsics=INTRINSICS)
    with pytest.raises(ContrastillError, match="is turned by its EXIF orientation 3"):
        [*split.loader(batch_size=8, device="cpu", train=False).epoch(0)]


def test_a_turned_frame_is_refused_from_a_cache_too(tmp_path):
    _folder(tmp_path / "data", [3] * 2)
    cache = str(tmp_path / "cache")
    [
        *_open("paired_folder", tmp_path / "data", decoded_cache=cache)
        .loader(batch_size=2, device="cpu", train=False)
        .epoch(0)
    ]
    with pytest.raises(UsageError, match="is turned by its EXIF orientation 3"):
        _open("paired_folder", tmp_path / "data", decoded_cache=cache, intrinsics=INTRINSICS)
