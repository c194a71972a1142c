"""``tiny_imagenet`` on a folder of the official layout: classes in the order of wnids.txt, val by its annotations, some
JPEGs greyscale.
"""

import numpy as np
import pytest
from PIL import Image

from contrastill.cli.main import main
from contrastill.core.errors import ContrastillError, UsageError
from contrastill.core.registry import DATASETS

# Not in the order of their names, and one that has no images here.
WNIDS = ["n03", "n01", "n09", "n02"]


@pytest.fixture
def tiny(tmp_path):
    """tiny-imagenet-200/ with three classes of three images and four of val; a picture's grey level says which it
    is.
    """
    root = tmp_path / "tiny-imagenet-200"
    for place, wnid in enumerate(WNIDS):
        if wnid == "n09":
            continue
        (root / "train" / wnid / "images").mkdir(parents=True)
        for number in range(3):
            _save(
                root / "train" / wnid / "images" / f"{wnid}_{number}.JPEG", 60 * place + 10 * number, grey=number == 1
            )
        (root / "train" / wnid / f"{wnid}_boxes.txt").write_text("")
    (root / "val" / "images").mkdir(parents=True)
    lines = []
    for number, wnid in enumerate(["n02", "n03", "n09", "n01", "n03"]):
        _save(root / "val" / "images" / f"val_{number}.JPEG", 50 * number)
        lines.append(f"val_{number}.JPEG\t{wnid}\t0\t0\t63\t63\n")
    (root / "val" / "val_annotations.txt").write_text("".join(lines))
    (root / "wnids.txt").write_text("\n".join(WNIDS) + "\n")
    (root / "words.txt").write_text("n01\tgoldfish, Carassius auratus\nn02\tbee\nn77\tunicorn\n")
    return root


def _save(path, level, *, grey=False, size=(64, 64)):
    Image.fromarray(np.full(size[::-1] if grey else (*size[::-1], 3), level, np.uint8)).save(path, "JPEG", quality=95)


def opened(path, split="train", **options):
    dataset = DATASETS["tiny_imagenet"]
    return dataset(dataset.Options(path=str(path), crop_padding=0, flip=False, **options)).open(split)


def test_train_by_folder_and_val_by_annotations(tiny):
    for path in (tiny, tiny.parent):
        train, test = opened(path), opened(path, "test")
        assert train.classes == test.classes == ["n03", "goldfish, Carassius auratus", "bee"] and train.num_classes == 3
        assert train.targets.tolist() == [0] * 3 + [1] * 3 + [2] * 3 and train.modalities == {"rgb": (3, 64, 64)}
        levels = train.images["rgb"].interior[:, 32, 32]
        assert (levels == levels[:, :1]).all() and levels[:, 0].tolist() == [0, 10, 20, 60, 70, 80, 180, 190, 200]
        # In the order of the annotations, without the class that has no training images.
        assert test.targets.tolist() == [2, 0, 1, 0] and test.images["rgb"].interior[:, 0, 0, 0].tolist() == [
            0,
            50,
            150,
            200,
        ]
        assert DATASETS["tiny_imagenet"].recognises(str(path))
    assert not DATASETS["image_folder"].recognises(str(tiny))


def test_size_limit_and_packing(tiny, tmp_path):
    small = opened(tiny, size=32, limit=3)
    assert small.modalities == {"rgb": (3, 32, 32)} and small.targets.tolist() == [0, 1, 2]
    _save(tiny / "train" / "n01" / "images" / "n01_0.JPEG", 33, size=(80, 64))
    assert opened(tiny).images["rgb"].interior[3, 5, 5, 0] == 33
    out = tmp_path / "tiny.h5"
    assert main(["data", "pack", f"tiny_imagenet:{tiny}", str(out), "size=32", "--quiet"]) == 0
    packed, split = DATASETS["packed"], opened(tiny, "test", size=32)
    read = packed(packed.Options(path=str(out), crop_padding=0)).open("test")
    assert np.array_equal(read.images["rgb"].interior, split.images["rgb"].interior)
    assert read.targets.tolist() == split.targets.tolist() and read.classes == split.classes


def test_errors_are_reported(tiny, tmp_path):
    archive = tmp_path / "tiny-imagenet-200.tar"
    archive.write_bytes(b"x")
    with pytest.raises(UsageError, match="is an archive: unpack it .*filter='data'"):
        opened(archive)
    with pytest.raises(UsageError, match="nowhere does not exist: set data.path"):
        opened(tmp_path / "nowhere")
    with pytest.raises(UsageError, match="val has no wnids.txt"):
        opened(tiny / "val")
    with pytest.raises(UsageError, match="has no split 'val'"):
        opened(tiny, "val")
    (tiny / "train" / "n01" / "images" / "n01_2.JPEG").write_bytes(b"\xff\xd8no image")
    with pytest.raises(ContrastillError, match="n01_2.JPEG cannot be read as an image"):
        opened(tiny)
    (tiny / "val" / "images" / "val_4.JPEG").unlink()
    with pytest.raises(UsageError, match="line 5: val_4.JPEG is not in .*images: unpack TinyImageNet again"):
        opened(tiny, "test")
    with open(tiny / "val" / "val_annotations.txt", "a") as file:
        file.write("val_5.JPEG n03 0 0 1 1\n")
    _save(tiny / "val" / "images" / "val_4.JPEG", 0)
    with pytest.raises(UsageError, match="val_annotations.txt, line 6: 'val_5.JPEG n03 0 0 1 1' is not in wnids.txt"):
        opened(tiny, "test")
    (tiny / "val" / "val_annotations.txt").unlink()
    with pytest.raises(UsageError, match="val_annotations.txt does not exist: unpack TinyImageNet again"):
        opened(tiny, "test")
    (tiny / "train" / "n55").mkdir()
    with pytest.raises(UsageError, match="n55 is not in wnids.txt"):
        opened(tiny)
    (tiny / "train" / "n55").rename(tiny / "train" / "n09")
    with pytest.raises(UsageError, match="n09/images has no images"):
        opened(tiny)
